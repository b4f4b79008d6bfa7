"""The rows of a space, and what every sampler does with them: codes, distances, a fair start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Literal

import numpy as np

from gemmtune.kernels.base import Config

Row = tuple[str, Config]
"""Name of a family, and a config of it."""

Origin = Literal["default", "spread", "random", "model", "order"]
"""Why a row was asked: a family's default, the space-filling start, the random share, the model's
proposal, or simply the next one."""

STARTUP = 20
"""Results before TPE is asked."""
RANDOM_SHARE = 0.15
"""Of the rows asked after the start: a model sure too early never leaves its first good region."""
SPREAD_CANDIDATES = 24
"""Random rows of which the start takes the one farthest from all rows before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row of the space that was asked for."""

    family: str
    """Name of its family."""
    config: Config
    """The point."""
    origin: Origin
    """Why it was chosen."""


class Block:
    """The rows of one family, each value as the number of its level in the column's sorted values.

    Rows are kept in a random order, so that the first of several equals is a fair choice.
    """

    def __init__(self, family: str, configs: Sequence[Config], rng: np.random.Generator) -> None:
        self.family = family
        order = rng.permutation(len(configs))
        self.configs = [configs[i] for i in order.tolist()]
        # All are gone through as they were made: they lie in memory like that.
        self.index = dict(zip(configs, np.argsort(order).tolist(), strict=True))
        self.free = np.ones(len(configs), dtype=bool)
        self.free_count = len(configs)
        self._next = 0
        self.names: list[str] = []
        self.codes: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        self._ordinal: list[bool] = []
        self._levels: list[dict[Any, int]] = []
        for field in fields(configs[0]):
            values = list(map(attrgetter(field.name), configs))
            self._add_column(field.name, values, order)
        self.asked: list[int] = []

    def _add_column(
        self, name: str, values: Sequence[Any], order: np.ndarray[Any, np.dtype[np.int64]]
    ) -> None:
        levels = {value: code for code, value in enumerate(sorted(set(values)))}
        if len(levels) == 1:
            return
        ordinal = not isinstance(values[0], (bool, str))
        self.names.append(f"{self.family}.{name}")
        self._ordinal.append(ordinal)
        self._levels.append(levels)
        dtype = np.uint8 if len(levels) <= 256 else np.uint32
        codes = np.fromiter(map(levels.__getitem__, values), dtype, len(values))
        self.codes.append(codes[order])

    @property
    def sizes(self) -> list[int]:
        """How many levels each column has."""
        return [len(levels) for levels in self._levels]

    def params(self, row: int) -> dict[str, int]:
        """Parameter name to code."""
        return {name: int(codes[row]) for name, codes in zip(self.names, self.codes, strict=True)}

    def occupy(self, row: int) -> None:
        """The row is not free any more."""
        if self.free[row]:
            self.free[row] = False
            self.free_count -= 1
            self.asked.append(row)

    def release(self, row: int) -> None:
        """The row is free again."""
        if not self.free[row]:
            self.free[row] = True
            self.free_count += 1
            self.asked.remove(row)
            self._next = min(self._next, row)

    def next_free(self) -> int:
        """A random free row."""
        while not self.free[self._next]:
            self._next += 1
        return self._next

    def nearest_free(self, params: dict[str, int]) -> int:
        """The free row that differs from ``params`` in the fewest columns, then by the least."""
        distance = np.where(self.free, np.float32(0), np.float32(np.inf))
        for name, codes, table in zip(self.names, self.codes, self._tables(params), strict=True):
            if name in params:
                distance += table[codes]
        return int(np.argmin(distance))

    def _tables(self, params: dict[str, int]) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        """For each column, how far every level is from that of ``params``, 0 to 1."""
        for name, ordinal, levels in zip(self.names, self._ordinal, self._levels, strict=True):
            steps = np.abs(np.arange(len(levels)) - params.get(name, 0))
            span = len(levels) - 1
            # A near value costs little less than a far one: values that stay the same count most.
            away = 0.5 + 0.5 * steps / span if ordinal else np.ones(len(levels))
            yield np.where(steps == 0, 0.0, away).astype(np.float32)

    def some_free(self, count: int) -> list[int]:
        """The first random free rows."""
        return [int(row) for row in np.flatnonzero(self.free)[:count]]

    def near_free(self, row: int, count: int) -> list[int]:
        """The free rows that differ from ``row`` in the fewest columns."""
        differ = np.where(self.free, 0, 255).astype(np.uint8)
        for codes in self.codes:
            differ += (codes != codes[row]) & self.free
        return [int(near) for near in np.argsort(differ, kind="stable")[:count] if self.free[near]]

    def spread_free(self, cost: Callable[[int], float] | None = None) -> int:
        """Of some random free rows, the one that differs most from all rows asked before.

        Args:
            cost: only the cheaper half of the random rows is looked at.
        """
        rows = np.flatnonzero(self.free)[:SPREAD_CANDIDATES]
        if cost is not None:
            cheap = sorted(rows, key=lambda row: cost(int(row)))
            rows = np.array(cheap[: max(1, len(cheap) // 2)])
        if not self.asked or not self.codes:
            return int(rows[0])
        differ = np.zeros((len(rows), len(self.asked)), dtype=np.int32)
        for codes in self.codes:
            differ += codes[rows][:, None] != codes[self.asked][None, :]
        return int(rows[np.argmax(differ.min(axis=1))])
