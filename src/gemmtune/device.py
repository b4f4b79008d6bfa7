"""What identifies an adapter and what it can do. Knows nothing of wgpu: executors fill it in."""

from __future__ import annotations

from functools import lru_cache

from gemmtune.light import dataclass, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The WebGPU limits that a GEMM can meet; the defaults are those every WebGPU device has.

    Source: https://www.w3.org/TR/webgpu/#limits
    """

    workgroup_storage_bytes: int = 16384
    """maxComputeWorkgroupStorageSize."""
    invocations_per_workgroup: int = 256
    """maxComputeInvocationsPerWorkgroup."""
    workgroup_size_x: int = 256
    """maxComputeWorkgroupSizeX."""
    workgroups_per_dimension: int = 65535
    """maxComputeWorkgroupsPerDimension."""
    storage_binding_bytes: int = 134217728
    """maxStorageBufferBindingSize."""
    buffer_bytes: int = 268435456
    """maxBufferSize."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Fragment:
    """A matrix multiply-add of a subgroup that has given right numbers: size^3, ab x ab -> acc."""

    size: int
    """Rows and columns of all three matrices: 8 or 16."""
    ab: str
    """Dtype of A and B: f16 or f32."""
    acc: str
    """Dtype of the sums: f16 or f32."""
    workgroup: tuple[int, ...] = (1, 2, 4)
    """Elements per pointee (1: scalar, 2, 4: vectors) with which loads from workgroup memory are
    right, rows and columns alike."""
    storage: tuple[int, ...] = ()
    """The same of loads straight from a storage buffer."""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Fragment:
        """The inverse of `to_json`; loads that were not asked about are as by default."""
        loads = {name: tuple(data[name]) for name in ("workgroup", "storage") if name in data}
        return cls(size=data["size"], ab=data["ab"], acc=data["acc"], **loads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One adapter as one driver and one backend show it. ``Device()`` is the least any has."""

    name: str = "any"
    """As the driver names it, e.g. NVIDIA H100 80GB HBM3."""
    vendor_id: int = 0
    """PCI vendor, e.g. 0x10de."""
    device_id: int = 0
    """PCI device."""
    backend: str = "any"
    """vulkan, metal, d3d12, opengl."""
    driver: str = ""
    """Driver name and version."""
    adapter_type: str = "unknown"
    """discrete, integrated, cpu or unknown."""
    features: tuple[str, ...] = ()
    """WebGPU feature names, sorted, e.g. shader-f16, subgroup, timestamp-query."""
    limits: Limits = Limits()
    """What the adapter allows."""
    subgroup_size: int = 0
    """Measured by a kernel; 0: not known, or no subgroups."""
    refused: tuple[str, ...] = ()
    """Features that the adapter has and wgpu-native does not grant: it calls them experimental."""
    fragments: tuple[Fragment, ...] = ()
    """Native matrix multiply-adds, probed by number, sorted; none without cooperative-matrix."""
    resident_workgroup_bytes: int = 0
    """Workgroup memory of a multiprocessor, probed by speed: so much do all workgroups that are on
    it at once hold together. 0: not known, or no limit that could be felt."""

    @property
    def key(self) -> str:
        """Stable text for this adapter, backend and driver, e.g.
        ``vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04``.
        """
        ids = f"{self.vendor_id:04x}-{self.device_id:04x}"
        return "/".join((_slug(self.backend), ids, _slug(self.name), _slug(self.driver)))

    @property
    def hardware_key(self) -> str:
        """`key` without the driver: the same chip through the same backend."""
        return self.key.rsplit("/", 1)[0]

    @property
    def software(self) -> bool:
        """Kernels run on the CPU: right numbers, meaningless speed."""
        return self.adapter_type == "cpu" or any(
            word in self.name.lower()
            for word in ("llvmpipe", "lavapipe", "swiftshader", "basic render", "softpipe")
        )

    def has(self, feature: str) -> bool:
        """Whether the adapter offers this WebGPU feature."""
        return feature in self.features

    def fragment(self, size: int, ab: str, acc: str) -> Fragment | None:
        """The fragment of these sizes and dtypes; None where it does not work here."""
        for one in self.fragments:  # asked for every config of a space
            if one.size == size and one.ab == ab and one.acc == acc:
                return one
        return None

    def to_json(self) -> dict[str, Any]:
        """All fields, sorted; limits nested."""
        data: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        data["features"] = list(self.features)
        data["refused"] = list(self.refused)
        data["fragments"] = [one.to_json() for one in self.fragments]
        data["limits"] = {f.name: getattr(self.limits, f.name) for f in fields(Limits)}
        return dict(sorted(data.items()))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Device:
        """The inverse of `to_json`; fields that a later version added are left out."""
        known = {f.name for f in fields(cls)} - {"limits", "features", "refused", "fragments"}
        names = {f.name for f in fields(Limits)}
        limits = {k: v for k, v in data.get("limits", {}).items() if k in names}
        return cls(
            **{k: v for k, v in data.items() if k in known},
            features=tuple(data.get("features", ())),
            refused=tuple(data.get("refused", ())),
            fragments=tuple(Fragment.from_json(one) for one in data.get("fragments", ())),
            limits=Limits(**limits),
        )


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.")


@lru_cache(maxsize=256)
def _slug(text: str) -> str:
    plain = "".join(one if one in _PLAIN else " " for one in text.lower())
    return "-".join(plain.split()).strip("-") or "unknown"
