"""Whether two tuning runs agree: two winners from empty databases, measured side by side.

    python benchmarks/steadiness.py 4096x4096x4096 --dtype f16 --family coopmat --budget 60

The same kernel, the default of the first family, is measured at the start, between the runs and at
the end, several times each. The tables say how far that moved and how fast the device was just
then, how far apart the winners are when they are measured in turn, and how many configs a minute
the runs managed and what the device did meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

# As in `gemmtune tune`: the cores are the compilers'.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from gemmtune.executors import Executor, open_executor
from gemmtune.job import Job, Measurement, Outcome
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel
from gemmtune.problem import Gemm
from gemmtune.progress import Event, Progress, TrialFinished
from gemmtune.render import render
from gemmtune.shapes import parse_dtype
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, TuneResult, tune
from gemmtune.tune.listing import searched_families

PLACES = ("start", "middle", "end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape")
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--family", action="append", default=[], choices=tuple(FAMILIES))
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of each run")
    parser.add_argument("--rounds", type=int, default=7, help="of every sample, and of the winners")
    parser.add_argument("--workers", type=int, help="processes; as many as suit the adapter")
    parser.add_argument("--executor", default="local")
    args = parser.parse_args()
    a, b, c, acc = parse_dtype(args.dtype)
    gemm = Gemm.parse(args.shape, a=a, b=b, c=c, acc=acc)
    executor = open_executor(args.executor, workers=args.workers)
    try:
        compare(executor, gemm, args)
    finally:
        executor.close()


def compare(executor: Executor, gemm: Gemm, args: argparse.Namespace) -> None:
    families = tuple(args.family)
    first = searched_families(gemm, executor.device, TuneOptions(families=families))[0]
    same = render(first, FAMILIES[first].default(gemm, executor.device), gemm, executor.device)
    samples = [rounds(executor, gemm, [same], args.rounds)[0]]
    results: list[TuneResult] = []
    waits_s: list[float] = []
    for seed in (0, 1):
        options = TuneOptions(budget_s=args.budget, seed=seed, families=families)
        result, wait_s = run(executor, gemm, options)
        results.append(result)
        waits_s.append(wait_s)
        samples += rounds(executor, gemm, [same], args.rounds)
    kernels = [
        render(result.best.family, result.best.config, gemm, executor.device)
        for result in results
        if result.best is not None
    ]
    in_turn = [times(outcomes) for outcomes in rounds(executor, gemm, kernels, args.rounds)]
    medians = [statistics.median(found) for found in in_turn]
    print(f"{gemm.key} on {executor.device.key}, {args.budget:g} s, {executor.capacity} workers\n")
    print(
        "| run | winner | by its run | in turn | spread | tied | configs a minute "
        "| after the first | first after | device |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for number, (result, found, wait_s) in enumerate(
        zip(results, in_turn, waits_s, strict=True), start=1
    ):
        print(row(number, result, found, wait_s))
        for words in result.drifts:
            print(f"|  | for a while {words} | | | | | | | | |")
    print(f"\nwinners in turn, {args.rounds} rounds: {apart(medians)} apart\n")
    print(f"| the default of {first} | median | spread | reference | timed again | rounds in us |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for place, outcomes in zip(PLACES, samples, strict=True):
        print(sample(place, outcomes))
    print(f"\n{apart([statistics.median(times(outcomes)) for outcomes in samples])} apart")


def run(executor: Executor, gemm: Gemm, options: TuneOptions) -> tuple[TuneResult, float]:
    """Tune from an empty database; also how many seconds it took until the first config."""
    began_s = time.monotonic()
    first_s: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder) / "tuning.db") as store,
        Progress.open(plain=True) as report,
    ):

        def heard(event: Event) -> None:
            if isinstance(event, TrialFinished):
                first_s.append(time.monotonic() - began_s)
            report(event)

        (result,) = tune([gemm], executor, store, options, report=heard)
    # The baseline is measured alone; the search begins with the next one.
    return result, (first_s[1:] or [options.budget_s or 0.0])[0]


def rounds(
    executor: Executor, gemm: Gemm, kernels: list[Kernel], count: int
) -> list[list[Outcome]]:
    """What came of each kernel; all of them in turn, so often, with nothing else in flight."""
    found: list[list[Outcome]] = [[] for _ in kernels]
    for _ in range(count):
        for number, kernel in enumerate(kernels):
            executor.submit(Job(id=number, gemm=gemm, kernel=kernel))
            outcome = executor.next()
            if (
                outcome is None
                or outcome.job_id != number
                or not isinstance(outcome.result, Measurement)
            ):
                raise SystemExit(f"{kernel.family} {kernel.config.key}: {outcome}")
            found[number].append(outcome)
    return found


def times(outcomes: list[Outcome]) -> list[float]:
    return [o.result.time_ns for o in outcomes if isinstance(o.result, Measurement)]


def apart(values: list[float]) -> str:
    return f"{max(values) / min(values) - 1:.1%}"


def sample(place: str, outcomes: list[Outcome]) -> str:
    found = times(outcomes)
    references = [o.reference_ns for o in outcomes if o.reference_ns is not None]
    cells = (
        place,
        f"{statistics.median(found) / 1e3:.1f} us",
        apart(found),
        f"{statistics.median(references) / 1e3:.2f} us" if references else "none",
        str(sum(outcome.again for outcome in outcomes)),
        ", ".join(f"{time_ns / 1e3:.0f}" for time_ns in found),
    )
    return f"| {' | '.join(cells)} |"


def row(number: int, result: TuneResult, in_turn: list[float], wait_s: float) -> str:
    best, total_s = result.best, result.times.total_s
    assert best is not None
    assert best.time_ns is not None
    median = statistics.median(in_turn)
    cells = (
        str(number),
        best.family,
        *(f"{result.gemm.flops / ns / 1e3:.1f} TFLOP/s" for ns in (best.time_ns, median)),
        apart(in_turn),
        str(len(result.tied) - 1),
        f"{60 * result.measured / total_s:.0f}",
        f"{60 * result.measured / max(total_s - wait_s, 1e-9):.0f}",
        f"{wait_s:.1f} s",
        ", ".join(f"{name} {s / total_s:.0%}" for name, s in result.times.device_s.items()),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
