"""One search over catalogues for one problem: candidates best first, and the first legal one."""

from __future__ import annotations

import math
from itertools import groupby

from gemmtune.device import Device
from gemmtune.errors import DeviceError, ProblemTooLargeError, UsageError
from gemmtune.generators import generator_hash
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import check_problem
from gemmtune.light import NamedTuple, replace
from gemmtune.lookup.answer import Lookup
from gemmtune.lookup.catalogue import Catalogue
from gemmtune.lookup.leader import Leader
from gemmtune.lookup.portfolio import Portfolio, asks_alone, portfolio_of
from gemmtune.problem import Gemm
from gemmtune.schema import Fingerprints
from gemmtune.ties import tied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gemmtune.job import Versions
    from gemmtune.literals import Source

REACH = 4.0
"""Doublings up to which a predicted time is told."""
NEAR_SHARE, SHARE_PER_DOUBLING, LEAST_SHARE = 0.95, 0.04, 0.5
"""What `Lookup.expected_share` says of a problem that was not tuned, by its distance from the one
that was. Of 280 shapes on an H100 that were tuned for some 50 to 110 configs and left out, choices
reached 95 % within half a doubling, 92 within one, 90 and 87 within one and a half and two."""
ADVISED_SHARE = 0.95
"""The same where decision trees chose, however far. Of 44 held-out shapes each, first choices
reached 96.5 % in f16 and 97.8 in f32."""
ADVISED = ", and named by decision trees for such sizes"
PREDICTED = ", predicted to be the fastest here"
MOST_ALTERNATIVES = 8
LAST_RESORTS = 2


class Candidate(NamedTuple):
    """A leader that may be the answer."""

    source: Source
    """See `gemmtune.literals.Source`."""
    leader: Leader
    """The measurement behind it."""
    why: str
    """In words."""
    time_ns: float | None
    """For the problem asked about; None: not known."""
    far: float = 0.0
    """Doublings between that problem and the leader's."""
    advised: bool = False
    """Decision trees named it."""


class Search:
    """One lookup over the catalogues, best level first."""

    def __init__(
        self,
        catalogues: tuple[Catalogue, ...],
        gemm: Gemm,
        device_key: str | None,
        device: Device | None,
        versions: Versions | None,
        *,
        deterministic: bool = False,
        max_rel_err: float | None = None,
    ) -> None:
        self.deterministic = deterministic
        self.max_rel_err = max_rel_err
        self.catalogues = catalogues
        self.gemm = gemm
        self.versions = versions
        self.key = device_key if device_key is not None or device is None else device.key
        self.known = device or self._recorded()
        self.device, self.note = (self.known, "") if self.known else _assumed(gemm)
        if device is None and self.known is not None and self.known.key != self.key:
            self.note = f"; the limits are those it has with driver {self.known.driver}"
        _require_possible(gemm, self.device)

    def _recorded(self) -> Device | None:
        """The device of this key, or the same hardware with another driver, from the databases."""
        same = [c.devices[self.key] for c in self.catalogues if self.key in c.devices]
        return next(iter(same or self._siblings()), None)

    def _siblings(self) -> list[Device]:
        if self.key is None:
            return []
        hardware = self.key.rpartition("/")[0]
        everywhere = {key: d for c in self.catalogues for key, d in c.devices.items()}
        return [
            d for key, d in everywhere.items() if d.hardware_key == hardware and key != self.key
        ]

    def answer(self) -> Lookup:
        """The first candidate that the family's check and the caller's wishes accept.

        Raises:
            UsageError: no kernel can be as accurate as is wished.
        """
        rest = _Rest(self)
        first = self._at_once(rest) or next(self._answers(rest), None)
        if first is None:
            raise UsageError(
                f"no kernel for {self.gemm.key} on {self.device.name} is known to keep "
                f"max_rel_err={self.max_rel_err:g}; wider dtypes of c and acc are more accurate"
            )
        rest.first = first
        return first

    def _at_once(self, others: Callable[[], tuple[Lookup, ...]]) -> Lookup | None:
        """The first of the answers, of a process that has not read all results yet, where those of
        this very problem are enough to tell: none that was the fastest is not legal here.
        """
        if self.key is None or not asks_alone(self.catalogues, self.key, self.gemm):
            return None
        exact = [one for each in self.catalogues for one in each.winners(self.key, self.gemm.key)]
        best = min(map(_rank, exact), default=None)
        alike = [leader for leader in exact if _rank(leader) == best]
        if not alike or not all(map(self._legal, alike)):
            return None
        winner = tied(alike, self.gemm)[0]
        return self._found(_exact(winner), others) if self._accurate(winner) else None

    def _answers(self, others: Callable[[], tuple[Lookup, ...]] = tuple) -> Iterator[Lookup]:
        """Everything that works, best first; the last are the defaults of plain families.

        Args:
            others: see `Lookup.others`.
        """
        for candidate in self._candidates():
            leader = candidate.leader
            if self._legal(leader) and self._accurate(leader):
                yield self._found(candidate, others)
        for family in ("gemv", "tiled", "naive"):
            if self._default_works(family):
                yield Lookup(
                    gemm=self.gemm,
                    device=self.device,
                    family=family,
                    config=FAMILIES[family].default(self.gemm, self.device),
                    source="default",
                    why=f"nothing tuned fits; this is the default of the family {family}"
                    f"{self.note}",
                    others=others,
                )

    def _candidates(self) -> Iterator[Candidate]:
        here = self._of(self.key or "")
        exact = list(here.of_problem(self.gemm.key))
        exact.sort(key=_rank)  # else in their order
        yield from map(_exact, self._winners_first(exact))
        yield from self._ranked("near", here, "measured on this device for {shape}")
        siblings = self._siblings()
        for leader_device in siblings:
            driver = leader_device.driver or "another driver"
            why = f"measured for {{shape}} on this hardware with {driver}"
            yield from self._ranked("device", self._of(leader_device.key), why)
        for device in self._others(siblings):
            why = f"measured for {{shape}} on {device.name}, the most similar device"
            yield from self._ranked("device", self._of(device.key), why)

    def _ranked(self, source: Source, portfolio: Portfolio, why: str) -> Iterator[Candidate]:
        """Of one device, by today's templates, usual policy and predicted time."""
        for one in portfolio.ranked(self.gemm, self._lacks_checks):
            leader = one.leader
            told = one.far <= REACH and _alike(leader.device, self.known or self.device)
            yield Candidate(
                source=source,
                leader=leader,
                why=why.format(shape=leader.key.partition(":")[0])
                + (ADVISED if one.advised else PREDICTED),
                time_ns=one.time_ns if told else None,
                far=one.far,
                advised=one.advised,
            )

    def _lacks_checks(self, leader: Leader) -> bool:
        """It won without bounds checks, and this problem's edges need them."""
        try:
            return leader.unchecked and leader.config.lacks_checks(self.gemm)
        except (TypeError, ValueError, ArithmeticError):
            return False  # values no tuner writes

    def _of(self, device_key: str) -> Portfolio:
        """What all catalogues together know of a device and such problems."""
        return portfolio_of(self.catalogues, device_key, self.gemm)

    def _others(self, siblings: list[Device]) -> list[Device]:
        """Devices of other hardware, most similar first; software only for software."""
        taken = {self.key, *(device.key for device in siblings)}
        everywhere = {key: d for c in self.catalogues for key, d in c.devices.items()}
        return sorted(
            (
                device
                for key, device in everywhere.items()
                if key not in taken and device.software == self.device.software
            ),
            key=lambda device: (*_device_distance(device, self.device), device.key),
        )

    def _winners_first(self, leaders: list[Leader]) -> Iterator[Leader]:
        """Of those whose times compare the winner and all tied with it, then the others."""
        for _, group in groupby(leaders, key=_rank):
            alike = list(group)
            winners = tied([leader for leader in alike if self._legal(leader)], self.gemm)
            yield from winners
            yield from (leader for leader in alike if leader not in winners)

    def _legal(self, leader: Leader) -> bool:
        try:
            config = leader.config
            return not FAMILIES[leader.family].check(config, self.gemm, self.device) and (
                not self.deterministic or bool(getattr(config, "deterministic", True))
            )
        except (TypeError, ValueError, ArithmeticError):
            return False  # values no tuner writes, e.g. text for a size

    def _accurate(self, leader: Leader) -> bool:
        """Whether the error that was measured, grown with the root of k, is small enough."""
        if self.max_rel_err is None:
            return True
        if leader.max_rel_error is None:
            return _rounding(self.gemm) <= self.max_rel_err
        growth = math.sqrt(max(self.gemm.k / max(leader.k, 1), 1.0))
        return leader.max_rel_error * growth <= self.max_rel_err

    def _default_works(self, family: str) -> bool:
        record = FAMILIES[family]
        if record.supported(self.gemm, self.device):
            return False
        if self.max_rel_err is not None and _rounding(self.gemm) > self.max_rel_err:
            return False
        try:
            config = record.default(self.gemm, self.device)
            return not record.check(config, self.gemm, self.device)
        except (TypeError, ValueError, ArithmeticError):
            return False

    def _found(self, candidate: Candidate, others: Callable[[], tuple[Lookup, ...]]) -> Lookup:
        leader = candidate.leader
        demotions = self._demotions(leader)
        return Lookup(
            gemm=self.gemm,
            device=self.device,
            family=leader.family,
            config=leader.config,
            source=candidate.source,
            why=candidate.why + self.note,
            time_ns=candidate.time_ns,
            demotions=demotions,
            problem_key=leader.key,
            expected_share=_share(candidate),
            others=others,
        )

    def _demotions(self, leader: Leader) -> tuple[str, ...]:
        now = Fingerprints(generator_hash=generator_hash(leader.family))
        if self.known is not None and _alike(leader.device, self.known):
            now = now._replace(driver=self.known.driver)
        if self.versions is not None:
            now = now._replace(wgpu=self.versions.wgpu, compiler=self.versions.compiler)
        return leader.then.demotions(now)


class _Rest:
    """The rest of the answers of a search, each config once; found once, by whoever asks first."""

    __slots__ = ("_found", "_search", "first")

    def __init__(self, search: Search) -> None:
        self._search = search
        self.first: Lookup | None = None
        """The answer that they are alternatives to."""
        self._found: tuple[Lookup, ...] | None = None

    def __call__(self) -> tuple[Lookup, ...]:
        if self._found is None:
            seen = {(one.family, one.config) for one in (self.first,) if one}
            rest = []
            for one in self._search._answers():
                if (one.family, one.config) not in seen:
                    seen.add((one.family, one.config))
                    rest.append(one)
            # The last are those that always work, so they are never cut off.
            if len(rest) > MOST_ALTERNATIVES:
                rest[MOST_ALTERNATIVES - LAST_RESORTS : -LAST_RESORTS] = []
            self._found = tuple(rest)
        return self._found


def _assumed(gemm: Gemm) -> tuple[Device, str]:
    """The least WebGPU device that can hold ``gemm``, and what had to be assumed for it."""
    device = Device()
    assumed = []
    if "f16" in (gemm.a, gemm.b, gemm.c, gemm.acc):
        device = replace(device, features=("shader-f16",))
        assumed.append("shader-f16")
    largest = max(gemm.size_bytes(operand) for operand in ("a", "b", "c", "bias"))
    if largest > device.limits.storage_binding_bytes:
        limits = replace(
            device.limits,
            storage_binding_bytes=largest,
            buffer_bytes=max(largest, device.limits.buffer_bytes),
        )
        device = replace(device, limits=limits)
        assumed.append(f"bindings of {largest} bytes")
    note = f"; the device is not known: it is taken to have {' and '.join(assumed)}"
    return device, note if assumed else "; the device is not known"


def _require_possible(gemm: Gemm, device: Device) -> None:
    reasons = check_problem(gemm, device)
    if reasons:
        f16 = "f16" in (gemm.a, gemm.b, gemm.c, gemm.acc) and not device.has("shader-f16")
        kind = DeviceError if f16 else ProblemTooLargeError
        raise kind(f"{gemm.key} cannot run on {device.name}: {'; '.join(reasons)}")


def _rank(leader: Leader) -> tuple[bool, int]:
    """Times compare where it is the same; the least counts first."""
    return leader.stale, leader.unusual


def _exact(leader: Leader) -> Candidate:
    return Candidate(
        source="exact",
        leader=leader,
        why="measured for this problem on this device",
        time_ns=leader.time_ns,
    )


def _share(candidate: Candidate) -> float | None:
    """See `Lookup.expected_share`."""
    if candidate.source == "exact":
        return 1.0
    if candidate.time_ns is None:
        return None
    if candidate.advised:
        return ADVISED_SHARE
    return max(LEAST_SHARE, NEAR_SHARE - SHARE_PER_DOUBLING * candidate.far)


def _rounding(gemm: Gemm) -> float:
    """Relative error that rounding alone explains, for kernels whose own was not measured."""
    units = {"f32": 2.0**-24, "f16": 2.0**-11}
    return units[gemm.c] + units[gemm.acc] * math.sqrt(max(gemm.k, 1))


def _alike(one: Device, other: Device) -> bool:
    """Whether they are the same hardware."""
    return one is other or one.hardware_key == other.hardware_key


def _device_distance(one: Device, other: Device) -> tuple[bool, bool, bool, float, float]:
    """Vendor, chip and backend first, then subgroups, then limits."""

    def doublings(a: int, b: int) -> float:
        return abs(math.log2(max(a, 1) / max(b, 1)))

    return (
        one.vendor_id != other.vendor_id,
        one.device_id != other.device_id,
        one.backend != other.backend,
        doublings(one.subgroup_size, other.subgroup_size),
        doublings(one.limits.workgroup_storage_bytes, other.limits.workgroup_storage_bytes)
        + doublings(one.limits.invocations_per_workgroup, other.limits.invocations_per_workgroup),
    )
