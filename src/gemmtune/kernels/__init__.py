"""The kernel families. A new one is one module here, one template, one line below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from gemmtune.kernels.base import Family

_NAMES = (
    "naive",
    "tiled",
    "subgroup",
    "coopmat",
    "gemv",
    "coopmat_f16x3",
)


class Families(Mapping[str, Family]):
    """By name. A family's module is imported when it is first asked for, for lookups must be quick
    in a process that has just begun.
    """

    def __init__(self) -> None:
        self._known: dict[str, Family] = {}

    def __getitem__(self, name: str) -> Family:
        found = self._known.get(name)
        if found is None:
            if name not in _NAMES:
                raise KeyError(name)
            found = self._known[name] = import_module(f"gemmtune.kernels.{name}").FAMILY
        return found

    def __contains__(self, name: object) -> bool:
        return name in _NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


FAMILIES = Families()
