"""Tuned and default kernels beside cuBLAS, shape by shape, in one run on one device.

    python benchmarks/peers.py --preset core --dtype f32 --db results.db > table.md
    python benchmarks/peers.py --shape 4096x4096x4096 --dtype f32 --math f16x3 --db results.db

Every kernel is verified before it is timed. cuBLAS comes through PyTorch and is left out where
there is none; so is onnxruntime-webgpu, which runs in a process of its own, on square problems,
with inputs in cache (onnxruntime_webgpu.py). Of the others, times are device times with inputs
that rotate past the last-level cache: the median over ``--rounds`` rounds, in each of which all
kernels of a problem run in turn. The spread is the largest interquartile range over median of a
round, the drift the range of the rounds' medians over their median.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gemmtune.executors import Executor, open_executor
from gemmtune.job import Job, Measurement, Policy
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel
from gemmtune.lookup import lookup
from gemmtune.problem import MATHS, Gemm
from gemmtune.render import render
from gemmtune.shapes import PRESETS, preset

ORT = "onnxruntime-webgpu"
COLD_BYTES = 256 * 1024 * 1024
"""What the inputs of one problem take together before the first is used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Rounds of one contestant on one problem."""

    medians_ns: list[float]
    spreads: list[float]
    repetitions: int

    @property
    def time_ns(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.medians_ns)

    @property
    def drift(self) -> float:
        """Range of the rounds' medians over their median."""
        return (max(self.medians_ns) - min(self.medians_ns)) / self.time_ns


def ours(executor: Executor, gemm: Gemm, kernel: Kernel) -> Measurement | None:
    executor.submit(Job(id=0, gemm=gemm, kernel=kernel))
    outcome = executor.next()
    if outcome is None or not isinstance(outcome.result, Measurement):
        print(f"{gemm.key}: {outcome and outcome.result}", file=sys.stderr)
        return None
    return outcome.result


def cublas(gemm: Gemm) -> Callable[[], tuple[float, float, int]] | None:
    """Times one matmul of PyTorch on CUDA: median in ns, spread, repetitions."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.backends.cuda.matmul.allow_tf32 = False
    dtype = {"f32": torch.float32, "f16": torch.float16}[gemm.a]
    size = gemm.size_bytes("a") + gemm.size_bytes("b")
    copies = min(32, max(1, -(-COLD_BYTES // size)))
    pairs = []
    for _ in range(copies):
        a = torch.rand(gemm.batch, gemm.m, gemm.k, device="cuda", dtype=dtype) - 0.5
        b = torch.rand(gemm.batch, gemm.k, gemm.n, device="cuda", dtype=dtype) - 0.5
        if gemm.trans_b:
            b = b.transpose(-1, -2).contiguous().transpose(-1, -2)
        pairs.append((a.squeeze(0), b.squeeze(0)))
    out = torch.empty_like(pairs[0][0] @ pairs[0][1])

    def span(count: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(count):
            torch.matmul(*pairs[i % copies], out=out)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e6 / count

    def measure() -> tuple[float, float, int]:
        warm = span(10)
        while (again := span(max(10, int(50e6 / warm)))) < 0.99 * warm:
            warm = again
        repeats = max(1, int(200e3 / again))
        samples = [span(repeats) for _ in range(20)]
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return median, (high - low) / median, len(samples)

    return measure


def onnxruntime_webgpu(gemm: Gemm) -> tuple[float, float, int] | None:
    """Times one MatMul of onnxruntime-webgpu: median in ns, spread, repetitions."""
    if not (gemm.m == gemm.n == gemm.k and gemm.batch == 1 and gemm.a == gemm.b == gemm.c):
        return None
    script = Path(__file__).with_name("onnxruntime_webgpu.py")
    command = [sys.executable, str(script), gemm.shape, gemm.a]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        print(f"{gemm.shape}: no onnxruntime-webgpu: {done.stderr[-300:]}", file=sys.stderr)
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    return found["ns"], found["spread"], found["samples"]


def compare(executor: Executor, gemm: Gemm, db: str | None, rounds: int) -> dict[str, Samples]:
    found = lookup(gemm, device=executor.device, path=db, versions=executor.versions)
    default = FAMILIES["tiled"].default(gemm, executor.device)
    kernels = {
        f"{found.family} ({found.source})": found.kernel,
        "default": render("tiled", default, gemm, executor.device),
    }
    peer = cublas(gemm)
    taken: dict[str, list[tuple[float, float, int]]] = {}
    for _ in range(rounds):
        for name, kernel in kernels.items():
            got = ours(executor, gemm, kernel)
            if got is not None:
                taken.setdefault(name, []).append((got.time_ns, got.spread, got.repetitions))
        if peer is not None:
            taken.setdefault("cuBLAS", []).append(peer())
    ort = onnxruntime_webgpu(gemm)
    if ort is not None:
        taken[ORT] = [ort]
    return {
        name: Samples(
            medians_ns=[t for t, _, _ in samples],
            spreads=[s for _, s, _ in samples],
            repetitions=sum(r for _, _, r in samples),
        )
        for name, samples in taken.items()
    }


def row(gemm: Gemm, samples: dict[str, Samples]) -> str:
    def speed(name: str) -> str:
        return f"{gemm.flops / samples[name].time_ns / 1e3:.2f}" if name in samples else ""

    tuned = next((name for name in samples if name not in ("default", "cuBLAS", ORT)), "")
    if not tuned:
        return f"| {gemm.shape} | failed ||||||||||"
    best = samples[tuned]
    share = f"{samples['cuBLAS'].time_ns / best.time_ns:.0%}" if "cuBLAS" in samples else ""
    gain = f"{samples['default'].time_ns / best.time_ns:.2f}x" if "default" in samples else ""
    cells = [
        gemm.shape,
        tuned,
        f"{best.time_ns / 1e3:.1f}",
        speed(tuned),
        f"{gemm.traffic_bytes / best.time_ns:.0f}",
        f"{max(best.spreads):.1%}",
        f"{best.drift:.1%}",
        str(best.repetitions),
        speed("default"),
        gain,
        speed("cuBLAS"),
        share,
        speed(ORT),
    ]
    return "| " + " | ".join(cells) + " |"


def named(dtype: str) -> dict[str, str]:
    return {"a": dtype, "b": dtype, "c": dtype}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="core")
    parser.add_argument("--dtype", choices=("f32", "f16"), default="f32")
    parser.add_argument("--shape", action="append", default=[], help="instead of a preset")
    parser.add_argument("--trans-b", action="store_true", help="B is stored as n x k")
    parser.add_argument("--math", choices=MATHS, default="ieee", help="as `gemmtune tune --math`")
    parser.add_argument("--db", help="database with the tuned configs; default: as lookup finds it")
    parser.add_argument("--adapter", default="")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    executor = open_executor(f"local:{args.adapter}", workers=1, policy=Policy())
    try:
        device, versions = executor.device, executor.versions
        print(f"## {', '.join(args.shape) or args.preset}, {args.dtype}\n")
        print(
            f"{device.name}, {device.backend}, driver {device.driver}; wgpu {versions.wgpu}, "
            f"{versions.compiler}; gemmtune {versions.gemmtune}; {datetime.date.today()}; "
            f"{args.rounds} rounds; inputs cold.\n"
        )
        print(f"Command: `python benchmarks/peers.py {' '.join(sys.argv[1:])}`\n")
        print(
            "| MxNxK | kernel | us | TFLOP/s | GB/s | spread | drift | samples "
            "| default TFLOP/s | gain | cuBLAS TFLOP/s | share of cuBLAS "
            "| onnxruntime-webgpu TFLOP/s |"
        )
        print("|---|---|" + "---:|" * 11)
        asked = [Gemm.parse(shape, **named(args.dtype)) for shape in args.shape]
        for gemm in asked or preset(args.preset, args.dtype):
            gemm = replace(gemm, trans_b=args.trans_b, math=args.math)
            print(row(gemm, compare(executor, gemm, args.db, args.rounds)), flush=True)
    finally:
        executor.close()


if __name__ == "__main__":
    main()
