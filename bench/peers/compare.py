"""Ours against the peers, on the CPU: `make bench-peers` runs this.

    target/peers/bin/python bench/peers/compare.py --json FILE [--case REGEX] [--threads 1,2] [--pairs 9] [--no-steps]

For each case of torch_cpu.py the bench and the peer take turns, one repetition of 20 ms or more each, and the ratio is the
median over the pairs: a machine that drifts or is shared slows both sides of a pair alike. Training steps (torch_step.py,
examples/c/train_gpt.c) take turns as whole runs. Each row says how many cores other processes used meanwhile.

Rows: name, peer, way, unit, ours, theirs, ratio (ours / theirs as rates, so above 1 is faster), low and high (quartiles of the
ratios), target (the ratio to reach), pairs, others.
"""

from torch_cpu import with_allocator

if __name__ == "__main__":
    with_allocator()

import argparse
import datetime
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch_cpu

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BENCH, TRAIN = ROOT + "/target/release/scalert-bench", ROOT + "/target/examples/train_gpt"
# Ratios to reach where that is not 1: products, which peers call from libraries tuned for each CPU.
TARGETS = {"^gemm (f32|bf16)": 0.9}
PAUSE = 0.01  # seconds in which the other side's threads stop spinning


class Turn:
    """While a side runs: with --realtime no other process of the machine runs on its cores (root only). Counts how many cores
    the others used all the same."""

    realtime = False

    def __init__(self, *children):
        self.processes, self.busy, self.wall = ("self", *children), 0, 0.0

    def __enter__(self):
        self.schedule(os.SCHED_RR, 1)
        self.start = self.others(), time.monotonic()
        return self

    def __exit__(self, *_):
        self.busy += max(0, self.others() - self.start[0])
        self.wall += time.monotonic() - self.start[1]
        self.schedule(os.SCHED_OTHER, 0)

    def schedule(self, policy, priority):
        if self.realtime:
            for process in self.processes:
                for thread in os.listdir(f"/proc/{process}/task"):
                    os.sched_setscheduler(int(thread), policy, os.sched_param(priority))

    def others(self):
        """Ticks that other processes have used."""
        with open("/proc/stat") as file:
            ticks = list(map(int, file.readline().split()[1:9]))
        own = 0
        for process in self.processes:
            with open(f"/proc/{process}/stat") as file:
                own += sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
        return sum(ticks) - ticks[3] - ticks[4] - own

    def cores(self):
        return self.busy / os.sysconf("SC_CLK_TCK") / max(self.wall, 1e-3)


class Bench:
    """The bench, waiting to be asked for repetitions of one case."""

    def __init__(self, name, threads):
        settings = {"CASE": f"^{re.escape(name)}$", "THREADS": str(threads), "BENCH_ASKED": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([BENCH], env={**os.environ, **settings}, stdin=pipe, stdout=pipe,
                                        stderr=subprocess.DEVNULL, text=True)
        while (line := self.process.stdout.readline()) != "ready\n":
            if not line:
                raise SystemExit(f"compare: the bench has no case '{name}'")

    def repetition(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["value"]

    def close(self):
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait()


def row(name, peer, way, unit, pairs, others):
    """A row of pairs of rates (ours, theirs)."""
    ratios = sorted(a / b for a, b in pairs)
    quartile = lambda q: ratios[round(q * (len(ratios) - 1))]
    ours, theirs = (statistics.median(side) for side in zip(*pairs))
    target = next((value for names, value in TARGETS.items() if re.match(names, name)), 1.0)
    return {"name": name, "peer": peer, "way": way, "unit": unit, "ours": ours, "theirs": theirs,
            "ratio": statistics.median(ratios), "low": quartile(0.25), "high": quartile(0.75), "target": target, "pairs": len(pairs),
            "others": round(others, 2)}


def compare_case(name, threads, pairs):
    case = torch_cpu.CASES[name]()
    chosen = {peer: torch_cpu.fastest(ways, Turn) for peer, ways in case.peers.items() if ways}
    chosen = {peer: found for peer, found in chosen.items() if found}
    bench = Bench(name, threads)
    turn, rates = Turn(bench.process.pid), {peer: [] for peer in chosen}
    for _ in range(pairs):
        time.sleep(PAUSE)
        with turn:
            ours = bench.repetition()
        for peer, (_, run, times) in chosen.items():
            time.sleep(PAUSE)
            with turn:
                rates[peer].append((ours, torch_cpu.figure(case, run, times)))
    bench.close()
    busy = turn.cores()
    for peer, (way, _, _) in chosen.items():
        yield row(f"{name} t{threads}", peer, way, case.unit, rates[peer], busy)


# ---- training steps ----

STEPS = {
    "step 6 layers C384 T256 B8 V65": dict(layers=6, width=384, heads=6, vocabulary=65, context=256, batch=8),
    "step GPT-2 124M T256 B4 V50257": dict(layers=12, width=768, heads=12, vocabulary=50257, context=256, batch=4),
}
WAYS = {"bf16": [[], ["--compile"]], "f32": [[], ["--onednn"], ["--onednn", "--compile"]]}


def output_of(command):
    """What a program prints, and the most memory that it held."""
    first = ["chrt", "--rr", "1"] if Turn.realtime else []
    process = subprocess.Popen([*first, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"compare: {' '.join(command)} failed")
    return text, usage.ru_maxrss * 1024


def random_text(file, symbols=65, size=27_000):
    """As many different bytes as the small model has tokens, a line break among them."""
    alphabet = "\n" + "".join(map(chr, range(48, 48 + symbols - 1)))
    generator = random.Random(1)
    file.write(alphabet + "".join(generator.choices(alphabet, k=size)))
    file.flush()


def compare_step(name, shape, dtype, threads, options):
    flags = lambda names: [part for key, value in shape.items() for part in (f"--{names.get(key, key)}", str(value))]
    common = ["--dtype", dtype, "--threads", str(threads)]
    count = options.step_count or (10 if shape["vocabulary"] > 1000 else 30)
    ways = [way for way in WAYS[dtype] if options.compile or "--compile" not in way]
    with tempfile.NamedTemporaryFile("w") as text:
        random_text(text)
        ours = [TRAIN, "--device", "cpu", "--steps", str(count), "--eval-every", "1000000", "--sample", "0",
                *flags({"batch": "micro-batch"}), *common, text.name]
        theirs = [sys.executable, ROOT + "/bench/peers/torch_step.py", "--steps", str(count), *flags({}), *common]
        trials = {tuple(way): 0.0 for way in ways}
        memory, pairs = {}, []

        def run_peer(way):
            found = json.loads(output_of([*theirs, *way])[0])
            memory["theirs"] = found["peak_rss"]
            return found["value"]

        for way in trials:
            trials[way] = run_peer(way)
        best = max(trials, key=trials.get)
        for _ in range(options.rounds):
            printed, memory["ours"] = output_of(ours)
            rate = float(re.search(r"tokens_per_s=(\S+)", printed).group(1))
            pairs.append((rate, run_peer(best)))
    label = " ".join(part.strip("-") for part in best) or "eager"
    found = row(f"{name} {dtype} t{threads}", "torch", label, "tokens/s", pairs, 0.0)
    del found["others"]  # the runs are processes of their own
    found["ways"] = {" ".join(part.strip("-") for part in way) or "eager": value for way, value in trials.items()}
    found["rss_ours"], found["rss_theirs"] = memory["ours"], memory["theirs"]
    found["load"] = round(os.getloadavg()[0], 2)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="write JSON lines to this file")
    parser.add_argument("--case", default="", help="only cases whose names match this regular expression")
    parser.add_argument("--threads", default="1,2", help="numbers of threads")
    parser.add_argument("--pairs", type=int, default=9, help="repetitions of each side")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each training step")
    parser.add_argument("--step-count", type=int, default=0, help="steps of a run; 0 = 30 of the small model, 10 of GPT-2")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="training steps in eager mode only")
    parser.add_argument("--no-steps", action="store_true", help="leave out the training steps")
    parser.add_argument("--realtime", action="store_true", help="keep other processes off the cores meanwhile (root only)")
    options = parser.parse_args()
    Turn.realtime = options.realtime
    chosen = re.compile(options.case)
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    with open(options.json, "a") as file:

        def write(line):
            file.write(json.dumps(line) + "\n")
            file.flush()

        def show(found):
            write(found)
            others = f"others {found['others']}" if "others" in found else f"load {found['load']}"
            print(f"{found['name']:<58} {found['peer']:<10} {found['ours']:>9.1f} {found['theirs']:>9.1f} {found['ratio']:>6.2f} "
                  f"[{found['low']:.2f} {found['high']:.2f}]  {found['unit']}, {found['way']}, {others}", flush=True)

        write({"peers": f"torch {torch.__version__}", "commit": commit.strip(), "load": os.getloadavg()[0], "realtime": options.realtime,
               "date": datetime.date.today().isoformat()})
        for threads in map(int, options.threads.split(",")):
            torch_cpu.use_threads(threads)
            names = [name for name in torch_cpu.CASES if chosen.search(f"{name} t{threads}")]
            for i, name in enumerate(names):
                print(f"\r{i + 1}/{len(names)} {name}\033[K", end="\r", file=sys.stderr)
                for found in compare_case(name, threads, options.pairs):
                    show(found)
        if not options.no_steps:
            for name, shape in STEPS.items():
                for dtype in ["bf16", "f32"]:
                    for threads in map(int, options.threads.split(",")):
                        if chosen.search(f"{name} {dtype} t{threads}"):
                            show(compare_step(name, shape, dtype, threads, options))


if __name__ == "__main__":
    main()
