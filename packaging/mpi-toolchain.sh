#!/usr/bin/env bash
# Installs Open MPI from its Python wheel into target/mpi, unless there is an mpicc already or MPI=0 says that none is
# wanted. tests/mpi.sh finds it there. The library itself does not need it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/mpi

test "${MPI:-1}" = 0 && exit 0
for mpicc in "${MPICC:-}" mpicc "$target/bin/mpicc"; do
    command -v "${mpicc:-/nonexistent}" >/dev/null && exit 0
done

python=$(command -v python3 || true)
if [ -z "$python" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
    echo 'mpi-toolchain: no mpicc and no pip for python3 to install one; MPI=0 leaves the tests over MPI out' >&2
    exit 1
fi
echo 'mpi-toolchain: no mpicc found; installing Open MPI into target/mpi (7 MB)'
mkdir -p "$(dirname "$target")"
part=$(cd "$(dirname "$target")" && pwd)/mpi.part.$$
trap 'rm -rf "$part"' EXIT
# A prefix, since it comes with programs and libraries, not modules.
"$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
    --require-hashes --no-warn-script-location --ignore-installed --prefix "$part" \
    --requirement packaging/mpi-toolchain.txt
rm -rf "$target"
# Debian's pip puts a prefix's files below local/.
mv "$(dirname "$(dirname "$(find "$part" -name mpicc | head -1)")")" "$target"
