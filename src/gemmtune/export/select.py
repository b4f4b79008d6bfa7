"""Which kernel of a document to run: how programs without Python choose, `gemmtune.js` too.

The rule is that of `gemmtune.lookup`, but that kernels are only taken as they were rendered.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gemmtune.export.values import Document, Portable
from gemmtune.lookup import CHECKS_COST, Pace, Speed, distance, doubt, weights
from gemmtune.problem import Gemm

LARGE = 1024
"""From this size of m and n on, the fallback with the larger tiles comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Able:
    """What a device can do, by the names that its engine has for it."""

    dialect: str
    """The WGSL it takes."""
    features: tuple[str, ...] = ()
    """Those that it was requested with."""
    limits: Mapping[str, int]
    """By WebGPU's names."""
    subgroup_size: int = 0
    """0: not known, or no subgroups."""

    def runs(self, kernel: Portable) -> bool:
        """Whether the device has all that the kernel needs."""
        needs = kernel.needs
        return (
            kernel.dialect in (None, self.dialect)
            and set(needs.features) <= set(self.features)
            and all(self.limits.get(name, 0) >= least for name, least in needs.limits.items())
            and needs.subgroup_size in (None, self.subgroup_size)
        )

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "dialect": self.dialect,
            "features": list(self.features),
            "limits": dict(self.limits),
            "subgroup_size": self.subgroup_size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A kernel that can do the problem."""

    id: str
    """Of the kernel."""
    source: str
    """exact, near or default."""
    time_ns: float | None
    """As measured, or predicted; None: not known."""


def candidates(document: Document, gemm: Gemm, able: Able) -> list[Chosen]:
    """Every kernel that can do ``gemm`` on such a device, best first."""
    kernels = {one.id: one for one in document.kernels}

    def good(name: str) -> bool:
        return able.runs(kernels[name]) and kernels[name].serves(gemm)

    found = [
        Chosen(id=one.kernel, source="exact", time_ns=one.time_ns)
        for tuned in document.problems
        if tuned.gemm.key == gemm.key
        for one in tuned.timed
        if good(one.kernel)
    ]
    near = {one.id: one for one in _near(document, gemm, good)}
    advice = document.forests.get(gemm.kind)
    for ids in advice.on(gemm) if advice else ():
        name = next(filter(good, ids), None)
        found += [near[name]] if name in near else []
    found += near.values()
    last = [name for name in document.fallbacks.get(gemm.kind, ()) if good(name)]
    if min(gemm.m, gemm.n) >= LARGE:
        last.reverse()
    found += [Chosen(id=name, source="default", time_ns=None) for name in last]
    first: dict[str, Chosen] = {}
    for each in found:
        first.setdefault(each.id, each)
    return list(first.values())


def _near(document: Document, gemm: Gemm, good: Callable[[str], bool]) -> list[Chosen]:
    """Kernels by the times predicted from other problems."""
    kernels = {one.id: one for one in document.kernels}
    speed, paces = document.speed, document.paces
    near: dict[str, list[tuple[float, float]]] = defaultdict(list)
    longest_ns: dict[str, float] = defaultdict(float)
    for tuned in document.problems:
        if tuned.gemm.kind != gemm.kind or tuned.gemm.key == gemm.key:
            continue
        far = distance(tuned.gemm, gemm)
        for one in tuned.timed:
            name = next((each for each in (one.kernel, *one.general) if good(each)), None)
            if name is not None:
                lost = kernels[one.kernel].needs.unchecked and not kernels[name].needs.unchecked
                pair = tuned.gemm, gemm
                time_ns = _predicted(speed, paces[name], kernels[name], one.time_ns, *pair)
                near[name].append((far, time_ns * (CHECKS_COST if lost else 1.0)))
                longest_ns[name] = max(longest_ns[name], one.time_ns)
    ranked = []
    for name, times in near.items():
        counts = weights([far for far, _ in times])
        logs = sum(w * math.log(t) for w, (_, t) in zip(counts, times, strict=True))
        time_ns = math.exp(logs / sum(counts))
        far = min(far for far, _ in times)
        ranked.append((time_ns * doubt(far, time_ns, longest_ns[name]), name, time_ns))
    return [Chosen(id=name, source="near", time_ns=t) for _, name, t in sorted(ranked)]


def _predicted(
    speed: Speed, pace: Pace, kernel: Portable, time_ns: float, measured: Gemm, gemm: Gemm
) -> float:
    parts = speed.parts(time_ns, measured.traffic_bytes, len(kernel.passes))
    before, after = (speed.work(*kernel.dispatch(one), pace) for one in (measured, gemm))
    traffic = parts.traffic * gemm.traffic_bytes / max(measured.traffic_bytes, 1)
    return parts.launches + traffic + parts.work * after / before
