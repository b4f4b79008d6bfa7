"""One invocation per element of C, no reuse: the trusted reference on the device, never fast."""

from __future__ import annotations

from gemmtune.device import Device
from gemmtune.kernels.base import Config, Family, Launch, ceil_div, check_launch, check_problem
from gemmtune.light import dataclass
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveConfig(Config):
    """The block of C that one workgroup computes, one element per invocation."""

    tile_m: int = 8
    """Rows of C per workgroup."""
    tile_n: int = 8
    """Columns of C per workgroup."""


def check(config: NaiveConfig, gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.check`."""
    return check_problem(gemm, device) or check_launch(launch(config, gemm), device)


def launch(config: NaiveConfig, gemm: Gemm) -> tuple[Launch, ...]:
    """See `Family.launch`."""
    tiles = ceil_div(gemm.m, config.tile_m) * ceil_div(gemm.n, config.tile_n)
    whole = Launch(
        workgroups=tiles * gemm.batch,
        workgroup_size=(config.tile_m * config.tile_n, 1, 1),
    )
    return (whole,)


def default(gemm: Gemm, device: Device) -> NaiveConfig:
    """See `Family.default`."""
    return NaiveConfig()


def space(gemm: Gemm, device: Device, every: int = 1) -> Iterator[NaiveConfig]:
    """See `Family.space`."""
    if not check_problem(gemm, device):
        yield NaiveConfig()


def variables(config: NaiveConfig, gemm: Gemm, device: Device) -> dict[str, Any]:
    """See `Family.variables`."""
    return {"dims": "dynamic"}


FAMILY = Family(
    name="naive",
    template="naive.wgsl.j2",
    config=NaiveConfig,
    space=space,
    check=check,
    launch=launch,
    default=default,
    variables=variables,
    supported=check_problem,
)
