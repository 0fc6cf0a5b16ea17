#!/usr/bin/env bash
# The example as a test: dtypes agree, threads and repetition give the same bits, an overflow is survived, the emulated
# CUDA device trains as the CPU does, and what does not fit or makes no sense is said.
set -euo pipefail
cd "$(dirname "$0")/.."

train=$PWD/target/examples/train_gpt
work=$PWD/target/training-test
rm -rf "$work"
mkdir -p "$work"
cat include/*.h* kernels/src/*.rs kernels/src/ops/*/mod.rs runtime/src/*.rs >"$work/text"
# A rate that a model of this size bears: at 0.003 a change of the rate in its sixth digit already moves the final loss by
# thousandths, and the comparison of dtypes would measure that.
small=(--device cpu --layers 2 --width 64 --heads 2 --context 64 --micro-batch 8 --steps 600 --lr 0.001 --warmup 20 --sample 0 --quiet)

fail() { echo "training: $*"; exit 1; }
run() { # run NAME OPTIONS...: leaves the output in $work/NAME
    local name=$1
    shift
    "$train" "${small[@]}" "$@" "$work/text" >"$work/$name" 2>"$work/$name.err" || { cat "$work/$name" "$work/$name.err"; fail "$name failed"; }
}
final() { grep '^final: ' "$work/$1"; }
loss() { final "$1" | sed 's/.*val_loss=\([^ ]*\).*/\1/'; }
weights() { final "$1" | sed 's/.*weights=\([^ ]*\).*/\1/'; }
same() { test "$(weights "$1")" = "$(weights "$2")" || fail "$1 and $2 end with different weights"; }
near() { # near A B: within 0.02 nats
    awk -v a="$(loss "$1")" -v b="$(loss "$2")" 'BEGIN { d = a - b; exit !(d < 0.02 && d > -0.02) }' ||
        fail "$1 ends at $(loss "$1"), $2 at $(loss "$2")"
    echo "training: $1 $(loss "$1"), $2 $(loss "$2")"
}

for arch in gpt2 llama; do
    run "$arch-f32" --arch $arch --dtype f32
    run "$arch-bf16" --arch $arch --dtype bf16
    run "$arch-f16" --arch $arch --dtype f16
    near "$arch-bf16" "$arch-f32"
    near "$arch-f16" "$arch-f32"
    for threads in 1 2 4; do
        run "$arch-threads-$threads" --arch $arch --steps 10 --threads $threads
    done
    same "$arch-threads-1" "$arch-threads-2"
    same "$arch-threads-1" "$arch-threads-4"
    run "$arch-accumulation" --arch $arch --steps 10 --micro-batch 4 --accumulation 2 --dropout 0.1
    run "$arch-accumulation-again" --arch $arch --steps 10 --micro-batch 4 --accumulation 2 --dropout 0.1 --threads 1
    same "$arch-accumulation" "$arch-accumulation-again"
done
echo 'training: the same bits on 1, 2 and 4 threads, and twice with accumulation'

run traced --steps 10 --trace "$work/trace.json"
same gpt2-threads-1 traced
for event in '"step"' '"forward"' '"backward"' '"optimizer"' '"gemm"' '"bytes in use"'; do
    grep -q "\"name\":$event" "$work/trace.json" || fail "the trace has no $event"
done
echo 'training: the same bits while a trace records'

tr -cd 'a-z \n' <"$work/text" >"$work/letters" # 28 different bytes
"$train" "${small[@]}" --steps 100 --vocabulary 28 "$work/letters" >"$work/letters-28" 2>&1 ||
    { cat "$work/letters-28"; fail 'a vocabulary of the bytes that occur failed'; }
awk -v a="$(loss letters-28)" 'BEGIN { exit !(a < 3.2) }' || fail "28 symbols end at $(loss letters-28), no better than chance"

run overflow --dtype f16 --force-overflow 5
grep -qi 'skipped.*micro' "$work/overflow" || { cat "$work/overflow"; fail 'the forced overflow was not reported'; }
near overflow gpt2-f32
echo "training: $(grep -im1 'skipped' "$work/overflow")"

# Ranks: as many micro-batches as one rank would accumulate, the same bits however they divide the state.
for ranks in 2 3; do
    for stage in 0 1 2 3; do
        run "ranks-$ranks-stage-$stage" --steps 10 --micro-batch 4 --ranks $ranks --stage $stage --threads 2
        same "ranks-$ranks-stage-0" "ranks-$ranks-stage-$stage"
    done
    run "ranks-$ranks-overlap" --steps 10 --micro-batch 4 --ranks $ranks --stage 3 --overlap --arch llama
    run "ranks-$ranks-llama" --steps 10 --micro-batch 4 --ranks $ranks --arch llama
    same "ranks-$ranks-llama" "ranks-$ranks-overlap"
done
# Formats of optimizer state: split master weights are the same bits, the others train as well, on any number of ranks.
run split16 --steps 200 --format split16
run whole --steps 200
same split16 whole
for format in split16,int8 none,bf16 none,int8; do
    run "format-$format" --steps 200 --format $format
    near "format-$format" whole
    run "format-$format-1" --steps 20 --micro-batch 4 --format $format --accumulation 2
    run "format-$format-2" --steps 20 --micro-batch 4 --format $format --ranks 2 --stage 2
    run "format-$format-3" --steps 20 --micro-batch 4 --format $format --ranks 2 --stage 3
    same "format-$format-2" "format-$format-3"
done

run gradients-bf16 --steps 200 --gradients bf16
near gradients-bf16 whole

run ranks-none --steps 10 --micro-batch 4 --accumulation 2
near ranks-2-stage-3 ranks-none
run ranks-overflow --dtype f16 --force-overflow 5 --steps 10 --ranks 2 --stage 2
grep -q 'skipped.*of rank 1' "$work/ranks-overflow" || { cat "$work/ranks-overflow"; fail 'the overflow of rank 1 was not reported'; }
echo 'training: the same bits on 2 and 3 ranks at every stage of ZeRO'

# The same program on the emulated device: every kernel of a step, forward, backward, loss scale and optimizer.
if [ "${CUDA:-1}" != 0 ]; then
    tiny=(--layers 2 --width 32 --heads 2 --context 16 --micro-batch 2 --steps 3 --warmup 1)
    for arch in gpt2 llama; do
        for dtype in f32 bf16 f16; do
            run "$arch-$dtype-cpu" --arch $arch --dtype $dtype "${tiny[@]}"
            LD_LIBRARY_PATH=$PWD/target/emulator SCALERT_EMULATOR_REPORT=stderr \
                run "$arch-$dtype-emulated" --arch $arch --dtype $dtype "${tiny[@]}" --device cuda:0 --trace "$work/trace.json"
            near "$arch-$dtype-emulated" "$arch-$dtype-cpu"
            grep -q '"name":"cuda:0 stream 1"' "$work/trace.json" || fail 'the trace has no track of the device'
        done
    done
    echo 'training: the emulated CUDA device trains as the CPU does'
fi

refuse() { # refuse STATUS PATTERN OPTIONS...
    local status=$1 pattern=$2 got=0
    shift 2
    "$train" "${small[@]}" "$@" >"$work/refused" 2>&1 || got=$?
    test "$got" = "$status" || { cat "$work/refused"; fail "$* ended with $got, not $status"; }
    grep -qi -- "$pattern" "$work/refused" || { cat "$work/refused"; fail "$* did not mention $pattern"; }
}
refuse 1 'budget' --device-memory 100K "$work/text"
refuse 1 'cuda\|ordinal' --device cuda:99 "$work/text"
refuse 2 'heads' --heads 3 "$work/text"
refuse 2 'no-such-file' "$work/no-such-file"
refuse 2 'no-such-option' --no-such-option "$work/text"
head -c 50 "$work/text" >"$work/tiny"
refuse 2 'data' "$work/tiny"
refuse 2 'vocabulary' --vocabulary 20 "$work/text"
echo 'training: refusals are clear'
