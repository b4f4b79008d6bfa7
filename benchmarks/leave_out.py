"""What lookups would choose if they knew certain results, and less those of one problem.

The rule is that of `gemmtune.lookup`; only what leaving a problem out does not change is kept from
one question to the next, which makes hundreds of them a matter of seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from copy import copy

from pool import Text, leading

from gemmtune import Gemm
from gemmtune.device import Device
from gemmtune.kernels import FAMILIES
from gemmtune.lookup.leader import Leader
from gemmtune.lookup.portfolio import _Alike
from gemmtune.lookup.predict import Speed
from gemmtune.lookup.ranking import Measured, Table


class Rule:
    """The choices of lookups on one device that know some results with the same dtypes."""

    def __init__(self, device: Device, leaders: Iterable[Leader]) -> None:
        self._device = device
        every = sorted(leaders, key=lambda one: (one.time_ns, one.family, one.text))
        self._leads = leading(every)
        self._leaders = [one for one in every if (one.family, one.text) in self._leads]
        self._by_config: dict[Text, list[Leader]] = defaultdict(list)
        for one in self._leaders:
            self._by_config[one.family, one.text].append(one)
        self._known: dict[str, set[Text]] = defaultdict(set)
        for text, rows in self._by_config.items():
            for one in rows:
                self._known[one.key].add(text)
        self._fastest: dict[str, tuple[int, float]] = {}
        for one in self._leaders:
            self._fastest.setdefault(one.key, (one.traffic_bytes, one.time_ns))
        self._speed = self._speed_without("")
        self._alike = _Alike(self._leaders, self._speed)
        self._measured = {
            (one.first.family, one.first.text): one
            for family in self._alike._by_family
            for _, one in self._alike._read(family)
        }

    @property
    def configs(self) -> set[Text]:
        """Those that may be chosen."""
        return set(self._leads)

    def choices(self, gemm: Gemm) -> Iterator[Text]:
        """Best first, by all results."""
        return self._legal(self._alike, gemm)

    def left_out(self, gemm: Gemm) -> Iterator[Text]:
        """Best first, by the results of all other problems."""
        speed = self._speed_without(gemm.key)
        if speed != self._speed:
            rest = [one for one in self._leaders if one.key != gemm.key]
            there = {text for text, keys in self._leads.items() if keys - {gemm.key}}
            known = [one for one in rest if (one.family, one.text) in there]
            return self._legal(_Alike(known, speed), gemm)
        less = copy(self._alike)
        # What the copy would read of these families, with one problem less.
        families = tuple(each for each in less._by_family if FAMILIES.may(each, gemm))
        configs = list(self._without(gemm.key, families))
        less._tables = {families: Table(configs, self._speed, less._kinds)}
        return self._legal(less, gemm)

    def _speed_without(self, key: str) -> Speed:
        seen = (result for one, result in self._fastest.items() if one != key)
        return Speed.of(self._device.adapter_type, seen)

    def _without(self, key: str, families: tuple[str, ...]) -> Iterator[Measured]:
        """Every config of these families, with no time of that problem."""
        here = self._known.get(key, set())
        for text, measured in self._measured.items():
            if text[0] not in families:
                continue
            if text not in here:
                yield measured
            elif self._leads[text] - {key}:
                rest = [one for one in self._by_config[text] if one.key != key]
                yield Measured(rest, self._alike._problems, self._speed)

    def _legal(self, alike: _Alike, gemm: Gemm) -> Iterator[Text]:
        def edges(leader: Leader) -> bool:
            return leader.unchecked and leader.config.lacks_checks(gemm)

        for one in alike.ranked(gemm, edges):
            family = FAMILIES[one.leader.family]
            if not family.check(one.leader.config, gemm, self._device):
                yield one.leader.family, one.leader.text
