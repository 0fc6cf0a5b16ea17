#!/usr/bin/env bash
# Runs ranks of MPI on this machine: 1 to 4 of them, with pieces so small that most operations take several; and with one
# that is killed, which the others must outlive: by their deadline, and by an MPI that notices it.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${MPI:-1}" = 0 ]; then
    echo 'MPI=0: the tests over MPI were left out'
    exit 0
fi
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
if ! command -v "${MPICC:-mpicc}" >/dev/null; then
    PATH=$target/mpi/bin:$PATH
    export OPAL_PREFIX=$target/mpi # where it was installed is not where it was built for
fi
mpicc=${MPICC:-mpicc}
out=$target/mpitests
mkdir -p "$out"

stage=$target/stage
for piece in 1000 268435456; do
    "$mpicc" -std=c99 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -pedantic -Werror -O2 -g -DSCALERT_MPI_PIECE=$piece \
        -isystem "$(dirname "$(dirname "$(command -v "$mpicc")")")/include" -I"$stage/include" tests/mpi/comm.c \
        -o "$out/comm-$piece" -L"$stage/lib" -lscaleRT -Wl,-rpath,"$stage/lib" -lm
done
cat >"$out/twice.cpp" <<'SOURCE'
#include <scaleRT_mpi.h>
#include <scaleRT_mpi.h>
scalert_status_t (*create)(scalert_runtime_t *, MPI_Comm, const scalert_comm_desc_t *, scalert_comm_t **) =
    scalert_comm_create_mpi;
SOURCE
OMPI_CC=${CXX:-c++} MPICH_CC=${CXX:-c++} "$mpicc" -x c++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only \
    -I"$stage/include" "$out/twice.cpp"

"$mpicc" -std=c99 -Wall -Wextra -pedantic -Werror -O2 -g -DRANKS_OVER_MPI \
    -isystem "$(dirname "$(dirname "$(command -v "$mpicc")")")/include" -I"$stage/include" examples/c/train_gpt.c \
    -o "$out/train_gpt" -L"$stage/lib" -lscaleRT -Wl,-rpath,"$stage/lib" -lm -lpthread

# Open MPI asks for these two where tests run as root on few cores; others do not know them.
flags=()
if mpirun --version | grep -q 'Open MPI'; then
    flags=(--allow-run-as-root --oversubscribe)
    export OMPI_MCA_mpi_yield_when_idle=1
fi
run() {
    timeout 60 mpirun ${flags[@]+"${flags[@]}"} "$@"
}
for ranks in 1 2 3 4; do
    echo "== $ranks ranks of MPI"
    piece=$((ranks == 3 ? 1000 : 268435456))
    run -np $ranks "$out/comm-$piece"
done

# Ranks that are processes train as those that are threads do.
cat include/*.h* runtime/src/*.rs >"$out/text"
small=(--device cpu --layers 2 --width 64 --heads 2 --context 64 --micro-batch 4 --steps 10 --sample 0 --quiet --threads 1)
weights() { grep '^final: ' "$1" | sed 's/.*weights=//'; }
"$target/examples/train_gpt" "${small[@]}" --ranks 2 --format split16,int8 "$out/text" >"$out/threads.txt"
for options in '--stage 0' '--stage 2' '--stage 3 --overlap'; do
    echo "== train_gpt on 2 ranks of MPI, $options"
    # shellcheck disable=SC2086 # an option and its value
    run -np 2 "$out/train_gpt" "${small[@]}" $options --format split16,int8 "$out/text" >"$out/processes.txt"
    if [ "$(weights "$out/threads.txt")" != "$(weights "$out/processes.txt")" ]; then
        cat "$out/threads.txt" "$out/processes.txt"
        echo 'mpi.sh: processes must train as threads do' >&2
        exit 1
    fi
done

if [ ${#flags[@]} -gt 0 ]; then
    for option in --continuous '--with-ft ulfm'; do
        echo "== 3 ranks of MPI, one of which is killed ($option)"
        # shellcheck disable=SC2086 # an option and its value
        run $option -np 3 "$out/comm-268435456" kill >"$out/killed.txt" 2>&1 || true
        if [ "$(grep -c 'survived with' "$out/killed.txt")" != 2 ]; then
            cat "$out/killed.txt"
            echo 'mpi.sh: a killed rank must leave the others with a status' >&2
            exit 1
        fi
        grep 'survived with' "$out/killed.txt"
    done
fi
