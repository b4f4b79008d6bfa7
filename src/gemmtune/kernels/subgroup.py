"""Fragments of A and B spread over the lanes of a subgroup and passed round by shuffles.

A subgroup of lanes_m x lanes_n lanes computes sg_m x sg_n of C; every lane holds reg_m x reg_n
sums, a share of the fragments, and gets the rest from its neighbours. No workgroup memory, no
barrier, no native matrices. Needs the feature ``subgroup`` and a measured subgroup size.
"""

from __future__ import annotations

from itertools import islice, product

from gemmtune.device import Device
from gemmtune.kernels.base import (
    DIMS,
    TOO_SMALL,
    Config,
    Family,
    Launch,
    ceil_div,
    check_launch,
    check_problem,
)
from gemmtune.kernels.tile import access_width
from gemmtune.light import dataclass
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from gemmtune.literals import Dims

MAX_SUMS = 128
"""Sums per invocation beyond which every driver seen spills registers to memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgroupConfig(Config):
    """One point of the family's space; sizes are in elements."""

    lanes_m: int
    """Lanes of a subgroup along m."""
    lanes_n: int
    """Lanes of a subgroup along n; lanes_m * lanes_n is the subgroup's size."""
    subgroups_m: int
    """Subgroups of a workgroup along m."""
    subgroups_n: int
    """Subgroups of a workgroup along n."""
    reg_m: int
    """Rows of C per lane."""
    reg_n: int
    """Columns of C per lane."""
    vec: int
    """Elements of one access along m or n, where the matrix is aligned."""
    vec_k: int
    """Elements of one access along k, where the matrix is aligned."""
    group_m: int
    """Rows of tiles that are walked down before the next column of tiles."""
    dims: Dims
    """Whether m, n, k are constants of the kernel."""

    @property
    def sg_size(self) -> int:
        """Lanes of a subgroup."""
        return self.lanes_m * self.lanes_n

    @property
    def sg_m(self) -> int:
        """Rows of C per subgroup."""
        return self.lanes_m * self.reg_m

    @property
    def sg_n(self) -> int:
        """Columns of C per subgroup."""
        return self.lanes_n * self.reg_n

    @property
    def tile_m(self) -> int:
        """Rows of C per workgroup."""
        return self.subgroups_m * self.sg_m

    @property
    def tile_n(self) -> int:
        """Columns of C per workgroup."""
        return self.subgroups_n * self.sg_n

    def tile_k(self, gemm: Gemm) -> int:
        """Depth of one step: what the lanes hold together of the operand that is deeper."""
        a = self.lanes_n * (1 if gemm.trans_a else self.vec_k)
        b = self.lanes_m * (self.vec_k if gemm.trans_b else 1)
        return max(a, b)


def supported(gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.supported`."""
    reasons = list(check_problem(gemm, device))
    if not device.has("subgroup"):
        reasons.append("the device lacks the feature subgroup")
    elif device.subgroup_size == 0:
        reasons.append("the device's subgroup size has not been measured")
    return tuple(reasons)


def check(config: SubgroupConfig, gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.check`."""
    reasons = supported(gemm, device) or tuple(_check_shape(config, gemm, device))
    if TOO_SMALL in reasons or supported(gemm, device):
        return reasons
    return reasons + check_launch(launch(config, gemm), device)


def _check_shape(c: SubgroupConfig, gemm: Gemm, device: Device) -> Iterator[str]:
    lanes = (c.lanes_m, c.lanes_n, c.subgroups_m, c.subgroups_n)
    if min(*lanes, c.reg_m, c.reg_n, c.group_m) < 1:
        yield TOO_SMALL
        return
    if c.sg_size != device.subgroup_size:
        yield f"made for subgroups of {c.sg_size}, the device has {device.subgroup_size}"
    if c.vec not in (1, 2, 4) or c.vec_k not in (1, 2, 4):
        yield f"vec {c.vec} and vec_k {c.vec_k} must each be 1, 2 or 4"
        return
    if c.reg_n % c.vec:
        yield f"reg_n {c.reg_n} is not a multiple of vec {c.vec}"
    if gemm.trans_a and c.reg_m % c.vec:
        yield f"reg_m {c.reg_m} is not a multiple of vec {c.vec}"
    if c.reg_m * c.reg_n > MAX_SUMS:
        yield f"{c.reg_m * c.reg_n} sums per lane; over {MAX_SUMS} they spill"
    tile_k = c.tile_k(gemm)
    a_depth = c.lanes_n * (1 if gemm.trans_a else c.vec_k)
    b_depth = c.lanes_m * (c.vec_k if gemm.trans_b else 1)
    if tile_k % a_depth or tile_k % b_depth:
        yield f"{c.lanes_m} x {c.lanes_n} lanes do not divide a step of {tile_k}"
    if tile_k * (c.reg_m / c.lanes_n + c.reg_n / c.lanes_m) > MAX_SUMS:
        yield f"fragments of depth {tile_k} do not fit the registers"


def launch(config: SubgroupConfig, gemm: Gemm) -> tuple[Launch, ...]:
    """See `Family.launch`."""
    tiles = ceil_div(gemm.m, config.tile_m) * ceil_div(gemm.n, config.tile_n)
    whole = Launch(
        workgroups=tiles * gemm.batch,
        workgroup_size=(config.sg_size * config.subgroups_m * config.subgroups_n, 1, 1),
    )
    return (whole,)


def default(gemm: Gemm, device: Device) -> SubgroupConfig:
    """4 x 4 sums per lane, lanes as square as they get; see `Family.default`."""
    lanes_n = 1
    while lanes_n * lanes_n < device.subgroup_size:
        lanes_n *= 2
    return SubgroupConfig(
        lanes_m=device.subgroup_size // lanes_n,
        lanes_n=lanes_n,
        subgroups_m=1,
        subgroups_n=1,
        reg_m=4,
        reg_n=4,
        vec=4,
        vec_k=1,
        group_m=1,
        dims="dynamic",
    )


_GRIDS = ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (1, 4), (2, 4), (4, 2))
_POWERS = (1, 2, 4, 8, 16)


def space(gemm: Gemm, device: Device, every: int = 1) -> Iterator[SubgroupConfig]:
    """See `Family.space`."""
    if supported(gemm, device):
        return
    size = device.subgroup_size
    lanes = [(i, size // i) for i in _POWERS if size % i == 0]
    depths = (1, 2, 4) if not gemm.trans_a or gemm.trans_b else (1,)
    combinations = product(lanes, _GRIDS, _POWERS, _POWERS, (1, 2, 4), depths, (1, 8), DIMS)
    for (lanes_m, lanes_n), (
        subgroups_m,
        subgroups_n,
    ), reg_m, reg_n, vec, vec_k, group_m, dims in islice(combinations, 0, None, every):
        config = SubgroupConfig(
            lanes_m=lanes_m,
            lanes_n=lanes_n,
            subgroups_m=subgroups_m,
            subgroups_n=subgroups_n,
            reg_m=reg_m,
            reg_n=reg_n,
            vec=vec,
            vec_k=vec_k,
            group_m=group_m,
            dims=dims,
        )
        one_row = config.tile_m >= gemm.m or config.tile_n >= gemm.n
        wasteful = config.tile_m >= 2 * max(gemm.m, 8) or config.tile_n >= 2 * max(gemm.n, 8)
        if wasteful or (one_row and group_m > 1):
            continue
        fits = next(_check_shape(config, gemm, device), None) is None
        if fits and not check_launch(launch(config, gemm), device):
            yield config


def variables(config: SubgroupConfig, gemm: Gemm, device: Device) -> dict[str, Any]:
    """See `Family.variables`."""
    static = config.dims == "static"
    a_along, b_along = not gemm.trans_a, gemm.trans_b
    tile_k = config.tile_k(gemm)
    return {
        "tile_m": config.tile_m,
        "tile_n": config.tile_n,
        "tile_k": tile_k,
        "sg_m": config.sg_m,
        "sg_n": config.sg_n,
        "sg_size": config.sg_size,
        "a_vec": access_width(
            config.vec_k if a_along else config.vec, gemm.k if a_along else gemm.m, gemm, "a"
        ),
        "b_vec": access_width(
            config.vec_k if b_along else config.vec, gemm.k if b_along else gemm.n, gemm, "b"
        ),
        "c_vec": access_width(config.vec, gemm.n, gemm, "c"),
        "edge_m": not static or gemm.m % config.tile_m != 0,
        "edge_n": not static or gemm.n % config.tile_n != 0,
        "edge_k": not static or gemm.k % tile_k != 0,
    }


FAMILY = Family(
    name="subgroup",
    template="subgroup.wgsl.j2",
    config=SubgroupConfig,
    space=space,
    check=check,
    launch=launch,
    default=default,
    variables=variables,
    supported=supported,
    features=("subgroup",),
)
