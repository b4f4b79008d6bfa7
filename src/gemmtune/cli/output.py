"""Tables, numbers and JSON on standard output: dressed on a terminal, plain in a pipe."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from gemmtune.device import Device

_NUMBER = re.compile(r"-|[\d.,]+(e[+-]?\d+)?(x| ?[%a-z]+)?")
"""A number with or without a unit, or the dash of one that is not known."""


def print_json(data: Any) -> None:
    """``data`` as indented JSON with sorted keys."""
    print(json.dumps(data, indent=2, sort_keys=True))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under ``headers``. A column with nothing but numbers is aligned to the right."""
    if sys.stdout.isatty() and _print_rich(headers, rows):
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    right = _numeric_columns(headers, rows)
    for row in (headers, *rows):
        cells = [
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(row, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """The same through rich; False where rich is not installed."""
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ModuleNotFoundError:
        return False
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header, numeric in zip(headers, _numeric_columns(headers, rows), strict=True):
        table.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(highlight=False).print(table)
    return True


def _numeric_columns(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(headers)
    return [all(map(_NUMBER.fullmatch, column)) for column in columns]


def print_software_note(device: Device) -> None:
    """Under times taken on a software adapter: what they are worth."""
    if device.software:
        print(f"{device.name} runs on the CPU: these times say nothing about a GPU")


def refused_matrices(device: Device) -> str:
    """Why the matrix units that an adapter has are not used, and the remedy; empty if they are."""
    if "cooperative-matrix" not in device.refused:
        return ""
    return (
        "wgpu-native refuses cooperative-matrix as experimental; `gemmtune unlock` has it granted"
    )


def print_matrices_note(device: Device) -> None:
    """On stderr, where matrix units stay unused that could be used."""
    if reason := refused_matrices(device):
        print(
            f"gemmtune: the matrix units of {device.name} are not used: {reason}", file=sys.stderr
        )


def gflops(value: float | None) -> str:
    """Billions of operations per second with three digits that mean something; - for none."""
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def duration(time_ns: float | None) -> str:
    """A time in the unit that suits it; - for none."""
    if time_ns is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if time_ns >= size:
            return f"{time_ns / size:.3g} {unit}"
    return f"{time_ns:.3g} ns"


def percent(ratio: float | None) -> str:
    """A ratio as percent; - for none."""
    return "-" if ratio is None else f"{100 * ratio:.1f} %"


def times(ratio: float | None) -> str:
    """A speed-up, e.g. 3.14x; - for none."""
    return "-" if ratio is None else f"{ratio:.2f}x"
