"""Whether a kernel is right: every element of C, everything around C, and twice the same.

The expected C comes from float64 on the host for small problems, and for large ones from the
naive kernel on the device, which is itself checked at single elements.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gemmtune import reference
from gemmtune.executors.local import timing
from gemmtune.executors.local.gpu import Gpu, JobError
from gemmtune.executors.local.handover import Handover
from gemmtune.executors.local.operands import (
    POISON,
    Helpers,
    Operands,
    kernel_bindings,
)
from gemmtune.kernels import naive
from gemmtune.problem import SIZEOF, Gemm
from gemmtune.render import render

HOST_PRODUCTS = 2**22
"""Up to this many multiply-adds the reference is NumPy's."""
_SPOTS = 48
_NONE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A C that is right."""

    max_abs_error: float
    """Largest absolute difference from the reference."""
    max_reference: float
    """Largest magnitude in the reference."""
    tolerance: float
    """What was allowed."""


def at_hand(gemm: Gemm, seed: int, handover: Handover) -> bool:
    """Whether `Expected` needs no kernel: the host is fast enough, or another worker has run it."""
    return _small(gemm) or handover.has(_key(gemm, seed))


def _small(gemm: Gemm) -> bool:
    return gemm.m * gemm.n * gemm.k * gemm.batch <= HOST_PRODUCTS


def _key(gemm: Gemm, seed: int) -> str:
    return f"{gemm!r} {seed}"


class Expected:
    """The right C of one problem and seed, on the device, laid out as C is.

    Args:
        gpu: where.
        helpers: its helper kernels.
        watch: gives its clock, for dispatches that stay short.
        gemm: the problem.
        seed: of the inputs.
        limit_s: longest dispatch.
        handover: where other workers leave what the device has computed.

    Raises:
        JobError: no room for it, or the naive kernel does not work here.
    """

    def __init__(
        self,
        gpu: Gpu,
        helpers: Helpers,
        watch: Callable[[], timing.Stopwatch],
        gemm: Gemm,
        seed: int,
        limit_s: float,
        handover: Handover | None = None,
    ) -> None:
        self._gpu = gpu
        self.dtype = "f32"
        self.tolerance = reference.tolerance(gemm)
        if _small(gemm):
            self.buffer = self._from_host(gemm, seed)
        else:
            exact = self._exact(gemm)
            operands = Operands(gpu, helpers, gemm, seed, c_dtype=exact.c)
            self.buffer = operands.c
            # The values of C and bias stay those of the problem's dtypes, whatever is kept of them.
            key, handover = _key(gemm, seed), handover or Handover()
            known = handover.load(key, operands.c.size)
            if known is None:
                self._compute(exact, operands, watch(), limit_s)
                self._check_spots(gemm, seed)
                handover.save(key, gpu.read(operands.c))
            else:
                gpu.write(operands.c, known)
            for buffer in (operands.a, operands.b):
                buffer.destroy()

    def _from_host(self, gemm: Gemm, seed: int) -> Any:
        right = np.zeros(max(gemm.elements("c"), 4), np.float32)
        if not gemm.empty:
            with np.errstate(over="ignore"):
                product = reference.product(gemm, reference.inputs(gemm, seed))
                reference.matrices(gemm, "c", right)[...] = product
        with self._gpu.failing_as("out_of_memory"):
            buffer = self._gpu.buffer(-(-right.nbytes // 16) * 16)
            self._gpu.write(buffer, right)
        return buffer

    def _exact(self, gemm: Gemm) -> Gemm:
        """The problem whose C is kept: in f32 where that fits one binding."""
        device = self._gpu.device
        exact = replace(gemm, c="f32", acc="f32")
        if naive.check(naive.NaiveConfig(), exact, device):
            # The reference is rounded as C is, then.
            exact = replace(gemm, acc="f32")
            self.dtype = gemm.c
            self.tolerance *= 2
        return exact

    def _compute(
        self, exact: Gemm, operands: Operands, watch: timing.Stopwatch, limit_s: float
    ) -> None:
        """Have the naive kernel leave the right C in the operands'."""
        kernel = render("naive", naive.NaiveConfig(), exact, self._gpu.device)
        pipeline = self._gpu.pipeline(kernel.wgsl, kernel_bindings(exact))
        workgroups = kernel.launches[0].workgroups

        def launch(first: int, count: int) -> Any:
            return operands.dispatch(pipeline, first, count)

        with self._gpu.failing_as("validation"):
            watch.passes_ns([[launch(0, 0)]], apart=True)
            parts = timing.plan(watch, launch, workgroups, limit_s).parts
            operands.reset()
            watch.passes_ns([[launch(*part)] for part in parts], apart=True)

    def _check_spots(self, gemm: Gemm, seed: int) -> None:
        last = np.array([gemm.batch - 1, gemm.m - 1, gemm.n - 1])
        places = np.random.default_rng(seed).integers(0, last + 1, (_SPOTS, 3))
        places[0], places[1] = last, 0
        at = places[:, 0] * gemm.stride("c") + places[:, 1] * gemm.n + places[:, 2]
        right = reference.spots(gemm, seed, at)
        got = self._elements(at)
        off = float(np.max(np.abs(got - right)))
        if not off <= self.tolerance and np.all(np.abs(right) < reference.overflow(self.dtype)):
            raise JobError(
                "wrong_result",
                f"the naive kernel, against which this one is checked, is itself wrong here: off "
                f"by {off:.3g}, allowed {self.tolerance:.3g}; this problem cannot be verified",
            )

    def _elements(self, at: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
        """Elements by their positions in C's memory, in one read."""
        offsets = at * SIZEOF[self.dtype]
        words = self._gpu.gather(self.buffer, [int(offset) // 4 * 4 for offset in offsets])
        kind = np.float32 if self.dtype == "f32" else np.float16
        values = np.frombuffer(words, kind).astype(np.float64).reshape(len(at), -1)
        found: np.ndarray[Any, Any] = values[np.arange(len(at)), offsets % 4 // SIZEOF[self.dtype]]
        return found

    def at(self, index: int) -> float:
        """One element, by its position in C's memory."""
        return element(self._gpu, self.buffer, index, self.dtype)


def element(gpu: Gpu, buffer: Any, index: int, dtype: str) -> float:
    """The value at an index of a buffer of ``dtype``."""
    offset = index * SIZEOF[dtype]
    word = gpu.read(buffer, offset // 4 * 4, 4)
    kind = np.float32 if dtype == "f32" else np.float16
    return float(np.frombuffer(word, kind)[offset % 4 // SIZEOF[dtype]])


class Verifier:
    """Judges kernels of one problem.

    Args:
        gpu: where.
        helpers: its helper kernels.
        operands: the problem's buffers.
        expected: the right C.
    """

    def __init__(self, gpu: Gpu, helpers: Helpers, operands: Operands, expected: Expected) -> None:
        self._gpu = gpu
        self._helpers = helpers
        self._operands = operands
        self._expected = expected
        self._verdict = gpu.buffer(256)
        self._difference = gpu.buffer(256)
        with gpu.failing_as("out_of_memory"):
            self._first = gpu.buffer(operands.c.size)

    def check(self, run: Callable[[], None]) -> Verdict:
        """Runs a kernel twice on the same operands and judges what it left.

        Args:
            run: computes the whole of C, whatever was in it; need not wait.

        Raises:
            JobError: numbers are off, what surrounds C or the workspace was written, or the runs
                differ.
        """
        # All of it is queued before anything is read: the device waits for the host but once.
        self._operands.reset()
        run()
        self._compare()
        self._gpu.copy(self._operands.c, self._first)
        self._operands.reset()
        run()
        self._differ()
        if self._operands.workspace_overrun:
            raise JobError("wrong_result", "writes past the end of its workspace")
        verdict = self._compared()
        self._same()
        return verdict

    def _compare(self) -> None:
        operands, expected, gemm = self._operands, self._expected, self._operands.gemm
        elements = gemm.elements("c")
        batched = gemm.batch > 1 and gemm.stride("c") > 0
        self._gpu.write(self._verdict, struct.pack("<6I", 0, 0, _NONE, 0, 0, _NONE))
        args = struct.pack(
            "<6IfI",
            operands.c.size // SIZEOF[gemm.c],
            elements,
            gemm.stride("c") if batched else max(elements, 1),
            gemm.m * gemm.n if batched else max(elements, 1),
            gemm.c == "f16",
            expected.dtype == "f16",
            expected.tolerance,
            POISON,
        )
        self._helpers.compare(args, (operands.c, expected.buffer), self._verdict)

    def _compared(self) -> Verdict:
        """What `_compare` has found, once the device has done it."""
        words = struct.unpack("<6I", self._gpu.read(self._verdict, 0, 24))
        error, wrong, first, largest, overwritten, first_over = words
        if overwritten:
            raise JobError("wrong_result", self._written_beyond(overwritten, first_over, wrong))
        if wrong:
            raise JobError("wrong_result", self._off(wrong, first, _float(error)))
        return Verdict(
            max_abs_error=_float(error),
            max_reference=_float(largest),
            tolerance=self._expected.tolerance,
        )

    def _place(self, index: int) -> str:
        gemm = self._operands.gemm
        stride = gemm.stride("c") if gemm.batch > 1 else max(gemm.elements("c"), 1)
        matrix, inside = divmod(index, stride)
        return f"(batch {matrix}, row {inside // gemm.n}, column {inside % gemm.n})"

    def _off(self, wrong: int, first: int, error: float) -> str:
        gemm = self._operands.gemm
        total = gemm.m * gemm.n * gemm.batch
        got = element(self._gpu, self._first, first, gemm.c)
        most = "not a number" if math.isinf(error) else f"{error:.3g}"
        return (
            f"{wrong} of {total} elements wrong, the first at {self._place(first)}: "
            f"{got:.9g} instead of {self._expected.at(first):.9g}; largest error {most}, "
            f"allowed {self._expected.tolerance:.3g}"
        )

    def _written_beyond(self, count: int, first: int, wrong: int) -> str:
        gemm = self._operands.gemm
        elements = gemm.elements("c")
        where = (
            f"past the end of C: {count} elements, the first {first - elements} after its last"
            if first >= elements
            else f"between the matrices of C: {count} elements, the first at {first}"
        )
        return f"writes {where}" + (f"; {wrong} elements of C itself are wrong" if wrong else "")

    def _differ(self) -> None:
        operands = self._operands
        self._gpu.write(self._difference, struct.pack("<2I", 0, _NONE))
        args = struct.pack("<4I", operands.c.size // 4, 0, 0, 0)
        self._helpers.differ(args, (operands.c, self._first), self._difference)

    def _same(self) -> None:
        """Judges what `_differ` has found."""
        gemm = self._operands.gemm
        count, first = struct.unpack("<2I", self._gpu.read(self._difference, 0, 8))
        if count:
            index = first * 4 // SIZEOF[gemm.c]
            raise JobError(
                "wrong_result",
                f"differs between two runs on the same inputs: {count} words of C, the first at "
                f"{self._place(index)}",
            )

    @property
    def size_bytes(self) -> int:
        """Device memory taken; the operands' too."""
        return int(self._operands.size_bytes + self._first.size + self._expected.buffer.size)

    def free(self) -> None:
        """Gives the memory back now; the operands' too."""
        for buffer in (self._first, self._verdict, self._difference, self._expected.buffer):
            buffer.destroy()
        self._operands.free()


def _float(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])
