"""Two kinds of problem that tiles serve badly: thin ones beside bandwidth, deep ones unsplit.

    python benchmarks/thin_and_deep.py --db results.db --budget 40 > table.md

Tunes each problem, then times in turn, in one run. For a thin problem (few rows or columns of C):
the fastest row of each family, and how many bytes per second that makes with every operand read
once, beside what a copy reaches. For a deep one (few tiles, a large k): the fastest row, and what
may be the fastest without a split of k: its own config unsplit, the fastest unsplit row, the
default. Inputs are cold; a time is the median over ``--rounds`` rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from gemmtune.executors import Executor, open_executor
from gemmtune.job import Job, Measurement, Policy
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, tune

Named = tuple[str, Config]

F16 = {"a": "f16", "b": "f16", "c": "f16"}
THIN = [
    Gemm.parse(shape, **F16, trans_b=trans_b)
    for shape in ("1x4096x14336", "1x14336x4096", "8x4096x14336")
    for trans_b in (False, True)
]
DEEP = [Gemm.parse("64x64x65536"), Gemm.parse("64x64x65536", **F16)]


def fastest(store: Store, device_key: str, gemm: Gemm) -> list[Named]:
    """Rows with a time, fastest first."""
    rows = [row for row in store.measurements(device_key, gemm.key) if row.time_ns is not None]
    rows.sort(key=lambda row: row.time_ns or 0.0)
    return [(row.family, row.config) for row in rows]


def unsplit(config: Config) -> Config:
    return replace(config, split_k=1) if getattr(config, "split_k", 1) > 1 else config


def contestants(rows: list[Named], gemm: Gemm, executor: Executor, *, deep: bool) -> list[Named]:
    """What to time beside each other, the fastest row first."""
    if not deep:
        by_family = sorted(rows, key=lambda row: row[0])
        first = [next(group) for _, group in groupby(by_family, key=lambda row: row[0])]
        return sorted(first, key=rows.index)
    plain = [row for row in rows if unsplit(row[1]) == row[1]]
    family, config = rows[0]
    default = unsplit(FAMILIES["tiled"].default(gemm, executor.device))
    named = [rows[0], (family, unsplit(config)), *plain[:1], ("tiled", default)]
    return list(dict.fromkeys(named))


def times_ns(executor: Executor, gemm: Gemm, named: Iterable[Named], rounds: int) -> list[float]:
    """Median of the rounds of each."""
    kernels = [render(family, config, gemm, executor.device) for family, config in named]
    found: list[list[float]] = [[] for _ in kernels]
    for _ in range(rounds):
        for kernel, samples in zip(kernels, found, strict=True):
            executor.submit(Job(id=0, gemm=gemm, kernel=kernel))
            outcome = executor.next()
            if outcome is None or not isinstance(outcome.result, Measurement):
                sys.exit(f"{gemm.key} {kernel.config.key}: {outcome and outcome.result}")
            samples.append(outcome.result.time_ns)
    return [statistics.median(samples) for samples in found]


def show(gemm: Gemm, named: list[Named], spans: list[float], copy_gbps: float) -> None:
    for (family, config), span in zip(named, spans, strict=True):
        gbps = gemm.traffic_bytes / span
        share = f"{gbps / copy_gbps:.0%}" if copy_gbps else "-"
        cells = (gemm.key, family, f"{span / 1e3:.1f}", f"{gbps:.0f}", share)
        print(f"| {' | '.join(cells)} | {span / spans[0]:.2f} | `{config.key}` |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--db", required=True, help="database to tune into")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds of tuning a problem")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapter", default="", help="as for gemmtune")
    parser.add_argument("--copy-gbps", type=float, default=0.0, help="what a copy reaches, GB/s")
    parser.add_argument("--only", choices=("thin", "deep"))
    args = parser.parse_args()

    problems = (THIN if args.only != "deep" else []) + (DEEP if args.only != "thin" else [])
    executor = open_executor(f"local:{args.adapter}", policy=Policy())
    try:
        print("| problem | family | us | GB/s | of a copy | times the first | config |")
        print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
        with Store.open(args.db) as store:
            for gemm in problems:
                # Matrix units, where there are any, would hide what these problems are about.
                families = ("gemv", "tiled") if gemm in THIN else ("tiled", "subgroup")
                options = TuneOptions(budget_s=args.budget, families=families)
                tune([gemm], executor, store, options)
                rows = fastest(store, executor.device.key, gemm)
                if not rows:
                    sys.exit(f"{gemm.key}: no config worked within {args.budget:g} s")
                named = contestants(rows, gemm, executor, deep=gemm in DEEP)
                show(gemm, named, times_ns(executor, gemm, named, args.rounds), args.copy_gbps)
        print(f"\n{executor.device.name}, {executor.device.driver}; inputs cold.")
    finally:
        executor.close()


if __name__ == "__main__":
    main()
