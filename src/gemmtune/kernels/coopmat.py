"""Native matrix multiply-adds of a subgroup (tensor cores), fed from tiles in workgroup memory.

A subgroup holds frags_m x frags_n fragments of C, a workgroup subgroups_m x subgroups_n subgroups.
Needs operands in f16, the feature ``cooperative-matrix``, and fragments that were probed by number:
drivers compile sizes that they do not support and return wrong results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

from gemmtune.device import Device
from gemmtune.kernels.base import (
    TOO_SMALL,
    Config,
    Dims,
    Family,
    Launch,
    added,
    ceil_div,
    check_launch,
    check_problem,
)
from gemmtune.kernels.fragments import fragment_sizes, widest_load
from gemmtune.kernels.tile import TileOperand, access_width
from gemmtune.problem import SIZEOF, Gemm

Order = Literal["stream_a", "all_first"]
Stages = Literal[1, 2]
Source = Literal["workgroup", "storage"]
SOURCES: tuple[Source, ...] = get_args(Source)

MAX_SUM_REGISTERS = 192
"""32-bit registers of sums per invocation beyond which drivers spill, e.g. 4 x 6 fragments of
16 x 16 in f32 over 32 lanes. Seen on an H100: 160 the fastest, 200 as slow as 96, 240 a fifth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoopmatConfig(Config):
    """One point of the family's space; sizes are in elements."""

    frag: int
    """Rows, columns and depth of a fragment: 8 or 16."""
    sg_size: int
    """Lanes of a subgroup."""
    subgroups_m: int
    """Subgroups of a workgroup along m."""
    subgroups_n: int
    """Subgroups of a workgroup along n."""
    frags_m: int
    """Fragments of a subgroup along m."""
    frags_n: int
    """Fragments of a subgroup along n."""
    tile_k: int
    """Depth of one step."""
    vec: int
    """Elements of one access to workgroup memory, and to A and B where they are aligned."""
    pad: int
    """Unused elements at the end of each row of both tiles, against bank conflicts."""
    stages: Stages
    """Tiles of each operand in workgroup memory; 2 saves one of two barriers a step."""
    prefetch: bool
    """The next tile comes into registers while this one is multiplied; always so with 2 stages."""
    order: Order
    """stream_a: one fragment of A at a time against all of B's. all_first: all loaded before."""
    group_m: int
    """Rows of tiles that are walked down before the next column of tiles."""
    dims: Dims
    """Whether m, n, k are constants of the kernel."""
    checked: bool
    """Compiled with the shader compiler's bounds checks; without only where no tile has an edge."""
    load: int = added(0)
    """Elements that one access brings from A or B; 0: `vec`, else 8 (16 bytes)."""
    a_from: Source = added("workgroup")
    """Where fragments of A come from: a tile in workgroup memory, or A itself."""
    b_from: Source = added("workgroup")
    """The same of B."""
    turns: int = added(1)
    """Parts of the workgroup that take turns in the workgroup memory by which C is stored, where it
    is not stored `direct`: more turns, less memory."""

    @property
    def unchecked(self) -> bool:
        """See `Kernel.unchecked`."""
        return not self.checked

    @property
    def sg_m(self) -> int:
        """Rows of C per subgroup."""
        return self.frags_m * self.frag

    @property
    def sg_n(self) -> int:
        """Columns of C per subgroup."""
        return self.frags_n * self.frag

    @property
    def tile_m(self) -> int:
        """Rows of C per workgroup."""
        return self.subgroups_m * self.sg_m

    @property
    def tile_n(self) -> int:
        """Columns of C per workgroup."""
        return self.subgroups_n * self.sg_n

    @property
    def subgroups(self) -> int:
        """Subgroups of a workgroup."""
        return self.subgroups_m * self.subgroups_n

    @property
    def tiles(self) -> int:
        """Tiles in workgroup memory per operand and stage."""
        return 1

    def direct(self, gemm: Gemm) -> bool:
        """Fragments can be stored to C as they are: same dtype, whole tiles, aligned rows."""
        plain = gemm.beta == 0.0 and not gemm.bias and gemm.activation == "none"
        whole = not (self._edge(gemm.m, self.tile_m) or self._edge(gemm.n, self.tile_n))
        # Vulkan wants pointer and stride of a fragment aligned to 16 bytes.
        elements = 16 // SIZEOF[gemm.c]
        aligned = access_width(elements, gemm.n, gemm, "c") == elements
        return plain and whole and aligned and gemm.c == gemm.acc and gemm.math == "ieee"

    def out_storage_bytes(self, gemm: Gemm) -> int:
        """Workgroup memory by which C is stored."""
        if self.direct(gemm):
            return 0
        return self.subgroups // self.turns * self.frag**2 * SIZEOF[gemm.acc]

    def edges(self, gemm: Gemm) -> tuple[bool, bool, bool]:
        """Whether tiles may reach over the problem along m, n and k."""
        return (
            self._edge(gemm.m, self.tile_m),
            self._edge(gemm.n, self.tile_n),
            self._edge(gemm.k, self.tile_k),
        )

    def _edge(self, size: int, tile: int) -> bool:
        return self.dims == "dynamic" or size % tile != 0

    def operands(self, gemm: Gemm) -> tuple[TileOperand, TileOperand]:
        """How A and B come; tiles keep the order that their matrix has in memory."""
        return self._operand("a", gemm), self._operand("b", gemm)

    def staged(self, gemm: Gemm) -> tuple[TileOperand, ...]:
        """Those of the `operands` that come through workgroup memory."""
        sources = zip(self.operands(gemm), (self.a_from, self.b_from), strict=True)
        return tuple(o for o, source in sources if source == "workgroup")

    def _operand(self, name: Literal["a", "b"], gemm: Gemm) -> TileOperand:
        is_a = name == "a"
        along_k = not gemm.trans_a if is_a else gemm.trans_b
        tile, extent = (self.tile_m, gemm.m) if is_a else (self.tile_n, gemm.n)
        edge_m, edge_n, edge_k = self.edges(gemm)
        load = self.load if (self.a_from if is_a else self.b_from) == "workgroup" else 0
        row = gemm.k if along_k else extent
        return TileOperand(
            name=name,
            extent="M" if is_a else "N",
            origin="m0" if is_a else "n0",
            tile=tile,
            tile_k=self.tile_k,
            vec=self.vec,
            width=access_width(load or self.vec, row, gemm, name),
            along_k=along_k,
            transposed=False,
            pad=self.pad,
            stages=self.stages,
            threads=self.sg_size * self.subgroups,
            edge=edge_m if is_a else edge_n,
            edge_k=edge_k,
            load=load,
        )


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
    reasons = tuple(check_shape(config, gemm, device))
    if TOO_SMALL in reasons:
        return reasons
    return reasons + check_launch(launch(config, gemm), device)


def check_shape(c: CoopmatConfig, gemm: Gemm, device: Device) -> Iterator[str]:
    """Why a config is illegal whatever its launch takes; nothing more where one is `TOO_SMALL`."""
    counts = (c.frag, c.sg_size, c.subgroups, c.frags_m, c.frags_n, c.tile_k, c.group_m)
    if min(*counts, c.subgroups_m, c.vec) < 1:
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
    if c.tile_k % c.frag:
        yield f"tile_k {c.tile_k} is not a multiple of the fragment's {c.frag}"
    if c.vec not in (1, 2, 4) or c.pad % 8 or c.pad < 0:
        yield f"vec {c.vec} must be 1, 2 or 4, and pad {c.pad} a multiple of 8 (16 bytes)"
    if c.stages not in (1, 2) or (c.stages == 2 and not c.prefetch):
        yield f"stages is {c.stages}; it must be 1, or 2 with prefetch"
    if c.order not in get_args(Order):
        yield f"order {c.order!r} is not one of {', '.join(get_args(Order))}"
    if not c.checked and any(c.edges(gemm)):
        yield "unchecked kernels need static dims that tiles divide"
    if c.turns < 1 or c.subgroups % c.turns or (c.turns > 1 and c.direct(gemm)):
        yield f"{c.turns} turns do not divide {c.subgroups} subgroups, or C is stored without any"
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


def launch(config: CoopmatConfig, gemm: Gemm) -> tuple[Launch, ...]:
    """See `Family.launch`."""
    tiles = ceil_div(gemm.m, config.tile_m) * ceil_div(gemm.n, config.tile_n)
    vectors = sum(o.rows * o.row for o in config.staged(gemm)) * config.stages * config.tiles
    whole = Launch(
        workgroups=tiles * gemm.batch,
        workgroup_size=(config.sg_size * config.subgroups, 1, 1),
        workgroup_storage_bytes=vectors * config.vec * SIZEOF["f16"]
        + config.out_storage_bytes(gemm),
    )
    return (whole,)


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


_GRIDS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2), (4, 4))
_FRAGS = (1, 2, 3, 4, 5, 6, 8)
_BUFFERING: tuple[tuple[Stages, bool], ...] = ((1, False), (1, True), (2, True))
COMPILED: tuple[tuple[Dims, bool], ...] = (("static", True), ("static", False), ("dynamic", True))


def space(gemm: Gemm, device: Device) -> Iterator[CoopmatConfig]:
    """See `Family.space`.

    Left out is what can hardly win: accesses smaller than rows allow, long and thin subgroups, few
    sums per invocation where the problem has many, and pairs of knobs that add up to nothing.
    """
    if supported(gemm, device):
        return
    vecs = {frag: widest_load(frag, gemm, device) for frag in fragment_sizes(gemm, device)}
    for frag, (subgroups_m, subgroups_n), frags_m, frags_n, depth in product(
        vecs, _GRIDS, _FRAGS, _FRAGS, (1, 2, 4)
    ):
        tile_m, tile_n = subgroups_m * frags_m * frag, subgroups_n * frags_n * frag
        if tile_m >= 2 * max(gemm.m, frag) or tile_n >= 2 * max(gemm.n, frag):
            continue
        large = min(gemm.m, gemm.n) >= 1024
        if max(frags_m, frags_n) > 4 * min(frags_m, frags_n) or frags_m * frags_n < 6 * large:
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
        for group_m in (1,) if one_row else (1, 8):
            for config in _schedules(sizes | {"group_m": group_m, "vec": vecs[frag]}):
                if _fits(config, gemm, device):
                    yield config


def _schedules(sizes: dict[str, Any]) -> Iterator[CoopmatConfig]:
    """Every way to move tiles of these sizes."""
    for (dims, checked), (stages, prefetch), load in product(COMPILED, _BUFFERING, (0, 8)):
        plain = CoopmatConfig(
            **sizes,
            pad=8,
            stages=stages,
            prefetch=prefetch,
            order="stream_a",
            dims=dims,
            checked=checked,
            load=load,
        )
        yield plain
        if stages == 1:
            yield replace(plain, turns=2)
        if load == 0:
            yield replace(plain, order="all_first")
            yield replace(plain, pad=0)
        if dims == "static" and stages == 1:
            yield replace(plain, a_from="storage")
            yield replace(plain, b_from="storage")
        if dims == "static" and stages == 1 and load == 0:
            yield replace(plain, a_from="storage", b_from="storage")


def _fits(config: CoopmatConfig, gemm: Gemm, device: Device) -> bool:
    fits = next(check_shape(config, gemm, device), None) is None
    return fits and not check_launch(launch(config, gemm), device)


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
        "c_vec": 1 if direct else access_width(4, gemm.n, gemm, "c"),
        "operands": config.operands(gemm),
        "staged": config.staged(gemm),
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
    features=("cooperative-matrix",),
)
