"""Ways to move tiles that the space of the family coopmat goes through."""

from __future__ import annotations

from functools import cache
from itertools import product

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from gemmtune.literals import Stages

DEEP = 8
"""Fragments along k of a step that is deep: more loads under way and fewer barriers, but registers
and workgroup memory that only few tiles have to spare. benchmarks/NOTES.md, "deeper steps of k"."""
USUAL: dict[str, Any] = {"stages": 1, "prefetch": True, "order": "stream_a", "pad": 8}
_BUFFERING: tuple[tuple[Stages, bool], ...] = ((1, False), (1, True), (2, True))


@cache
def moves(static: bool, depth: int, group_m: int) -> tuple[dict[str, Any], ...]:
    """Knobs of every way to move tiles ``depth`` fragments deep; of deep ones the usual."""
    if depth >= DEEP:
        return tuple(USUAL | {"load": load} for load in (0, 8) if static)
    found: list[dict[str, Any]] = []
    for (stages, prefetch), load in product(_BUFFERING, (0, 8)):
        plain = USUAL | {"stages": stages, "prefetch": prefetch, "load": load}
        found.append(plain)
        if stages == 1:
            found += [plain | {"turns": 2}, plain | {"out_frags": 2}]
        if stages == 2 and depth == 1:
            found += _held(plain, group_m)
        if load == 0:
            found += [plain | {"order": "all_first"}, plain | {"pad": 0}]
        if static and stages == 1:
            found += [plain | {"a_from": "storage"}, plain | {"b_from": "storage"}]
        if static and stages == 1 and load == 0:
            found.append(plain | {"a_from": "storage", "b_from": "storage"})
    return tuple(found)


def _held(plain: dict[str, Any], group_m: int) -> Iterator[dict[str, Any]]:
    """With fragments a step ahead; the least and the most on its way."""
    for out_frags in (1, 2):
        first = plain | {"order": "all_first", "hold": "first", "out_frags": out_frags}
        last = first | {"hold": "last"}
        yield first
        yield last | {"flight": 2}
        if plain["load"]:
            yield last
            yield first | {"wide": True}
            yield last | {"flight": 2, "wide": True}
            yield last | {"pieces": 2}
            for group in (group_m, 16) if group_m > 1 else (1,):
                yield last | {"flight": 2, "pack": True, "group_m": group}
                yield last | {"flight": 4, "pack": True, "group_m": group}
