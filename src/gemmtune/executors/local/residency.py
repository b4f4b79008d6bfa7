"""Times a kernel that only waits, with more and more workgroup memory, on an open device."""

from __future__ import annotations

import json
import statistics
import struct
import time
from collections.abc import Sequence
from string import Template

from gemmtune._data import data_path
from gemmtune.executors.local import timing
from gemmtune.executors.local.gpu import Dispatch, Gpu
from gemmtune.executors.residency import find_steps
from gemmtune.probes import Answer

ROUNDS = 5
"""Samples of each size, taken in turn."""
SIZES = 22
"""Of the first look, evenly from `_SMALLEST` of the limit to all of it."""
_SMALLEST = 1 / 8
_NEARER = (0.25, 0.5, 0.75)
_WARMUP_S = 0.25
# One workgroup: much longer than it takes to begin, much shorter than the whole.
_CHAIN_NS = 60e3
_WHOLE_NS = 6e6
_MOST_WORKGROUPS = 65535
_CALIBRATION_STEPS = 4096
_FIRST = 5
_WORD_BYTES = 4
_BINDINGS = ("read-only-storage", "storage")


def resident_bytes(gpu: Gpu) -> Answer:
    """How much workgroup memory a multiprocessor has for all workgroups on it together.

    The detail is the curve: bytes per workgroup and nanoseconds.

    Raises:
        JobError: the kernel does not compile or run.
    """
    limit = gpu.device.limits.workgroup_storage_bytes
    step = limit * (1 - _SMALLEST) / (SIZES - 1)
    staircase = Staircase(gpu)
    points = staircase.times([limit - round(i * step) for i in range(SIZES)])
    found = find_steps(points)
    if found is not None:
        low, high = found.edge
        points += staircase.times([low + round(share * (high - low)) for share in _NEARER])
        found = find_steps(sorted(points)) or found
    return Answer(
        number=0 if found is None else found.resident_bytes, detail=json.dumps(sorted(points))
    )


def source(size_bytes: int, lanes: int) -> str:
    """The WGSL whose workgroups of ``lanes`` take ``size_bytes`` of workgroup memory."""
    text = (data_path("templates") / "verify" / "residency.wgsl").read_text("utf-8")
    return Template(text).substitute(words=size_bytes // _WORD_BYTES, lanes=lanes)


class Staircase:
    """The kernel on a device: as many workgroups of such a length that times can be told apart.

    Raises (any method):
        JobError: it does not compile or run.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._lanes = gpu.device.subgroup_size or 32
        self._chain = gpu.buffer(2 * _WORD_BYTES)
        self._ends = gpu.buffer(_WORD_BYTES * self._lanes * _MOST_WORKGROUPS)
        self.workgroups = 1
        """How many are launched."""
        limit = gpu.device.limits.workgroup_storage_bytes
        largest = self._compiled(limit)
        self._set_steps(_CALIBRATION_STEPS)
        with gpu.failing_as("validation"):
            self._watch = timing.Stopwatch(gpu, self._launch(largest))
            self._settle(largest)

    def _settle(self, pipeline: object) -> None:
        """On a warm clock, finds the length of the chain, then the number of workgroups."""
        until_s = time.perf_counter() + _WARMUP_S
        while time.perf_counter() < until_s:
            self._span_ns(pipeline)
        one_ns = min(self._span_ns(pipeline) for _ in range(ROUNDS))
        self._set_steps(max(16, round(_CALIBRATION_STEPS * _CHAIN_NS / one_ns)))
        whole_ns = max(_WHOLE_NS, self._watch.span_ns)
        while self._span_ns(pipeline) < whole_ns and self.workgroups < _MOST_WORKGROUPS:
            self.workgroups = min(2 * self.workgroups, _MOST_WORKGROUPS)

    def times(self, sizes: Sequence[int]) -> list[tuple[int, float]]:
        """Median nanoseconds of each size in bytes, measured in turn."""
        pipelines = {size: self._compiled(size) for size in sizes}
        samples: dict[int, list[float]] = {size: [] for size in sizes}
        with self._gpu.failing_as("validation"):
            for pipeline in pipelines.values():
                self._span_ns(pipeline)  # some drivers compile at the first dispatch
            for _ in range(ROUNDS):
                for size, pipeline in pipelines.items():
                    samples[size].append(self._span_ns(pipeline))
        return [(size, statistics.median(spans)) for size, spans in samples.items()]

    def ends(self, size_bytes: int) -> list[int]:
        """Where the chains of the first workgroup end; for tests."""
        with self._gpu.failing_as("validation"):
            self._span_ns(self._compiled(size_bytes))
            return list(
                memoryview(self._gpu.read(self._ends, 0, _WORD_BYTES * self._lanes)).cast("I")
            )

    def _compiled(self, size_bytes: int) -> object:
        return self._gpu.pipeline(source(size_bytes, self._lanes), _BINDINGS)

    def _set_steps(self, steps: int) -> None:
        self.steps = steps
        self._gpu.write(self._chain, struct.pack("<2I", steps, _FIRST))

    def _launch(self, pipeline: object) -> Dispatch:
        bound = self._gpu.bind_group(_BINDINGS, [self._chain, self._ends])
        return Dispatch(pipeline=pipeline, bind_group=bound, groups=(self.workgroups, 1, 1))

    def _span_ns(self, pipeline: object) -> float:
        return self._watch.passes_ns([[self._launch(pipeline)]], apart=True)[0]
