"""What every kernel family is made of, and the facts about launching that they share."""

from __future__ import annotations

import math

from gemmtune.device import Device
from gemmtune.errors import ConfigError
from gemmtune.light import NamedTuple, dataclass, field, fields
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Protocol

    from gemmtune.literals import Dims
else:
    Protocol = object

DIMS: tuple[Dims, ...] = ("static", "dynamic")

TOO_SMALL = "every size must be at least 1"
"""A reason of `Family.check`; where it holds, nothing else about the config can be computed."""
PARAMS_SIZE_BYTES = 48
"""Size of the uniform struct ``Params`` (templates/lib/gemm.wgsl.j2)."""
GENERATION = 1
"""Part of every kernel's hash; raised when Python, not a template, changes what kernels do."""


def added(old: Any) -> Any:
    """A field that configs of before do not have: what they did all the same is ``old``.

    A config with that value has the JSON and the key that it always had, so kept rows stay valid.
    """
    return field(default=old, metadata={"added": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Base of the families' configs: one point of a family's space, plain values only."""

    def to_json(self) -> dict[str, Any]:
        """Field name to value, sorted; without those of `added` that have their old value."""
        left_out = {
            f.name for f in fields(self) if f.metadata and getattr(self, f.name) == f.default
        }
        names = sorted(f.name for f in fields(self) if f.name not in left_out)
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Any:
        """The inverse of `to_json`.

        Raises:
            ConfigError: a field is missing or unknown.
        """
        names = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if not f.metadata}
        if not needed <= set(data) <= names:
            raise ConfigError(f"a {cls.__module__} config has {sorted(names)}, not {sorted(data)}")
        return cls(**data)

    @property
    def unchecked(self) -> bool:
        """See `Kernel.unchecked`."""
        return False

    def lacks_checks(self, gemm: Gemm) -> bool:  # noqa: ARG002 (a config with checks has none)
        """Whether it is legal for ``gemm`` with bounds checks only, but is without them."""
        return False

    @property
    def features(self) -> tuple[str, ...]:
        """WebGPU features that this config needs beside its family's."""
        return ()

    @property
    def key(self) -> str:
        """Canonical text, e.g. ``group_m=1,tile_k=16,...``: equal keys, equal configs."""
        return ",".join(
            f"{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in self.to_json().items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One pass of a kernel. Workgroups are numbered linearly and folded into a grid."""

    entry_point: str = "main"
    """The function of the module that it runs."""
    workgroups: int
    """How many in all, e.g. tiles of C times batch. A pass may run in parts, in any order."""
    workgroup_size: tuple[int, int, int]
    """Invocations per workgroup in x, y, z."""
    workgroup_storage_bytes: int = 0
    """Workgroup memory one workgroup takes."""
    only_reads: bool = False
    """The workspace is bound read-only, as drivers move such loads more freely."""


class Needs(NamedTuple):
    """What a kernel asks of a device; part of every row, for readers who cannot render it."""

    features: tuple[str, ...]
    """WebGPU features."""
    subgroup_size: int
    """Lanes that a subgroup must have; 0: any, or none at all."""
    workgroup_storage_bytes: int
    """Workgroup memory of one workgroup, of the pass that takes most."""
    invocations_per_workgroup: int
    """Of one workgroup, of the pass that has most."""
    workspace_bytes: int
    """See `Kernel.workspace_bytes`."""
    unchecked: bool
    """See `Kernel.unchecked`."""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return self._asdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Rendered WGSL and how to launch it.

    Bindings of group 0: 0 uniform Params, 1 A, 2 B (read-only storage), 3 C (storage), with
    ``gemm.bias`` 4 bias (read-only storage), and with `workspace_bytes` 5 the workspace (storage).
    The passes run in order, each after all of the one before, over the same bindings.
    """

    family: str
    """Name of the family."""
    config: Config
    """The point of its space."""
    wgsl: str
    """Source text."""
    launches: tuple[Launch, ...]
    """Its passes; one for most kernels."""
    workspace_bytes: int = 0
    """Device memory for what one pass leaves to the next; holds anything before the first."""
    features: tuple[str, ...] = ()
    """WebGPU features that the device must be requested with, as the engine calls them."""
    unchecked: bool = False
    """Compile without the shader compiler's bounds checks and loop bounding: the kernel proves its
    own. Only ever an option that native hosts may take; the WGSL is the same."""

    @property
    def needs(self) -> Needs:
        """What it asks of a device."""
        return Needs(
            features=self.features,
            subgroup_size=getattr(self.config, "sg_size", 0),
            workgroup_storage_bytes=max(one.workgroup_storage_bytes for one in self.launches),
            invocations_per_workgroup=max(math.prod(one.workgroup_size) for one in self.launches),
            workspace_bytes=self.workspace_bytes,
            unchecked=self.unchecked,
        )


class Space(Protocol):
    """See `Family.space`."""

    def __call__(self, gemm: Gemm, device: Device, every: int = 1) -> Iterator[Any]:
        """Every legal config of this problem on this device, once each, always in the same order.

        Args:
            gemm: the problem.
            device: where it would run.
            every: only of each so many-th combination of sizes, for who cannot wait for all.
        """


class Family(NamedTuple):
    """One kernel algorithm: a record of functions, all pure."""

    name: str
    """What it is called everywhere."""
    template: str
    """Its file under templates/."""
    config: type[Config]
    """Its config class."""
    space: Space
    """The legal configs of a problem on a device."""
    check: Callable[[Any, Gemm, Device], tuple[str, ...]]
    """Why a config is illegal, in words; empty when it is legal. The only place that decides."""
    launch: Callable[[Any, Gemm], tuple[Launch, ...]]
    """How a legal config is dispatched, pass by pass."""
    default: Callable[[Gemm, Device], Any]
    """A sane config without any tuning; legal wherever the family is `supported`."""
    variables: Callable[[Any, Gemm, Device], Mapping[str, Any]]
    """What the template needs beyond config and gemm, computed from them."""
    supported: Callable[[Gemm, Device], tuple[str, ...]]
    """Why no config of the family can work for this problem here; empty when some can."""
    workspace: Callable[[Any, Gemm], int] = lambda _config, _gemm: 0
    """Bytes of workspace that a legal config takes; see `Kernel.workspace_bytes`."""
    features: tuple[str, ...] = ()
    """Of `Device.features`, what its kernels need beside shader-f16."""
    adds_matrices: bool = False
    """Its kernels add native matrices, which not every dialect can."""

    @property
    def multiplies_matrices(self) -> bool:
        """Its kernels multiply on the device's matrix units."""
        return "cooperative-matrix" in self.features


def ceil_div(a: int, b: int) -> int:
    """The least integer >= a / b."""
    return -(-a // b)


def step_of(config: Config, gemm: Gemm) -> int:
    """Elements of k that a workgroup takes at a time; 1 where the family has no such steps."""
    step: Any = getattr(config, "step_k", getattr(config, "tile_k", 1))
    return int(step(gemm) if callable(step) else step)


def grid(workgroups: int, per_dimension: int) -> tuple[int, int, int]:
    """A dispatch that holds ``workgroups``, none of its sides over the device's limit.

    Kernels number workgroups as ``y * num_workgroups.x + x`` and leave when past the end.
    """
    if workgroups <= per_dimension:
        return (workgroups, 1, 1)
    rows = ceil_div(workgroups, per_dimension)
    return (ceil_div(workgroups, rows), rows, 1)


def pack_params(gemm: Gemm, first_workgroup: int = 0, workgroups: int | None = None) -> bytes:
    """The bytes of the uniform struct Params for a run of ``workgroups`` from ``first_workgroup``.

    ``workgroups`` None: to the end. Strides are in elements.
    """
    last = 0xFFFFFFFF if workgroups is None else first_workgroup + workgroups
    strides = (gemm.stride("a"), gemm.stride("b"), gemm.stride("c"))
    import struct

    return struct.pack(
        "<9I2f4x",
        *(gemm.m, gemm.n, gemm.k, gemm.batch),
        *strides,
        *(first_workgroup, last),
        *(gemm.alpha, gemm.beta),
    )


def check_problem(gemm: Gemm, device: Device) -> tuple[str, ...]:
    """Why no kernel at all can do this problem on this device; empty when they can."""
    reasons = []
    dtypes = {gemm.a, gemm.b, gemm.c, gemm.acc}
    if "f16" in dtypes and not device.has("shader-f16"):
        reasons.append("the problem has f16 operands and the device lacks shader-f16")
    largest = min(device.limits.storage_binding_bytes, device.limits.buffer_bytes)
    for operand in ("a", "b", "c", "bias"):
        size = gemm.size_bytes(operand)
        if size > largest:
            reasons.append(
                f"{operand} takes {size} bytes and one binding of this device holds "
                f"{largest}; multiply it in parts of m or n"
            )
        if size >= 2**32 and gemm.elements(operand) >= 2**32:
            reasons.append(f"{operand} has {gemm.elements(operand)} elements, over 2^32 - 1")
    return tuple(reasons)


def residents(launch: Launch, device: Device) -> int | None:
    """Workgroups that workgroup memory lets a multiprocessor hold at once.

    None where memory is no limit: the kernel uses none, or how much a multiprocessor has is not
    known. Registers and slots for threads may allow fewer. Speed depends on it, legality does not.
    """
    if not (device.resident_workgroup_bytes and launch.workgroup_storage_bytes):
        return None
    return max(1, device.resident_workgroup_bytes // launch.workgroup_storage_bytes)


def check_launch(
    launches: tuple[Launch, ...], device: Device, workspace_bytes: int = 0
) -> tuple[str, ...]:
    """Why this device cannot run these passes over such a workspace; empty when it can."""
    reasons = [reason for launch in launches for reason in _check_pass(launch, device)]
    largest = min(device.limits.storage_binding_bytes, device.limits.buffer_bytes)
    if workspace_bytes > largest:
        reasons.append(
            f"a workspace of {workspace_bytes} bytes, one binding of the device holds {largest}"
        )
    return tuple(reasons)


def _check_pass(launch: Launch, device: Device) -> Iterator[str]:
    limits = device.limits
    invocations = launch.workgroup_size[0] * launch.workgroup_size[1] * launch.workgroup_size[2]
    if invocations > min(limits.invocations_per_workgroup, limits.workgroup_size_x):
        yield (
            f"{invocations} invocations per workgroup, the device allows "
            f"{min(limits.invocations_per_workgroup, limits.workgroup_size_x)}"
        )
    if launch.workgroup_storage_bytes > limits.workgroup_storage_bytes:
        yield (
            f"{launch.workgroup_storage_bytes} bytes of workgroup memory, the device allows "
            f"{limits.workgroup_storage_bytes}"
        )
    if launch.workgroups > limits.workgroups_per_dimension**2:
        yield f"{launch.workgroups} workgroups, more than a grid can number"
