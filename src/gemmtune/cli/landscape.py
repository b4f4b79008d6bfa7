"""``gemmtune landscape``: what is in a recorded landscape."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmtune.cli.options import Commands, add_command, add_json, add_problem, problem
from gemmtune.cli.output import duration, gflops, percent, print_json, print_software_note
from gemmtune.errors import LandscapeError, UsageError

if TYPE_CHECKING:
    from gemmtune.landscape import Landscape


def add(commands: Commands) -> None:
    """Declare the command and those below it."""
    parser = add_command(
        commands,
        "landscape",
        None,
        "look at recorded landscapes, exchange them with Kernel Tuner",
        examples=("gemmtune landscape info tiled.json.gz",),
    )
    below = parser.add_subparsers(
        title="commands", dest="landscape", metavar="COMMAND", required=True
    )
    info = add_command(
        below,
        "info",
        _info,
        "say what a landscape holds",
        examples=("gemmtune landscape info tiled.json.gz --json",),
    )
    info.add_argument("file", type=Path, help="landscape to read")
    add_json(info)
    _add_export(below)
    _add_import(below)


def _add_export(below: Commands) -> None:
    export = add_command(
        below,
        "export",
        _export,
        "write Kernel Tuner's T4 results, and beside them the cache that its simulation reads",
        examples=("gemmtune landscape export tiled.json.gz h100_T4.json",),
    )
    export.add_argument("file", type=Path, help="landscape to read")
    export.add_argument(
        "t4", type=Path, help="T4 file to write, *_T4.json; the cache is named without _T4"
    )


def _add_import(below: Commands) -> None:
    importing = add_command(
        below,
        "import",
        _import,
        "read a T4 or cache file of Kernel Tuner into a landscape",
        examples=(
            "gemmtune landscape import h100_T4.json again.json.gz",
            "gemmtune landscape import A100.json a100.json.gz --shape 4096x4096x4096",
        ),
    )
    importing.add_argument("source", type=Path, help="file to read")
    importing.add_argument("file", type=Path, help="landscape to write, *.json.gz by custom")
    importing.add_argument(
        "--shape", metavar="MxNxK[xBATCH]", help="the problem's, where the file does not say it"
    )
    add_problem(importing)
    importing.add_argument(
        "--family", metavar="NAME", help="what to call the kernel (default: as the file does)"
    )


def _export(args: argparse.Namespace) -> int:
    import json

    from gemmtune.kerneltuner import to_cache, to_t4
    from gemmtune.landscape import Landscape

    stem = args.t4.name.removesuffix(".json")
    if not stem.endswith("_T4"):
        raise UsageError(f"{args.t4.name} does not end in _T4.json; Kernel Tuner expects that")
    landscape = Landscape.read(args.file)
    cache = args.t4.with_name(stem.removesuffix("_T4") + ".json")
    for path, document in ((args.t4, to_t4(landscape)), (cache, to_cache(landscape))):
        try:
            path.write_text(json.dumps(document), encoding="utf-8")
        except OSError as error:
            raise LandscapeError(f"{path} cannot be written: {error.strerror}") from error
    print(f"{len(landscape.rows)} configs in {args.t4} and {cache}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from gemmtune.kerneltuner import read

    gemm = None if args.shape is None else problem(args, args.shape)
    landscape = read(args.source, gemm, args.family)
    landscape.write(args.file)
    print_landscape(args.file, landscape, as_json=False)
    return 0


def _info(args: argparse.Namespace) -> int:
    from gemmtune.landscape import Landscape

    print_landscape(args.file, Landscape.read(args.file), as_json=args.json)
    return 0


def print_landscape(path: Path, landscape: Landscape, *, as_json: bool) -> None:
    """What is in it: numbers, the best, and how the times spread."""
    facts = _facts(path, landscape)
    if as_json:
        print_json(facts)
        return
    failed = ", ".join(f"{n} {kind}" for kind, n in landscape.failures.items()) or "none failed"
    print(f"{landscape.family} for {landscape.gemm.key} on {landscape.device.name}")
    print(f"{facts['rows']} of {facts['selected']} configs ({failed}), {facts['size_bytes']} bytes")
    if landscape.best is not None:
        within = "  ".join(f"{share:.0%}: {n}" for share, n in facts["within"].items())
        print(
            f"best {duration(facts['best_ns'])}, {gflops(facts['best_gflops'])} GFLOP/s, "
            f"median {duration(facts['median_ns'])}, spread of a row {percent(facts['spread'])}"
        )
        print(f"configs within so much of the best: {within}")
        print(f"best config: {landscape.best.config.key}")
    print_software_note(landscape.device)


def _facts(path: Path, landscape: Landscape) -> dict[str, Any]:
    from statistics import median

    from gemmtune.job import Measurement

    measured = [row.result for row in landscape.rows if isinstance(row.result, Measurement)]
    times_ns = sorted(result.time_ns for result in measured)
    facts: dict[str, Any] = {
        "file": str(path),
        "size_bytes": path.stat().st_size if path.exists() else 0,
        "device": landscape.device.key,
        "problem": landscape.gemm.key,
        "family": landscape.family,
        "where": landscape.where,
        "rows": len(landscape.rows),
        "selected": landscape.selected,
        "failures": landscape.failures,
        "policy": landscape.policy.key,
    }
    if landscape.best is None:
        return facts
    return facts | {
        "best_ns": times_ns[0],
        "best_gflops": landscape.gemm.flops / times_ns[0],
        "best_config": landscape.best.config.to_json(),
        "median_ns": median(times_ns),
        # One sample has no spread: hopeless configs get no more.
        "spread": median([r.spread for r in measured if r.repetitions > 1] or [0.0]),
        "within": {
            share: sum(t <= times_ns[0] * (1 + share) for t in times_ns)
            for share in (0.01, 0.05, 0.1, 0.2)
        },
    }
