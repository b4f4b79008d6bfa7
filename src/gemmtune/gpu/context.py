"""What is kept per wgpu device: its description, layouts, pipelines by kernel, and plans."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import wgpu

from gemmtune.device import Device
from gemmtune.executors.local.modules import create_module
from gemmtune.executors.local.operands import kernel_bindings
from gemmtune.gpu.devices import describe, translated
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.validity import identity

T = TypeVar("T")

PLANS_KEPT = 512
"""Plans of one device; each has a uniform buffer of 48 bytes."""


class Context:
    """All that plans on one device share. Safe to use from several threads."""

    def __init__(self, wgpu_device: Any) -> None:
        self.lock = threading.RLock()
        self.wgpu_device = wgpu_device
        self.device: Device = describe(wgpu_device)
        self.plans: OrderedDict[Hashable, Any] = OrderedDict()
        self._layouts: dict[tuple[str | None, ...], Any] = {}
        self._pipelines: dict[Hashable, tuple[Any, ...]] = {}
        self._workspace: Any = None

    @property
    def pipeline_count(self) -> int:
        """Kernels compiled so far."""
        return len(self._pipelines)

    def layout(self, bindings: tuple[str | None, ...]) -> Any:
        """The bind group layout of these buffer binding types; None: not there."""
        if bindings not in self._layouts:
            self._layouts[bindings] = self.wgpu_device.create_bind_group_layout(
                entries=[
                    {"binding": i, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}}
                    for i, kind in enumerate(bindings)
                    if kind is not None
                ]
            )
        return self._layouts[bindings]

    def pipelines(
        self, family: str, config: Config, gemm: Gemm, workspace: bool
    ) -> tuple[Any, ...]:
        """One pipeline per pass; compiled once for all problems that share the kernel.

        Raises:
            GPUError: the shader compiler or the driver refuses the kernel.
            DeviceLostError: the device is lost.
        """
        key = identity(family, config, gemm, self.device)
        found = self._pipelines.get(key)
        if found is None:
            kernel = render(family, config, gemm, self.device)
            with translated(self.device.name):
                layouts = [
                    self.layout(
                        kernel_bindings(gemm, workspace=workspace, only_reads=one.only_reads)
                    )
                    for one in kernel.launches
                ]
                module = create_module(self.wgpu_device, kernel.wgsl, unchecked=kernel.unchecked)
                names = [one.entry_point for one in kernel.launches]
                found = self._compile(module, layouts, names)
            self._pipelines[key] = found
        return found

    def _compile(
        self, module: Any, layouts: Sequence[Any], entry_points: Sequence[str]
    ) -> tuple[Any, ...]:
        return tuple(
            self.wgpu_device.create_compute_pipeline(
                layout=self.wgpu_device.create_pipeline_layout(bind_group_layouts=[layout]),
                compute={"module": module, "entry_point": name},
            )
            for layout, name in zip(layouts, entry_points, strict=True)
        )

    def workspace(self, size_bytes: int) -> Any:
        """A buffer of at least this size. Plans share it: dispatches of a queue run in order."""
        if self._workspace is None or self._workspace.size < size_bytes:
            with translated(self.device.name):
                self._workspace = self.wgpu_device.create_buffer(
                    size=size_bytes, usage=wgpu.BufferUsage.STORAGE
                )
        return self._workspace


_contexts: WeakKeyDictionary[Any, Context] = WeakKeyDictionary()
_contexts_lock = threading.Lock()


def context_of(wgpu_device: Any) -> Context:
    """The context of a wgpu device; made when it is first asked for."""
    with _contexts_lock:
        found = _contexts.get(wgpu_device)
        if found is None:
            found = _contexts[wgpu_device] = Context(wgpu_device)
        return found
