"""What a launch lets one expect of its time, before anything is compiled: a model of every GPU.

Roofline, occupancy and waves from sizes alone; the numbers of the GPU are typical ones, so only
ratios mean anything, and a search has to learn where they are wrong.
"""

from __future__ import annotations

import math

from gemmtune.device import Device
from gemmtune.kernels.base import Launch
from gemmtune.problem import SIZEOF, Gemm

UNITS = 100
"""Multiprocessors; nothing in WebGPU tells how many there are."""
REGISTERS = 65536
"""Of 32 bits, of a multiprocessor.
Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities"""
INVOCATIONS = 2048
"""That a multiprocessor holds at most; same source."""
OTHER_REGISTERS = 32
"""Of an invocation, beside its sums."""
FLOPS_PER_BYTE = 16.0
"""Of arithmetic per byte through the cache that all multiprocessors share."""
MATRIX_FLOPS_PER_BYTE = 32.0
"""The same on matrix units."""
BUSY = 512 * 32
"""Sums in flight on a multiprocessor that hide the latency of its memory."""
LOADING = 512
"""Invocations on a multiprocessor whose loads fill its share of that cache's bandwidth."""


def traits(
    launches: tuple[Launch, ...], gemm: Gemm, device: Device, *, matrices: bool = False
) -> tuple[float, ...]:
    """Numbers that explain time across configs: the model's log2 time first, then its causes.

    The others are log2 of workgroups, invocations and bytes of workgroup memory of one, sums per
    invocation, and of the workgroups that a multiprocessor holds at once.

    Args:
        launches: a config's passes.
        gemm: the problem.
        device: where it would run.
        matrices: the kernel multiplies on matrix units.

    Source: S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009.
    """
    # What passes before `main` take hardly depends on anything here.
    names = [one.entry_point for one in launches]
    main = max(launches[names.index("main") :], key=lambda launch: launch.workgroups)
    workgroups, invocations = max(main.workgroups, 1), math.prod(main.workgroup_size)
    area = max(gemm.m * gemm.n * gemm.batch / workgroups, 1.0)
    sums = max(area / invocations, 1.0)
    held = _held(main, sums, gemm, device)
    # Of few workgroups, a multiprocessor has less than it could hold, and some have none.
    there = min(held, workgroups / UNITS)
    # All multiprocessors wait for the last wave, which is half full on average: a guess at their
    # number that is a little off would put the step between waves in the wrong place.
    waves = workgroups / (min(held, math.ceil(workgroups / UNITS)) * UNITS)
    waste = 1.0 + 0.5 / waves if waves >= 1.0 else 1.0
    # A sum takes two operands, shared by a row and a column of the invocation's sums.
    arithmetic = gemm.flops * (1.0 + 2.0 / math.sqrt(sums)) / min(1.0, there)
    arithmetic /= min(1.0, max(there, 1.0) * invocations * sums / BUSY) ** 0.5
    moved = gemm.flops / math.sqrt(area) * (SIZEOF[gemm.a] + SIZEOF[gemm.b]) / 2
    moved /= min(1.0, there * invocations / LOADING)
    flops_per_byte = MATRIX_FLOPS_PER_BYTE if matrices else FLOPS_PER_BYTE
    time = max(arithmetic, flops_per_byte * moved) * waste + 1.0
    return (
        math.log2(time),
        math.log2(workgroups),
        math.log2(invocations),
        math.log2(main.workgroup_storage_bytes + 256.0),
        math.log2(sums),
        math.log2(held),
    )


def _held(launch: Launch, sums: float, gemm: Gemm, device: Device) -> int:
    """Workgroups on a multiprocessor at once; at least one, or nothing would run."""
    invocations = math.prod(launch.workgroup_size)
    resident = device.resident_workgroup_bytes or device.limits.workgroup_storage_bytes
    registers = sums * SIZEOF[gemm.acc] / 4 + OTHER_REGISTERS
    return max(
        1,
        min(
            32,
            INVOCATIONS // invocations,
            int(REGISTERS / (registers * invocations)),
            resident // max(launch.workgroup_storage_bytes, 1),
        ),
    )
