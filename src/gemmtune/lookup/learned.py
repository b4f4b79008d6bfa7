"""What a database's results say of each config, kept in the database itself so that a lookup in a
process that has just begun need not work it out of thousands of rows. Readers may do without.

It is never of other rows than are there: whatever is written to them deletes it, by triggers, and
it is not read where one of these is missing. Only databases that are made to be shipped have it.
"""

from __future__ import annotations

from functools import cached_property

from gemmtune.device import Device
from gemmtune.generators import generator_hash
from gemmtune.kernels import FAMILIES
from gemmtune.light import loads
from gemmtune.lookup.leader import Leader, checked, is_unchecked
from gemmtune.lookup.predict import Pace, Speed, doublings
from gemmtune.lookup.ranking import Dispatches, Measured, Name, Place, Predicted, Table
from gemmtune.problem import Gemm
from gemmtune.schema import unusual

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any


class Remembered:
    """A config with its times, as `ranking.Known`: most of it is read when it is wanted."""

    def __init__(
        self, row: tuple[Any, ...], problems: dict[int, tuple[Any, ...]], device: Device
    ) -> None:
        self.family, self.text, self._template, self._policy, *numbers = row[:-2]
        self._versions, self._times = row[-2:]
        tile_m, tile_n, each, step, held, more, fixed, byte, unit, self.longest_ns = numbers
        self._problems, self._device = problems, device
        self.dispatch: Dispatches | None = (tile_m, tile_n, each, step)
        self.pace = Pace(held, more)
        self.least = (fixed, byte, unit)

    @cached_property
    def _read(self) -> list[list[Any]]:
        found: list[list[Any]] = loads(self._times)
        return found

    @property
    def unchecked(self) -> bool:
        """See `ranking.Known`."""
        return is_unchecked(self.text)

    @cached_property
    def names(self) -> tuple[Name, Name]:
        """See `ranking.Known`."""
        stale = self._template != generator_hash(self.family)
        rank = (stale, unusual(self._policy or ""), self.family)
        return (*rank, self.text), (*rank, checked(self.text))

    @cached_property
    def costs(self) -> list[tuple[float, float, float]]:
        """See `ranking.Known`."""
        return [(fixed, byte, unit) for *_, fixed, byte, unit in self._read]

    @cached_property
    def leaders(self) -> list[Leader]:
        """See `ranking.Known`."""
        versions = loads(self._versions)
        of = (self._template, self._policy, self._device)
        found = []
        for problem, time_ns, error, number, leads, *_ in self._read:
            there = self._problems[problem]
            measured = (self.family, self.text, time_ns, error, *versions[number])
            found.append(Leader._make((*there, *measured, *of, bool(leads))))
        return found

    @cached_property
    def kinds(self) -> list[str]:
        """See `ranking.Known`."""
        return [leader.kind for leader in self.leaders]

    @cached_property
    def places(self) -> list[Place]:
        """See `ranking.Known`."""
        return list(map(doublings, self.leaders))


class Learned:
    """What a database keeps of what was learned of a device and problems with the same dtypes."""

    def __init__(
        self, rows: list[tuple[Any, ...]], problems: list[tuple[Any, ...]], device: Device
    ) -> None:
        there = {number: tuple(of) for number, *of in problems}
        self.problems = {of[0] for of in there.values()}
        """Keys of all that there may be results of."""
        self._kinds = {of[1] for of in there.values()}
        self._configs = [Remembered(row, there, device) for row in rows]
        self._speed = Speed.of(device.adapter_type, ())
        self._families = tuple(dict.fromkeys(one.family for one in self._configs))
        self._tables: dict[tuple[str, ...], Table] = {}

    def ranked(
        self,
        gemm: Gemm,
        edges: Callable[[Leader], bool],
        first: Iterable[tuple[str, str]] = (),
    ) -> Iterator[Predicted]:
        """See `Portfolio.ranked`."""
        families = tuple([each for each in self._families if FAMILIES.may(each, gemm)])
        if families not in self._tables:
            configs = [one for one in self._configs if one.family in families]
            self._tables[families] = Table(configs, self._speed, self._kinds)
        return self._tables[families].ranked(gemm, edges, first)


def rows_of(configs: Iterable[Measured], numbers: dict[str, int]) -> Iterator[tuple[Any, ...]]:
    """What to keep of configs, the columns of `LEARNED_QUERY`.

    Args:
        configs: all of a device and dtypes, in their order.
        numbers: those of problems in the database, by their keys.

    Raises:
        ValueError: a family alone knows how its configs are dispatched, which no row can hold.
    """
    from json import dumps

    for one in configs:
        if one.dispatch is None:
            raise ValueError(f"{one.first.family} has no tiles")
        versions = list(dict.fromkeys(_versions(leader) for leader in one.leaders))
        times = [
            (
                *(numbers[leader.key], leader.time_ns, leader.max_rel_error),
                *(versions.index(_versions(leader)), int(leader.leads), *costs),
            )
            for leader, costs in zip(one.leaders, one.costs, strict=True)
        ]
        first = one.first
        yield (
            *(first.family, first.text, first.generator_hash, first.policy, *one.dispatch),
            *(*one.pace, *one.least, one.longest_ns),
            *(dumps(each, separators=(",", ":")) for each in (versions, times)),
        )


def _versions(leader: Leader) -> tuple[str | None, ...]:
    return leader.driver, leader.backend, leader.wgpu, leader.compiler
