"""How tiles of A and B travel from memory to workgroup memory; the Python half of lib/tile."""

from __future__ import annotations

from functools import cached_property

from gemmtune.light import dataclass
from gemmtune.problem import Gemm


def access_width(vec: int, row: int, gemm: Gemm, operand: str) -> int:
    """Elements that one access of ``operand`` may move: ``vec`` where rows of ``row`` elements and
    the batch stride are multiples of it, else 1.
    """
    aligned = row % vec == 0 and (gemm.batch <= 1 or gemm.stride(operand) % vec == 0)
    return vec if aligned else 1


class _Remembers:
    """Has a dict, beside the slots of the class under it, for its cached properties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileOperand(_Remembers):
    """How one operand's tile travels from memory to workgroup memory; see templates/lib/tile.

    The sides of the tile are k and the operand's own one (m of A, n of B), called w. Invocations
    load vectors that lie along the side which is contiguous in memory.

    Many configs share one, so what a check asks for is kept with it.
    """

    name: str
    """a or b."""
    extent: str
    """WGSL name of the matrix's length along w."""
    origin: str
    """WGSL name of where the tile begins along w."""
    tile: int
    """Length of the tile along w."""
    tile_k: int
    """Length along k of what is loaded at a time: the tile's, or that of several tiles."""
    vec: int
    """Elements of one vector."""
    width: int
    """Elements of one access to memory: those of a load, or 1 where rows are not aligned."""
    along_k: bool
    """Memory is contiguous along k."""
    transposed: bool
    """Workgroup memory is contiguous along the other side than memory."""
    pad: int
    """Unused elements at the end of a row in workgroup memory."""
    stages: int
    """Copies of the tile."""
    threads: int
    """Invocations that load it together."""
    edge: bool
    """The tile may reach over the matrix along w."""
    edge_k: bool
    """The last tile may reach over the matrix along k."""
    load: int = 0
    """Elements that one invocation brings from memory at a time, a multiple of `vec`; 0: `vec`."""
    pieces: int = 1
    """Tiles, one after the other along k, that are loaded at a time: 1, or 2, of which each
    invocation has as much. Its first loads reach one half of a row, the others the other half."""

    packed: bool = False
    """It comes from the workspace, where an earlier pass has put it; see templates/lib/pack."""

    @cached_property
    def depth(self) -> int:
        """Length along k of one tile in workgroup memory."""
        return self.tile_k // self.pieces

    @cached_property
    def brings(self) -> int:
        """Elements of one load."""
        return self.load or self.vec

    @property
    def rows(self) -> int:
        """Rows in workgroup memory."""
        return self.tile if self.along_k != self.transposed else self.depth

    @property
    def row(self) -> int:
        """Vectors in a row in workgroup memory."""
        contiguous = self.depth if self.along_k != self.transposed else self.tile
        return (contiguous + self.pad) // self.vec

    @cached_property
    def vectors(self) -> int:
        """Of one tile in workgroup memory."""
        return self.rows * self.row

    @property
    def loads(self) -> int:
        """Loads of each invocation for what is loaded at a time."""
        return self.tile * self.tile_k // self.brings // self.threads

    @property
    def stores(self) -> int:
        """Loads that each invocation has of one tile."""
        return self.loads // self.pieces

    @cached_property
    def uneven(self) -> bool:
        """The invocations cannot share the loads evenly."""
        each = self.brings * self.threads
        return self.tile * self.depth % each != 0 or self._line < self.pieces

    @property
    def _line(self) -> int:
        return (self.tile_k if self.along_k else self.tile) // self.brings

    def q(self, load: int) -> str:
        """WGSL for the load's place along the contiguous side of memory, in loads."""
        if self.threads % self._line == 0:
            other = f" ^ {self._line // 2}u" if load >= self.stores else ""
            return f"(tid % {self._line}u){other}" if other else f"tid % {self._line}u"
        if self._line % self.threads == 0:
            return f"tid + {load * self.threads % self._line}u"
        return f"(tid + {load * self.threads}u) % {self._line}u"

    def r(self, load: int) -> str:
        """WGSL for the load's place along the other side, in elements."""
        if self.threads % self._line == 0:
            across = self.threads // self._line
            first = load * across
            # Both of a pair go to the tile at once: from other rows, or they want the same banks.
            turned = load >= self.stores and across % 8 == 0
            row = f"((tid / {self._line}u) ^ 4u)" if turned else f"tid / {self._line}u"
            return f"{row} + {first}u" if first else row
        if self._line % self.threads == 0:
            return f"{load * self.threads // self._line}u"
        return f"(tid + {load * self.threads}u) / {self._line}u"
