"""The parser of the whole command, and what happens to errors: one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from gemmtune import __version__
from gemmtune.cli.bench import add as add_bench
from gemmtune.cli.completion import add as add_completion
from gemmtune.cli.db import add as add_db
from gemmtune.cli.devices import add as add_devices
from gemmtune.cli.export import add as add_export
from gemmtune.cli.landscape import add as add_landscape
from gemmtune.cli.lookup import add as add_lookup
from gemmtune.cli.options import Parser
from gemmtune.cli.record import add as add_record
from gemmtune.cli.tune import add as add_tune
from gemmtune.cli.unlock import add as add_unlock
from gemmtune.errors import GemmtuneError, MissingExtraError

_ADD_COMMANDS = (
    add_devices,
    add_tune,
    add_lookup,
    add_bench,
    add_export,
    add_db,
    add_record,
    add_landscape,
    add_unlock,
    add_completion,
)
"""In the order in which --help lists them."""

_EXTRA_PACKAGES = frozenset({"lief", "numpy", "optuna", "rich", "shtab", "sqlalchemy", "wgpu"})

_EPILOG = """\
examples:
  gemmtune devices
  gemmtune tune --shape 1024x1024x1024 --budget 60s
  gemmtune lookup 1024x1024x1024 --wgsl > gemm.wgsl

exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted
"""


def build_parser() -> Parser:
    """The parser with every command in it; also what the tests of the documentation walk."""
    parser = Parser(
        prog="gemmtune",
        description="Generate, verify, time and look up WGSL matrix multiplications.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gemmtune {__version__}")
    parser.add_argument(
        "--debug", action="store_true", default=False, help="show the traceback of an error"
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for add in _ADD_COMMANDS:
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``argv`` (default: the process's own) and return the exit code."""
    args = build_parser().parse_args(argv)
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, e.g. `head`, has what it wants. Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("gemmtune: interrupted", file=sys.stderr)
        return 130
    except GemmtuneError as error:
        if args.debug:
            raise
        return _complain(str(error), error.exit_code)
    except Exception as error:
        if args.debug:
            raise
        text = f"{type(error).__name__}: {error}"
        return _complain(f"a bug, please report it: {text}; --debug shows where", 1)
    return code


def _run(args: argparse.Namespace) -> int:
    """The command itself; a package of an extra that is missing says which extra."""
    try:
        code: int = args.run(args)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA_PACKAGES:
            raise
        raise MissingExtraError.of(package, "tune") from error
    return code


def _complain(message: str, exit_code: int) -> int:
    print(f"gemmtune: {' '.join(message.split())}", file=sys.stderr)
    return exit_code
