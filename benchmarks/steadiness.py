"""Whether two tuning runs agree: two winners from empty databases, measured side by side.

    python benchmarks/steadiness.py 4096x4096x4096 --dtype f16 --family coopmat --budget 60

The same kernel, the default of the first family, is measured at the start, between the runs and at
the end. The table says how far that moved, how far apart the winners are when they are measured in
turn, and how many configs a minute the runs managed and what the device did meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from gemmtune.executors import Executor, open_executor
from gemmtune.job import Job, Measurement
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel
from gemmtune.problem import Gemm
from gemmtune.progress import Progress
from gemmtune.render import render
from gemmtune.shapes import parse_dtype
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, TuneResult, tune
from gemmtune.tune.loop import searched_families


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--family", action="append", default=[], choices=tuple(FAMILIES))
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of each run")
    parser.add_argument("--rounds", type=int, default=7, help="in which the winners take turns")
    parser.add_argument("--executor", default="local")
    args = parser.parse_args()
    a, b, c, acc = parse_dtype(args.dtype)
    gemm = Gemm.parse(args.shape, a=a, b=b, c=c, acc=acc)
    executor = open_executor(args.executor)
    try:
        compare(executor, gemm, args)
    finally:
        executor.close()


def compare(executor: Executor, gemm: Gemm, args: argparse.Namespace) -> None:
    families = tuple(args.family)
    first = searched_families(gemm, executor.device, TuneOptions(families=families))[0]
    same = render(first, FAMILIES[first].default(gemm, executor.device), gemm, executor.device)
    same_ns = rounds(executor, gemm, [same], 1)[0]
    results = []
    for seed in (0, 1):
        options = TuneOptions(budget_s=args.budget, seed=seed, families=families)
        results.append(run(executor, gemm, options))
        same_ns += rounds(executor, gemm, [same], 1)[0]
    kernels = [
        render(result.best.family, result.best.config, gemm, executor.device)
        for result in results
        if result.best is not None
    ]
    in_turn = [statistics.median(times) for times in rounds(executor, gemm, kernels, args.rounds)]
    print(f"{gemm.key} on {executor.device.key}, {args.budget:g} s each\n")
    print("| run | winner | by its run | in turn | tied | configs a minute | device |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for number, (result, time_ns) in enumerate(zip(results, in_turn, strict=True), start=1):
        print(row(number, result, time_ns))
    print(f"\nwinners in turn, {args.rounds} rounds: {max(in_turn) / min(in_turn) - 1:.1%} apart")
    print(
        f"the default of {first} at the start, in the middle, at the end: "
        f"{', '.join(f'{time_ns / 1e3:.1f} us' for time_ns in same_ns)}, "
        f"{max(same_ns) / min(same_ns) - 1:.1%} apart"
    )


def run(executor: Executor, gemm: Gemm, options: TuneOptions) -> TuneResult:
    """Tune from an empty database."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder) / "tuning.db") as store,
        Progress.open(plain=True) as report,
    ):
        (result,) = tune([gemm], executor, store, options, report=report)
    return result


def rounds(executor: Executor, gemm: Gemm, kernels: list[Kernel], count: int) -> list[list[float]]:
    """Times in ns of each kernel; all of them in turn, so often."""
    times: list[list[float]] = [[] for _ in kernels]
    for _ in range(count):
        for number, kernel in enumerate(kernels):
            executor.submit(Job(id=number, gemm=gemm, kernel=kernel))
            outcome = executor.next()
            if outcome is None or not isinstance(outcome.result, Measurement):
                raise SystemExit(f"{kernel.family} {kernel.config.key}: {outcome}")
            times[number].append(outcome.result.time_ns)
    return times


def row(number: int, result: TuneResult, time_ns: float) -> str:
    best, total_s = result.best, result.times.total_s
    assert best is not None
    assert best.time_ns is not None
    speeds = [f"{result.gemm.flops / ns / 1e3:.1f} TFLOP/s" for ns in (best.time_ns, time_ns)]
    shares = ", ".join(f"{name} {s / total_s:.0%}" for name, s in result.times.device_s.items())
    tied = str(len(result.tied) - 1)
    pace = f"{60 * result.measured / total_s:.0f}"
    return f"| {' | '.join((str(number), best.family, *speeds, tied, pace, shares))} |"


if __name__ == "__main__":
    main()
