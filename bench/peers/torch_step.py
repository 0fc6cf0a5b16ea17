"""A training step of a GPT in torch on the CPU, the counterpart of `examples/c/train_gpt.c --arch gpt2`.

    target/peers/bin/python bench/peers/torch_step.py --layers 12 --width 768 --heads 12 --vocabulary 50257 \\
        --context 256 --batch 4 --dtype bf16 [--compile] [--onednn]

The same: the layers and their shapes (learned positions, pre-norm, biases, GELU tanh, the head tied to the token table), the
tokens of a batch, clipping by the global norm, AdamW with f32 master weights and moments, no dropout. Different: in bf16 torch
casts f32 weights in every step (autocast), where the library keeps bf16 weights beside the master and bf16 residuals, and norms
and the residual stream are f32 under autocast. Prints one JSON line: tokens per second (the median of the steps after warm-up)
and the peak resident set.
"""

import argparse
import json
import resource
import statistics
import time

from torch_cpu import with_allocator

if __name__ == "__main__":
    with_allocator()

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.tokens = nn.Embedding(options.vocabulary, options.width)
        self.positions = nn.Parameter(torch.empty(options.context, options.width))
        self.blocks = nn.ModuleList(Block(options.width, options.heads) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in [("layers", 6), ("width", 384), ("heads", 6), ("vocabulary", 65), ("context", 256), ("batch", 8),
                          ("threads", 2), ("steps", 10), ("warmup", 3)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--onednn", action="store_true", help="f32 products by oneDNN instead of MKL")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    if options.onednn:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # stays f32 on CPUs without matrix tiles
    model = Gpt(options)
    function = torch.compile(model) if options.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(0, min(options.vocabulary, 256), (options.batch, options.context + 1))

    def step():
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.dtype == "bf16"):
            loss = function(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - start

    for _ in range(options.warmup):
        step()
    times = [step() for _ in range(options.steps)]
    print(json.dumps({
        "value": options.batch * options.context / statistics.median(times),
        "unit": "tokens/s",
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()
