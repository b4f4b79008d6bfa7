"""``gemmtune db``: what a database holds, merging, checking, and trying failures again."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from gemmtune.cli.options import (
    Commands,
    Parser,
    add_command,
    add_database,
    add_json,
    count,
    database,
)
from gemmtune.cli.output import duration, print_json, print_table
from gemmtune.job import FAILURE_KINDS

if TYPE_CHECKING:
    from gemmtune.store import Info, ProblemInfo, Store


def add(commands: Commands) -> None:
    """Declare the command and those below it."""
    parser = add_command(
        commands,
        "db",
        None,
        "look after databases of results",
        examples=("gemmtune db info", "gemmtune db merge other.db --db mine.db"),
    )
    below = parser.add_subparsers(title="commands", dest="db", metavar="COMMAND", required=True)
    for command in (_add_info(below), _add_merge(below), _add_check(below), _add_retry(below)):
        add_database(command)
        add_json(command)


def _add_info(commands: Commands) -> Parser:
    examples = ("gemmtune db info", "gemmtune db info --db results.db --json")
    return add_command(commands, "info", _info, "say what a database holds", examples=examples)


def _add_merge(commands: Commands) -> Parser:
    parser = add_command(
        commands,
        "merge",
        _merge,
        "add the results of other databases to one",
        examples=(
            "gemmtune db merge colleague.db",
            "gemmtune db merge a.db b.db --db all.db",
            "gemmtune db merge results.db --top 16 --db to-ship.db",
        ),
    )
    parser.add_argument("sources", nargs="+", metavar="SRC", help="database to read")
    parser.add_argument(
        "--top",
        type=count,
        metavar="N",
        help="take only the N fastest of each problem, family and device and what else the fastest "
        "of them took, and compact the file",
    )
    return parser


def _add_check(commands: Commands) -> Parser:
    examples = ("gemmtune db check", "gemmtune db check --db results.db && echo sound")
    return add_command(
        commands, "check", _check, "look for damage; exit 1 if any", examples=examples
    )


def _add_retry(commands: Commands) -> Parser:
    parser = add_command(
        commands,
        "retry",
        _retry,
        "forget failures, so that their configs run again",
        examples=("gemmtune db retry", "gemmtune db retry --kind timeout --kind crash"),
    )
    parser.add_argument(
        "--kind",
        action="append",
        choices=FAILURE_KINDS,
        metavar="KIND",
        help=f"one of {', '.join(FAILURE_KINDS)}; may be repeated (default: crash)",
    )
    parser.add_argument("--device", metavar="KEY", help="only of this device")
    return parser


def _open(args: argparse.Namespace, *, write: bool) -> Store:
    from gemmtune.store import Store

    return Store.open(database(args, write=write), create=write, read_only=not write)


def _info(args: argparse.Namespace) -> int:
    with _open(args, write=False) as store:
        info = store.info()
    if args.json:
        print_json(asdict(info))
        return 0
    failures = ", ".join(f"{kind} {count}" for kind, count in info.failures)
    print(f"database   {info.where} ({info.size_bytes} bytes)")
    print(f"schema     {info.schema}, made by gemmtune {info.created_by} on {info.created_at}")
    print(f"measured   {info.ok}")
    print(f"failed     {info.failed}{f' ({failures})' if failures else ''}")
    print(f"running    {info.running}")
    _print_problems(info)
    return 0


def _print_problems(info: Info) -> None:
    for device in info.devices:
        print(f"\n{device.key}")
        headers = ("problem", "measured", "failed", "running", "best")
        rows = [
            (p.key, str(p.ok), str(p.failed), str(p.running), _best(p)) for p in device.problems
        ]
        if rows:
            print_table(headers, rows)


def _best(problem: ProblemInfo) -> str:
    """The fastest times, e.g. ``1.2 ms cold, 0.9 ms hot``, or under their policies' whole keys."""
    words = [best.policy.split("/")[1:2] for best in problem.best]
    clear = all(words.count(word) == 1 and word for word in words)
    times = [
        f"{duration(best.time_ns)} {word[0] if clear else best.policy}"
        for best, word in zip(problem.best, words, strict=True)
    ]
    return ", ".join(times) or duration(None)


def _merge(args: argparse.Namespace) -> int:
    reports = []
    with _open(args, write=True) as store:
        for source in args.sources:
            report = store.merge(source, top=args.top)
            reports.append(asdict(report))
            if not args.json:
                running = f", {report.running} left out: not ended" if report.running else ""
                slower = f", {report.slower} left out: slower" if report.slower else ""
                print(
                    f"{report.source}: {report.measurements} new measurements, "
                    f"{report.present} known, {report.devices} new devices, "
                    f"{report.problems} new problems{running}{slower}"
                )
        if args.top is not None:
            store.compact()
    if args.json:
        print_json(reports)
    return 0


def _check(args: argparse.Namespace) -> int:
    with _open(args, write=False) as store:
        findings = store.check()
        where = store.where
    if args.json:
        print_json({"database": where, "findings": findings})
    elif findings:
        print("\n".join(findings))
        findings_are = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
        print(f"gemmtune: {findings_are} in {where}", file=sys.stderr)
    else:
        print(f"{where} is sound")
    return 1 if findings else 0


def _retry(args: argparse.Namespace) -> int:
    kinds = tuple(dict.fromkeys(args.kind or ("crash",)))
    with _open(args, write=True) as store:
        forgotten = store.retry(kinds=kinds, device_key=args.device)
        where = store.where
    if args.json:
        print_json({"database": where, "forgotten": forgotten, "kinds": kinds})
    else:
        print(f"forgot {forgotten} failures ({', '.join(kinds)}) in {where}")
    return 0
