"""The buffers of one problem on the device: seeded operands with poison around them.

Around every operand lies a pattern that is NaN in f32 and in f16: a kernel that uses what lies
beyond its inputs gets NaN, and one that writes beyond C destroys the pattern.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from gemmtune._data import data_path
from gemmtune.executors.local.gpu import Dispatch, Gpu
from gemmtune.kernels.base import ceil_div, grid, pack_params
from gemmtune.problem import SIZEOF, Gemm
from gemmtune.reference import stream

POISON = 0xFFE5FFE5
"""A quiet NaN as f32, and two of them as f16."""
SLACK_BYTES = 16 * 1024
"""Poison after each input."""
CANARY_ELEMENTS = 64 * 1024
"""Poison after C, in elements, where the device's largest binding has room for it."""

HELPER_BINDINGS = ("uniform", "read-only-storage", "read-only-storage", "storage")
"""Of templates/verify/compare.wgsl and differ.wgsl."""
_FILL_BINDINGS = ("uniform", "storage")
_GRID = (1024, 1, 1)
COLD_BYTES = 256 * 1024 * 1024
"""Inputs that together exceed this cannot all be in any last-level cache of today."""
_COLD_COPIES = 32


def kernel_bindings(
    gemm: Gemm, *, workspace: bool = False, only_reads: bool = False
) -> tuple[str | None, ...]:
    """Group 0 of a GEMM kernel: Params, A, B, C and, where there are such, bias and workspace.

    Args:
        gemm: the problem.
        workspace: whether the kernel has one.
        only_reads: `Launch.only_reads` of the pass.
    """
    bias = "read-only-storage" if gemm.bias else None
    inputs = ("read-only-storage", "read-only-storage")
    access = "read-only-storage" if only_reads else "storage"
    return ("uniform", *inputs, "storage", bias, access if workspace else None)


class Helpers:
    """The kernels that make and judge operands."""

    def __init__(self, gpu: Gpu) -> None:
        folder = data_path("templates") / "verify"

        def compiled(name: str, bindings: tuple[str, ...]) -> Any:
            return gpu.pipeline((folder / f"{name}.wgsl").read_text("utf-8"), bindings)

        self._gpu = gpu
        self._fill = compiled("fill", _FILL_BINDINGS)
        self._compare = compiled("compare", HELPER_BINDINGS)
        self._differ = compiled("differ", HELPER_BINDINGS)

    def fill(
        self,
        buffer: Any,
        gemm: Gemm,
        operand: str,
        seed: int | None,
        dtype: str,
    ) -> None:
        """Seeded values where elements of the operand lie, poison elsewhere.

        Args:
            buffer: what is filled, whole.
            gemm: the problem, whose own dtype of the operand decides the values' precision.
            operand: "a", "b", "c" or "bias".
            seed: of the inputs; None: poison everywhere.
            dtype: what the buffer's elements are.
        """
        elements = gemm.elements(operand)
        packed = stride = max(elements, 1)
        if operand != "bias" and gemm.batch > 1 and gemm.stride(operand) > 0:
            one = {"a": gemm.m * gemm.k, "b": gemm.k * gemm.n, "c": gemm.m * gemm.n}[operand]
            if gemm.stride(operand) >= one:
                stride, packed = gemm.stride(operand), one
        own = gemm.c if operand == "bias" else getattr(gemm, operand)
        words = buffer.size // 4
        args = struct.pack(
            "<8I",
            words,
            elements if seed is not None else 0,
            stride,
            packed,
            stream(operand, seed or 0),
            dtype == "f16",
            own == "f16",
            POISON,
        )
        group = self._gpu.bind_group(_FILL_BINDINGS, (self._gpu.uniform(args), buffer))
        groups = (min(_GRID[0], ceil_div(words, 256)), 1, 1)
        self._gpu.submit([[Dispatch(pipeline=self._fill, bind_group=group, groups=groups)]])

    def compare(self, args: bytes, buffers: Sequence[Any], verdict: Any) -> None:
        """Runs compare.wgsl; ``args`` are its uniform struct."""
        self._run(self._compare, args, buffers, verdict)

    def differ(self, args: bytes, buffers: Sequence[Any], verdict: Any) -> None:
        """Runs differ.wgsl; ``args`` are its uniform struct."""
        self._run(self._differ, args, buffers, verdict)

    def load(self, buffer: Any, scratch: Any) -> Dispatch:
        """A dispatch that reads two buffers of one size: something to keep a GPU busy with."""
        args = self._gpu.uniform(struct.pack("<4I", buffer.size // 4, 0, 0, 0))
        verdict = self._gpu.buffer(256)
        group = self._gpu.bind_group(HELPER_BINDINGS, (args, buffer, scratch, verdict))
        return Dispatch(pipeline=self._differ, bind_group=group, groups=_GRID)

    def _run(self, pipeline: Any, args: bytes, buffers: Sequence[Any], verdict: Any) -> None:
        group = self._gpu.bind_group(HELPER_BINDINGS, (self._gpu.uniform(args), *buffers, verdict))
        self._gpu.submit([[Dispatch(pipeline=pipeline, bind_group=group, groups=_GRID)]])


class Operands:
    """A, B, C and bias of one problem and seed.

    Args:
        gpu: where.
        helpers: its helper kernels.
        gemm: the problem.
        seed: of the inputs.
        c_dtype: what C and bias are kept as, if not as the problem says; their values stay the
            problem's.

    Raises:
        JobError: the device has no room (out_of_memory).
    """

    def __init__(
        self, gpu: Gpu, helpers: Helpers, gemm: Gemm, seed: int, *, c_dtype: str | None = None
    ) -> None:
        self.gemm = gemm
        self.seed = seed
        self._gpu = gpu
        self._helpers = helpers
        self._c_dtype = c_dtype or gemm.c
        with gpu.failing_as("out_of_memory"):
            self.a = self._input("a", gemm.a)
            self.b = self._input("b", gemm.b)
            self.c = self._allocate("c", self._c_dtype, CANARY_ELEMENTS * SIZEOF[self._c_dtype])
            self.bias = self._input("bias", self._c_dtype) if gemm.bias else None
            self._workspace: Any = None
            self._workspace_bytes = 0
            self.reset()
        self._pairs = [(self.a, self.b)]

    @property
    def size_bytes(self) -> int:
        """Device memory taken, by cold copies too; not by a workspace."""
        bias = self.bias.size if self.bias is not None else 0
        inputs = len(self._pairs) * (self.a.size + self.b.size)
        return int(inputs + self.c.size + bias)

    def _allocate(self, operand: str, dtype: str, slack_bytes: int) -> Any:
        return self._padded(self.gemm.elements(operand) * SIZEOF[dtype], slack_bytes)

    def _padded(self, size_bytes: int, slack_bytes: int) -> Any:
        needed = ceil_div(size_bytes, 16) * 16
        limits = self._gpu.device.limits
        largest = min(limits.storage_binding_bytes, limits.buffer_bytes) // 16 * 16
        return self._gpu.buffer(max(needed, min(needed + slack_bytes, largest)))

    def _input(self, operand: str, dtype: str) -> Any:
        buffer = self._allocate(operand, dtype, SLACK_BYTES)
        self._helpers.fill(buffer, self.gemm, operand, self.seed, dtype)
        return buffer

    def set_workspace(self, size_bytes: int) -> None:
        """Gives the kernels to come a workspace of this size, in place of the last; 0: none."""
        if self._workspace is not None:
            self._workspace.destroy()
            self._workspace = None
        self._workspace_bytes = ceil_div(size_bytes, 16) * 16
        if size_bytes:
            with self._gpu.failing_as("out_of_memory"):
                self._workspace = self._padded(size_bytes, SLACK_BYTES)

    def reset(self) -> None:
        """C as it is before the product: the seeded old one where beta reads it, else poison.

        The workspace becomes poison too: nothing may be left there from the product before.
        """
        seed = self.seed if self.gemm.beta != 0.0 else None
        self._helpers.fill(self.c, self.gemm, "c", seed, self._c_dtype)
        if self._workspace is not None:
            self._helpers.fill(self._workspace, self.gemm, "c", None, "f32")

    @property
    def workspace_overrun(self) -> bool:
        """Whether what lies behind the workspace has been written since `reset`."""
        if self._workspace is None:
            return False
        end = self._workspace_bytes
        if end == self._workspace.size:  # as large as a binding gets: no room behind it
            return False
        behind = self._gpu.read(self._workspace, end, self._workspace.size - end)
        return behind != struct.pack("<I", POISON) * (len(behind) // 4)

    def dispatch(
        self,
        pipeline: Any,
        first: int,
        count: int,
        *,
        inputs: tuple[Any, Any] | None = None,
        only_reads: bool = False,
    ) -> Dispatch:
        """A launch of ``count`` workgroups from ``first`` on; ``inputs`` replace A and B."""
        params = self._gpu.uniform(pack_params(self.gemm, first, count))
        buffers = [params, *(inputs or (self.a, self.b)), self.c, self.bias, self._workspace]
        has_workspace = self._workspace is not None
        bindings = kernel_bindings(self.gemm, workspace=has_workspace, only_reads=only_reads)
        return Dispatch(
            pipeline=pipeline,
            bind_group=self._gpu.bind_group(bindings, buffers),
            groups=grid(max(count, 1), self._gpu.device.limits.workgroups_per_dimension),
        )

    def cold_inputs(self) -> list[tuple[Any, Any]]:
        """Pairs of A and B, copies but for the first, that no cache holds all together."""
        pairs = self._pairs
        wanted = min(_COLD_COPIES, ceil_div(COLD_BYTES, self.a.size + self.b.size))
        with self._gpu.failing_as("out_of_memory"):
            while len(pairs) < wanted:
                pair = (self._gpu.buffer(self.a.size), self._gpu.buffer(self.b.size))
                self._gpu.copy(self.a, pair[0])
                self._gpu.copy(self.b, pair[1])
                pairs.append(pair)
        return pairs

    def free(self) -> None:
        """Gives the memory back now, not when Python gets to it."""
        copies = [buffer for pair in self._pairs[1:] for buffer in pair]
        for buffer in (self.a, self.b, self.c, self.bias, self._workspace, *copies):
            if buffer is not None:
                buffer.destroy()
