#!/usr/bin/env bash
# Makes target/peers, a virtual environment with the libraries that compare.py measures against: torch, and DeepSpeed with
# its CPU Adam and Lion compiled for this CPU. About 6 GB, since torch's wheel brings the libraries of a GPU. `setup.sh --torch` leaves out DeepSpeed.
set -euo pipefail
cd "$(dirname "$0")/../.."
environment=$PWD/target/peers
export TORCH_EXTENSIONS_DIR=$environment/extensions DS_ACCELERATOR=cpu

test -x "$environment/bin/python" || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --no-cache-dir torch==2.15.0 numpy==2.3.5 setuptools==80.9.0 ninja==1.13.0 psutil==7.1.3
if [ "${1:-}" != --torch ]; then
    "$environment/bin/pip" install --quiet --no-cache-dir deepspeed==0.19.8 py-cpuinfo==9.0.0
    PATH=$environment/bin:$PATH "$environment/bin/python" -c 'import deepspeed.ops.op_builder as b; b.CPUAdamBuilder().load(); b.CPULionBuilder().load()'
fi
"$environment/bin/python" -c 'import torch; print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())'
