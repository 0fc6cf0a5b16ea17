"""PyTorch's figures on the GPU at the shapes of `bench` and of GPT-2 124M: python3 torch_gpu.py --json FILE.

Each figure is the median of several timed runs between device events, after warm-up, on random data. Ceilings (copy
bandwidth, bf16 matrix rate) come first, so that a row can be read as a fraction on this card.
"""

import argparse
import contextlib
import json
import statistics
import sys
import traceback

import torch
import torch._functorch.config as functorch_config
import torch.nn.functional as F
from torch import nn


def seconds(run, runs=10, warmup=3):
    for _ in range(warmup):
        run()
    times = []
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


class Report:
    def __init__(self, path):
        self.file = open(path, "a") if path else None
        device = torch.cuda.get_device_properties(0)
        self.line({"device": device.name, "library": f"torch {torch.__version__}", "cuda": torch.version.cuda})

    def line(self, record):
        if self.file:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()

    def row(self, name, value, unit):
        print(f"{name:<56} {value:>12.1f}  {unit}", flush=True)
        self.line({"name": name, "value": value, "unit": unit})


def random(*shape, dtype=torch.bfloat16, grad=False):
    return torch.randn(*shape, device="cuda", dtype=dtype).requires_grad_(grad)


def ceilings(report):
    x = torch.empty(2**32, device="cuda", dtype=torch.uint8)
    y = torch.empty_like(x)
    report.row("copy device to device", 2 * x.numel() / seconds(lambda: y.copy_(x)) / 1e9, "GB/s")
    a, b = random(8192, 8192), random(8192, 8192)
    report.row("gemm bf16 nn 8192x8192x8192", 2 * 8192**3 / seconds(lambda: a @ b) / 1e9, "GFLOP/s")


def products(report):
    for m, k, n in [(4096, 4096, 4096), (8192, 768, 3072), (8192, 3072, 768), (8192, 768, 50304)]:
        a, b = random(m, k), random(n, k)
        report.row(f"gemm bf16 nt {m}x{k}x{n}", 2 * m * k * n / seconds(lambda: a @ b.T) / 1e9, "GFLOP/s")


def optimizer(report):
    parameters = [torch.randn(5_000_000, device="cuda").requires_grad_() for _ in range(200)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    adamw = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    total = sum(p.numel() for p in parameters)
    report.row("adamw f32 fused 1G in 200 tensors", 28 * total / seconds(adamw.step) / 1e9, "GB/s")

    def clipped():
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()

    # The norm reads the gradients, clipping reads and writes them.
    report.row("step adamw f32 fused 1G in 200 tensors", 40 * total / seconds(clipped) / 1e9, "GB/s")


def graph_kept():
    """A compiled backward pass that gives its buffers away (PyTorch 2.6 on) refuses retain_graph=True."""
    if hasattr(functorch_config, "donated_buffer"):
        return functorch_config.patch(donated_buffer=False)
    return contextlib.nullcontext()


def norms(report):
    rows, width = 16384, 4096
    for name, function in [("layer norm", F.layer_norm), ("RMS norm", F.rms_norm)]:
        x, weight, dy = random(rows, width, grad=True), random(width, grad=True), random(rows, width)
        compiled = torch.compile(lambda x, w: function(x, (width,), w))
        forward = seconds(lambda: compiled(x.detach(), weight.detach()))
        report.row(f"{name} forward bf16 {rows}x{width}", 4 * rows * width / forward / 1e9, "GB/s")
        with graph_kept():
            y = compiled(x, weight)
            backward = seconds(lambda: torch.autograd.grad(y, (x, weight), dy, retain_graph=True))
        report.row(f"{name} backward bf16 {rows}x{width}", 6 * rows * width / backward / 1e9, "GB/s")


def attention(report):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for name, backend in [("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)]:
        for batch, heads, time, width in [(4, 16, 4096, 128), (1, 16, 16384, 128), (8, 12, 1024, 64)]:
            q, k, v = (random(batch, heads, time, width, grad=True) for _ in range(3))
            dout = random(batch, heads, time, width)
            triangle = 2 * batch * heads * time * (time + 1) / 2 * width
            shape = f"B{batch} T{time} {heads}x{width}"
            try:
                with sdpa_kernel(backend):
                    run = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
                    with torch.no_grad():
                        report.row(f"attention causal forward bf16 {shape} {name}", 2 * triangle / seconds(run) / 1e9, "GFLOP/s")
                    out = run()
                    backward = seconds(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
                    report.row(f"attention causal backward bf16 {shape} {name}", 5 * triangle / backward / 1e9, "GFLOP/s")
            except RuntimeError as error:
                print(f"attention {name} {shape}: {error}")


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, time, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, vocabulary=50304, context=1024, layers=12, width=768, heads=12):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def training(report, micro_batch):
    torch.manual_seed(1)
    model = torch.compile(Gpt2().cuda())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, 256, (micro_batch, 1025), device="cuda")

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    rate = micro_batch * 1024 / seconds(step, runs=20, warmup=5)
    report.row(f"GPT-2 124M bf16 torch.compile B{micro_batch} T1024", rate, "tokens/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="append JSON lines to this file")
    parser.add_argument("--micro-batch", type=int, default=32)
    arguments = parser.parse_args()
    report = Report(arguments.json)
    failed = False
    for part in [ceilings, products, optimizer, norms, attention, lambda r: training(r, arguments.micro_batch)]:
        try:
            part(report)
        except Exception:
            failed = True
            traceback.print_exc()
        torch.cuda.empty_cache()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
