"""Whether the device stayed as fast as it was, told by a reference kernel timed beside each config.

Looks at numbers only; measuring again what a disturbance touched is `finals`'s.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from gemmtune.executors.steady import BASE, tolerance

LASTING = 10
"""Readings of a drift that has not ended after which it counts as how the device is now."""
UNSTEADY = 0.2
"""A reference whose samples scatter more than this shares the device with something else."""

Cause = Literal["another load", "throttling", "a higher clock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One timing of the reference kernel."""

    row_id: int
    """The row measured just before."""
    time_ns: float
    """Mean."""
    spread: float
    """Range of its samples over their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Readings in a row that deviate in one direction."""

    row_ids: tuple[int, ...]
    """What was measured meanwhile."""
    ratio: float
    """The reference's time over its usual one; above 1 the device was slower."""
    cause: Cause
    """What it looks like."""

    def words(self) -> str:
        """``2.10x slower (another load on it)``."""
        if self.ratio < 1.0:
            return f"{1 / self.ratio:.2f}x faster ({self.cause})"
        return f"{self.ratio:.2f}x slower ({self.cause}{' on it' * (self.cause != 'throttling')})"


_NONE = Reading(row_id=0, time_ns=1.0, spread=0.0)


class Drift:
    """The readings of one run, in the order they were taken."""

    def __init__(self) -> None:
        self._readings: list[Reading] = []

    def add(self, reading: Reading) -> None:
        """Take in the newest one."""
        self._readings.append(reading)

    def episodes(self) -> list[Episode]:
        """What deviated from the usual, oldest first; empty while the device was steady."""
        return self._off(self._usual_ns)

    @property
    def _usual_ns(self) -> float:
        return statistics.median(reading.time_ns for reading in self._readings or [_NONE])

    def _off(self, level_ns: float) -> list[Episode]:
        """What deviated from ``level_ns``."""
        if len(self._readings) < BASE:
            return []
        limit = tolerance([reading.time_ns for reading in self._readings])

        def direction(reading: Reading) -> int:
            ratio = reading.time_ns / level_ns
            return (ratio > 1.0 + limit) - (ratio < 1.0 - limit)

        runs = [(key, list(run)) for key, run in groupby(self._readings, key=direction)]
        return [_episode(run, level_ns) for key, run in runs if key]

    @property
    def current(self) -> Episode | None:
        """What is going on at the newest readings, two at least; None when all is as usual."""
        last = self.episodes()[-1:]
        if last and len(last[0].row_ids) > 1 and last[0].row_ids[-1] == self._readings[-1].row_id:
            return last[0]
        return None

    def touched(self) -> dict[int, float]:
        """Rows measured while the device was not as it is now, and the ratio at the time."""
        last = self.episodes()[-1:]
        level_ns = self._usual_ns
        if self.current is not None and len(last[0].row_ids) >= LASTING:
            level_ns *= last[0].ratio
        return {row_id: e.ratio for e in self._off(level_ns) for row_id in e.row_ids}


def _episode(run: Sequence[Reading], usual_ns: float) -> Episode:
    ratio = statistics.median(reading.time_ns for reading in run) / usual_ns
    unsteady = statistics.median(reading.spread for reading in run) > UNSTEADY
    slower: Cause = "another load" if unsteady else "throttling"
    return Episode(
        row_ids=tuple(reading.row_id for reading in run),
        ratio=ratio,
        cause=slower if ratio > 1.0 else "a higher clock",
    )
