"""Matrix products on wgpu devices: plans on the caller's own device, and NumPy in, NumPy out.

Needs the extra ``gpu`` (numpy and wgpu). Tunes nothing: kernels come from `gemmtune.lookup`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from gemmtune.gpu.devices import request_device

if TYPE_CHECKING:
    from gemmtune.gpu.arrays import Matmul, matmul
    from gemmtune.gpu.plans import Plan, plan

__all__ = ["Matmul", "Plan", "matmul", "plan", "request_device"]

# Late, because request_device(matrices=True) has to come before anything imports wgpu.
_HOMES = {"Matmul": "arrays", "matmul": "arrays", "Plan": "plans", "plan": "plans"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gemmtune.gpu.devices import needing_wgpu

    with needing_wgpu():
        return getattr(import_module(f"gemmtune.gpu.{_HOMES[name]}"), name)
