"""``gemmtune tune``: which problems, on which adapter, how long; then a table of the winners."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gemmtune.cli.options import (
    Commands,
    Parser,
    add_command,
    add_database,
    add_executor,
    add_hot,
    add_json,
    add_problem,
    count,
    epilogue,
    executor_url,
    policy,
    problem,
    seconds,
    share,
    written_store,
)
from gemmtune.cli.output import (
    duration,
    gflops,
    percent,
    print_json,
    print_matrices_note,
    print_software_note,
    print_table,
    times,
)
from gemmtune.device import Device
from gemmtune.errors import UsageError
from gemmtune.kernels import FAMILIES
from gemmtune.lookup import Wanted, read_record
from gemmtune.problem import Gemm
from gemmtune.shapes import PRESETS, preset, read_shapes

if TYPE_CHECKING:
    from gemmtune.search.study import Storage
    from gemmtune.tune import TuneOptions, TuneResult

_EXAMPLES = (
    "gemmtune tune --shape 1024x1024x1024",
    "gemmtune tune --shape 1x4096x4096 --shape 512x4096x4096 --dtype f16 --budget 10m",
    "gemmtune tune --preset llama3-8b --dtype f16 --trials 200 --seed 1",
    "gemmtune tune --shape 4096x4096x4096 --budget 10m --until-gain 1%",
    "gemmtune tune --shapes-file shapes.txt --family tiled --db results.db",
    "gemmtune tune --from-record shapes.jsonl --budget 30s",
    "gemmtune tune --shape 512x512x512 --hot",
    "gemmtune tune --shape 512x512x512 --db postgresql://me@host/gemm "
    "--storage postgresql://me@host/search",
    "gemmtune tune --shape 512x512x512 --family tiled --executor replay:tiled.json.gz",
)


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands, "tune", _run, "search, verify, time and keep kernels", examples=_EXAMPLES
    )
    what = parser.add_argument_group("what to tune (at least one)")
    what.add_argument(
        "--shape", action="append", default=[], metavar="MxNxK[xBATCH]", help="may be repeated"
    )
    what.add_argument(
        "--preset", choices=PRESETS, metavar="NAME", help=f"one of {', '.join(PRESETS)}"
    )
    what.add_argument("--shapes-file", metavar="FILE", help="one shape a line; # begins a comment")
    what.add_argument(
        "--from-record",
        metavar="FILE",
        help="what `gemmtune.record` wrote: problems asked for more get more of the time",
    )
    add_problem(parser)
    _add_search(parser)
    add_executor(parser)
    add_database(parser, "database to keep results in")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="share the search with other tuners through a database of Optuna's, e.g. "
        "postgresql://user@host/name or sqlite:///FILE (default: they share what --db holds)",
    )
    show = parser.add_mutually_exclusive_group()
    show.add_argument("--plain", action="store_true", help="progress as plain lines")
    show.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--profile", action="store_true", help="print where the time went")
    add_json(parser)


def _add_search(parser: Parser) -> None:
    group = parser.add_argument_group("search")
    group.add_argument(
        "--family",
        action="append",
        default=[],
        choices=tuple(FAMILIES),
        metavar="NAME",
        help=f"one of {', '.join(FAMILIES)}; may be repeated (default: all but naive)",
    )
    group.add_argument(
        "--budget",
        metavar="TIME",
        help="time per problem, e.g. 90s or 10m (default: 60s, or no limit with another goal)",
    )
    group.add_argument(
        "--trials", type=count, metavar="N", help="configs per problem, earlier runs included"
    )
    group.add_argument(
        "--until-gain",
        type=share,
        metavar="PERCENT",
        help="stop when more configs are expected to gain less, e.g. 1%%",
    )
    group.add_argument(
        "--sampler",
        default="guided",
        metavar="NAME",
        help="guided (default: by a model of what was measured), tpe, random or exhaustive",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random")
    add_hot(group)
    group.add_argument("--workers", type=count, metavar="N", help="processes that compile")


def _run(args: argparse.Namespace) -> int:
    # Before NumPy is loaded. The cores are the compilers'; threads of the search's small products
    # that wait for one another on busy cores made it several times slower.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    wanted = read_record(args.from_record) if args.from_record else []
    problems = _problems(args, wanted)
    options = _options(args)
    from gemmtune.executors import open_executor
    from gemmtune.progress import Progress
    from gemmtune.tune import budgets, tune

    shared = budgets(wanted, options.budget_s)
    with written_store(args) as store, _storage(args) as storage:
        executor = open_executor(
            executor_url(args), workers=args.workers, policy=options.policy, memory=store
        )
        print_matrices_note(executor.device)
        try:
            with Progress.open(plain=args.plain, quiet=args.quiet) as report:
                results = tune(
                    problems,
                    executor,
                    store,
                    options,
                    report=report,
                    budgets=shared,
                    storage=storage,
                )
            _print(args, results, executor.device, store.where)
            if wanted and not args.json:
                _print_coverage(wanted, results)
        finally:
            executor.close()
    if results and results[-1].stop == "interrupted":
        print(
            "gemmtune: interrupted; all results are kept, the same command continues",
            file=sys.stderr,
        )
        return 130
    return 0 if all(result.best for result in results) else 1


def _storage(args: argparse.Namespace) -> AbstractContextManager[Storage | None]:
    """What ``--storage`` names, open; closed with the context."""
    if args.storage is None:
        return nullcontext()
    from gemmtune.search.study import Storage  # late: Optuna takes half a second to import

    return Storage(args.storage)


def _print_coverage(wanted: Sequence[Wanted], results: Sequence[TuneResult]) -> None:
    from gemmtune.tune import coverage

    tuned = {result.gemm.key for result in results if result.best}
    asked = sum(one.count for one in wanted)
    print(
        f"record: {len(wanted)} problems, asked for {asked} times; tuned now: "
        f"{percent(coverage(wanted, tuned))} of their operations"
    )


def _problems(args: argparse.Namespace, wanted: Sequence[Wanted]) -> list[Gemm]:
    problems = [one.gemm for one in wanted] + [problem(args, shape) for shape in args.shape]
    if args.preset is not None:
        problems += preset(args.preset, args.dtype, **epilogue(args))
    if args.shapes_file is not None:
        problems += read_shapes(args.shapes_file, args.dtype, **epilogue(args))
    if not problems:
        raise UsageError(
            "nothing to tune: give --shape MxNxK, --preset NAME, --shapes-file FILE or "
            "--from-record FILE"
        )
    return problems


def _options(args: argparse.Namespace) -> TuneOptions:
    budget_s = None if args.budget is None else seconds(args.budget)
    from gemmtune.tune import TuneOptions

    if budget_s is None and args.trials is None and args.until_gain is None:
        budget_s = 60.0
    return TuneOptions(
        budget_s=budget_s,
        trials=args.trials,
        until_gain=args.until_gain,
        sampler=args.sampler,
        seed=args.seed,
        families=tuple(dict.fromkeys(args.family)),
        policy=policy(args),
    )


def _print(
    args: argparse.Namespace, results: Sequence[TuneResult], device: Device, where: str
) -> None:
    if args.json:
        facts = {"device": device.key, "database": where, "inputs": policy(args).cache}
        print_json(facts | {"problems": [*map(_as_json, results)]})
        return
    headers = ("problem", "winner", "time", "GFLOP/s", "spread", "reps", "tied", "speed-up")
    print_table((*headers, "trials", "failed"), [_row(result) for result in results])
    print(
        f"speed-up: over the default config; spread: interquartile range; tied: others as fast; "
        f"inputs {policy(args).cache}; kept in {where}"
    )
    for result in results:
        _print_doubts(result)
    if args.profile:
        _print_profile(results)
    print_software_note(device)


def _print_doubts(result: TuneResult) -> None:
    """What makes the numbers of a problem less sure than they look."""
    key = result.gemm.key
    for words in result.drifts:
        print(f"{key}: for a while the device was {words}")
    if result.repaired:
        print(f"{key}: configs measured again because of that: {result.repaired}")
    if result.doubtful:
        print(f"{key}: others seemed faster when the device was; the same command tries more")


def _print_profile(results: Sequence[TuneResult]) -> None:
    """What a config costs, step by step, and how busy the device was."""
    print()
    rows = []
    for result in results:
        spent, configs = result.times, max(result.measured, 1)
        workers = {
            "compile": spent.compile_s,
            "prepare ahead": spent.ahead_s,
            "wait": spent.wait_s,
        }
        for step, seconds_s in {"search": spent.search_s, **workers, **spent.device_s}.items():
            share = percent(seconds_s / spent.total_s) if step in spent.device_s else "-"
            each, total = duration(1e9 * seconds_s / configs), duration(1e9 * seconds_s)
            rows.append((result.gemm.key, step, each, total, share))
    print_table(("problem", "step", "per config", "in all", "of the device"), rows)
    print("search: this process; compile to wait: many workers at once; the others: one at a time")
    for result in results:
        if again := result.times.again:
            print(f"{result.gemm.key}: timed again at once, the device not being as usual: {again}")


def _row(result: TuneResult) -> tuple[str, ...]:
    from gemmtune.job import Measurement

    best, time_ns, spread = result.best, _best_ns(result), _spread(result)
    return (
        result.gemm.key,
        best.family if best else "none",
        duration(time_ns),
        gflops(result.gemm.flops / time_ns if time_ns else None),
        percent(spread),
        str(best.result.repetitions) if best and isinstance(best.result, Measurement) else "-",
        str(max(len(result.tied) - 1, 0)),
        times(result.default_ns / time_ns if result.default_ns and time_ns else None),
        str(result.trials),
        str(sum(result.failures.values())),
    )


def _as_json(result: TuneResult) -> dict[str, Any]:
    best, time_ns = result.best, _best_ns(result)
    return {
        "problem": result.gemm.to_json(),
        "problem_key": result.gemm.key,
        "family": best.family if best else None,
        "config": best.config.to_json() if best else None,
        "time_ns": time_ns,
        "gflops": result.gemm.flops / time_ns if time_ns else None,
        "spread": _spread(result),
        "tied": [{"family": row.family, "config": row.config.to_json()} for row in result.tied],
        "finalists": result.finalists,
        "repaired": result.repaired,
        "doubtful": result.doubtful,
        "drifts": list(result.drifts),
        "default_ns": result.default_ns,
        "trials": result.trials,
        "measured": result.measured,
        "failures": dict(result.failures),
        "seconds_s": result.seconds_s,
        "stop": result.stop,
        "times": asdict(result.times),
    }


def _best_ns(result: TuneResult) -> float | None:
    return result.best.time_ns if result.best else None


def _spread(result: TuneResult) -> float | None:
    from gemmtune.job import Measurement

    found = result.best.result if result.best else None
    return found.spread if isinstance(found, Measurement) else None
