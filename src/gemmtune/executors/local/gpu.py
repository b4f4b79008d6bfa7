"""One wgpu device of this process: buffers, pipelines, dispatches, and errors as `JobError`.

Knows nothing of GEMM beyond the order of a kernel's bindings.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import wgpu
from wgpu.backends import wgpu_native

from gemmtune.device import Device
from gemmtune.executors.local import adapters
from gemmtune.executors.local.modules import create_module
from gemmtune.job import FailureKind

MESSAGE_LIMIT = 600
"""Characters of a message that are kept."""

_STORAGE = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST


class JobError(Exception):
    """The job at hand has failed; becomes its `Failure`."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """One launch of a pipeline over buffers."""

    pipeline: Any
    """A wgpu compute pipeline."""
    bind_group: Any
    """Its group 0."""
    groups: tuple[int, int, int]
    """Workgroups in x, y, z."""


def one_line(text: str) -> str:
    """A compiler's or driver's message without line breaks and box drawing, cut to a limit."""
    lines = (re.sub(r"^[\s│┌─═=^]+|[\s│┌─═=^]+$", "", line) for line in text.splitlines())
    joined = " | ".join(line for line in lines if line)
    return joined if len(joined) <= MESSAGE_LIMIT else joined[: MESSAGE_LIMIT - 3] + "..."


class _Log(logging.Handler):
    """Keeps what wgpu logs: errors that no call raised, and the loss of the device."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []
        self.lost = False

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # The process's stderr is what remains of a message when the driver kills the process.
        print(message, file=sys.stderr, flush=True)  # noqa: T201
        self.lost = self.lost or "device was lost" in message.lower() or "DEVICE LOST" in message
        self.messages.append(message)


class Gpu:
    """A device that is open. Used from one thread.

    Args:
        selector: as `adapters.choose` takes it.

    Raises:
        DeviceError: no adapter, none that matches, or the driver gives no device.
    """

    def __init__(self, selector: str = "") -> None:
        self._log = _Log()
        logging.getLogger("wgpu").addHandler(self._log)
        found = adapters.adapters()
        devices = [adapters.describe(adapter) for adapter in found]
        index = adapters.choose(devices, selector)
        self._device, device = adapters.open_device(found[index], devices[index])
        self.device: Device = adapters.with_subgroup_size(device, self._device)
        self.versions = adapters.versions(self.device)
        self._layouts: dict[tuple[str | None, ...], Any] = {}
        self._fence = self.buffer(4)

    @property
    def timestamp_period_ns(self) -> float:
        """Nanoseconds of one tick of the GPU's clock, as the driver says."""
        # wgpu-py 0.32 does not wrap this one function of its library.
        return float(wgpu_native.lib.wgpuQueueGetTimestampPeriod(self._device.queue._internal))

    @contextmanager
    def failing_as(self, kind: FailureKind) -> Iterator[None]:
        """Turns what wgpu raises or logs within into `JobError`.

        Args:
            kind: what an error is that is neither loss of the device nor lack of memory.
        """
        self._log.messages.clear()
        try:
            yield
            if self._log.messages:
                raise wgpu.GPUError(" ".join(self._log.messages))
        except (wgpu.GPUError, RuntimeError) as error:
            raise JobError(self._kind(error, kind), one_line(str(error))) from error

    def _kind(self, error: Exception, otherwise: FailureKind) -> FailureKind:
        text = str(error).lower()
        if self._log.lost or "device is lost" in text or "device was lost" in text:
            return "device_lost"
        if isinstance(error, wgpu.GPUOutOfMemoryError) or "memory left" in text:
            return "out_of_memory"
        return otherwise

    def buffer(self, size_bytes: int) -> Any:
        """A storage buffer; its contents are zero."""
        return self._device.create_buffer(size=size_bytes, usage=_STORAGE)

    def uniform(self, data: bytes) -> Any:
        """A uniform buffer holding ``data``."""
        return self._device.create_buffer_with_data(data=data, usage=wgpu.BufferUsage.UNIFORM)

    def write(self, buffer: Any, data: Any) -> None:
        """Overwrites the start of a buffer."""
        self._device.queue.write_buffer(buffer, 0, data)

    def read(self, buffer: Any, offset: int = 0, size: int | None = None) -> bytes:
        """Bytes of a buffer, after all work before; offset and size are multiples of 4."""
        return bytes(self._device.queue.read_buffer(buffer, offset, size))

    def copy(self, source: Any, target: Any) -> None:
        """Copies a whole buffer to another of its size."""
        encoder = self._device.create_command_encoder()
        encoder.copy_buffer_to_buffer(source, 0, target, 0, source.size)
        self._device.queue.submit([encoder.finish()])

    def gather(self, buffer: Any, offsets: Sequence[int]) -> bytes:
        """The 4-byte words at these offsets, in one read."""
        target = self.buffer(4 * max(len(offsets), 1))
        encoder = self._device.create_command_encoder()
        for index, offset in enumerate(offsets):
            encoder.copy_buffer_to_buffer(buffer, offset, target, 4 * index, 4)
        self._device.queue.submit([encoder.finish()])
        return self.read(target)

    def _layout(self, bindings: tuple[str | None, ...]) -> Any:
        if bindings not in self._layouts:
            self._layouts[bindings] = self._device.create_bind_group_layout(
                entries=[
                    {"binding": i, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}}
                    for i, kind in enumerate(bindings)
                    if kind is not None
                ]
            )
        return self._layouts[bindings]

    def pipeline(self, wgsl: str, bindings: tuple[str | None, ...]) -> Any:
        """A compute pipeline of the entry point ``main``; see `pipelines`."""
        return self.pipelines(wgsl, (bindings,), ("main",))[0]

    def pipelines(
        self,
        wgsl: str,
        bindings: Sequence[tuple[str | None, ...]],
        entry_points: Sequence[str],
        *,
        unchecked: bool = False,
    ) -> tuple[Any, ...]:
        """A compute pipeline of each of a module's entry points.

        Args:
            wgsl: source.
            bindings: for each entry point the WebGPU buffer binding type of each binding of group
                0; None: not there.
            entry_points: names of functions.
            unchecked: see `Kernel.unchecked`.

        Raises:
            JobError: the compiler (compile) or WebGPU (validation) refuses it.
        """
        with self.failing_as("compile"):
            module = create_module(self._device, wgsl, unchecked=unchecked)
        with self.failing_as("validation"):
            try:
                return tuple(
                    self._device.create_compute_pipeline(
                        layout=self._device.create_pipeline_layout(
                            bind_group_layouts=[self._layout(each)]
                        ),
                        compute={"module": module, "entry_point": name},
                    )
                    for each, name in zip(bindings, entry_points, strict=True)
                )
            except wgpu.GPUInternalError as error:
                # The driver's own compiler, behind naga's, has given up.
                raise JobError("compile", one_line(str(error))) from error

    def bind_group(self, bindings: tuple[str | None, ...], buffers: Sequence[Any]) -> Any:
        """Group 0 with these buffers, whole, in order of their bindings; None: not there."""
        return self._device.create_bind_group(
            layout=self._layout(bindings),
            entries=[
                {"binding": i, "resource": {"buffer": buffer}}
                for i, buffer in enumerate(buffers)
                if bindings[i] is not None
            ],
        )

    def query_set(self, count: int) -> Any:
        """Room for ``count`` timestamps."""
        return self._device.create_query_set(type=wgpu.QueryType.timestamp, count=count)

    def encode(self, passes: Sequence[Sequence[Dispatch]], queries: Any = None) -> Any:
        """A command buffer of passes, for `run`.

        Args:
            passes: the dispatches of each.
            queries: pass i writes its begin and end to timestamps 2i and 2i + 1 of it.
        """
        encoder = self._device.create_command_encoder()
        for index, dispatches in enumerate(passes):
            writes = None
            if queries is not None:
                writes = {
                    "query_set": queries,
                    "beginning_of_pass_write_index": 2 * index,
                    "end_of_pass_write_index": 2 * index + 1,
                }
            run = encoder.begin_compute_pass(timestamp_writes=writes)
            bound = None
            for dispatch in dispatches:
                if dispatch is not bound:
                    run.set_pipeline(dispatch.pipeline)
                    run.set_bind_group(0, dispatch.bind_group)
                    bound = dispatch
                run.dispatch_workgroups(*dispatch.groups)
            run.end()
        return encoder.finish()

    def run(self, commands: Any) -> None:
        """Submits a command buffer."""
        self._device.queue.submit([commands])

    def submit(self, passes: Sequence[Sequence[Dispatch]], queries: Any = None) -> None:
        """Submits passes in one command buffer; see `encode`."""
        self.run(self.encode(passes, queries))

    def ticks(self, queries: Any, count: int) -> memoryview:
        """The first ``count`` timestamps, raw, after all work before."""
        usage = wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
        resolved = self._device.create_buffer(size=8 * count, usage=usage)
        encoder = self._device.create_command_encoder()
        encoder.resolve_query_set(queries, 0, count, resolved, 0)
        self._device.queue.submit([encoder.finish()])
        return memoryview(self.read(resolved)).cast("Q")

    def wait(self) -> None:
        """Until the device has done everything submitted."""
        # on_submitted_work_done_sync of wgpu-py 0.32.0 raises TypeError: its callback lacks an
        # argument of wgpu-native 29's. A read comes after all work before it just as well.
        self._device.queue.read_buffer(self._fence)
