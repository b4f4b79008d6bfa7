"""The kernel families. A new one is one module here, one template, one line below."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from gemmtune.kernels.base import Family
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FOR: dict[str, Callable[[Gemm], bool]] = {
    "naive": lambda _: True,
    "tiled": lambda _: True,
    "subgroup": lambda _: True,
    "coopmat": lambda gemm: gemm.a == gemm.b == "f16",
    "gemv": lambda _: True,
    "coopmat_f16x3": lambda gemm: gemm.math == "f16x3",
}
"""Their names, and what each is for, in no more detail than its `Family.supported`."""


class Families(Mapping[str, Family]):
    """By name. A family's module is imported when it is first asked for, for lookups must be quick
    in a process that has just begun.
    """

    def __init__(self) -> None:
        self._known: dict[str, Family] = {}

    def __getitem__(self, name: str) -> Family:
        found = self._known.get(name)
        if found is None:
            if name not in _FOR:
                raise KeyError(name)
            found = self._known[name] = import_module(f"gemmtune.kernels.{name}").FAMILY
        return found

    def __contains__(self, name: object) -> bool:
        return name in _FOR

    def __iter__(self) -> Iterator[str]:
        return iter(_FOR)

    def __len__(self) -> int:
        return len(_FOR)

    def may(self, name: str, gemm: Gemm) -> bool:
        """Whether ``gemm`` is of the kind that the family is for; does not import its module."""
        return _FOR[name](gemm)


FAMILIES = Families()
