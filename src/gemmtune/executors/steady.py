"""How fast a reference kernel usually is on a device, and which of its times are off.

Numbers only: who measures again because of it is the worker's, what is said of it the tuner's.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

LEAST = 0.05
"""The reference has to differ by this much, relative, before anything is called a drift."""
NOISE_FACTOR = 5.0
"""And by this many times the median of its deviations: on a busy machine all times scatter."""
BASE = 5
"""References before which nothing can be said."""
WINDOW = 20
"""The last so many decide: a device that stays slower for half of them is one that is slower."""

Band = tuple[float, float]
"""The shortest and the longest time in ns that are as usual."""


def tolerance(times_ns: Sequence[float]) -> float:
    """How far, relative, reference times scatter without any drift."""
    median = statistics.median(times_ns)
    deviation = statistics.median(abs(time_ns - median) for time_ns in times_ns)
    return max(LEAST, NOISE_FACTOR * deviation / median)


class Usual:
    """The last reference times of one device, whichever worker took them."""

    def __init__(self) -> None:
        self._times_ns: deque[float] = deque(maxlen=WINDOW)

    def add(self, time_ns: float | None) -> None:
        """Take in the newest one; None: a job without."""
        if time_ns is not None:
            self._times_ns.append(time_ns)

    @property
    def band_ns(self) -> Band | None:
        """What is as usual; None as long as too few are known."""
        times_ns = list(self._times_ns)
        if len(times_ns) < BASE:
            return None
        median, limit = statistics.median(times_ns), tolerance(times_ns)
        return median * (1.0 - limit), median * (1.0 + limit)
