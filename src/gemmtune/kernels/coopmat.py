"""Native matrix multiply-adds of a subgroup (tensor cores), fed from tiles in workgroup memory.

A subgroup holds frags_m x frags_n fragments of C, a workgroup subgroups_m x subgroups_n subgroups.
Needs operands in f16, the feature ``cooperative-matrix``, and fragments that were probed by number:
drivers compile sizes that they do not support and return wrong results.
"""

from __future__ import annotations

from itertools import islice, product

from gemmtune.device import Device, Fragment
from gemmtune.kernels.base import (
    TOO_SMALL,
    Family,
    Launch,
    ceil_div,
    check_launch,
    check_problem,
)
from gemmtune.kernels.coopmat_config import HOLDS, ORDERS, SOURCES, VECTOR, CoopmatConfig
from gemmtune.kernels.coopmat_moves import DEEP, USUAL, moves
from gemmtune.kernels.fragments import fragment_sizes, widest_load
from gemmtune.kernels.split import (
    FEW,
    check_split,
    passes,
    sharers,
    widths,
    workspace_bytes,
    worthwhile,
)
from gemmtune.kernels.tile import TileOperand, access_width
from gemmtune.light import replace
from gemmtune.problem import SIZEOF, Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from gemmtune.literals import Dims

MAX_SUM_REGISTERS = 192
"""32-bit registers of sums per invocation beyond which drivers spill, e.g. 4 x 6 fragments of
16 x 16 in f32 over 32 lanes. Seen on an H100: 160 the fastest, 200 as slow as 96, 240 a fifth."""


def supported(gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.supported`."""
    reasons = list(check_problem(gemm, device))
    if (gemm.a, gemm.b) != ("f16", "f16"):
        reasons.append(f"matrix units take operands in f16, not {gemm.a} and {gemm.b}")
    elif not device.has("cooperative-matrix"):
        reasons.append("the device lacks the feature cooperative-matrix")
    elif not fragment_sizes(gemm, device):
        reasons.append(f"no fragment of f16 with sums in {gemm.acc} gave right numbers here")
    return tuple(reasons)


def check(config: CoopmatConfig, gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.check`."""
    unsupported = supported(gemm, device)
    if unsupported:
        return unsupported
    reasons = tuple(_check_shape(config, gemm, device))
    if TOO_SMALL in reasons:
        return reasons
    return reasons + _check_launch(config, gemm, device)


def _check_launch(config: CoopmatConfig, gemm: Gemm, device: Device) -> tuple[str, ...]:
    return check_launch(launch(config, gemm), device, workspace(config, gemm))


def _check_shape(c: CoopmatConfig, gemm: Gemm, device: Device) -> Iterator[str]:
    yield from check_shape(c, gemm, device)
    if c.pack:
        if c.load != VECTOR or (c.a_from, c.b_from) != ("workgroup", "workgroup"):
            yield f"with pack, load must be {VECTOR}, and a_from and b_from workgroup"
        for o in c.sources(gemm):
            if o.along_k and access_width(VECTOR, gemm.k, gemm, o.name) != VECTOR:
                yield f"rows of {o.name} are not aligned to {2 * VECTOR} bytes"


def check_shape(c: CoopmatConfig, gemm: Gemm, device: Device) -> Iterator[str]:
    """Why a config is illegal whatever its launch takes, in this family and in those like it.

    Nothing more is said where one is `TOO_SMALL`.
    """
    subgroups = c.subgroups
    counts = (c.frag, c.sg_size, subgroups, c.frags_m, c.frags_n, c.tile_k, c.group_m)
    if min(*counts, c.subgroups_m, c.subgroups_k, c.vec, c.split_k, c.turns, c.out_frags) < 1:
        yield TOO_SMALL
        return
    fragment = device.fragment(c.frag, "f16", gemm.acc)
    if fragment is None:
        yield f"fragments of {c.frag} x {c.frag} with sums in {gemm.acc} do not work here"
    elif c.vec not in fragment.workgroup:
        yield f"fragments loaded {c.vec} elements at a time from workgroup memory are wrong here"
    if c.sg_size != device.subgroup_size:
        yield f"made for subgroups of {c.sg_size}, the device has {device.subgroup_size}"
    registers = c.frags_m * c.frags_n * c.frag**2 // c.sg_size * SIZEOF[gemm.acc] // 4
    if registers > MAX_SUM_REGISTERS:
        yield f"{registers} registers of sums per invocation; over {MAX_SUM_REGISTERS} they spill"
    if c.tile_k % (c.frag * c.subgroups_k):
        parts = "" if c.subgroups_k == 1 else f"{c.subgroups_k} times "
        yield f"tile_k {c.tile_k} is not a multiple of {parts}the fragment's {c.frag}"
    if c.vec not in (1, 2, 4) or c.pad % 8 or c.pad < 0:
        yield f"vec {c.vec} must be 1, 2 or 4, and pad {c.pad} a multiple of 8 (16 bytes)"
    if c.stages not in (1, 2) or (c.stages == 2 and not c.prefetch):
        yield f"stages is {c.stages}; it must be 1, or 2 with prefetch"
    if c.order not in ORDERS:
        yield f"order {c.order!r} is not one of {', '.join(ORDERS)}"
    if c.lacks_checks(gemm):
        yield "unchecked kernels need static dims that tiles divide"
    if subgroups % c.turns or (c.turns > 1 and (c.direct(gemm) or c.subgroups_k > 1)):
        yield f"{c.turns} turns do not divide {subgroups} subgroups, or C is stored at once"
    if c.frags_n % c.out_frags or (c.out_frags > 1 and c.direct(gemm)):
        yield f"out_frags {c.out_frags} does not divide frags_n {c.frags_n}, or C is stored at once"
    if c.split_k > 1:
        yield from check_split(c.split_k, c.step_k, gemm)
    if c.pack:
        yield from _check_pack(c, gemm)
    yield from _check_loads(c, gemm, fragment)
    yield from _check_hold(c, gemm)


def _check_hold(c: CoopmatConfig, gemm: Gemm) -> Iterator[str]:
    if c.hold == "none":
        if c.flight != 1 or c.wide or c.pieces != 1:
            yield f"flight {c.flight}, wide {c.wide}, pieces {c.pieces} say nothing without hold"
        return
    if c.hold not in HOLDS or c.flight not in (1, 2, 4):
        yield f"hold {c.hold!r} must be none, first or last, and flight {c.flight} 1, 2 or 4"
    if c.flight == 4 and (c.wide or c.pieces > 1):
        yield "with flight 4, wide must be false and pieces 1"
    if (c.stages, c.tile_k, c.subgroups_k) != (2, c.frag, 1):
        yield f"with hold, stages must be 2, tile_k the fragment's {c.frag} and subgroups_k 1"
    if c.order != "all_first" or (c.a_from, c.b_from) != ("workgroup", "workgroup"):
        yield "with hold, order must be all_first, and a_from and b_from workgroup"
    along_k = (not gemm.trans_a) + gemm.trans_b
    if c.pieces not in (1, 2) or (c.pieces > 1 and c.wide):
        yield f"pieces is {c.pieces}; it must be 1, or 2 without wide"
    if (c.wide or c.pieces > 1) and not along_k:
        yield "wide and pieces say nothing where neither operand lies along k"
    if c.pieces > 1 and c.flight > 1 and along_k == 2:
        yield f"flight {c.flight} says nothing where both operands come in pieces"
    if gemm.k == 0 and c.dims == "static":
        yield "with hold, a k that is known must be over 0"


def _check_pack(c: CoopmatConfig, gemm: Gemm) -> Iterator[str]:
    if not any(o.along_k for o in c.sources(gemm)):
        yield "pack says nothing where neither operand lies along k"
    if (c.wide, c.pieces, c.split_k) != (False, 1, 1):
        yield "with pack, split_k and pieces must be 1, and wide false"


def _check_loads(c: CoopmatConfig, gemm: Gemm, fragment: Fragment | None) -> Iterator[str]:
    if c.load not in (0, 8) or (c.load and c.vec != 4):
        yield f"load is {c.load}; it must be 0, or 8 with vec 4"
    for o, source in zip(c.operands(gemm), (c.a_from, c.b_from), strict=True):
        if source == "storage":
            yield from _check_storage(o, gemm)
            if fragment is not None and c.vec not in fragment.storage:
                yield f"fragments loaded {c.vec} elements at a time from storage are wrong here"
        elif source != "workgroup":
            yield f"{o.name}_from is {source!r}, not one of {', '.join(SOURCES)}"
        elif o.uneven:
            yield f"{o.threads} invocations do not divide {o.name}'s tile into loads of {o.brings}"
        elif c.load and o.width != c.load:
            yield f"rows of {o.name} are not aligned to {2 * c.load} bytes"


def _check_storage(o: TileOperand, gemm: Gemm) -> Iterator[str]:
    """Fragments of an operand come from memory as they are: nothing can be cut off or padded."""
    if o.edge or o.edge_k:
        yield f"fragments of {o.name} from storage need static dims that tiles divide"
    # Vulkan wants pointer and stride of a fragment aligned to 16 bytes.
    if access_width(8, gemm.k if o.along_k else getattr(gemm, o.extent.lower()), gemm, o.name) != 8:
        yield f"rows of {o.name} are not aligned to 16 bytes, as fragments from storage must be"


def product_pass(config: CoopmatConfig, gemm: Gemm, *, only_reads: bool = False) -> Launch:
    """The pass that multiplies, where k is not split."""
    tiles = ceil_div(gemm.m, config.tile_m) * ceil_div(gemm.n, config.tile_n)
    vectors = sum([o.vectors for o in config.staged(gemm)]) * config.stages * config.tiles
    return Launch(
        workgroups=tiles * gemm.batch,
        workgroup_size=(config.sg_size * config.subgroups, 1, 1),
        workgroup_storage_bytes=vectors * config.vec * SIZEOF["f16"]
        + config.out_storage_bytes(gemm),
        only_reads=only_reads,
    )


def launch(config: CoopmatConfig, gemm: Gemm) -> tuple[Launch, ...]:
    """See `Family.launch`."""
    if not config.pack:
        return passes(product_pass(config, gemm), config.split_k, gemm)
    _, _, k = config.padded(gemm)
    blocks = sum(ceil_div(k, _BLOCK_K) * ceil_div(w, _BLOCK_W) for w in _packed_sides(config, gemm))
    pack = Launch(
        entry_point="pack",
        workgroups=blocks * gemm.batch,
        workgroup_size=(256, 1, 1),
        workgroup_storage_bytes=_BLOCK_K * _BLOCK_W * SIZEOF["f16"],
    )
    return pack, product_pass(config, gemm, only_reads=True)


def workspace(config: CoopmatConfig, gemm: Gemm) -> int:
    """See `Family.workspace`."""
    if not config.pack:
        return workspace_bytes(config.split_k, gemm)
    _, _, k = config.padded(gemm)
    return sum(_packed_sides(config, gemm)) * k * gemm.batch * SIZEOF["f16"]


def _packed_sides(config: CoopmatConfig, gemm: Gemm) -> list[int]:
    """Lengths along m or n of what is packed."""
    sides = zip(config.sources(gemm), config.padded(gemm), strict=False)
    return [side for o, side in sides if o.along_k]


def default(gemm: Gemm, device: Device) -> CoopmatConfig:
    """2 x 2 subgroups of up to 64 x 64, or of one fragment; see `Family.default`."""
    frag = next(iter(fragment_sizes(gemm, device)), 16)
    fragment = device.fragment(frag, "f16", gemm.acc)
    size = max(device.subgroup_size, 1)
    frags = 4 if frag == 16 and size >= 32 and min(gemm.m, gemm.n) >= 256 else 2
    return CoopmatConfig(
        frag=frag,
        sg_size=size,
        subgroups_m=2,
        subgroups_n=2,
        frags_m=frags,
        frags_n=frags,
        tile_k=2 * frag,
        vec=4 if fragment is None else max(fragment.workgroup),
        pad=8,
        stages=1,
        prefetch=True,
        order="stream_a",
        group_m=8 if frags == 4 else 1,
        dims="dynamic",
        checked=True,
    )


_BLOCK_K, _BLOCK_W = 64, 128
"""What a workgroup packs at a time; templates/lib/pack."""
_GRIDS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2), (4, 4))
_FRAGS = (1, 2, 3, 4, 5, 6, 8)
_DEPTHS = (1, 2, 4, 8, 16)
_THIN = 32
_FEW_OF_THIN = 512
"""Instead of `FEW`, for deep steps where rows or columns are at most `_THIN`."""
COMPILED: tuple[tuple[Dims, bool], ...] = (("static", True), ("static", False), ("dynamic", True))


def space(gemm: Gemm, device: Device, every: int = 1) -> Iterator[CoopmatConfig]:
    """See `Family.space`.

    Left out is what can hardly win: accesses smaller than rows allow, long and thin subgroups, few
    sums per invocation where the problem has many, deep steps of k where it has many tiles, and
    pairs of knobs that add up to nothing.
    """
    if supported(gemm, device):
        return
    vecs = {frag: widest_load(frag, gemm, device) for frag in fragment_sizes(gemm, device)}
    size = max(device.subgroup_size, 1)
    combinations = islice(product(vecs, _GRIDS, _FRAGS, _FRAGS, _DEPTHS), 0, None, every)
    for frag, (subgroups_m, subgroups_n), frags_m, frags_n, depth in combinations:
        tile_m, tile_n = subgroups_m * frags_m * frag, subgroups_n * frags_n * frag
        if tile_m >= 2 * max(gemm.m, frag) or tile_n >= 2 * max(gemm.n, frag):
            continue
        if frags_m * frags_n * frag**2 * SIZEOF[gemm.acc] > 4 * MAX_SUM_REGISTERS * size:
            continue
        large = min(gemm.m, gemm.n) >= 1024
        if max(frags_m, frags_n) > 4 * min(frags_m, frags_n) or frags_m * frags_n < 6 * large:
            continue
        deep = depth >= DEEP
        if deep and not _few(ceil_div(gemm.m, tile_m) * ceil_div(gemm.n, tile_n), gemm):
            continue
        sizes = {
            "frag": frag,
            "sg_size": device.subgroup_size,
            "subgroups_m": subgroups_m,
            "subgroups_n": subgroups_n,
            "frags_m": frags_m,
            "frags_n": frags_n,
            "tile_k": depth * frag,
        }
        one_row = tile_m >= gemm.m or tile_n >= gemm.n
        for group_m in (1,) if one_row or deep else (1, 8):
            for config in _schedules(sizes | {"group_m": group_m, "vec": vecs[frag]}, gemm):
                if _fits(config, gemm, device):
                    yield config
                    yield from _splits(config, gemm, device)


def _few(tiles: int, gemm: Gemm) -> bool:
    """Whether tiles are few enough for deep steps: as for a split, or more where the problem is all
    about bringing one operand.
    """
    thin = min(gemm.m, gemm.n) <= _THIN
    return bool(worthwhile(tiles * gemm.batch, gemm, few=_FEW_OF_THIN if thin else FEW))


def _splits(config: CoopmatConfig, gemm: Gemm, device: Device) -> Iterator[CoopmatConfig]:
    """The same with k split, among workgroups or among subgroups, where there are few tiles; of the
    ways to move tiles only the usual one.
    """
    schedule = (config.stages, config.prefetch, config.order, config.pad, config.turns)
    sources = (config.a_from, config.b_from)
    if schedule != (1, True, "stream_a", 8, 1) or sources != ("workgroup", "workgroup"):
        return
    if config.dims != "static" or config.group_m > 1:
        return
    splits = worthwhile(launch(config, gemm)[0].workgroups, gemm)
    few = splits or config.tile_k >= DEEP * config.frag
    shared = [replace(config, subgroups_k=sharing) for sharing in (2, 4, 8) if few]
    for split in (*(replace(config, split_k=split_k) for split_k in splits), *shared):
        if _fits(split, gemm, device):
            yield split


def _schedules(sizes: dict[str, Any], gemm: Gemm) -> Iterator[CoopmatConfig]:
    """Every way to move tiles of these sizes."""
    unchecked = CoopmatConfig(**sizes, **USUAL, dims="static", checked=False)
    # Where one step has an edge, so have steps of several tiles.
    whole = not unchecked.lacks_checks(gemm)
    depth = unchecked.tile_k // unchecked.frag
    for dims, checked in COMPILED:
        compiled = sizes | {"dims": dims, "checked": checked}
        if checked or whole:
            for knobs in moves(dims == "static", depth, unchecked.group_m):
                yield CoopmatConfig(**(compiled | knobs))


def _fits(config: CoopmatConfig, gemm: Gemm, device: Device) -> bool:
    fits = next(_check_shape(config, gemm, device), None) is None
    return fits and not _check_launch(config, gemm, device)


def variables(config: CoopmatConfig, gemm: Gemm, device: Device) -> dict[str, Any]:
    """See `Family.variables`."""
    edge_m, edge_n, _ = config.edges(gemm)
    direct = config.direct(gemm)
    return {
        "tile_m": config.tile_m,
        "tile_n": config.tile_n,
        "sg_m": config.sg_m,
        "sg_n": config.sg_n,
        "edge_m": edge_m,
        "edge_n": edge_n,
        "direct": direct,
        **widths(config.split_k, 1 if direct else 4, gemm),
        "sharers": sharers(config.split_k),
        "sources": config.sources(gemm),
        "operands": config.operands(gemm),
        "staged": config.staged(gemm),
        "step_k": config.step_k,
    }


FAMILY = Family(
    name="coopmat",
    template="coopmat.wgsl.j2",
    config=CoopmatConfig,
    space=space,
    check=check,
    launch=launch,
    default=default,
    variables=variables,
    supported=supported,
    workspace=workspace,
    features=("cooperative-matrix",),
)
