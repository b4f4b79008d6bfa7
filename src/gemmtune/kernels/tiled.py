"""Tiles of A and B in workgroup memory, a block of C in the registers of every invocation.

A workgroup of wg_m x wg_n invocations computes tile_m x tile_n of C in steps of tile_k; one
invocation holds reg_m x reg_n sums. Works on every WebGPU device.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import islice, product

from gemmtune.device import Device
from gemmtune.kernels.base import (
    DIMS,
    TOO_SMALL,
    Config,
    Family,
    Launch,
    added,
    ceil_div,
    check_launch,
    check_problem,
)
from gemmtune.kernels.split import check_split, passes, sharers, widths, workspace_bytes, worthwhile
from gemmtune.kernels.tile import TileOperand, access_width
from gemmtune.light import dataclass, replace
from gemmtune.problem import DTYPES, SIZEOF, Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

    from gemmtune.literals import Dims, Dtype, OrderA, OrderB, Stages

MAX_SUMS = 128
"""Sums per invocation beyond which every driver seen spills registers to memory."""
LANES = 32
"""Invocations that are laid out together by `lanes_n`; where subgroups are smaller or larger it is
still only an order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledConfig(Config):
    """One point of the family's space; sizes are in elements."""

    wg_m: int
    """Invocations of a workgroup along m."""
    wg_n: int
    """Invocations of a workgroup along n."""
    lanes_n: int
    """How many of 32 consecutive invocations lie along n; the rest of them lie along m."""
    reg_m: int
    """Rows of C per invocation."""
    reg_n: int
    """Columns of C per invocation."""
    tile_k: int
    """Depth of one step."""
    vec: int
    """Elements of one access to workgroup memory, and to A, B and C where they are aligned."""
    tile_a: OrderA
    """Order of A's tile in workgroup memory; the vectors lie along the last."""
    tile_b: OrderB
    """Order of B's tile in workgroup memory; the vectors lie along the last."""
    tile_dtype: Dtype
    """Of both tiles in workgroup memory."""
    pad_a: int
    """Unused elements at the end of each row of A's tile, against bank conflicts."""
    pad_b: int
    """The same for B's tile."""
    stages: Stages
    """Tiles of each operand in workgroup memory; 2 saves one of two barriers a step."""
    prefetch: bool
    """The next tile comes into registers while this one is multiplied; always so with 2 stages."""
    unroll_k: int
    """Steps of k written out in the inner loop."""
    group_m: int
    """Rows of tiles that are walked down before the next column of tiles."""
    dims: Dims
    """Whether m, n, k are constants of the kernel."""
    split_k: int = added(1)
    """Workgroups that share the sums of a tile; their parts are added up by a second pass."""

    @property
    def tile_m(self) -> int:
        """Rows of C per workgroup."""
        return self.wg_m * self.reg_m

    @property
    def tile_n(self) -> int:
        """Columns of C per workgroup."""
        return self.wg_n * self.reg_n

    @property
    def invocations(self) -> int:
        """Invocations per workgroup."""
        return self.wg_m * self.wg_n

    @property
    def storage_bytes(self) -> int:
        """Workgroup memory of one workgroup."""
        a = (self.tile_m + self.pad_a) * self.tile_k
        if self.tile_a == "mk":
            a = (self.tile_k + self.pad_a) * self.tile_m
        b = (self.tile_n + self.pad_b) * self.tile_k
        if self.tile_b == "nk":
            b = (self.tile_k + self.pad_b) * self.tile_n
        return (a + b) * self.stages * SIZEOF[self.tile_dtype]


def check(config: TiledConfig, gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.check`."""
    problem = check_problem(gemm, device)
    if problem:
        return problem
    reasons = tuple(_check_shape(config, gemm))
    if TOO_SMALL in reasons:
        return reasons
    return reasons + _check_launch(config, gemm, device)


def _check_launch(config: TiledConfig, gemm: Gemm, device: Device) -> tuple[str, ...]:
    return check_launch(launch(config, gemm), device, workspace(config, gemm))


def _check_shape(c: TiledConfig, gemm: Gemm) -> Iterator[str]:
    if min(c.wg_m, c.wg_n, c.lanes_n, c.reg_m, c.reg_n, c.tile_k, c.unroll_k, c.group_m) < 1 or (
        c.split_k < 1
    ):
        yield TOO_SMALL
        return
    if c.vec not in (1, 2, 4):
        yield f"vec {c.vec} is not 1, 2 or 4"
        return
    if c.stages not in (1, 2) or (c.stages == 2 and not c.prefetch):
        yield f"stages is {c.stages}; it must be 1, or 2 with prefetch"
    if c.reg_n % c.vec or (c.tile_a == "km" and c.reg_m % c.vec) or c.tile_k % c.vec:
        yield (
            f"vectors of {c.vec} do not divide the {c.reg_m} x {c.reg_n} sums of an invocation "
            f"(tile_a {c.tile_a}) or tile_k {c.tile_k}"
        )
    if c.pad_a % c.vec or c.pad_b % c.vec or min(c.pad_a, c.pad_b) < 0:
        yield f"pads {c.pad_a} and {c.pad_b} are not multiples of vec {c.vec}"
    along_k = c.tile_a == "mk" or c.tile_b == "nk"
    if c.tile_k % c.unroll_k or (along_k and c.unroll_k % c.vec):
        yield f"unroll_k {c.unroll_k} does not divide tile_k {c.tile_k} in vectors of {c.vec}"
    if LANES % c.lanes_n or c.wg_n % c.lanes_n or c.wg_m % (LANES // c.lanes_n):
        yield f"{c.lanes_n} of {LANES} lanes along n do not tile {c.wg_m} x {c.wg_n} invocations"
    if c.reg_m * c.reg_n > MAX_SUMS:
        yield f"{c.reg_m * c.reg_n} sums per invocation; over {MAX_SUMS} they spill"
    yield from _check_load("A", c.tile_m, c.tile_k, c.vec, c.invocations, not gemm.trans_a)
    yield from _check_load("B", c.tile_n, c.tile_k, c.vec, c.invocations, gemm.trans_b)
    if c.split_k > 1:
        yield from check_split(c.split_k, c.tile_k, gemm)
    if c.tile_dtype == "f16" and (gemm.a, gemm.b) != ("f16", "f16"):
        yield f"tiles in f16 would round operands in {gemm.a} and {gemm.b}"
    if gemm.acc == "f16" and c.tile_dtype != "f16":
        yield "sums in f16 are made of tiles in f16"


@lru_cache(maxsize=1 << 10)
def _check_load(
    name: str, tile: int, tile_k: int, vec: int, invocations: int, along_k: bool
) -> tuple[str, ...]:
    """Every invocation must load the same number of vectors, in whole rows or parts of one."""
    vectors, row = tile * tile_k // vec, (tile_k if along_k else tile) // vec
    whole = row > 0 and (invocations % row == 0 or row % invocations == 0)
    if vectors % invocations or not whole:
        reason = f"{invocations} invocations do not divide {name}'s tile of {vectors} vectors"
        return (f"{reason} in rows of {row}",)
    return ()


def launch(config: TiledConfig, gemm: Gemm) -> tuple[Launch, ...]:
    """See `Family.launch`."""
    tiles = ceil_div(gemm.m, config.tile_m) * ceil_div(gemm.n, config.tile_n)
    main = Launch(
        workgroups=tiles * gemm.batch,
        workgroup_size=(config.invocations, 1, 1),
        workgroup_storage_bytes=config.storage_bytes,
    )
    return passes(main, config.split_k, gemm)


def workspace(config: TiledConfig, gemm: Gemm) -> int:
    """See `Family.workspace`."""
    return workspace_bytes(config.split_k, gemm)


def default(gemm: Gemm, device: Device) -> TiledConfig:
    """128 x 128 tiles for large matrices, 64 x 64 for others; see `Family.default`.

    Both run within WebGPU's least limits: 256 invocations, under 16 KiB of workgroup memory.
    """
    large = min(gemm.m, gemm.n) >= 1024
    return TiledConfig(
        wg_m=16,
        wg_n=16,
        lanes_n=8,
        reg_m=8 if large else 4,
        reg_n=8 if large else 4,
        tile_k=8 if large else 16,
        vec=4,
        tile_a="km",
        tile_b="kn",
        tile_dtype=gemm.acc,
        pad_a=0 if gemm.trans_a else 4,
        pad_b=4 if gemm.trans_b else 0,
        stages=1,
        prefetch=True,
        unroll_k=8 if large else 16,
        group_m=8 if large else 1,
        dims="dynamic",
    )


_WORKGROUPS = (
    # wg_m, wg_n, lanes_n
    (8, 4, 4),
    (8, 8, 8),
    (8, 8, 4),
    (8, 16, 8),
    (16, 8, 8),
    (16, 16, 16),
    (16, 16, 8),
    (32, 8, 8),
    (8, 32, 8),
    (16, 32, 8),
    (32, 16, 8),
)
_REGISTERS = (
    *((1, 1), (1, 4), (2, 2), (2, 4), (4, 2), (4, 4), (4, 8), (8, 4)),
    *((8, 8), (4, 16), (8, 16), (16, 8)),
)


_ORDERS_A: tuple[OrderA, ...] = ("km", "mk")
_ORDERS_B: tuple[OrderB, ...] = ("kn", "nk")
_BUFFERING: tuple[tuple[Stages, bool], ...] = ((1, False), (1, True), (2, True))


def space(gemm: Gemm, device: Device, every: int = 1) -> Iterator[TiledConfig]:
    """See `Family.space`.

    Knobs that cannot matter for the problem have one value only: the order of tiles where there is
    one row of them, f16 tiles where the operands are f32, pads where nothing is transposed, the
    split of k where there are tiles enough or k is not deep.
    """
    if check_problem(gemm, device):
        return
    sizes_of = product(_WORKGROUPS, _REGISTERS, (8, 16, 32), (1, 2, 4))
    for (wg_m, wg_n, lanes_n), (reg_m, reg_n), tile_k, vec in islice(sizes_of, 0, None, every):
        if _wasteful(wg_m * reg_m, gemm.m) or _wasteful(wg_n * reg_n, gemm.n):
            continue
        if reg_n % vec or (vec == 1 and reg_m * reg_n > 16):
            continue
        block = {"wg_m": wg_m, "wg_n": wg_n, "lanes_n": lanes_n, "reg_m": reg_m, "reg_n": reg_n}
        one_row = wg_m * reg_m >= gemm.m or wg_n * reg_n >= gemm.n
        for group_m in (1,) if one_row else (1, 8):
            sizes = block | {"tile_k": tile_k, "vec": vec, "group_m": group_m}
            for config in _schedules(sizes, gemm):
                if _fits(config, gemm, device):
                    yield config
                    yield from _splits(config, gemm, device)


def _splits(config: TiledConfig, gemm: Gemm, device: Device) -> Iterator[TiledConfig]:
    """The same with k split; of the ways to move tiles only the usual one."""
    usual = config.stages == 1 and config.prefetch and config.unroll_k == config.tile_k
    if not usual or config.dims != "static" or config.group_m > 1:
        return
    tiles = launch(config, gemm)[0].workgroups
    for split_k in worthwhile(tiles, gemm):
        split = replace(config, split_k=split_k)
        if _fits(split, gemm, device):
            yield split


def _schedules(sizes: dict[str, Any], gemm: Gemm) -> Iterator[TiledConfig]:
    """Every way to move tiles of these sizes."""
    f16 = (gemm.a, gemm.b) == ("f16", "f16")
    dtypes: tuple[Dtype, ...] = ("f16",) if gemm.acc == "f16" else DTYPES if f16 else ("f32",)
    for knobs in _moves(sizes["tile_k"], gemm.trans_a, gemm.trans_b, dtypes):
        yield TiledConfig(**sizes, **knobs)


@cache
def _moves(
    tile_k: int, trans_a: bool, trans_b: bool, dtypes: tuple[Dtype, ...]
) -> tuple[dict[str, Any], ...]:
    """Knobs of every way to move tiles of this depth."""
    moves: list[dict[str, Any]] = []
    for tile_a, tile_b, (stages, prefetch), tile_dtype, unroll_k, dims in product(
        _ORDERS_A,
        _ORDERS_B if trans_b else _ORDERS_B[:1],
        _BUFFERING,
        dtypes,
        sorted({8, tile_k}),
        DIMS,
    ):
        plain = {
            "tile_a": tile_a,
            "tile_b": tile_b,
            "tile_dtype": tile_dtype,
            "stages": stages,
            "prefetch": prefetch,
            "unroll_k": unroll_k,
            "dims": dims,
        }
        pads_a = tile_a == "mk" or not trans_a
        pads_b = tile_b == "nk" or trans_b
        moves += [
            plain | {"pad_a": pad if pads_a else 0, "pad_b": pad if pads_b else 0}
            for pad in ((0, 4) if pads_a or pads_b else (0,))
        ]
    return tuple(moves)


def _fits(config: TiledConfig, gemm: Gemm, device: Device) -> bool:
    fits = next(_check_shape(config, gemm), None) is None
    return fits and not _check_launch(config, gemm, device)


def _wasteful(tile: int, size: int) -> bool:
    """Half or more of the tile's work would be thrown away, and a smaller tile exists."""
    return tile >= 2 * max(size, 8)


def variables(config: TiledConfig, gemm: Gemm, device: Device) -> dict[str, Any]:
    """See `Family.variables`."""
    a, b = _operand("a", config, gemm), _operand("b", config, gemm)
    return {
        "tile_m": config.tile_m,
        "tile_n": config.tile_n,
        **widths(config.split_k, config.vec, gemm),
        "sharers": sharers(config.split_k),
        "edge_m": a.edge,
        "edge_n": b.edge,
        "operands": (a, b),
    }


def _operand(name: Literal["a", "b"], config: TiledConfig, gemm: Gemm) -> TileOperand:
    """The journey of A's or B's tile."""
    is_a, dynamic = name == "a", config.dims == "dynamic"
    along_k = not gemm.trans_a if is_a else gemm.trans_b
    tile, extent = (config.tile_m, gemm.m) if is_a else (config.tile_n, gemm.n)
    stored_along_k = config.tile_a == "mk" if is_a else config.tile_b == "nk"
    return TileOperand(
        name=name,
        extent="M" if is_a else "N",
        origin="m0" if is_a else "n0",
        tile=tile,
        tile_k=config.tile_k,
        vec=config.vec,
        width=access_width(config.vec, gemm.k if along_k else extent, gemm, name),
        along_k=along_k,
        transposed=along_k != stored_along_k,
        pad=config.pad_a if is_a else config.pad_b,
        stages=config.stages,
        threads=config.invocations,
        edge=dynamic or extent % tile != 0,
        edge_k=dynamic or gemm.k % config.tile_k != 0,
    )


FAMILY = Family(
    name="tiled",
    template="tiled.wgsl.j2",
    config=TiledConfig,
    space=space,
    check=check,
    launch=launch,
    default=default,
    variables=variables,
    supported=check_problem,
    workspace=workspace,
)
