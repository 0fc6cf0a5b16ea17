#!/usr/bin/env bash
# The installed package as a stranger meets it: installed elsewhere, found by pkg-config and by CMake (where they are),
# shared and static; and the example of the README.
set -euo pipefail
cd "$(dirname "$0")/.."

work=target/package-test
rm -rf "$work"
mkdir -p "$work"
make --no-print-directory install PREFIX="$PWD/$work/prefix" >"$work/install.log" 2>&1 || { cat "$work/install.log"; exit 1; }
prefix=$PWD/$work/prefix

awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' README.md >"$work/readme.c"
test "$(wc -l <"$work/readme.c")" -gt 15

expect() { # expect WHAT PROGRAM...
    local what=$1 printed
    shift
    printed=$("$@")
    test "$printed" = '0.365148 1.302434' || { echo "$what printed $printed"; exit 1; }
    echo "package: $what ok"
}

cc -std=c99 -Wall -Wextra -pedantic -Werror "$work/readme.c" -o "$work/shared" \
    -I"$prefix/include" -L"$prefix/lib" -lscaleRT -Wl,-rpath,"$prefix/lib"
expect 'shared library' "$work/shared"

cc "$work/readme.c" -o "$work/static" -I"$prefix/include" "$prefix/lib/libscaleRT.a" -lpthread -ldl -lm
expect 'static library' "$work/static"

if command -v pkg-config >/dev/null; then
    export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
    test "$(pkg-config --modversion scaleRT)" = "$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
    # shellcheck disable=SC2046
    cc "$work/readme.c" -o "$work/pc" $(pkg-config --cflags --libs scaleRT)
    expect pkg-config env LD_LIBRARY_PATH="$prefix/lib" "$work/pc"
fi

if command -v cmake >/dev/null; then
    cat >"$work/CMakeLists.txt" <<'EOF'
cmake_minimum_required(VERSION 3.16)
project(stranger C)
find_package(scaleRT 0.1 REQUIRED)
foreach(kind scaleRT scaleRT_static)
  add_executable(${kind}_client readme.c)
  target_link_libraries(${kind}_client scaleRT::${kind})
endforeach()
EOF
    cmake -S "$work" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" >"$work/cmake.log" 2>&1 &&
        cmake --build "$work/build" >>"$work/cmake.log" 2>&1 || { cat "$work/cmake.log"; exit 1; }
    expect 'CMake, shared' "$work/build/scaleRT_client"
    expect 'CMake, static' "$work/build/scaleRT_static_client"
fi
