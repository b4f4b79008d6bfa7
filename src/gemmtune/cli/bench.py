"""``gemmtune bench``: tuned, default and naive kernels side by side in one run. Keeps nothing."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gemmtune.cli.memory import memory
from gemmtune.cli.options import (
    Commands,
    adapter_url,
    add_adapter,
    add_command,
    add_database,
    add_hot,
    add_json,
    add_problem,
    count,
    policy,
    problem,
)
from gemmtune.cli.output import (
    duration,
    gflops,
    percent,
    print_json,
    print_software_note,
    print_table,
    times,
)
from gemmtune.device import Device
from gemmtune.errors import ExecutorError, UsageError
from gemmtune.job import Failure, Job, Measurement
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.lookup import lookup
from gemmtune.problem import Gemm

if TYPE_CHECKING:
    from gemmtune.executors import Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A kernel of the comparison and what came of each round."""

    label: str
    """tuned or default, with the source of the former."""
    family: str
    """Its family."""
    config: Config
    """Its config."""
    results: tuple[Measurement | Failure, ...] = ()
    """One per round."""

    @property
    def failure(self) -> Failure | None:
        """Why it has no time; one failed round is enough."""
        return next((result for result in self.results if isinstance(result, Failure)), None)

    @property
    def times_ns(self) -> list[float]:
        """Median of each round."""
        return [result.time_ns for result in self.results if isinstance(result, Measurement)]

    @property
    def time_ns(self) -> float | None:
        """Median of the rounds' medians; None when a round failed."""
        return None if self.failure else statistics.median(self.times_ns)

    @property
    def spread(self) -> float | None:
        """Interquartile range over median within a round, the widest round's."""
        spreads = [result.spread for result in self.results if isinstance(result, Measurement)]
        return None if self.failure else max(spreads)

    @property
    def drift(self) -> float | None:
        """Range of the rounds' medians over their median."""
        if self.time_ns is None:
            return None
        return (max(self.times_ns) - min(self.times_ns)) / self.time_ns


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "bench",
        _run,
        "time tuned, default and naive kernels side by side",
        examples=(
            "gemmtune bench 4096x4096x4096 --dtype f16",
            "gemmtune bench 512x512x512 --rounds 5 --json",
            "gemmtune bench 512x512x512 --hot",
        ),
    )
    parser.add_argument("shape", metavar="MxNxK[xBATCH]", help="sizes of the problem")
    parser.add_argument(
        "--rounds", type=count, default=3, metavar="N", help="times all are run in turn (default 3)"
    )
    add_hot(parser)
    add_problem(parser)
    add_adapter(parser)
    add_database(parser, "only database to take the tuned config from")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    gemm = problem(args, args.shape)
    if not gemm.flops:
        raise UsageError(f"nothing to time: {gemm.shape} has a size of 0")
    from gemmtune.executors import open_executor

    with memory() as store:
        executor = open_executor(adapter_url(args), policy=policy(args), memory=store)
    try:
        entries = _measured(executor, gemm, _entries(executor, gemm, args.db), args.rounds)
        device = executor.device
    finally:
        executor.close()
    if args.json:
        kernels = [_as_json(entry) for entry in entries]
        facts = {"device": device.key, "problem": gemm.to_json(), "inputs": policy(args).cache}
        print_json(facts | {"kernels": kernels})
    else:
        _print(gemm, entries, device)
        rounds = f"{args.rounds} round{'s' if args.rounds > 1 else ''}"
        print(
            f"time: median over {rounds}; spread: within a round; drift: between rounds; "
            f"inputs {policy(args).cache}"
        )
        print_software_note(device)
    return 1 if any(entry.failure for entry in entries) else 0


def _entries(executor: Executor, gemm: Gemm, path: str | None) -> list[Entry]:
    """The tuned kernel where there is one, then the default of each family, naive last."""
    device = executor.device
    found = lookup(gemm, device=device, path=path, versions=executor.versions)
    entries = []
    if found.source != "default":
        label = f"tuned ({found.source})"
        entries.append(Entry(label=label, family=found.family, config=found.config))
    for family in sorted(FAMILIES.values(), key=lambda family: family.name == "naive"):
        if not family.supported(gemm, device):
            config = family.default(gemm, device)
            entries.append(Entry(label="default", family=family.name, config=config))
    return entries


def _measured(executor: Executor, gemm: Gemm, entries: Sequence[Entry], rounds: int) -> list[Entry]:
    """All entries in turn, again and again, so that a drift of the device touches all alike."""
    results: list[list[Measurement | Failure]] = [[] for _ in entries]
    for _ in range(rounds):
        for index, result in enumerate(_round(executor, gemm, entries)):
            results[index].append(result)
    return [
        Entry(label=e.label, family=e.family, config=e.config, results=tuple(found))
        for e, found in zip(entries, results, strict=True)
    ]


def _round(executor: Executor, gemm: Gemm, entries: Sequence[Entry]) -> list[Measurement | Failure]:
    from gemmtune.render import render

    for index, entry in enumerate(entries):
        kernel = render(entry.family, entry.config, gemm, executor.device)
        executor.submit(Job(id=index, gemm=gemm, kernel=kernel))
    outcomes: dict[int, Measurement | Failure] = {}
    while len(outcomes) < len(entries):
        outcome = executor.next()
        if outcome is None:
            raise ExecutorError("the workers gave up before every kernel had run")
        outcomes[outcome.job_id] = outcome.result
    return [outcomes[index] for index in range(len(entries))]


def _print(gemm: Gemm, entries: Sequence[Entry], device: Device) -> None:
    naive_ns = entries[-1].time_ns
    headers = ("kernel", "family", "time", "GFLOP/s", "spread", "drift", "vs naive")
    rows = [
        (
            entry.label,
            entry.family,
            duration(entry.time_ns),
            gflops(gemm.flops / entry.time_ns if entry.time_ns else None),
            percent(entry.spread),
            percent(entry.drift),
            times(naive_ns / entry.time_ns if naive_ns and entry.time_ns else None),
        )
        for entry in entries
    ]
    print(f"{gemm.key} on {device.key}")
    print_table(headers, rows)
    for entry in entries:
        failed = f" failed ({entry.failure.kind})" if entry.failure else ""
        print(f"{entry.label} {entry.family}{failed}: {entry.config.key}")


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "label": entry.label,
        "family": entry.family,
        "config": entry.config.to_json(),
        "time_ns": entry.time_ns,
        "spread": entry.spread,
        "drift": entry.drift,
        "rounds_ns": entry.times_ns,
        "failure": entry.failure.kind if entry.failure else None,
        "message": entry.failure.message if entry.failure else None,
    }
