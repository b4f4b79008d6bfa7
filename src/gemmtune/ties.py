"""Which of several timed configs is the winner, the same way wherever it is asked.

Times that differ by less than a clock can tell are a tie; the config that takes the least wins it.
"""

from __future__ import annotations

from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol, TypeVar

    T = TypeVar("T", bound="Timed")
else:
    Protocol = object

TIE = 0.005
"""Medians this close, relative to the fastest, are tied: interleaved ones repeat no better."""


class Timed(Protocol):
    """A config and its time."""

    @property
    def family(self) -> str:
        """Name of its family."""

    @property
    def config(self) -> Config:
        """The config."""

    @property
    def time_ns(self) -> float | None:
        """Its time; None: it has none."""


def tied(entries: Iterable[T], gemm: Gemm) -> list[T]:
    """Those of one problem that are as fast as the fastest, the winner first.

    The winner has the fewest passes, then takes the least workgroup memory, then the fewest
    invocations of a workgroup; after that family and config decide as text.
    """
    timed = [(entry.time_ns, entry) for entry in entries if entry.time_ns is not None]
    fastest = min((time_ns for time_ns, _ in timed), default=0.0)
    close = [entry for time_ns, entry in timed if time_ns <= fastest * (1.0 + TIE)]
    return sorted(
        close, key=lambda entry: (_resources(entry, gemm), entry.family, entry.config.key)
    )


def _resources(entry: Timed, gemm: Gemm) -> tuple[int, int, int]:
    launches = FAMILIES[entry.family].launch(entry.config, gemm)
    sizes = (launch.workgroup_size for launch in launches)
    return (
        len(launches),
        max(launch.workgroup_storage_bytes for launch in launches),
        max(x * y * z for x, y, z in sizes),
    )
