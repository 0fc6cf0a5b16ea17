#!/bin/sh
# Runs the C tests under Valgrind's memcheck, against the library that ships. Valgrind hides AVX-512 from programs, so
# the AVX2 level runs. (Not "processes": a forked child cannot free what the threads of its parent hold.)
set -eu
cd "$(dirname "$0")/.."

out=target/valgrind
programs="hostile order memory threads"

cargo build --quiet --release --locked --package scalert-ffi
# shellcheck disable=SC2086 # one word per program
cargo run --quiet --locked --package scalert-tests --bin scalert-cases -- target/release/libscaleRT.so $out $programs \
    -- -DSCALERT_TEST_SANITIZED

check() {
    # "Possible" leaks are not errors: Rust's runtime keeps the main thread's handle by a pointer into its middle.
    valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite --fair-sched=yes "$@"
}

for program in $programs; do
    check $out/"$program"
done
for source in tests/c/*.c; do
    test=$out/$(basename "$source" .c)-test
    cc -std=c99 -g -O1 "$source" -o "$test" -Iinclude -L$out -lscaleRT -Wl,-rpath,"$PWD/$out" -lpthread -lm -ldl
    check "$test"
done
# The emulated driver's threads and registries are its own; what is checked is the library above it.
LD_LIBRARY_PATH=$PWD/target/emulator check $out/cuda-test
echo 'Valgrind: no errors'
