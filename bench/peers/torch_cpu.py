"""What peers take for the cases of `bench/src/cases.rs`, on the CPU: torch (its own kernels, oneDNN, MKL, and what
torch.compile makes of the same formula) and DeepSpeed's CPU optimizers.

    target/peers/bin/python bench/peers/torch_cpu.py [--case REGEX] [--threads 1,2] [--json FILE]

Names and work are those of the bench. A case has one or more ways to compute it; each is tried and the fastest is timed,
so that a peer is always measured at its best. `compare.py` measures these between repetitions of the bench.
"""

import os
import sys

# Large pages on request and a heap that keeps its memory: without them page faults are a third of torch's time.
ALLOCATOR = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:"
    "glibc.malloc.top_pad=268435456",
}


def with_allocator():
    """Starts the program anew where the allocator's settings are missing: they are read before main."""
    here = os.path.dirname(os.path.realpath(sys.prefix + "/bin"))
    settings = {**ALLOCATOR, "DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": here + "/extensions",
                "TORCHINDUCTOR_CACHE_DIR": here + "/inductor", "PATH": here + "/bin:" + os.environ["PATH"]}
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})


if __name__ == "__main__":
    with_allocator()

import argparse
import contextlib
import json
import math
import re
import statistics
import time

import torch
import torch.nn.functional as F

bf16, f16, f32 = torch.bfloat16, torch.float16, torch.float32
MILLION = 1_000_000


def filled(*shape, dtype=bf16, scale=1.0):
    return torch.empty(shape).uniform_(-scale, scale).to(dtype)


class Case:
    """`work` bytes or operations, and the ways in which each peer does them."""

    def __init__(self, work, unit, **peers):
        self.work, self.unit, self.peers = work, unit, peers


CASES = {}


def case(name, *arguments):
    """Registers a function that builds a case."""

    def register(build):
        CASES[name] = lambda: build(*arguments)
        return build

    return register


def compiled(function):
    return torch.compile(function, dynamic=False)


# ---- optimizers: 16-bit gradients in, f32 master weights and moments, bf16 weights out ----


def offload(n, optimizer):
    """The gradient is cast, the optimizer takes its step, the weights are copied out: 28 or 20 bytes per parameter."""
    master = torch.nn.Parameter(filled(n, dtype=f32))
    master.grad = torch.empty(n, dtype=f32)
    gradient, weight = filled(n, scale=1e-3), torch.empty(n, dtype=bf16)
    optimizer = optimizer([master])

    def step():
        master.grad.copy_(gradient)
        optimizer.step()
        with torch.no_grad():
            weight.copy_(master)

    return step


def deepspeed(make):
    """A way of DeepSpeed's, if it is installed."""
    try:
        import deepspeed.ops.adam
        import deepspeed.ops.lion
    except ImportError:
        return []
    return [("DeepSpeed", make(deepspeed.ops))]


@case("adamw bf16 100M")
def adamw():
    n = 100 * MILLION
    torch_step = lambda: offload(n, lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01, fused=True))
    ours = lambda ops: lambda: offload(n, lambda p: ops.adam.DeepSpeedCPUAdam(p, lr=1e-3, weight_decay=0.01))
    return Case(28 * n, "GB/s", torch=[("fused", torch_step)], DeepSpeed=deepspeed(ours))


@case("sgd bf16 32M")
def sgd():
    n = 32 * MILLION
    step = lambda: offload(n, lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True))
    return Case(20 * n, "GB/s", torch=[("fused", step)])


@case("lion bf16 32M")
def lion():
    n = 32 * MILLION
    ours = lambda ops: lambda: offload(n, lambda p: ops.lion.DeepSpeedCPULion(p, lr=1e-4, weight_decay=0.1))
    return Case(20 * n, "GB/s", DeepSpeed=deepspeed(ours))


# ---- long vectors ----


def cast(source, target):
    n = 64 * MILLION
    x, y = filled(n, dtype=source), torch.empty(n, dtype=target)
    return Case((x.itemsize + y.itemsize) * n, "GB/s", torch=[("copy_", lambda: lambda: y.copy_(x))])


for source, target in [(f32, bf16), (bf16, f32), (f32, f16), (f16, f32)]:
    labels = {f32: "f32", bf16: "bf16", f16: "f16"}
    case(f"cast {labels[source]} to {labels[target]} 64M", source, target)(cast)


@case("accumulate bf16 64M")
def accumulate():
    n = 64 * MILLION
    x, y = filled(n, scale=1e-3), torch.zeros(n)
    return Case(10 * n, "GB/s", torch=[("add_", lambda: lambda: y.add_(x))])


@case("accumulate bf16 64M with square sum")
def accumulate_with_sum():
    n = 64 * MILLION
    x, y = filled(n, scale=1e-3), torch.zeros(n)

    def eager():
        def run():
            y.add_(x)
            return torch.linalg.vector_norm(x, dtype=f32)
        return run

    def fused():
        function = compiled(lambda x, y: (y.add_(x), x.float().square().sum()))
        return lambda: function(x, y)

    return Case(10 * n, "GB/s", torch=[("add_ and vector_norm", eager), ("compiled", fused)])


def square_sum(dtype):
    """A plain sum in f32: torch has no exact one."""
    n = 64 * MILLION
    x = filled(n, dtype=dtype)
    ways = [("vector_norm", lambda: lambda: torch.linalg.vector_norm(x, dtype=f32))]
    if dtype == f32:
        ways.append(("dot", lambda: lambda: torch.dot(x, x)))
    return Case(x.itemsize * n, "GB/s", torch=ways)


case("exact sum of squares f32 64M", f32)(square_sum)
case("exact sum of squares bf16 64M", bf16)(square_sum)


@case("norm, overflow check, clip factor f32 64M")
def decision():
    """What torch does between the last gradient and the optimizer: unscale and check, norm, clip. It scales the gradients
    in memory, where ours hands the factor to the optimizer."""
    n = 64 * MILLION
    parameters = []
    for part in filled(n, dtype=f32, scale=1e-3).split(n // 148 + 1):
        parameter = torch.nn.Parameter(torch.empty_like(part))
        parameter.grad = part
        parameters.append(parameter)
    gradients = [p.grad for p in parameters]
    found, inverse = torch.zeros(1), torch.ones(1)

    def both():
        def run():
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, inverse)
            torch.nn.utils.clip_grad_norm_(parameters, 1e9)
        return run

    return Case(4 * n, "GB/s", torch=[("foreach", both)])


@case("add bf16 64M")
def add():
    a, b, y = filled(64 * MILLION), filled(64 * MILLION), torch.empty(64 * MILLION, dtype=bf16)
    return Case(6 * 64 * MILLION, "GB/s", torch=[("add", lambda: lambda: torch.add(a, b, out=y))])


# ---- norms: statistics are kept, gradients of weights are sums over all rows ----


def layer_norm(rows, width, backward):
    x, dy, weight, bias = filled(rows, width), filled(rows, width), filled(width), filled(width)
    aten = torch.ops.aten
    _, mean, rstd = aten.native_layer_norm(x, [width], weight, bias, 1e-5)

    def formula(dy, x, weight, mean, rstd):
        normed = (x.float() - mean.float()) * rstd.float()
        dnormed = dy.float() * weight.float()
        mean_of = lambda t: t.mean(-1, keepdim=True)
        dx = rstd.float() * (dnormed - mean_of(dnormed) - normed * mean_of(dnormed * normed))
        return dx.to(bf16), (dy.float() * normed).sum(0), dy.float().sum(0)

    if backward:
        function = compiled(formula)
        ways = [
            ("native", lambda: lambda: aten.native_layer_norm_backward(dy, x, [width], mean, rstd, weight, bias, [True] * 3)),
            ("compiled", lambda: lambda: function(dy, x, weight, mean, rstd)),
        ]
    else:
        function = compiled(lambda x: aten.native_layer_norm(x, [width], weight, bias, 1e-5))
        ways = [
            ("native", lambda: lambda: aten.native_layer_norm(x, [width], weight, bias, 1e-5)),
            ("compiled", lambda: lambda: function(x)),
        ]
    return Case((6 if backward else 4) * rows * width, "GB/s", torch=ways)


def rms_norm(rows, width, backward):
    x, dy, weight = filled(rows, width), filled(rows, width), filled(width)

    def formula(x):
        rstd = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
        return (x.float() * rstd * weight.float()).to(bf16), rstd

    def gradient(dy, x, weight, rstd):
        normed, dnormed = x.float() * rstd, dy.float() * weight.float()
        dx = rstd * (dnormed - normed * (dnormed * normed).mean(-1, keepdim=True))
        return dx.to(bf16), (dy.float() * normed).sum(0)

    def autograd():
        inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = F.rms_norm(inputs[0], (width,), inputs[1], 1e-5)
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)

    if backward:
        rstd, function = formula(x)[1], compiled(gradient)
        ways = [("autograd", autograd), ("compiled", lambda: lambda: function(dy, x, weight, rstd))]
    else:
        function = compiled(formula)
        ways = [("rms_norm", lambda: lambda: F.rms_norm(x, (width,), weight, 1e-5)),
                ("compiled", lambda: lambda: function(x))]
    return Case((6 if backward else 4) * rows * width, "GB/s", torch=ways)


for rows, width in [(4096, 768), (4096, 8192)]:
    for label, build in [("layer norm", layer_norm), ("RMS norm", rms_norm)]:
        for direction in ["forward", "backward"]:
            case(f"{label} {direction} bf16 {rows}x{width}", rows, width, direction == "backward")(build)


# ---- activations ----

ROWS, WIDTH = 4096, 3072


def gelu(kind, backward):
    x, dy = filled(ROWS, WIDTH, scale=3.0), filled(ROWS, WIDTH)
    approximate = "tanh" if kind == "tanh" else "none"
    if backward:
        eager = lambda: torch.ops.aten.gelu_backward(dy, x, approximate=approximate)
        function = compiled(lambda dy, x: torch.ops.aten.gelu_backward(dy, x, approximate=approximate))
        ways = [("gelu_backward", lambda: eager), ("compiled", lambda: lambda: function(dy, x))]
    else:
        function = compiled(lambda x: F.gelu(x, approximate=approximate))
        ways = [("gelu", lambda: lambda: F.gelu(x, approximate=approximate)), ("compiled", lambda: lambda: function(x))]
    return Case((6 if backward else 4) * ROWS * WIDTH, "GB/s", torch=ways)


for kind in ["tanh", "exact"]:
    case(f"GELU {kind} forward bf16 {ROWS}x{WIDTH}", kind, False)(gelu)
    case(f"GELU {kind} backward bf16 {ROWS}x{WIDTH}", kind, True)(gelu)


@case(f"SwiGLU forward bf16 {ROWS}x{WIDTH}")
def swiglu_forward():
    gate, up = filled(ROWS, WIDTH, scale=3.0), filled(ROWS, WIDTH, scale=3.0)
    formula = lambda gate, up: F.silu(gate) * up
    function = compiled(formula)
    ways = [("silu and mul", lambda: lambda: formula(gate, up)), ("compiled", lambda: lambda: function(gate, up))]
    return Case(6 * ROWS * WIDTH, "GB/s", torch=ways)


@case(f"SwiGLU backward bf16 {ROWS}x{WIDTH}")
def swiglu_backward():
    gate, up, dy = (filled(ROWS, WIDTH, scale=3.0) for _ in range(3))

    def formula(gate, up, dy):
        gate, up, dy = gate.float(), up.float(), dy.float()
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        return (dy * up * (sigmoid + silu * (1 - sigmoid))).to(bf16), (dy * silu).to(bf16)

    def autograd():
        inputs = [gate.clone().requires_grad_(), up.clone().requires_grad_()]
        y = F.silu(inputs[0]) * inputs[1]
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)

    function = compiled(formula)
    ways = [("autograd", autograd), ("compiled", lambda: lambda: function(gate, up, dy))]
    return Case(10 * ROWS * WIDTH, "GB/s", torch=ways)


# ---- layers ----

VOCABULARY, MODEL = 50257, 768


def token_ids():
    return (torch.arange(ROWS) * 7919) % VOCABULARY


@case(f"embedding forward bf16 {ROWS}x{MODEL} of {VOCABULARY}")
def embedding_forward():
    ids, table, y = token_ids(), filled(VOCABULARY, MODEL), torch.empty(ROWS, MODEL, dtype=bf16)
    ways = [("embedding", lambda: lambda: F.embedding(ids, table)),
            ("index_select", lambda: lambda: torch.index_select(table, 0, ids, out=y))]
    return Case(4 * ROWS * MODEL, "GB/s", torch=ways)


@case(f"embedding backward bf16 {ROWS}x{MODEL} of {VOCABULARY}")
def embedding_backward():
    ids, table, dy = token_ids(), torch.zeros(VOCABULARY, MODEL), filled(ROWS, MODEL)
    return Case(10 * ROWS * MODEL, "GB/s", torch=[("index_add_", lambda: lambda: table.index_add_(0, ids, dy.float()))])


@case(f"bias gradient bf16 {ROWS}x{WIDTH}")
def bias_gradient():
    dy = filled(ROWS, WIDTH)
    function = compiled(lambda dy: dy.sum(0, dtype=f32))
    ways = [("sum", lambda: lambda: dy.sum(0, dtype=f32)), ("compiled", lambda: lambda: function(dy))]
    return Case(2 * ROWS * WIDTH, "GB/s", torch=ways)


@case(f"dropout bf16 {ROWS}x{WIDTH}")
def dropout():
    x = filled(ROWS, WIDTH)
    function = compiled(lambda x: F.dropout(x, 0.1))
    ways = [("dropout", lambda: lambda: F.dropout(x, 0.1)), ("compiled", lambda: lambda: function(x))]
    return Case(4 * ROWS * WIDTH, "GB/s", torch=ways)


# ---- losses ----


def gradients(function, inputs):
    return lambda: torch.autograd.grad(function(*inputs), inputs)


@case(f"cross-entropy forward+backward bf16 {ROWS}x{VOCABULARY}")
def cross_entropy():
    logits, targets = filled(ROWS, VOCABULARY, scale=2.0).requires_grad_(), torch.zeros(ROWS, dtype=torch.int64)
    loss = lambda logits: F.cross_entropy(logits, targets)
    function = compiled(loss)
    ways = [("cross_entropy", lambda: gradients(loss, [logits])), ("compiled", lambda: gradients(function, [logits]))]
    return Case(4 * ROWS * VOCABULARY, "GB/s", torch=ways)


@case(f"linear+cross-entropy bf16 1024x{MODEL}x{VOCABULARY}")
def linear_cross_entropy():
    x, targets = filled(1024, MODEL).requires_grad_(), torch.zeros(1024, dtype=torch.int64)
    weight = filled(VOCABULARY, MODEL, scale=0.1).requires_grad_()
    loss = lambda x, weight: F.cross_entropy(F.linear(x, weight), targets)
    function = compiled(loss)
    ways = [("linear and cross_entropy", lambda: gradients(loss, [x, weight])),
            ("compiled", lambda: gradients(function, [x, weight]))]
    return Case(6 * 1024 * MODEL * VOCABULARY, "GFLOP/s", torch=ways)


# ---- products ----


def product(dtype, m, k, n, transpose_a, transpose_b):
    a = filled(*((k, m) if transpose_a else (m, k)), dtype=dtype)
    b = filled(*((n, k) if transpose_b else (k, n)), dtype=dtype)
    c = torch.empty(m, n, dtype=dtype)
    left, right = a.t() if transpose_a else a, b.t() if transpose_b else b
    if dtype == f16:
        # torch's own f16 product is a scalar loop on CPUs without f16 arithmetic: minutes for one of these.
        ways = [("widened to f32", lambda: lambda: c.copy_(torch.mm(left.float(), right.float())))]
        return Case(2 * m * k * n, "GFLOP/s", torch=ways)
    ways = [("mm", lambda: lambda: torch.mm(left, right, out=c))]
    if not transpose_a:
        rows = b if transpose_b else b.t().contiguous()
        linear = lambda: torch.ops.mkldnn._linear_pointwise(a, rows, None, "none", [], "")
        ways.append(("oneDNN linear", lambda: linear))
    if dtype == f32:

        def through_onednn():
            def run():
                # Sends f32 products to oneDNN, where they stay f32 on CPUs without matrix tiles; else MKL takes them.
                torch.backends.mkldnn.matmul.fp32_precision = "bf16"
                torch.mm(left, right, out=c)
                torch.backends.mkldnn.matmul.fp32_precision = "ieee"
            return run

        ways.append(("oneDNN mm", through_onednn))
    return Case(2 * m * k * n, "GFLOP/s", torch=ways)


SHAPES = [(2048, 2048, 2048, False, False), (1024, 768, 3072, False, True), (1024, 3072, 768, False, False),
          (3072, 1024, 768, True, False), (1024, 768, 50304, False, True)]
for label, dtype in [("f32", f32), ("bf16", bf16), ("f16", f16)]:
    for m, k, n, a, b in SHAPES:
        case(f"gemm {label} {'t' if a else 'n'}{'t' if b else 'n'} {m}x{k}x{n}", dtype, m, k, n, a, b)(product)


# ---- attention ----


def attention(dtype, batch, time_, heads, width, backward):
    def tensors(order):
        shape = (batch, time_, heads, width) if order == "rows" else (batch, heads, time_, width)
        made = [filled(*shape, dtype=dtype).requires_grad_(backward) for _ in range(3)]
        return made, [t.transpose(1, 2) for t in made] if order == "rows" else made

    def way(order):
        def make():
            leaves, (q, k, v) = tensors(order)
            if not backward:
                return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
            dout = torch.empty_like(q).uniform_(-1, 1)

            def run():
                views = [t.transpose(1, 2) for t in leaves] if order == "rows" else leaves
                out = F.scaled_dot_product_attention(*views, is_causal=True)
                return torch.autograd.grad(out, leaves, dout)

            return run
        return make

    flops = (14 if backward else 4) * batch * heads * (time_ * (time_ + 1) // 2) * width
    return Case(flops, "GFLOP/s", torch=[("rows of heads", way("rows")), ("heads apart", way("heads"))])


for batch, time_, heads, width, label, dtype in [(4, 1024, 12, 64, "bf16", bf16), (4, 1024, 12, 64, "f16", f16),
                                                 (8, 256, 6, 64, "bf16", bf16), (8, 256, 6, 64, "f32", f32)]:
    for what in ["forward", "forward+backward"]:
        name = f"attention causal {what} {label} B{batch} T{time_} {heads}x{width}"
        case(name, dtype, batch, time_, heads, width, what != "forward")(attention)


# ---- timing ----

REPETITION = 0.02  # seconds, as in the bench


def seconds(run, times):
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def fastest(ways, turn=contextlib.nullcontext):
    """The label and the function of the fastest way, of those that work, and how many runs fill a repetition; timed inside
    a turn."""
    best = None
    for label, make in ways:
        try:
            run = make()
            seconds(run, 2)
            with turn():
                once = min(seconds(run, 1) for _ in range(3))
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            print(f"{label}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        if best is None or once < best[0]:
            best = (once, label, run)
    if best is None:
        return None
    return best[1], best[2], max(1, math.ceil(REPETITION / best[0]))


def figure(case, run, times):
    """One repetition, in the unit of the case."""
    return case.work / seconds(run, times) / 1e9


def use_threads(threads):
    torch.set_num_threads(threads)
    torch._dynamo.reset()  # compiled code holds the number of threads


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only cases whose names match this regular expression")
    parser.add_argument("--threads", default="1,2", help="numbers of threads")
    parser.add_argument("--json", help="append JSON lines to this file")
    options = parser.parse_args()
    for threads in map(int, options.threads.split(",")):
        use_threads(threads)
        for name in filter(re.compile(options.case).search, CASES):
            built = CASES[name]()
            for peer, ways in built.peers.items():
                chosen = fastest(ways)
                if chosen is None:
                    continue
                label, run, times = chosen
                value = statistics.median(figure(built, run, times) for _ in range(9))
                print(f"{name + f' t{threads}':<58} {value:>9.1f}  {built.unit:<8} {peer}, {label}", flush=True)
                if options.json:
                    line = {"name": f"{name} t{threads}", "value": value, "unit": built.unit, "peer": peer, "way": label}
                    with open(options.json, "a") as file:
                        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
