"""Matrix times a few vectors: C has few rows or few columns, and memory bandwidth decides.

The large operand W is read once, in the order in which it lies in memory, without workgroup memory;
the small one, x, comes from the caches. Works on every WebGPU device.
"""

from __future__ import annotations

from itertools import islice, product

from gemmtune.device import Device
from gemmtune.kernels.base import (
    TOO_SMALL,
    Family,
    Launch,
    ceil_div,
    check_launch,
    check_problem,
)
from gemmtune.kernels.gemv_config import SIDES, GemvConfig
from gemmtune.kernels.split import check_split, passes, sharers, widths, workspace_bytes, worthwhile
from gemmtune.kernels.tile import access_width
from gemmtune.light import NamedTuple, replace
from gemmtune.problem import SIZEOF, Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

    from gemmtune.literals import Dtype, Side

MOST = 16
"""Rows or columns of C up to which the family is for a problem: W is read again for every reg_s."""
MAX_SUMS = 64
"""Sums per invocation beyond which the registers have no room for loads in flight."""
MAX_LOADED_BYTES = 512
"""Bytes of W that an invocation loads in one step, at most."""


class Stream(NamedTuple):
    """How an operand comes from memory."""

    name: Literal["a", "b"]
    """Which one."""
    dtype: Dtype
    """Of its elements."""
    width: int
    """Elements of one access."""
    contiguous: bool
    """Elements that an invocation uses together are neighbours in memory."""


def supported(gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.supported`."""
    reasons = check_problem(gemm, device)
    if min(gemm.m, gemm.n) > MOST:
        reasons += (f"C is {gemm.m} x {gemm.n}; m or n must be at most {MOST}",)
    return reasons


def check(config: GemvConfig, gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.check`."""
    unsupported = supported(gemm, device)
    if unsupported:
        return unsupported
    reasons = tuple(_check_shape(config, gemm, device))
    if TOO_SMALL in reasons:
        return reasons
    return reasons + _check_launch(config, gemm, device)


def _check_launch(config: GemvConfig, gemm: Gemm, device: Device) -> tuple[str, ...]:
    return check_launch(launch(config, gemm), device, workspace(config, gemm))


def _check_shape(c: GemvConfig, gemm: Gemm, device: Device) -> Iterator[str]:
    counts = (c.reg_s, c.reg_l, c.lanes_l, c.lanes_k, c.vec, c.unroll_k, c.sg_lanes, c.split_k)
    if min(counts) < 1:
        yield TOO_SMALL
        return
    dot, dtype = c.dot(gemm), gemm.b if c.side == "m" else gemm.a
    short = gemm.m if c.side == "m" else gemm.n
    if c.side not in SIDES or short > MOST:
        yield f"side is {c.side!r}; of C's {gemm.m} x {gemm.n} that must be at most {MOST}"
    if c.vec not in (1, 2, 4, 8) or (c.vec == 8 and dtype != "f16"):
        yield f"vec {c.vec} is not 1, 2, 4 or, in f16, 8"
    if not dot and c.reg_l % c.vec:
        yield f"reg_l {c.reg_l} is not a multiple of vec {c.vec}"
    if c.lanes_k & (c.lanes_k - 1) or c.sg_lanes & (c.sg_lanes - 1) or c.lanes_k > 256:
        yield f"lanes_k {c.lanes_k} and sg_lanes {c.sg_lanes} must be powers of two up to 256"
    if c.sg_lanes > 1:
        yield from _check_shuffles(c, gemm, device)
    if c.reg_s * c.reg_l > MAX_SUMS:
        yield f"{c.reg_s * c.reg_l} sums per invocation, over {MAX_SUMS}"
    loaded = c.unroll_k * c.reg_l * (c.vec if dot else 1) * SIZEOF[dtype]
    if loaded > MAX_LOADED_BYTES:
        yield f"a step loads {loaded} bytes of W per invocation, over {MAX_LOADED_BYTES}"
    yield from check_split(c.split_k, c.tile_k(gemm), gemm)


def _check_shuffles(c: GemvConfig, gemm: Gemm, device: Device) -> Iterator[str]:
    if not device.has("subgroup"):
        yield "sg_lanes must be 1 without the feature subgroup"
    elif not c.dot(gemm) and (c.sg_lanes % c.lanes_l or c.lanes_l == c.sg_lanes):
        yield f"sg_lanes {c.sg_lanes} is not a multiple of lanes_l {c.lanes_l}, as across k it must"
    elif c.folded(gemm) > c.lanes_k or c.sg_lanes > max(device.subgroup_size, 1):
        yield (
            f"sg_lanes {c.sg_lanes} is more than lanes_k {c.lanes_k} or the subgroup's "
            f"{device.subgroup_size}"
        )


def launch(config: GemvConfig, gemm: Gemm) -> tuple[Launch, ...]:
    """See `Family.launch`."""
    tiles = ceil_div(gemm.m, config.tile_m) * ceil_div(gemm.n, config.tile_n)
    invocations = config.lanes_l * config.lanes_k
    folded = config.folded(gemm)
    sums = invocations // folded * config.reg_s * config.reg_l
    main = Launch(
        workgroups=tiles * gemm.batch,
        workgroup_size=(invocations, 1, 1),
        workgroup_storage_bytes=sums * SIZEOF["f32"] if config.lanes_k > folded else 0,
    )
    return passes(main, config.split_k, gemm)


def workspace(config: GemvConfig, gemm: Gemm) -> int:
    """See `Family.workspace`."""
    return workspace_bytes(config.split_k, gemm)


def _side(gemm: Gemm) -> Side:
    return "m" if gemm.m <= gemm.n else "n"


def _vectors(gemm: Gemm) -> list[int]:
    """Elements of one access to W that its alignment allows, widest first."""
    side = _side(gemm)
    name: Literal["a", "b"] = "b" if side == "m" else "a"
    along_k = gemm.trans_b if side == "m" else not gemm.trans_a
    row = gemm.k if along_k else (gemm.n if side == "m" else gemm.m)
    widest = 16 // SIZEOF[gemm.b if side == "m" else gemm.a]
    return [
        vec for vec in (8, 4, 2, 1) if vec <= widest and access_width(vec, row, gemm, name) == vec
    ]


def default(gemm: Gemm, device: Device) -> GemvConfig:
    """The widest accesses, four under way, and many workgroups; see `Family.default`."""
    side, vec = _side(gemm), _vectors(gemm)[0]
    short = gemm.m if side == "m" else gemm.n
    config = GemvConfig(
        side=side,
        reg_s=min(max(short, 1), 4),
        reg_l=2,
        lanes_l=4,
        lanes_k=32,
        vec=vec,
        unroll_k=2,
        sg_lanes=1,
        split_k=1,
        dims="dynamic",
    )
    if not config.dot(gemm):
        config = replace(config, reg_l=vec, lanes_l=32, lanes_k=4, unroll_k=4)
    steps = ceil_div(gemm.k, config.tile_k(gemm))
    fits = (split for split in _splits(config, gemm) if split <= min(steps, 16))
    return replace(config, split_k=max(fits, default=1))


def _splits(config: GemvConfig, gemm: Gemm) -> tuple[int, ...]:
    workgroups = launch(config, gemm)[0].workgroups
    return (1, *worthwhile(workgroups, gemm, few=512, many=4096))


_DOT_LANES = (
    # lanes_l, lanes_k
    *((1, 32), (2, 32), (4, 32), (8, 32), (1, 64), (2, 64), (4, 64), (1, 128), (2, 128)),
    *((1, 256), (8, 16), (16, 16), (8, 8)),
)
_COLUMN_LANES = (
    *((32, 1), (64, 1), (128, 1), (32, 2), (64, 2), (128, 2), (16, 4), (32, 4), (64, 4)),
    *((8, 8), (16, 8), (32, 8), (8, 16), (16, 16), (8, 32)),
    # Enough workgroups for a large device without a split, and so without a second pass.
    *((4, 16), (4, 32), (4, 64), (2, 64), (2, 128), (4, 256), (8, 64), (8, 128)),
    # Long pieces of each row at once, by many invocations.
    *((256, 1), (128, 4), (64, 8), (32, 16), (16, 32)),
)
_PLENTY = 64
"""Bytes of W in a step beyond which none is loaded ahead, and none is compiled with checks: the
registers are few, and the rows of the space many."""


def space(gemm: Gemm, device: Device, every: int = 1) -> Iterator[GemvConfig]:
    """See `Family.space`.

    Accesses are the two widest that the alignment allows; an invocation has 16 to 128 bytes of W
    under way, in the widest accesses up to 256, without a limit below where nothing is aligned.
    """
    if supported(gemm, device):
        return
    side, vectors = _side(gemm), _vectors(gemm)[:2]
    short = max(gemm.m if side == "m" else gemm.n, 1)
    dot = default(gemm, device).dot(gemm)
    size = SIZEOF[gemm.b if side == "m" else gemm.a]
    shuffled = {1, device.subgroup_size} if device.has("subgroup") else {1}
    combinations = product(
        sorted({short, ceil_div(short, 2), ceil_div(short, 4)}),
        _DOT_LANES if dot else _COLUMN_LANES,
        vectors,
        (1, 2, 4),
        (1, 2, 4, 8, 16),
        sorted(shuffled),
    )
    for reg_s, (lanes_l, lanes_k), vec, more, unroll_k, sg_lanes in islice(
        combinations, 0, None, every
    ):
        loaded = more * unroll_k * vec * size
        most = 256 if vec == vectors[0] > 1 else 128
        if loaded > most or loaded < 16 * min(vec, 2) or unroll_k > (8 if dot else 16):
            continue
        if sg_lanes > 1 and not dot and lanes_l > sg_lanes // 4:
            continue  # hardly any lanes have sums of the same column
        config = GemvConfig(
            side=side,
            reg_s=reg_s,
            reg_l=more if dot else more * vec,
            lanes_l=lanes_l,
            lanes_k=lanes_k,
            vec=vec,
            unroll_k=unroll_k,
            sg_lanes=sg_lanes,
            split_k=1,
            dims="static",
        )
        yield from _compiled(config, gemm, device, loaded)


def _compiled(config: GemvConfig, gemm: Gemm, device: Device, loaded: int) -> Iterator[GemvConfig]:
    """The legal ones of a config's splits and of the ways to compile them."""
    for split_k in _splits(config, gemm):
        split = replace(config, split_k=split_k)
        if next(_check_shape(split, gemm, device), None) or _check_launch(split, gemm, device):
            continue
        yield replace(split, checked=False)
        if loaded <= _PLENTY:
            yield replace(split, checked=False, prefetch=True)
            yield split
            if split_k == 1:
                yield replace(split, dims="dynamic")


def variables(config: GemvConfig, gemm: Gemm, device: Device) -> dict[str, Any]:
    """See `Family.variables`."""
    is_m, dynamic = config.side == "m", config.dims == "dynamic"
    short, long = (gemm.m, gemm.n) if is_m else (gemm.n, gemm.m)
    scattered = not is_m or config.dot(gemm)
    tile_s, tile_l = config.reg_s, config.lanes_l * config.reg_l
    return {
        "tile_m": config.tile_m,
        "tile_n": config.tile_n,
        "tile_k": config.tile_k(gemm),
        "dot": config.dot(gemm),
        "folded": config.folded(gemm),
        "w": _large(config, gemm),
        "x": _small(config, gemm),
        **widths(config.split_k, 1 if scattered else min(config.vec, 4), gemm),
        "edge_s": dynamic or short % tile_s != 0,
        "edge_l": dynamic or long % tile_l != 0,
        "edge_k": dynamic or gemm.k % config.tile_k(gemm) != 0,
        "sharers": sharers(config.split_k),
    }


def _large(config: GemvConfig, gemm: Gemm) -> Stream:
    """W, whose vectors lie along k (dot) or along C's long side."""
    name: Literal["a", "b"] = "b" if config.side == "m" else "a"
    long = gemm.n if config.side == "m" else gemm.m
    row = gemm.k if config.dot(gemm) else long
    return _stream(name, config.vec, row, gemm, contiguous=True)


def _small(config: GemvConfig, gemm: Gemm) -> Stream:
    """x, of which a step takes vec (dot) or unroll_k elements along k."""
    name: Literal["a", "b"] = "a" if config.side == "m" else "b"
    along_k = not gemm.trans_a if config.side == "m" else gemm.trans_b
    alone = config.dims == "static" and (gemm.m if config.side == "m" else gemm.n) == 1
    count = config.vec if config.dot(gemm) else config.unroll_k
    return _stream(name, count, gemm.k, gemm, contiguous=along_k or alone)


def _stream(
    name: Literal["a", "b"], count: int, row: int, gemm: Gemm, *, contiguous: bool
) -> Stream:
    """Accesses as wide as ``count`` consecutive elements, rows and strides allow."""
    dtype: Dtype = getattr(gemm, name)
    widths = (width for width in (8, 4, 2) if width * SIZEOF[dtype] <= 16 and count % width == 0)
    fits = (width for width in widths if access_width(width, row, gemm, name) == width)
    return Stream(
        name=name,
        dtype=dtype,
        width=next(fits, 1) if contiguous else 1,
        contiguous=contiguous,
    )


FAMILY = Family(
    name="gemv",
    template="gemv.wgsl.j2",
    config=GemvConfig,
    space=space,
    check=check,
    launch=launch,
    default=default,
    variables=variables,
    supported=supported,
    workspace=workspace,
)
