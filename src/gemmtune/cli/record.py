"""``gemmtune record``: measures a whole space, or a part of it, into a landscape file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gemmtune.cli.landscape import print_landscape
from gemmtune.cli.memory import memory
from gemmtune.cli.options import (
    Commands,
    add_command,
    add_executor,
    add_hot,
    add_json,
    add_problem,
    count,
    executor_url,
    policy,
    problem,
    seconds,
)
from gemmtune.cli.output import duration, print_matrices_note
from gemmtune.errors import UsageError
from gemmtune.kernels import FAMILIES

if TYPE_CHECKING:
    from gemmtune.job import Policy
    from gemmtune.tune.record import RecordOptions, RecordProgress

_EXAMPLES = (
    "gemmtune record tiled.json.gz --shape 2048x2048x2048 --family tiled --sample 2000",
    "gemmtune record small.json.gz --shape 512x512x512 --family tiled "
    "--where tile_k=16,tile_k=32,stages=1",
    "gemmtune record h100.json.gz --shape 4096x4096x4096 --dtype f16 --family coopmat --budget 4m",
)
_EVERY_S = 5.0
"""Between two lines of progress."""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands, "record", _run, "measure a whole space into a landscape file", examples=_EXAMPLES
    )
    parser.add_argument(
        "file", type=Path, help="landscape to write, or to go on with; *.json.gz by custom"
    )
    parser.add_argument("--shape", required=True, metavar="MxNxK[xBATCH]", help="the problem's")
    add_problem(parser)
    group = parser.add_argument_group("what to record")
    group.add_argument(
        "--family",
        required=True,
        choices=tuple(FAMILIES),
        metavar="NAME",
        help=f"one of {', '.join(FAMILIES)}",
    )
    group.add_argument(
        "--where",
        default="",
        metavar="FIELD=VALUE,...",
        help="only configs with these values; a field named twice may have either",
    )
    group.add_argument(
        "--sample", type=count, metavar="N", help="so many configs, chosen at random"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of inputs and choice")
    group.add_argument(
        "--budget", metavar="TIME", help="stop after, e.g., 90s or 10m; the same command goes on"
    )
    add_hot(group)
    group.add_argument(
        "--thorough", action="store_true", help="measure each as long as `gemmtune tune` does"
    )
    group.add_argument("--workers", type=count, metavar="N", help="processes that compile")
    add_executor(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    gemm = problem(args, args.shape)
    if not args.file.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {args.file.parent} to write {args.file.name} in")
    options = _options(args)
    from gemmtune.executors import open_executor
    from gemmtune.tune.record import record

    with memory() as store:
        executor = open_executor(
            executor_url(args), workers=args.workers, policy=options.policy, memory=store
        )
    try:
        print_matrices_note(executor.device)
        report = None if args.quiet else _reporter()
        landscape = record(gemm, executor, args.file, options, report=report)
    finally:
        executor.close()
    print_landscape(args.file, landscape, as_json=args.json)
    wanted = min(landscape.selected, options.sample or landscape.selected)
    if len(landscape.rows) < wanted:
        print(
            f"gemmtune: {wanted - len(landscape.rows)} configs are left; the same command goes on",
            file=sys.stderr,
        )
    return 0 if landscape.best else 1


def _options(args: argparse.Namespace) -> RecordOptions:
    from gemmtune.tune.record import RecordOptions

    return RecordOptions(
        family=args.family,
        where=args.where.replace(" ", ""),
        sample=args.sample,
        seed=args.seed,
        budget_s=None if args.budget is None else seconds(args.budget),
        policy=_policy(args),
    )


def _policy(args: argparse.Namespace) -> Policy:
    from dataclasses import replace

    from gemmtune.tune.record import RECORD_POLICY

    asked = policy(args)
    return asked if args.thorough else replace(RECORD_POLICY, cache=asked.cache)


def _reporter() -> Callable[[RecordProgress], None]:
    """Prints a line on stderr now and then, and at the end."""
    printed_s = 0.0

    def report(progress: RecordProgress) -> None:
        nonlocal printed_s
        last = progress.done == progress.wanted
        if not last and progress.seconds_s - printed_s < _EVERY_S:
            return
        printed_s = progress.seconds_s
        rate = progress.new / max(progress.seconds_s, 1e-3)
        left_s = (progress.wanted - progress.done) / rate
        print(
            f"{progress.done} of {progress.wanted} configs, {progress.failed} failed, "
            f"best {duration(progress.best_ns)}, {60 * rate:.0f} a minute, {left_s:.0f} s left",
            file=sys.stderr,
        )

    return report
