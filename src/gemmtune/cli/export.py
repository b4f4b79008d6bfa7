"""``gemmtune export`` and ``import``: one device's results as a document, and back."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from gemmtune import __version__
from gemmtune._data import data_path
from gemmtune.cli.options import (
    Commands,
    Parser,
    add_command,
    add_database,
    add_json,
    count,
    written_store,
)
from gemmtune.cli.output import print_json
from gemmtune.dialect import DIALECTS
from gemmtune.errors import DocumentError, UsageError
from gemmtune.lookup import search_path
from gemmtune.problem import Gemm
from gemmtune.shapes import parse_dtype

if TYPE_CHECKING:
    from gemmtune.export import Document, Selection
    from gemmtune.store import Store

_LANGUAGES = ("json", "c-header", "rust", "typescript")


def add(commands: Commands) -> None:
    """Declare both commands."""
    _add_export(commands)
    parser = add_command(
        commands,
        "import",
        _import,
        "merge documents that `gemmtune export` wrote into a database",
        examples=("gemmtune import h100.json", "gemmtune import h100.json --db results.db"),
    )
    parser.add_argument("documents", nargs="+", metavar="FILE", help="JSON document to read")
    parser.add_argument(
        "--check", action="store_true", help="read and check the documents, change nothing"
    )
    add_database(parser, "database to merge into")
    add_json(parser)


def _add_export(commands: Commands) -> None:
    parser = add_command(
        commands,
        "export",
        _export,
        "write one device's kernels and results as a document that needs no Python",
        examples=(
            "gemmtune export --device h100 -o h100.json",
            "gemmtune export --device h100 --dtype f32 --dialect tint --js -o kernels.json",
            "gemmtune export --device h100 --shapes 512x512x512,1x4096x4096",
            "gemmtune export --device h100 --format c-header -o gemm_kernels.h",
        ),
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: standard output)"
    )
    parser.add_argument(
        "--device", metavar="KEY", help="the device's key, or part of it or of the name"
    )
    parser.add_argument(
        "--shapes", metavar="MxNxK,...", help="only problems of these sizes (default: all)"
    )
    parser.add_argument(
        "--dtype", metavar="TYPE", help="only this type: f32, f16, f16-f32, f16acc, or a,b,c,acc"
    )
    parser.add_argument(
        "--dialect",
        choices=tuple(DIALECTS),
        default="naga",
        help="whose WGSL: naga for wgpu (default), tint for Dawn and so for Chromium",
    )
    _add_form(parser)
    add_database(parser, "only database to read")


def _add_form(parser: Parser) -> None:
    """How the document is written."""
    parser.add_argument(
        "--top", type=count, default=1, metavar="N", help="fastest per problem and family (1)"
    )
    parser.add_argument("--format", choices=_LANGUAGES, default="json", help="default: json")
    parser.add_argument(
        "--wgsl-dir", metavar="FOLDER", help="write the WGSL to files here, not into the document"
    )
    parser.add_argument(
        "--js", action="store_true", help="also write gemmtune.js and its types beside the document"
    )


def _export(args: argparse.Namespace) -> int:
    from gemmtune.export import export, source, to_text

    if args.wgsl_dir and args.format != "json":
        raise UsageError(f"--wgsl-dir goes with --format json, not {args.format}")
    if args.js and args.output is None:
        raise UsageError("--js writes beside the document; give that a place with -o FILE")
    with ExitStack() as stack:
        stores = _stores(args, stack)
        document = export(stores, _selection(args), f"gemmtune {__version__}")
    if args.wgsl_dir:
        _write_wgsl(document, Path(args.wgsl_dir))
        text = to_text(document, inline=False)
    else:
        text = source(document, args.format)
    if args.output is None:
        print(text, end="")
        return 0
    _write(Path(args.output), text)
    if args.js:
        for name in ("gemmtune.js", "gemmtune.d.ts"):
            module = (data_path("js") / name).read_text(encoding="utf-8")
            _write(Path(args.output).parent / name, module)
    results = sum(len(tuned.timed) for tuned in document.problems)
    print(
        f"{args.output}: {document.device.key}, {len(document.problems)} problems, "
        f"{results} results, {len(document.kernels)} kernels, {len(text) / 1024:.0f} KiB"
    )
    return 0


def _stores(args: argparse.Namespace, stack: ExitStack) -> list[Store]:
    """The database that is named, or all that a lookup reads."""
    from gemmtune.store import Store

    def opened(path: str | Path) -> Store:
        return stack.enter_context(Store.open(path, create=False, read_only=True))

    if args.db:
        return [opened(args.db)]
    return [opened(path) for path in search_path() if path.exists()]


def _selection(args: argparse.Namespace) -> Selection:
    from gemmtune.export import Selection

    shapes = [text for text in (args.shapes or "").split(",") if text.strip()]
    return Selection(
        device=args.device,
        shapes=tuple(Gemm.parse(text).shape for text in shapes),
        dtypes=None if args.dtype is None else parse_dtype(args.dtype),
        dialect=args.dialect,
        top=args.top,
    )


def _write_wgsl(document: Document, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DocumentError(f"{folder} cannot be made: {error.strerror}") from error
    for kernel in document.kernels:
        _write(folder / f"{kernel.id}.wgsl", kernel.wgsl)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DocumentError(f"{path} cannot be written: {error.strerror}") from error


def _import(args: argparse.Namespace) -> int:
    from gemmtune.export import arrivals, forests

    found = [(name, document := _read(name), arrivals(document)) for name in args.documents]
    if args.check:
        for name, document, measured in found:
            print(f"{name}: sound, {len(measured)} results of {document.device.key}")
        return 0
    reports = []
    with written_store(args) as store:
        for name, document, measured in found:
            report = store.take_in(document.device, measured, name, forests(document))
            reports.append({"measurements": report.measurements, "present": report.present})
            if not args.json:
                print(
                    f"{name}: {report.measurements} new results, {report.present} known, "
                    f"{report.problems} new problems, of {document.device.key}"
                )
    if args.json:
        print_json(reports)
    return 0


def _read(name: str) -> Document:
    """The document in a file. Kernels that are in files of their own need not be there."""
    from gemmtune.export import loads

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise DocumentError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"{name} is not text: {error.reason}") from error
    return loads(text)
