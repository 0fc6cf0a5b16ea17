#!/usr/bin/env bash
# Gathers target/gpu-bundle: everything that a machine with a GPU needs to run the conformance suite, the C tests, the
# benches and the demo. It needs no Rust, no compiler and no network there, only the CUDA driver; cuBLASLt and cuDNN are
# used where they are installed. `make gpu-bundle` calls this after building the package, the examples and the C tests.
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=target/gpu-bundle
cargo=${CARGO:-cargo}

if [ "${CUDA:-1}" = 0 ]; then
    echo 'gpu-bundle: CUDA=0 leaves out the CUDA kernels that the bundle is for' >&2
    exit 1
fi
executable() { # executable TARGET ARGUMENTS...: builds, prints the path of the executable
    local name=$1
    shift
    "$cargo" "$@" --locked --message-format=json | sed -n 's/.*"name":"'"$name"'".*"executable":"\([^"]*\)".*/\1/p' | tail -1
}
conformance=$(executable conformance test --release --no-run -p scalert-kernels --test conformance)
bench=$(executable scalert-bench build --release -p scalert-bench)
test -x "$conformance" && test -x "$bench"

rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/lib" "$bundle/ctests"
cp target/stage/lib/libscaleRT.so.*.* "$bundle/lib/"
(cd "$bundle/lib" && for so in libscaleRT.so.*; do ln -s "$so" "$(echo "$so" | cut -d. -f1-3)"; done)
cp "$conformance" "$bundle/bin/conformance"
cp "$bench" "$bundle/bin/bench"
cp target/examples/train_gpt target/examples/hello target/examples/dlpack "$bundle/bin/"
for test in target/ctests/*; do
    case $test in *-as-cpp) ;; *) test -f "$test" && test -x "$test" && cp "$test" "$bundle/ctests/" ;; esac
done
strip "$bundle"/bin/* "$bundle"/ctests/* "$bundle"/lib/libscaleRT.so.*.*
cp packaging/gpu-bundle-run.sh "$bundle/run.sh"
cp bench/peers/torch_gpu.py "$bundle/"
find README.md ARCHITECTURE.md kernels runtime ffi include examples -name target -prune -o -type f \
    \( -name '*.rs' -o -name '*.[ch]' -o -name '*.hpp' -o -name '*.md' \) -print | LC_ALL=C sort | xargs cat >"$bundle/text"
{
    echo "commit=$(git rev-parse --short=10 HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo +)"
    echo "built=$(date -u +%Y-%m-%dT%H:%MZ)"
} >"$bundle/manifest"

bytes=$(du -sb "$bundle" | cut -f1)
echo "gpu-bundle: $bundle, $((bytes / 1048576)) MiB; on the machine with the GPU: $bundle/run.sh all"
if [ "$bytes" -ge $((60 * 1048576)) ]; then
    echo 'gpu-bundle: larger than 60 MiB' >&2
    exit 1
fi
