"""One search over catalogues for one problem: candidates best first, and the first legal one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from gemmtune.device import Device
from gemmtune.errors import DeviceError, ProblemTooLargeError
from gemmtune.job import Versions
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, check_problem
from gemmtune.lookup.answer import Lookup, Source
from gemmtune.lookup.catalogue import Catalogue, Leader, generator_hash
from gemmtune.problem import Gemm
from gemmtune.schema import Fingerprints

ESTIMATE_REACH = 8.0
"""Time is taken to grow with the operations up to this ratio; further off, it is not known."""


class Search:
    """One lookup over the catalogues, best level first."""

    def __init__(
        self,
        catalogues: tuple[Catalogue, ...],
        gemm: Gemm,
        device_key: str | None,
        device: Device | None,
        versions: Versions | None,
    ) -> None:
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
        """The first candidate that the family's check accepts, or a default."""
        for source, leader, why in self._candidates():
            if self._legal(leader.family, leader.config):
                return self._found(source, leader, why + self.note)
        family = "tiled" if self._default_works("tiled") else "naive"
        return Lookup(
            gemm=self.gemm,
            device=self.device,
            family=family,
            config=FAMILIES[family].default(self.gemm, self.device),
            source="default",
            why=f"nothing tuned fits; this is the default of the family {family}{self.note}",
        )

    def _candidates(self) -> Iterator[tuple[Source, Leader, str]]:
        here = [leader for c in self.catalogues for leader in c.leaders(self.key or "")]
        here.sort(key=lambda leader: (leader.stale, leader.unusual))  # else in their order
        for leader in here:
            if leader.gemm.key == self.gemm.key:
                yield "exact", leader, "measured for this problem on this device"
        for leader in self._by_distance(here):
            shape = leader.gemm.shape
            yield "near", leader, f"tuned on this device for {shape}, the nearest size that fits"
        siblings = self._siblings()
        for leader in self._by_distance(self._of(siblings)):
            driver = leader.device.driver or "another driver"
            yield "device", leader, f"tuned for {leader.gemm.shape} on this hardware with {driver}"
        for device in self._others(siblings):
            for leader in self._by_distance(self._of([device])):
                why = f"tuned for {leader.gemm.shape} on {device.name}, the most similar device"
                yield "device", leader, why

    def _of(self, devices: list[Device]) -> list[Leader]:
        return [leader for d in devices for c in self.catalogues for leader in c.leaders(d.key)]

    def _by_distance(self, leaders: list[Leader]) -> list[Leader]:
        """Those of the same kind, nearest size, today's templates, usual policy, speed."""
        kind = self.gemm.kind
        return sorted(
            (leader for leader in leaders if leader.gemm.kind == kind),
            key=lambda leader: (
                _size_distance(leader.gemm, self.gemm),
                leader.stale,
                leader.unusual,
                leader.time_ns / max(leader.gemm.flops, 1),
            ),
        )

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

    def _legal(self, family: str, config: Config) -> bool:
        try:
            return not FAMILIES[family].check(config, self.gemm, self.device)
        except (TypeError, ValueError, ArithmeticError):
            return False  # values no tuner writes, e.g. text for a size

    def _default_works(self, family: str) -> bool:
        record = FAMILIES[family]
        if record.supported(self.gemm, self.device):
            return False
        return self._legal(family, record.default(self.gemm, self.device))

    def _found(self, source: Source, leader: Leader, why: str) -> Lookup:
        same = leader.device.hardware_key == (self.known or self.device).hardware_key
        time_ns: float | None = None
        if source == "exact":
            time_ns = leader.time_ns
        elif same and leader.gemm.flops and self.gemm.flops:
            ratio = self.gemm.flops / leader.gemm.flops
            if 1 / ESTIMATE_REACH <= ratio <= ESTIMATE_REACH:
                time_ns = leader.time_ns * ratio
        return Lookup(
            gemm=self.gemm,
            device=self.device,
            family=leader.family,
            config=leader.config,
            source=source,
            why=why,
            time_ns=time_ns,
            demotions=self._demotions(leader),
            problem_key=leader.gemm.key,
        )

    def _demotions(self, leader: Leader) -> tuple[str, ...]:
        now = Fingerprints(generator_hash=generator_hash(leader.family))
        if self.known is not None and leader.device.hardware_key == self.known.hardware_key:
            now = replace(now, driver=self.known.driver)
        if self.versions is not None:
            now = replace(now, wgpu=self.versions.wgpu, compiler=self.versions.compiler)
        return leader.then.demotions(now)


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


def _size_distance(one: Gemm, other: Gemm) -> float:
    """Squared distance in doublings of m, n, k and batch."""
    return sum(
        math.log2(max(getattr(one, name), 1) / max(getattr(other, name), 1)) ** 2
        for name in ("m", "n", "k", "batch")
    )


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
