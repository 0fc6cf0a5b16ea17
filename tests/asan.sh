#!/bin/sh
# Runs the C tests under AddressSanitizer, with the library instrumented as well, and proves that it is: an overflow
# inside the library must be found.
set -eu
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
out=target/asan
programs="hostile order memory threads processes"

# The sanitizer needs an unstable flag of the compiler; build scripts and proc macros are not instrumented because a
# target is named.
RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zsanitizer=address' \
    cargo build --quiet --locked --package scalert-ffi --target $target --target-dir $out
library=$out/$target/debug/libscaleRT.so

# One runtime for both halves: Rust's. (gcc's -fsanitize=address at link time would bring its own.)
runtime=$(find "$(rustc --print sysroot)/lib/rustlib/$target/lib" -name 'librustc*_rt.asan.a')
[ -f "$runtime" ] || { echo "asan.sh: this Rust toolchain has no AddressSanitizer runtime" >&2; exit 1; }

# shellcheck disable=SC2086 # one word per program
cargo run --quiet --locked --package scalert-tests --bin scalert-cases -- $library $out/programs $programs overflow \
    -- -DSCALERT_TEST_SANITIZED -fsanitize=address -fno-omit-frame-pointer \
    -- -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive -Wl,--export-dynamic -lrt

export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:exitcode=23
for program in $programs; do
    $out/programs/"$program"
done

# The user-level tests; only their own code is compiled with gcc's instrumentation, the runtime is still Rust's.
for source in tests/c/*.c; do
    test=$out/programs/$(basename "$source" .c)-test
    cc -std=c99 -g -O1 -fsanitize=address -fno-omit-frame-pointer -Iinclude -c "$source" -o "$test.o"
    cc "$test.o" -o "$test" -L$out/programs -lscaleRT -Wl,-rpath,"$PWD/$out/programs" \
        -Wl,--whole-archive "$runtime" -Wl,--no-whole-archive -Wl,--export-dynamic -lrt -lpthread -lm -ldl
    "$test"
done
LD_LIBRARY_PATH=$PWD/target/emulator $out/programs/cuda-test

status=0
$out/programs/overflow >$out/overflow.txt 2>&1 || status=$?
if [ $status -ne 23 ] || ! grep -q 'AddressSanitizer: heap-buffer-overflow' $out/overflow.txt ||
    ! grep -q 'scalert_fill' $out/overflow.txt; then
    cat $out/overflow.txt
    echo "asan.sh: an overflow inside the library went unnoticed (status $status)" >&2
    exit 1
fi
echo "AddressSanitizer: no errors; the deliberate overflow was found"
