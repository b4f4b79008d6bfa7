"""The workgroup memory of a multiprocessor from times: which steps a curve has. Measures nothing.

The more memory a workgroup takes, the fewer of them a multiprocessor holds at once, and the longer
kernels take that wait for memory most of the time. Their time is a staircase: it stays the same
while the same number of workgroups fit, and rises where there is room for one less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST_RESIDENT = 32
_CAPS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
# Of the limit of one workgroup; what a driver takes for itself may leave a little less than it.
_LEAST_SHARE, _MOST_SHARE = 0.75, 8.0
_SLOPES = (0.5, 1.3)
# What decides between explanations that are the same but for the number of residents.
_PREFERENCE = 0.05
_LEAST_RISE = 1.2
# Of what is left unexplained without steps; noise and smooth curves leave more.
_UNEXPLAINED = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Staircase:
    """A curve that has steps."""

    resident_bytes: int
    """The workgroups that are resident together have no more than this."""
    edge: tuple[int, int]
    """Bytes of a workgroup on both sides of the last step, where the fewest are resident."""


def find_steps(points: Sequence[tuple[int, float]]) -> Staircase | None:
    """The staircase that explains the times; None where they have no steps, or only noise.

    Source: a multiprocessor with M bytes holds floor(M / bytes) workgroups, up to some number that
    other resources allow, and work that waits goes as fast as there are workgroups.

    Args:
        points: bytes of workgroup memory per workgroup, the largest as large as the limit; time.
    """
    sizes = np.array([size for size, _ in points], dtype=np.int64)
    times = np.log(np.array([time for _, time in points], dtype=np.float64))
    best: tuple[float, float, int, NDArray[np.int64]] | None = None
    for resident_bytes, residents in _candidates(sizes):
        error, slope = _fit(-np.log(residents), times)
        rise = slope * np.log(residents.max() / residents.min())
        if not (_SLOPES[0] <= slope <= _SLOPES[1] and rise >= np.log(_LEAST_RISE)):
            continue
        # Time is inverse to the number of residents, or nearly so.
        unlikely = _PREFERENCE * (slope - 1) ** 2 * len(times) * float(np.var(np.log(residents)))
        if best is None or error + unlikely < best[0]:
            best = (error + unlikely, error, resident_bytes, residents)
    if best is None or best[1] > _UNEXPLAINED * _without_steps(sizes, times):
        return None
    _, _, resident_bytes, residents = best
    few = residents == residents.min()
    edge = (int(sizes[~few].max()), int(sizes[few].min()))
    return Staircase(resident_bytes=resident_bytes, edge=edge)


def _candidates(sizes: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Every distinct way in which the workgroups can fit, with the least memory for it."""
    limit = int(sizes.max())
    memories = {
        int(count * size)
        for count in range(1, _MOST_RESIDENT + 1)
        for size in sizes
        if _LEAST_SHARE * limit <= count * size <= _MOST_SHARE * limit
    }
    seen = set()
    for memory in sorted(memories):
        for cap in _CAPS:
            residents = np.clip(memory // sizes, 1, cap)
            if residents.tobytes() not in seen and residents.min() < residents.max():
                seen.add(residents.tobytes())
                # More memory would do as well, as long as nowhere one more fits.
                steps = residents > residents.min()
                yield int((residents * sizes)[steps].max()), residents


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Sum of squares left over by a line through the points, and its slope."""
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    return float(np.sum((y - slope * x) ** 2)), slope


def _without_steps(sizes: NDArray[np.int64], times: NDArray[np.float64]) -> float:
    """What is left unexplained by times that are the same, or grow steadily with the size."""
    lines = (_fit(sizes.astype(np.float64), times), _fit(np.log(sizes), times))
    return min(error for error, _ in lines)
