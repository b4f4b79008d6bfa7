"""Which adapters there are, which of them is meant, and what each can do. Runs no jobs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gemmtune import __version__
from gemmtune._data import data_path
from gemmtune.device import Device, Limits
from gemmtune.errors import DeviceError
from gemmtune.job import Versions

NO_ADAPTER = (
    "no WebGPU adapter found; install your GPU's driver, or Mesa's software Vulkan: "
    "apt install mesa-vulkan-drivers"
)

USED_FEATURES = ("shader-f16", "subgroup", "subgroup-barrier", "timestamp-query")
"""What kernels and timing ask of a device, and can expect of it where the adapter has them."""
MATRICES = "cooperative-matrix"
"""Used where it is granted: to wgpu-native it is an experiment (see `gemmtune.unlock`)."""
_REFUSAL = "experimental features are not enabled"

LIMITS = {
    "workgroup_storage_bytes": "max-compute-workgroup-storage-size",
    "invocations_per_workgroup": "max-compute-invocations-per-workgroup",
    "workgroup_size_x": "max-compute-workgroup-size-x",
    "workgroups_per_dimension": "max-compute-workgroups-per-dimension",
    "storage_binding_bytes": "max-storage-buffer-binding-size",
    "buffer_bytes": "max-buffer-size",
}
"""Field of `Limits` to the name that wgpu-py has for it."""
_TYPES = {"DiscreteGPU": "discrete", "IntegratedGPU": "integrated", "CPU": "cpu"}
_BACKENDS = {"OpenGLES": "opengl"}


def adapters() -> list[Any]:
    """Every wgpu adapter, in the order that indices refer to."""
    import wgpu

    return list(wgpu.gpu.enumerate_adapters_sync())


def describe(adapter: Any) -> Device:
    """What wgpu says of an adapter; the subgroup size, which it does not say, stays 0.

    Experimental features count as refused: whether they are shows when a device is opened.
    """
    info = dict(adapter.info)
    backend = str(info["backend_type"])
    limits = adapter.limits
    return Device(
        name=str(info["device"]),
        vendor_id=int(info["vendor_id"]),
        device_id=int(info["device_id"]),
        backend=_BACKENDS.get(backend, backend.lower()),
        driver=str(info["description"]),
        adapter_type=_TYPES.get(str(info["adapter_type"]), "unknown"),
        features=tuple(sorted(set(USED_FEATURES) & set(adapter.features))),
        refused=(MATRICES,) if MATRICES in adapter.features else (),
        limits=Limits(**{name: int(limits[dashed]) for name, dashed in LIMITS.items()}),
    )


def choose(devices: Sequence[Device], selector: str = "") -> int:
    """The index of the device that ``selector`` means.

    Args:
        devices: all there are.
        selector: an index, or a part of a name, backend or key in any case; empty: the best,
            which is discrete before integrated before software, and OpenGL last.

    Raises:
        DeviceError: there is none, or none that matches.
    """
    if not devices:
        raise DeviceError(NO_ADAPTER)
    text = selector.strip().lower()
    if text.isdecimal() and int(text) < len(devices):
        return int(text)
    matching = [
        index
        for index, device in enumerate(devices)
        if any(text in part.lower() for part in (device.name, device.backend, device.key))
    ]
    if not matching:
        there = "; ".join(f"{i}: {d.name} ({d.backend})" for i, d in enumerate(devices))
        raise DeviceError(f"no adapter matches {selector!r}; there is {there}")
    return min(matching, key=lambda index: (_rank(devices[index]), index))


def _rank(device: Device) -> tuple[int, int]:
    kinds = ("discrete", "integrated", "unknown")
    kind = len(kinds) if device.software else kinds.index(device.adapter_type)
    return kind, int(device.backend == "opengl")


def open_device(adapter: Any, device: Device) -> tuple[Any, Device]:
    """A wgpu device with all of `Limits` and `Device.features` of the adapter, and with matrices.

    Returns:
        The wgpu device, and ``device`` with `MATRICES` in its features if they were granted, or in
        `Device.refused` if wgpu-native has them and refuses.

    Raises:
        DeviceError: the driver does not give one.
    """
    if device.refused:
        features = tuple(sorted({*device.features, *device.refused}))
        with_matrices = replace(device, features=features, refused=())
        try:
            return _request(adapter, with_matrices), with_matrices
        except DeviceError as error:
            if _REFUSAL not in str(error):
                raise
    return _request(adapter, device), device


def _request(adapter: Any, device: Device) -> Any:
    limits = {dashed: getattr(device.limits, name) for name, dashed in LIMITS.items()}
    try:
        return adapter.request_device_sync(
            required_features=list(device.features), required_limits=limits
        )
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise DeviceError(f"{device.name} ({device.backend}) gives no device: {said}") from error


def with_subgroup_size(device: Device, wgpu_device: Any) -> Device:
    """The device with the subgroup size that a kernel saw on it; unchanged without subgroups."""
    import wgpu

    if not device.has("subgroup"):
        return device
    wgsl = (data_path("templates") / "verify" / "probe.wgsl").read_text("utf-8")
    usage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC
    size = wgpu_device.create_buffer(size=4, usage=usage)
    module = wgpu_device.create_shader_module(code=wgsl)
    pipeline = wgpu_device.create_compute_pipeline(
        layout="auto", compute={"module": module, "entry_point": "main"}
    )
    group = wgpu_device.create_bind_group(
        layout=pipeline.get_bind_group_layout(0),
        entries=[{"binding": 0, "resource": {"buffer": size}}],
    )
    encoder = wgpu_device.create_command_encoder()
    run = encoder.begin_compute_pass()
    run.set_pipeline(pipeline)
    run.set_bind_group(0, group)
    run.dispatch_workgroups(1)
    run.end()
    wgpu_device.queue.submit([encoder.finish()])
    lanes = int.from_bytes(wgpu_device.queue.read_buffer(size), "little")
    return replace(device, subgroup_size=lanes)


def versions(device: Device) -> Versions:
    """The software between WGSL and this device."""
    from wgpu.backends import wgpu_native

    native = ".".join(str(part) for part in wgpu_native.lib_version_info)
    return Versions(
        driver=device.driver,
        backend=device.backend,
        wgpu=importlib.metadata.version("wgpu"),
        compiler=f"naga/wgpu-native {native}",
        gemmtune=__version__,
    )
