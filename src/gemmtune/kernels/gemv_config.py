"""The config of the family gemv, and what follows from it alone."""

from __future__ import annotations

from gemmtune.kernels.base import Config, added
from gemmtune.light import dataclass
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gemmtune.literals import Dims, Side

SIDES: tuple[Side, ...] = ("m", "n")


@dataclass(frozen=True, slots=True, kw_only=True)
class GemvConfig(Config):
    """One point of the family's space; sizes are in elements."""

    side: Side
    """m: C has few rows, W is B. n: C has few columns, W is A."""
    reg_s: int
    """Elements of C's short side per invocation."""
    reg_l: int
    """Elements of C's long side per invocation."""
    lanes_l: int
    """Invocations of a workgroup along C's long side."""
    lanes_k: int
    """Invocations of a workgroup that share the sums along k."""
    vec: int
    """Elements of W in one access, along which it lies in memory; 8 in f16 only."""
    unroll_k: int
    """Accesses along k that are under way at once, for each of those along the long side."""
    sg_lanes: int
    """Lanes of a subgroup, whose shuffles add up the sums that they have of the same element of C;
    1: no shuffles. Workgroup memory does the rest."""
    split_k: int
    """Workgroups that share the sums of a tile; their parts are added up by a second pass."""
    dims: Dims
    """Whether m, n, k are constants of the kernel."""
    checked: bool = added(True)
    """Compiled with the shader compiler's bounds checks and bounded loops."""
    prefetch: bool = added(False)
    """W of the next step is on its way to registers while this step is added up."""

    @property
    def unchecked(self) -> bool:
        """See `Kernel.unchecked`. No index is past an end: the template clamps every one."""
        return not self.checked

    @property
    def tile_m(self) -> int:
        """Rows of C per workgroup."""
        return self.reg_s if self.side == "m" else self.lanes_l * self.reg_l

    @property
    def tile_n(self) -> int:
        """Columns of C per workgroup."""
        return self.reg_s if self.side == "n" else self.lanes_l * self.reg_l

    @property
    def features(self) -> tuple[str, ...]:
        """See `Config.features`."""
        return ("subgroup",) if self.sg_lanes > 1 else ()

    @property
    def sg_size(self) -> int:
        """Lanes of a subgroup; 0: any."""
        return self.sg_lanes if self.sg_lanes > 1 else 0

    def dot(self, gemm: Gemm) -> bool:
        """W lies along k in memory."""
        return gemm.trans_b if self.side == "m" else not gemm.trans_a

    def tile_k(self, gemm: Gemm) -> int:
        """Depth of one step of a workgroup."""
        return self.lanes_k * self.unroll_k * (self.vec if self.dot(gemm) else 1)

    def folded(self, gemm: Gemm) -> int:
        """Invocations along k whose sums are one after the shuffles."""
        if self.sg_lanes == 1 or self.dot(gemm):
            return self.sg_lanes
        return max(self.sg_lanes // self.lanes_l, 1)
