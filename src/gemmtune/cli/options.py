"""How options are declared and read: what several commands share. Knows nothing of running them."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from gemmtune.errors import GemmtuneError, StoreReadOnlyError, UsageError
from gemmtune.job import Policy
from gemmtune.lookup import user_database
from gemmtune.problem import ACTIVATIONS, MATHS, Gemm
from gemmtune.shapes import parse_dtype

if TYPE_CHECKING:
    from gemmtune.store import Store

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all of gemmtune's are."""

    def error(self, message: str) -> NoReturn:
        """Print ``message`` and where help is to be had; exit with 2."""
        print(f"gemmtune: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Run: TypeAlias = Callable[[argparse.Namespace], int]


def add_command(
    commands: Commands, name: str, run: Run | None, summary: str, *, examples: Sequence[str]
) -> Parser:
    """A parser for the command ``name`` that ``run`` carries out, with examples in its help.

    ``run`` None: the command only has commands of its own.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="examples:\n" + "".join(f"  {line}\n" for line in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # SUPPRESS: without the option here, the value given before the command stays.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def add_json(parser: Parser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_database(parser: Parser, what: str = "database to use") -> None:
    """``--db``."""
    parser.add_argument(
        "--db",
        metavar="PATH_OR_URL",
        help=f"{what} (default: $GEMMTUNE_DB, or the one in your data folder)",
    )


def add_adapter(parser: Parser | argparse._MutuallyExclusiveGroup) -> None:
    """``--adapter``."""
    parser.add_argument(
        "--adapter",
        metavar="SEL",
        help="number, or part of the name or key, of a line of `gemmtune devices`",
    )


def add_executor(parser: Parser) -> None:
    """``--executor``, and `add_adapter`'s option: one or the other."""
    group = parser.add_mutually_exclusive_group()
    add_adapter(group)
    group.add_argument(
        "--executor",
        metavar="URL",
        help="instead of an adapter: replay:FILE answers from a recorded landscape",
    )


def add_hot(parser: Parser | argparse._ArgumentGroup) -> None:
    """``--hot``."""
    parser.add_argument(
        "--hot",
        action="store_true",
        help="time with inputs that stay in the cache; by default they rotate past the last level, "
        "as in a model whose weights do not fit (kept apart from those results)",
    )


def policy(args: argparse.Namespace) -> Policy:
    """How time is measured, by the option of `add_hot`."""
    return Policy(cache="hot" if args.hot else "cold")


def executor_url(args: argparse.Namespace) -> str:
    """What `open_executor` takes for the options of `add_executor`."""
    return str(args.executor) if args.executor is not None else adapter_url(args)


def adapter_url(args: argparse.Namespace) -> str:
    """What `open_executor` takes for the option of `add_adapter`."""
    return "local" if args.adapter is None else f"local:{args.adapter}"


def add_problem(parser: Parser) -> None:
    """The options that with a shape make a problem."""
    group = parser.add_argument_group("problem")
    group.add_argument(
        "--dtype",
        default="f32",
        metavar="TYPE",
        help="f32 (default), f16 (sums in f32), f16-f32 (C in f32), f16acc, or a,b,c,acc",
    )
    group.add_argument("--trans-a", action="store_true", help="A is stored as k x m")
    group.add_argument("--trans-b", action="store_true", help="B is stored as n x k")
    group.add_argument("--alpha", type=factor, default=1.0, metavar="X", help="factor of A B")
    group.add_argument(
        "--beta", type=factor, default=0.0, metavar="X", help="factor of the old C; 0: not read"
    )
    group.add_argument("--bias", action="store_true", help="add a vector of n elements to each row")
    group.add_argument(
        "--activation", choices=ACTIVATIONS, default="none", help="applied last (default: none)"
    )
    group.add_argument(
        "--math",
        choices=MATHS,
        default="ieee",
        help="f16x3 lets f32 run on matrix units as three products of f16, nearly as exact as f32 "
        "but not for elements far below the largest of their row or column (default: ieee)",
    )


def problem(args: argparse.Namespace, shape: str) -> Gemm:
    """The problem of size ``shape`` that the options of `add_problem` describe.

    Raises:
        ProblemError: shape or dtype make no sense.
    """
    a, b, c, acc = parse_dtype(args.dtype)
    return Gemm.parse(shape, a=a, b=b, c=c, acc=acc, **epilogue(args))


def epilogue(args: argparse.Namespace) -> dict[str, Any]:
    """All that the options of `add_problem` say besides the dtypes, as fields of `Gemm`."""
    names = ("trans_a", "trans_b", "alpha", "beta", "bias", "activation", "math")
    return {name: getattr(args, name) for name in names}


def database(args: argparse.Namespace, *, write: bool) -> str | Path:
    """Path or URL of the database: ``--db``, the environment's, or the user's own.

    The folder of the user's own is made when it is to be written.

    Raises:
        StoreReadOnlyError: that folder cannot be made.
    """
    named = args.db or os.environ.get("GEMMTUNE_DB")
    if named:
        return str(named)
    path = user_database()
    if write:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreReadOnlyError(
                f"the folder {path.parent} cannot be made ({error.strerror}); give a file with --db"
            ) from error
    return path


@contextmanager
def written_store(args: argparse.Namespace) -> Iterator[Store]:
    """The database to write. One that was made for a command that is refused goes again."""
    from gemmtune.store import Store

    where = database(args, write=True)
    new = "://" not in str(where) and not Path(where).expanduser().exists()
    with Store.open(where) as store:
        try:
            yield store
        except GemmtuneError:
            useless = new and store.unused
            store.close()
            if useless and store.path is not None:
                store.path.unlink()
            raise


def seconds(text: str) -> float:
    """``90``, ``90s``, ``1.5m`` or ``1h`` in seconds.

    Raises:
        UsageError: it is none of these, or not more than nothing.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise UsageError(f"budget {text!r} is not a time; write 90s, 10m or 1.5h")
    return float(found[1]) * _SECONDS[found[2]]


def count(text: str) -> int:
    """An integer >= 1, for argparse's ``type=``."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def share(text: str) -> float:
    """``1%`` or ``0.5 %`` as a share, for argparse's ``type=``."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", text.strip())
    if found is None or not 0.0 < float(found[1]) < 100.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; write e.g. 1%")
    return float(found[1]) / 100.0


def factor(text: str) -> float:
    """A finite number, for argparse's ``type=``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value
