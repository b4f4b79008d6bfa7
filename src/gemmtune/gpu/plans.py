"""Plans: one problem made ready on the caller's own wgpu device, to be encoded again and again."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wgpu

from gemmtune.device import Device
from gemmtune.errors import ConfigError, DeviceError, OperandError
from gemmtune.executors.local.operands import kernel_bindings
from gemmtune.gpu.context import PLANS_KEPT, Context, context_of
from gemmtune.gpu.devices import translated
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, grid, pack_params
from gemmtune.lookup import Lookup, answer, recorders
from gemmtune.problem import Gemm
from gemmtune.validity import generalised

GROUPS_KEPT = 32
"""Bind groups of one plan. Each keeps its buffers' memory from being freed."""

LEAST_BYTES = 16
"""An operand without elements still takes a buffer of one vector, or WebGPU refuses to bind it."""

_log = logging.getLogger("gemmtune")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The kernel that a plan runs."""

    family: str
    """Name of the kernel family."""
    config: Config
    """The point of its space."""
    why: str
    """Where it comes from, and what stood in the way of others."""


class Plan:
    """``gemm`` on one device: pipelines, parameters and bind groups. Made by `plan`.

    Safe to use from several threads as far as wgpu is; `encode` changes nothing but a cache.
    """

    def __init__(self, context: Context, gemm: Gemm, choice: Choice) -> None:
        self.gemm = gemm
        self.choice = choice
        record = FAMILIES[choice.family]
        launches = record.launch(choice.config, gemm)
        size_bytes = record.workspace(choice.config, gemm)
        # One set of bindings for each way in which passes use the workspace.
        accesses = list(dict.fromkeys(launch.only_reads for launch in launches))
        self._bindings = tuple(
            kernel_bindings(gemm, workspace=size_bytes > 0, only_reads=only_reads)
            for only_reads in accesses
        )
        self._context = context
        pipelines = context.pipelines(choice.family, choice.config, gemm, size_bytes > 0)
        per_dimension = context.device.limits.workgroups_per_dimension
        self._passes = tuple(
            (pipeline, grid(launch.workgroups, per_dimension), accesses.index(launch.only_reads))
            for pipeline, launch in zip(pipelines, launches, strict=True)
            if launch.workgroups
        )
        with translated(context.device.name):
            self._params = context.wgpu_device.create_buffer_with_data(
                data=pack_params(gemm), usage=wgpu.BufferUsage.UNIFORM
            )
        self._workspace = context.workspace(size_bytes) if size_bytes else None
        self._groups: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def __repr__(self) -> str:
        choice = self.choice
        return f"Plan({self.gemm.key}: {choice.family} {choice.config.key}; {choice.why})"

    def encode(self, compute_pass: Any, a: Any, b: Any, c: Any, bias: Any = None) -> None:
        """Adds the product to a compute pass of the caller's.

        Nothing is compiled; nothing is allocated but a bind group the first time that these buffers
        are given.

        Args:
            compute_pass: a wgpu GPUComputePassEncoder of the plan's device.
            a: GPUBuffer with usage STORAGE that holds A.
            b: the same for B.
            c: the same for C, which is also read where beta is not 0.
            bias: the same for bias, where the problem has one.

        Raises:
            OperandError: a buffer is missing, too small, of another device or without that usage.
            DeviceLostError: the device is lost.
        """
        for recorder in recorders():
            recorder.count(self.gemm, self._context.device.key)
        if not self._passes:
            return
        kept = self._groups.get((id(a), id(b), id(c), id(bias)))
        bound = self._bind((a, b, c, bias)) if kept is None else kept[0]
        for pipeline, groups, which in self._passes:
            compute_pass.set_pipeline(pipeline)
            compute_pass.set_bind_group(0, bound[which])
            compute_pass.dispatch_workgroups(*groups)

    def run(self, a: Any, b: Any, c: Any, bias: Any = None) -> None:
        """Encodes the product alone and submits it; arguments as of `encode`."""
        device = self._context.wgpu_device
        with translated(self._context.device.name):
            encoder = device.create_command_encoder()
            compute_pass = encoder.begin_compute_pass()
            self.encode(compute_pass, a, b, c, bias)
            compute_pass.end()
            device.queue.submit([encoder.finish()])

    def forget(self, a: Any, b: Any, c: Any, bias: Any = None) -> None:
        """Drops what is kept for these buffers, which the caller is about to destroy."""
        with self._context.lock:
            self._groups.pop((id(a), id(b), id(c), id(bias)), None)

    def _bind(self, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        for name, buffer in zip(("a", "b", "c", "bias"), operands, strict=True):
            self._check(name, buffer)
        buffers = [self._params, *operands, self._workspace]
        with translated(self._context.device.name):
            bound = tuple(
                self._context.wgpu_device.create_bind_group(
                    layout=self._context.layout(bindings),
                    entries=[
                        {"binding": i, "resource": {"buffer": buffer}}
                        for i, buffer in enumerate(buffers)
                        if bindings[i] is not None
                    ],
                )
                for bindings in self._bindings
            )
        with self._context.lock:
            # With the buffers, so that nothing else can get their ids meanwhile.
            self._groups[tuple(map(id, operands))] = (bound, operands)
            while len(self._groups) > GROUPS_KEPT:
                self._groups.popitem(last=False)
        return bound

    def _check(self, name: str, buffer: Any) -> None:
        """Refuses a buffer that wgpu would refuse later and less clearly."""
        if name == "bias" and not self.gemm.bias:
            if buffer is not None:
                raise OperandError(
                    f"a bias was given and {self.gemm.key} has none: Gemm(bias=True)"
                )
            return
        if not isinstance(buffer, wgpu.GPUBuffer):
            raise OperandError(f"{name} must be a wgpu GPUBuffer, not {type(buffer).__name__}")
        if buffer._device is not self._context.wgpu_device:
            raise OperandError(f"{name} is a buffer of another device than the plan's")
        if not buffer.usage & wgpu.BufferUsage.STORAGE:
            raise OperandError(f"{name} was made without BufferUsage.STORAGE")
        needed = -(-self.gemm.size_bytes(name) // 4) * 4 or LEAST_BYTES
        if buffer.size < needed:
            raise OperandError(
                f"{name} has {buffer.size} bytes and {self.gemm.key} needs {needed} for it"
            )


def plan(
    wgpu_device: Any,
    gemm: Gemm,
    *,
    path: str | Path | None = None,
) -> Plan:
    """Makes ``gemm`` ready on a wgpu device of the caller's, or returns the plan made before.

    The kernel is the one that `lookup` finds, if the device has what it needs; where it was tuned
    for another size it is taken with dynamic dims, so that the next size costs no compilation.
    `Plan.choice` says which it is and why.

    Args:
        wgpu_device: what `request_device` returns, or any wgpu GPUDevice.
        gemm: the problem.
        path: the database to look up in and no other; None: the usual ones.

    Raises:
        DeviceError: no kernel can do it on this device; the message says why.
        DeviceLostError: the device is lost.
    """
    context = context_of(wgpu_device)
    key = (gemm, path)
    known: Plan | None = context.plans.get(key)
    if known is not None:
        return known
    with context.lock:
        found = answer(gemm, device=context.device, path=path)
        made = _make(context, gemm, found, _better(gemm, found, context.device, path))
        context.plans[key] = made
        while len(context.plans) > PLANS_KEPT:
            context.plans.popitem(last=False)
    return made


def _better(gemm: Gemm, found: Lookup, device: Device, path: str | Path | None) -> str:
    """What is known to be faster on this adapter, and why this device cannot run it; or nothing."""
    best = answer(gemm, device.key, path=path)
    if (best.family, best.config) == (found.family, found.config):
        return ""
    reasons = FAMILIES[best.family].check(best.config, gemm, device)
    return f"; {best.family} would be faster, but {reasons[0]}" if reasons else ""


def _make(context: Context, gemm: Gemm, found: Lookup, better: str) -> Plan:
    """A plan of the first candidate that the driver takes."""
    refused = better
    for choice in _choices(gemm, found, context):
        try:
            with_reasons = Choice(
                family=choice.family, config=choice.config, why=choice.why + refused
            )
            return Plan(context, gemm, with_reasons)
        except (wgpu.GPUError, ConfigError) as error:
            said = " ".join(str(error).split())[:200]
            refused = f"; {choice.family} ({choice.config.key}) was refused here: {said}"
            _log.warning("%s: %s", gemm.key, refused[2:])
    raise DeviceError(f"no kernel for {gemm.key} runs on {context.device.name}{refused}")


def _choices(gemm: Gemm, found: Lookup, context: Context) -> Iterator[Choice]:
    """The answer and its alternatives, which are found only if it does not work."""
    yield _choice(gemm, found, context)
    for other in found.alternatives:
        yield _choice(gemm, other, context)


def _choice(gemm: Gemm, found: Lookup, context: Context) -> Choice:
    config = found.config
    if found.source != "exact":
        config = generalised(found.family, config, gemm, context.device) or config
    return Choice(family=found.family, config=config, why=found.why)
