"""Times what selection may choose for each shape out of a tuned database, most useful pairs first.

First what a lookup, the nearest tuned shape and the one best config would choose for each shape of
the file, and for each tuned shape without its own results; then what small portfolios would; then
the lookup's next choices; last all others. What a database of `--known` has is not measured again.

    python benchmarks/portfolio.py --db portfolio.db [--dtype f16] [--shapes-file FILE]
        [--tuned FILE.db ...] [--known FILE.db ...] [--of file|tuned] [--most N] [--dry-run]
        [--limit-s 240]

Results are kept the moment they are there; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from choices import (
    TIMED_ONLY,
    Name,
    Times,
    Tuned,
    device_in,
    measured,
    only,
    portfolios,
    unpacked,
)

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.executors import Executor, open_executor
from gemmtune.generators import generator_hash
from gemmtune.job import Job, Policy
from gemmtune.render import render
from gemmtune.shapes import parse_dtype, read_shapes
from gemmtune.store import Owner, Store

LIMIT_S = 120.0
WORKERS = 4
"""Each prepares the operands of each shape again; compiling takes as long as two measurements."""
NEXT_CHOICES, LIKELY = 4, 12
"""Of a lookup's choices for a shape, so many come before the others."""

Pair = tuple[Gemm, Name]


def tiers(tuned: Tuned, gemms: list[Gemm], times: Times) -> Iterator[list[Pair]]:
    """Every pair that may count, in groups of falling use; within a group shape by shape."""
    groups: list[list[Pair]] = [[] for _ in range(4)]
    few = [only(tuned.leaders, names) for names in portfolios(tuned.leaders, times).values()]
    for gemm in gemms:
        known = [leader for leader in tuned.leaders if leader.key != gemm.key]
        ranking = tuned.ranking(gemm, known)
        rules = (tuned.lookup, tuned.nearest, tuned.one_best)
        found = (
            [rule(gemm, known, times) for rule in rules],
            [tuned.lookup(gemm, leaders, times) for leaders in few if gemm.key not in tuned.gemms],
            ranking[:NEXT_CHOICES],
            ranking,
        )
        for group, names in zip(groups, found, strict=True):
            group += [(gemm, name) for name in names if name]
    # The last group is long: the likelier half of each shape's first.
    last = groups.pop()
    places: Counter[Gemm] = Counter()
    likely: list[Pair] = []
    for pair in last:
        places[pair[0]] += 1
        if places[pair[0]] <= LIKELY:
            likely.append(pair)
    yield from (*groups, likely, last)


def pairs(tuned: Tuned, gemms: list[Gemm], times: Times, most: float = math.inf) -> Iterator[Pair]:
    """Those of `tiers` that were not measured yet, each once; the first ``most`` of each shape."""
    every = (pair for tier in tiers(tuned, gemms, times) for pair in tier)
    places: Counter[Gemm] = Counter()
    for gemm, name in dict.fromkeys(every):
        places[gemm] += 1
        if places[gemm] <= most and name not in times.get(gemm.key, {}):
            yield gemm, name


class Run:
    """Pairs on their way through an executor into a store."""

    def __init__(self, store: Store, executor: Executor, policy: Policy, times: Times) -> None:
        self._store, self._executor, self._policy = store, executor, policy
        self._best = {key: min(known.values()) for key, known in times.items() if known}
        self._owner = Owner.current(TIMED_ONLY)
        self._gemms: dict[int, Gemm] = {}
        self.done = 0

    @property
    def in_flight(self) -> int:
        """Submitted and not back."""
        return len(self._gemms)

    def submit(self, gemm: Gemm, name: Name) -> None:
        """Nothing happens if someone is at it."""
        executor, (family, config) = self._executor, name
        kernel = render(family, config, gemm, executor.device)
        row = self._store.begin(
            executor.device,
            gemm,
            family,
            config,
            generator_hash=generator_hash(family),
            policy=self._policy,
            versions=executor.versions,
            seed=0,
            owner=self._owner,
            deadline_s=2 * LIMIT_S * (executor.capacity + 1),
            needs=kernel.needs,
        )
        if row is not None:
            best_ns = self._best.get(gemm.key)
            executor.submit(Job(id=row, gemm=gemm, kernel=kernel, best_ns=best_ns))
            self._gemms[row] = gemm

    def collect(self) -> bool:
        """Waits for one; whether there was one."""
        outcome = self._executor.next()
        if outcome is None:
            return False
        self._store.finish(outcome.job_id, outcome)
        key = self._gemms.pop(outcome.job_id).key
        time_ns = getattr(outcome.result, "time_ns", None)
        if time_ns is not None:
            self._best[key] = min(time_ns, self._best.get(key, time_ns))
        self.done += 1
        return True


def asked(tuned: Tuned, gemms: list[Gemm], only_of: str | None) -> list[Gemm]:
    """The shapes to measure on: those of the file first."""
    rest = [gemm for gemm in tuned.gemms.values() if gemm not in gemms]
    return {"file": gemms, "tuned": rest}.get(only_of or "", [*gemms, *rest])


def todo(args: argparse.Namespace, key: str) -> tuple[list[Pair], Times]:
    """What is to be measured on the device of this key, and the times that are known of it."""
    a, b, c, acc = parse_dtype(args.dtype)
    kind = Gemm(m=1, n=1, k=1, a=a, b=b, c=c, acc=acc).kind
    gemms = list(read_shapes(args.shapes_file, args.dtype)) if args.shapes_file else []
    tuned = Tuned(args.tuned, key, kind, (gemm.key for gemm in gemms))
    known = [path for path in (*args.tuned, *args.known, args.db) if path.exists()]
    times = measured(known, key)
    found = list(pairs(tuned, asked(tuned, gemms, args.of), times, args.most))
    print(f"{len(found)} pairs of config and shape on {key}", file=sys.stderr)
    return found, times


def measure(args: argparse.Namespace) -> str:
    """Times the pairs on the adapter; says how it ended."""
    started, policy = time.monotonic(), Policy()
    # A database that knows the adapter saves probing it again.
    remembered = unpacked(args.known[0]) if args.known else args.db
    with Store.open(args.db) as store, Store.open(remembered) as memory:
        executor = open_executor(
            f"local:{args.adapter}", policy=policy, memory=memory, workers=args.workers
        )
        executor.on_grant = store.grant
        found, times = todo(args, executor.device.key)
        waiting, run, late = iter(found), Run(store, executor, policy, times), False
        while True:
            late = time.monotonic() - started > args.limit_s
            while not late and run.in_flight < 2 * executor.capacity:
                pair = next(waiting, None)
                if pair is None:
                    break
                run.submit(*pair)
            if not run.in_flight or not run.collect():
                break
            if run.done % 25 == 0:
                print(f"{run.done} done, {time.monotonic() - started:.0f} s", file=sys.stderr)
        executor.close()
    return f"{run.done} measured, {'stopped by the limit' if late else 'all there is'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--db", required=True, type=Path, help="database to keep the times in")
    shipped = [data_path("tuning.db")]
    add("--tuned", type=Path, nargs="+", default=shipped, help="choose from them together")
    add("--known", nargs="*", type=Path, default=[], help="not again what these have")
    add("--adapter", default="", help="as `gemmtune tune --adapter`")
    add("--dtype", default="f16", help="as `gemmtune tune --dtype`")
    add("--shapes-file", help="shapes beside the tuned ones")
    add("--of", choices=("file", "tuned"), help="only shapes of these (default: both)")
    add("--most", type=int, default=math.inf, help="configs for each shape (default: all)")
    add("--dry-run", action="store_true", help="say how many pairs there are and stop")
    add("--workers", type=int, default=WORKERS, help="processes that compile")
    add("--limit-s", type=float, default=540.0, help="stop after so long")
    args = parser.parse_args()
    if args.dry_run:
        todo(args, device_in(args.tuned[0]))
    else:
        print(measure(args))


if __name__ == "__main__":
    main()
