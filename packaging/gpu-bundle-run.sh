#!/usr/bin/env bash
# run.sh [conformance|sanitize|bench|demo|peers|all] on a machine with a GPU. Prints one table and writes JSON lines and logs
# into $OUT (default: results/ beside this script).
#
#   conformance  every operation against its f64 reference on the GPU, and the C tests
#   sanitize     a part of them under compute-sanitizer, where that is installed
#   bench        every operation beside its ceiling
#   demo         trains the example, and GPT-2 124M for tokens per second
#   peers        the same figures of PyTorch, where python3 has it
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/results}
mkdir -p "$out"
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
. "$here/manifest"
# The CUDA libraries that PyTorch brings serve as well as installed ones.
if command -v python3 >/dev/null; then
    wheels=$(python3 -c 'import glob, sysconfig; print(":".join(glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/lib")))' 2>/dev/null)
    export LD_LIBRARY_PATH=$LD_LIBRARY_PATH${wheels:+:$wheels}
fi
status=0
table=()
row() { # row NAME COMMAND...: runs it into a log, and remembers how it ended
    local name=$1 start=$SECONDS end
    shift
    if "$@" >"$out/$name.log" 2>&1; then end=passed; else end=FAILED status=1; fi
    table+=("$(printf '%-24s %-7s %4d s  %s' "$name" "$end" $((SECONDS - start)) "$(grep -v '^ *$' "$out/$name.log" | tail -1 | cut -c1-100)")")
    echo "${table[-1]}"
}

conformance() {
    row conformance "$here/bin/conformance" --test-threads="$(nproc)"
    local test
    for test in "$here"/ctests/*; do row "c-$(basename "$test")" "$test"; done
    row hello "$here/bin/hello"
    row dlpack "$here/bin/dlpack"
}
sanitize() {
    if ! command -v compute-sanitizer >/dev/null; then
        echo 'sanitize: no compute-sanitizer here'
        return
    fi
    local tool
    for tool in memcheck racecheck; do
        row "sanitize-$tool" timeout 240 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$here/bin/train_gpt" --device cuda:0 --layers 2 --width 64 --heads 2 --context 64 --micro-batch 4 --steps 3 \
            --sample 0 "$here/text"
    done
}
# Where the loader finds a library, with the version in its name.
library() {
    local folder
    for folder in ${LD_LIBRARY_PATH//:/ } $(ldconfig -p 2>/dev/null | sed -n "s/.*$1[^>]*> \(.*\)\/[^/]*$/\1/p"); do
        find "$folder" -maxdepth 1 -name "$1.so*" 2>/dev/null
    done | xargs -r -n1 readlink -f | head -1
}
bench() {
    row bench env DEVICE=cuda:0 BENCH_JSON="$out/bench.jsonl" BENCH_COMMIT="$commit" \
        BENCH_DATE="$(date -u +%F)" BENCH_CUBLASLT="$(library libcublasLt)" BENCH_CUDNN="$(library libcudnn_graph)" \
        "$here/bin/bench"
    cat "$out/bench.log"
}
demo() {
    row demo "$here/bin/train_gpt" --device cuda:0 "$here/text"
    row gpt2-124m "$here/bin/train_gpt" --device cuda:0 --vocabulary 50304 --layers 12 --width 768 --heads 12 \
        --context 1024 --micro-batch "${MICRO_BATCH:-32}" --steps 40 --eval-every 40 --sample 0 "$here/text"
}
peers() {
    if ! python3 -c 'import torch' 2>/dev/null; then
        echo 'peers: python3 has no torch here'
        return
    fi
    row peers python3 "$here/torch_gpu.py" --json "$out/peers.jsonl" --micro-batch "${MICRO_BATCH:-32}"
    cat "$out/peers.log"
}

case ${1:-all} in
conformance | sanitize | bench | demo | peers) "$1" ;;
all) conformance && bench && demo && sanitize && peers ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
echo
printf '%s\n' "commit $commit, built $built" "${table[@]}"
exit $status
