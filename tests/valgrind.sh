#!/bin/sh
# Runs the C tests under Valgrind's memcheck, against the library that ships. Valgrind hides AVX-512 from programs, so
# the AVX2 level runs.
set -eu
cd "$(dirname "$0")/.."

out=target/valgrind
cargo build --quiet --release --locked --package scalert-ffi
cargo run --quiet --locked --package scalert-tests --bin scalert-cases -- \
    target/release/libscaleRT.so $out hostile order memory threads processes -- -DSCALERT_TEST_SANITIZED

for program in hostile order memory threads processes; do
    valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,possible \
        --suppressions=tests/valgrind.supp $out/$program
done
echo "Valgrind: no errors"
