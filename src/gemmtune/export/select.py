"""Which kernel of a document to run: how programs without Python choose, `gemmtune.js` too.

The rule is that of `gemmtune.lookup`, but that kernels are only taken as they were rendered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemmtune.export.values import Document, Portable
from gemmtune.lookup import CHECKS_COST, distance, doubt
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

    def good(name: str | None) -> bool:
        return name is not None and able.runs(kernels[name]) and kernels[name].serves(gemm)

    found = [
        Chosen(id=one.kernel, source="exact", time_ns=one.time_ns)
        for tuned in document.problems
        if tuned.gemm.key == gemm.key
        for one in tuned.results
        if good(one.kernel)
    ]
    near: dict[str, tuple[float, float, float]] = {}
    for tuned in document.problems:
        if tuned.gemm.kind != gemm.kind or tuned.gemm.key == gemm.key:
            continue
        far = distance(tuned.gemm, gemm)
        for one in tuned.results:
            name = one.kernel if good(one.kernel) else one.general
            if name is None or not good(name) or (name in near and near[name][2] <= far):
                continue
            lost = kernels[one.kernel].needs.unchecked and not kernels[name].needs.unchecked
            took_ns = one.time_ns * (CHECKS_COST if lost else 1.0)
            time_ns = _predicted(document, kernels[name], took_ns, tuned.gemm, gemm)
            near[name] = (time_ns * doubt(far), time_ns, far)
    ranked = sorted((rank, name, time_ns) for name, (rank, time_ns, _) in near.items())
    found += [Chosen(id=name, source="near", time_ns=time_ns) for _, name, time_ns in ranked]
    last = [name for name in document.fallbacks.get(gemm.kind, ()) if good(name)]
    if min(gemm.m, gemm.n) >= LARGE:
        last.reverse()
    found += [Chosen(id=name, source="default", time_ns=None) for name in last]
    first: dict[str, Chosen] = {}
    for each in found:
        first.setdefault(each.id, each)
    return list(first.values())


def _predicted(
    document: Document, kernel: Portable, time_ns: float, measured: Gemm, gemm: Gemm
) -> float:
    speed, first = document.speed, kernel.passes[0]
    before, after = first.workgroups.of(measured), first.workgroups.of(gemm)
    each = math.prod(first.workgroup_size)
    moved = speed.predict(time_ns, before, after, measured.k, gemm.k, each)
    return max(moved, speed.least_ns(gemm))
