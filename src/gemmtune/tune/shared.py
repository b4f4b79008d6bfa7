"""Which study of a storage a problem's search is in: one for all rows whose times compare."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gemmtune.device import Device
from gemmtune.generators import generator_hash
from gemmtune.job import Policy, Versions
from gemmtune.kernels import FAMILIES
from gemmtune.problem import Gemm

if TYPE_CHECKING:
    from gemmtune.search.study import Storage, Study


def open_study(
    storage: Storage | None, gemm: Gemm, device: Device, versions: Versions, policy: Policy
) -> Study | None:
    """The study of ``gemm`` in ``storage``; None without one."""
    if storage is None:
        return None
    from gemmtune.search.study import Study  # late: Optuna takes half a second to import

    return Study(storage, study_name(gemm, device, versions, policy))


def study_name(gemm: Gemm, device: Device, versions: Versions, policy: Policy) -> str:
    """Says what is tuned where; another one for other generators, versions or measuring."""
    software = (versions.driver, versions.backend, versions.wgpu, versions.compiler)
    generators = (f"{name} {generator_hash(name)}" for name in sorted(FAMILIES))
    text = "\n".join((*software, *generators, policy.key))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{gemm.key} on {device.key} ({policy.cache}, {digest})"
