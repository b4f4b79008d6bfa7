"""Winners of like problems, to be tried first: a few trials that often come near the best.

The most alike is the problem itself, tuned before with other software or measured in another way.

Measured on recorded landscapes, a relative's best configs reach 95 % of the optimum within a few
evaluations where the relation is close, and cost only those few where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gemmtune.device import Device
from gemmtune.errors import ConfigError
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.store import Row, Store

MOST = 12
"""Relatives that are tried; the search finds its own way after them."""


def relatives(
    store: Store, gemm: Gemm, device: Device, families: Sequence[str]
) -> list[tuple[str, Config]]:
    """Distinct legal winners of known problems, the nearest relation first.

    The nearest problem on this very device comes first, then nearest ones on others; software
    adapters and hardware have nothing to tell each other.
    """
    devices = {known.key: known for known in store.devices()}
    problems = {known.key: known for known in store.problems()}
    rows = [
        row
        for row in store.best()
        if row.family in families and devices[row.device_key].software == device.software
    ]
    rows.sort(
        key=lambda row: (
            row.device_key != device.key,
            _distance(gemm, problems[row.problem_key]),
            row.id,
        )
    )
    found: dict[tuple[str, Config], None] = {}
    for row in rows:
        config = _legal(row, gemm, device)
        if config is not None:
            found[row.family, config] = None
        if len(found) == MOST:
            break
    return list(found)


def _legal(row: Row, gemm: Gemm, device: Device) -> Config | None:
    try:
        config = row.config
    except ConfigError:
        return None  # of an older gemmtune, whose family had other fields
    return None if FAMILIES[row.family].check(config, gemm, device) else config


def _distance(one: Gemm, other: Gemm) -> float:
    """Octaves between the sizes; another dtype or layout counts like a factor of four."""
    sizes = ((one.m, other.m), (one.n, other.n), (one.k, other.k), (one.batch, other.batch))
    octaves = sum(abs(math.log2(max(a, 1) / max(b, 1))) for a, b in sizes)
    return octaves + (0.0 if one.kind == other.kind else 2.0)
