"""Fast matrix multiplication on every WebGPU device: generate, tune, keep, look up WGSL GEMMs."""

from __future__ import annotations

from gemmtune.device import Device, Limits
from gemmtune.errors import GemmtuneError
from gemmtune.lookup import Lookup, lookup, record, refresh
from gemmtune.problem import Gemm

__all__ = [
    "Device",
    "Gemm",
    "GemmtuneError",
    "Limits",
    "Lookup",
    "__version__",
    "lookup",
    "record",
    "refresh",
]

__version__ = "0.1.0"
