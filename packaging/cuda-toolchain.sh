#!/usr/bin/env bash
# Installs NVIDIA's CUDA compiler from its Python wheels into target/cuda, unless there is an nvcc 13 or newer already
# ($NVCC, $CUDA_HOME/bin, $PATH) or CUDA=0 says that none is wanted. kernels/build.rs finds it there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/cuda

test "${CUDA:-1}" = 0 && exit 0
for nvcc in "${NVCC:-}" "${CUDA_HOME:-/nonexistent}/bin/nvcc" nvcc "$target/nvidia/cu13/bin/nvcc"; do
    major=$({ "${nvcc:-false}" --version 2>/dev/null || true; } | sed -n 's/.*, V\([0-9]*\)\..*/\1/p')
    test "${major:-0}" -ge 13 && exit 0
done

python=$(command -v python3 || true)
if [ -z "$python" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
    echo 'cuda-toolchain: no nvcc 13 and no pip for python3 to install one; CUDA=0 builds without CUDA kernels' >&2
    exit 1
fi
echo 'cuda-toolchain: no nvcc 13 found; installing one into target/cuda (100 MB)'
part=$target.part.$$
trap 'rm -rf "$part"' EXIT
"$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: --require-hashes \
    --target "$part" --requirement packaging/cuda-toolchain.txt
rm -rf "$target"
mv "$part" "$target"
