"""What a lookup answers: a config and where it came from. Looks nothing up itself."""

from __future__ import annotations

from functools import lru_cache

from gemmtune.device import Device
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Kernel, Launch
from gemmtune.light import dataclass, field
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gemmtune.dialect import Dialect
    from gemmtune.literals import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """An answer: the config to use for ``gemm`` on ``device``, and where it came from."""

    gemm: Gemm
    """The problem asked for."""
    device: Device
    """The device it is meant for, or what was assumed of it."""
    family: str
    """Name of the kernel family."""
    config: Config
    """The point of its space; the family's ``check`` accepts it for `gemm` on `device`."""
    source: Source
    """See `gemmtune.literals.Source`."""
    why: str
    """The same in a sentence."""
    time_ns: float | None = None
    """exact: as measured. Otherwise predicted for the same hardware, or not known."""
    demotions: tuple[str, ...] = ()
    """Why the measurement behind it is only a hint today; empty when it counts in full."""
    problem_key: str | None = None
    """`Gemm.key` of the problem that was measured, of several the nearest."""
    expected_share: float | None = None
    """Of the speed that tuning this very problem here would reach, as far as can be told: 1 for an
    exact answer, less the further the measured problem is; None: not known."""
    others: Callable[[], tuple[Lookup, ...]] = field(default=tuple, repr=False, compare=False)
    """See `alternatives`."""

    @property
    def alternatives(self) -> tuple[Lookup, ...]:
        """What to take where this answer does not work, e.g. because the driver refuses it, in
        order. The last of them needs nothing that a device may lack. Found on first use.
        """
        return self.others()

    @property
    def gflops(self) -> float | None:
        """10^9 floating-point operations per second at `time_ns`."""
        return self.gemm.flops / self.time_ns if self.time_ns else None

    @property
    def kernel(self) -> Kernel:
        """The rendered kernel for wgpu; made on first use."""
        return self.kernel_in("naga")

    def kernel_in(self, dialect: str) -> Kernel:
        """The rendered kernel in the WGSL of naga (wgpu) or tint (Dawn, so Chromium).

        Raises:
            ConfigError: there is no such dialect, or it cannot spell what the family does.
        """
        from gemmtune.dialect import dialect_of

        return _kernel(self.family, self.config, self.gemm, self.device, dialect_of(dialect))

    @property
    def wgsl(self) -> str:
        """The source of `kernel`."""
        return self.kernel.wgsl

    @property
    def launches(self) -> tuple[Launch, ...]:
        """How the kernel is dispatched, pass by pass; nothing is rendered for it."""
        return FAMILIES[self.family].launch(self.config, self.gemm)

    @property
    def workspace_bytes(self) -> int:
        """See `Kernel.workspace_bytes`; nothing is rendered for it."""
        return FAMILIES[self.family].workspace(self.config, self.gemm)


@lru_cache(maxsize=256)
def _kernel(family: str, config: Config, gemm: Gemm, device: Device, dialect: Dialect) -> Kernel:
    from gemmtune.render import render

    return render(family, config, gemm, device, dialect)
