"""The config of the family coopmat, and what follows from it alone."""

from __future__ import annotations

from functools import lru_cache

from gemmtune.kernels.base import Config, added, ceil_div
from gemmtune.kernels.tile import TileOperand, access_width
from gemmtune.light import dataclass, replace
from gemmtune.problem import SIZEOF, Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from gemmtune.literals import Dims, FragmentSource, Hold, Order, Stages

ORDERS: tuple[Order, ...] = ("stream_a", "all_first")
SOURCES: tuple[FragmentSource, ...] = ("workgroup", "storage")
HOLDS: tuple[Hold, ...] = ("none", "first", "last")
VECTOR = 8
"""Elements of f16 in one access to the workspace."""
_Pair = tuple[TileOperand, TileOperand]
_KEPT = 1 << 12
"""Operands that are kept when made: neighbours in a space have most of theirs in common."""


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
    a_from: FragmentSource = added("workgroup")
    """Where fragments of A come from: a tile in workgroup memory, or A itself."""
    b_from: FragmentSource = added("workgroup")
    """The same of B."""
    turns: int = added(1)
    """Parts of the workgroup that take turns in the workgroup memory by which C is stored, where it
    is not stored `direct`: more turns, less memory."""
    split_k: int = added(1)
    """Workgroups that share the sums of a tile; their parts are added up by a second pass."""
    subgroups_k: int = added(1)
    """Subgroups of a workgroup that share the sums of a part of the tile: each takes its part of
    every step, and what they have is added up in workgroup memory at the end."""
    hold: Hold = added("none")
    """Whether fragments come a step before they are multiplied, so that no multiply-add waits for
    them, and when in that step: before the next tiles are stored and asked for, or after. Takes two
    stages as deep as a fragment; templates/lib/held."""
    flight: int = added(1)
    """With `hold`, tiles of an operand that are on their way in registers: 1, 2 or 4."""
    wide: bool = added(False)
    """With `hold`, operands that lie along k come two tiles at a time: longer pieces of rows."""
    out_frags: int = added(1)
    """Fragments of a row of C that go through workgroup memory at a time, where C is not stored
    `direct`: fewer barriers and longer pieces of rows, but more memory."""

    pieces: int = added(1)
    """With `hold`, 2: of an operand that lies along k twice as much is loaded at a time, for pieces
    of rows twice as long, and goes to workgroup memory in two steps."""
    pack: bool = added(False)
    """Operands that lie along k are first packed into the workspace by a pass of their own: panels
    as wide as a tile, which loads read from one end to the other. templates/lib/pack"""

    @property
    def unchecked(self) -> bool:
        """See `Kernel.unchecked`."""
        return not self.checked

    def lacks_checks(self, gemm: Gemm) -> bool:
        """See `Config.lacks_checks`."""
        return not self.checked and any(self.edges(gemm))

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
        return self.subgroups_m * self.frags_m * self.frag

    @property
    def tile_n(self) -> int:
        """Columns of C per workgroup."""
        return self.subgroups_n * self.frags_n * self.frag

    @property
    def step_k(self) -> int:
        """Depth of one turn of the loop over k; of several steps where their buffers take turns."""
        return self.tile_k * (1 if self.hold == "none" else 4 if self.wide else max(self.flight, 2))

    @property
    def subgroups(self) -> int:
        """Subgroups of a workgroup."""
        return self.subgroups_m * self.subgroups_n * self.subgroups_k

    @property
    def tiles(self) -> int:
        """Tiles in workgroup memory per operand and stage."""
        return 1

    def direct(self, gemm: Gemm) -> bool:
        """Fragments can be stored as they are: same dtype, whole tiles, aligned rows, sums not
        shared. Those of a split go to the workspace, which is f32 and knows no epilogue.
        """
        if self.subgroups_k > 1:
            return False
        if self.split_k > 1:
            return gemm.n % 4 == 0 and gemm.acc == "f32" and self._whole(gemm)
        plain = gemm.beta == 0.0 and not gemm.bias and gemm.activation == "none"
        if not plain or gemm.c != gemm.acc or gemm.math != "ieee":
            return False
        # Vulkan wants pointer and stride of a fragment aligned to 16 bytes.
        elements = 16 // SIZEOF[gemm.c]
        return access_width(elements, gemm.n, gemm, "c") == elements and self._whole(gemm)

    def _whole(self, gemm: Gemm) -> bool:
        return not (_edge(gemm.m, self.tile_m, self.dims) or _edge(gemm.n, self.tile_n, self.dims))

    def out_storage_bytes(self, gemm: Gemm) -> int:
        """Workgroup memory by which C is stored."""
        if self.direct(gemm):
            return 0
        fragments = self.subgroups // self.turns * self.out_frags
        return fragments * self.frag**2 * SIZEOF[gemm.acc]

    def edges(self, gemm: Gemm) -> tuple[bool, bool, bool]:
        """Whether tiles may reach over the problem along m, n and k."""
        return (
            _edge(gemm.m, self.tile_m, self.dims),
            _edge(gemm.n, self.tile_n, self.dims),
            _edge(gemm.k, self.step_k, self.dims),
        )

    def operands(self, gemm: Gemm) -> tuple[TileOperand, TileOperand]:
        """How A and B come to the product: from where they are, or packed."""
        return self._brought(gemm)[1]

    def sources(self, gemm: Gemm) -> tuple[TileOperand, TileOperand]:
        """How A and B lie in memory; tiles keep that order."""
        return self._brought(gemm)[0]

    def _brought(self, gemm: Gemm) -> tuple[_Pair, _Pair]:
        return _sources_and_operands(
            gemm,
            self.dims,
            self.tile_m,
            self.tile_n,
            self.tile_k,
            self.step_k,
            self.vec,
            self.load if self.a_from == "workgroup" else 0,
            self.load if self.b_from == "workgroup" else 0,
            self.pad,
            self.stages,
            self.sg_size * self.subgroups,
            self.wide,
            self.pieces,
            self.pack,
        )

    def padded(self, gemm: Gemm) -> tuple[int, int, int]:
        """m, n and k up to whole tiles and steps, as the workspace has them."""
        sizes = ((gemm.m, self.tile_m), (gemm.n, self.tile_n), (max(gemm.k, 1), self.step_k))
        m, n, k = (ceil_div(size, whole) * whole for size, whole in sizes)
        return m, n, k

    def staged(self, gemm: Gemm) -> tuple[TileOperand, ...]:
        """Those of the `operands` that come through workgroup memory."""
        operands = self.operands(gemm)
        if self.a_from == self.b_from == "workgroup":
            return operands
        sources = zip(operands, (self.a_from, self.b_from), strict=True)
        return tuple(o for o, source in sources if source == "workgroup")


def _edge(size: int, tile: int, dims: Dims) -> bool:
    return dims == "dynamic" or size % tile != 0


@lru_cache(maxsize=_KEPT)
def _sources_and_operands(
    gemm: Gemm,
    dims: Dims,
    tile_m: int,
    tile_n: int,
    tile_k: int,
    step_k: int,
    vec: int,
    load_a: int,
    load_b: int,
    pad: int,
    stages: int,
    threads: int,
    wide: bool,
    pieces: int,
    pack: bool,
) -> tuple[_Pair, _Pair]:
    """Those of a config, from all that they depend on."""

    def source(name: Literal["a", "b"], tile: int, load: int) -> TileOperand:
        is_a = name == "a"
        along_k = not gemm.trans_a if is_a else gemm.trans_b
        extent = gemm.m if is_a else gemm.n
        together = pieces if along_k else 1
        return TileOperand(
            name=name,
            extent="M" if is_a else "N",
            origin="m0" if is_a else "n0",
            tile=tile,
            tile_k=tile_k * (2 if wide and along_k else together),
            vec=vec,
            width=access_width(load or vec, gemm.k if along_k else extent, gemm, name),
            along_k=along_k,
            transposed=False,
            pad=pad,
            stages=stages,
            threads=threads,
            edge=_edge(extent, tile, dims),
            edge_k=_edge(gemm.k, step_k, dims),
            load=load,
            pieces=together,
        )

    a, b = source("a", tile_m, load_a), source("b", tile_n, load_b)
    return (a, b), (_packed(a, tile_k), _packed(b, tile_k)) if pack else (a, b)


def _packed(o: TileOperand, tile_k: int) -> TileOperand:
    """The same where it lay along k; padded in the workspace, so without edges."""
    if not o.along_k:
        return o
    return replace(padded(o), along_k=False, packed=True, tile_k=tile_k, pieces=1)


@lru_cache(maxsize=_KEPT)
def padded(o: TileOperand) -> TileOperand:
    """The same where it comes from the workspace: whole tiles, `VECTOR` elements at a time."""
    return replace(o, load=VECTOR, width=VECTOR, edge=False, edge_k=False)
