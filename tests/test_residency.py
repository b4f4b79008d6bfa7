"""Workgroup memory of a multiprocessor: which curves have steps, and the kernel that makes them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gemmtune.device import Device
from gemmtune.executors.local.gpu import Gpu
from gemmtune.executors.local.residency import Staircase, resident_bytes
from gemmtune.executors.residency import find_steps

KIB = 1024
LIMIT = 48 * KIB
GROWTHS = {
    "flat": lambda size: 1.0 + 0 * size,
    "linear": lambda size: 1.0 + size / LIMIT,
    "root": lambda size: size**0.5,
    "proportional": float,
}

Point = tuple[int, float]


def sizes(limit: int = LIMIT, count: int = 22) -> list[int]:
    return [int(size) // 16 * 16 for size in np.linspace(limit / 8, limit, count)]


def staircase(
    memory: int,
    *,
    most: int = 32,
    each: int = 0,
    slope: float = 1.0,
    growth: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
) -> list[Point]:
    """Times on a multiprocessor of ``memory`` bytes that takes ``each`` of every workgroup."""
    random = np.random.default_rng(seed)
    points = []
    for size in sizes():
        residents = min(max(memory // (size + each), 1), most)
        time = residents**-slope * (1 + growth * size / LIMIT) * np.exp(random.normal(0, noise))
        points.append((size, float(time)))
    return points


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("growth", [0.0, 0.1])
@pytest.mark.parametrize(
    ("memory_kib", "most"),
    [(48, 2), (48, 3), (48, 8), (48, 32), (72, 2), (72, 8), (72, 32), (96, 3), (96, 8), (96, 32)],
)
def test_steps_are_found_whatever_else_limits_the_residents(
    memory_kib: int, most: int, growth: float, noise: float
) -> None:
    memory = memory_kib * KIB
    found = find_steps(staircase(memory, most=most, growth=growth, noise=noise))

    assert found is not None
    assert 0.9 * memory <= found.resident_bytes <= memory


def test_several_steps_tell_the_memory_to_a_size_of_the_grid() -> None:
    found = find_steps(staircase(48 * KIB, noise=0.03))

    assert found is not None
    assert found.resident_bytes == 48 * KIB
    low, high = found.edge
    assert low == 24 * KIB < high


def test_what_a_driver_takes_of_each_workgroup_is_taken_off() -> None:
    """With 1 KiB of each, two of 24 KiB do not fit 48 KiB."""
    found = find_steps(staircase(48 * KIB, each=KIB))

    assert found is not None
    assert found.resident_bytes // (24 * KIB) == 1
    assert found.resident_bytes // (22 * KIB) == 2
    assert found.resident_bytes // (14 * KIB) == 3


def test_the_step_of_a_kernel_that_does_not_only_wait_is_found() -> None:
    """TFLOP/s of a GEMM on an H100 with an unused array, as measured: one step of 1.5."""
    measured = [(12.6, 268), (16, 268), (18.9, 268), (21, 264), (23.0, 259), (25.1, 168), (28, 168)]
    flat = [(kib, 168) for kib in (32, 36, 40, 44, 47)]
    found = find_steps([(int(kib * KIB), 1 / speed) for kib, speed in measured + flat])

    assert found is not None
    assert 46 * KIB <= found.resident_bytes <= 48 * KIB
    assert found.edge == (int(23.0 * KIB), int(25.1 * KIB))


@pytest.mark.parametrize("noise", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("name", sorted(GROWTHS))
def test_curves_without_steps_say_nothing(name: str, noise: float) -> None:
    for seed in range(4):
        random = np.random.default_rng(seed)
        points = [
            (size, float(GROWTHS[name](size) * np.exp(random.normal(0, noise)))) for size in sizes()
        ]
        assert find_steps(points) is None


def test_a_single_outlier_is_no_step() -> None:
    for place in range(0, 22, 3):
        points = [(size, 3.0 if i == place else 1.0) for i, size in enumerate(sizes())]
        found = find_steps(points)
        assert found is None, place


@pytest.fixture(scope="module")
def gpu(device: Device) -> Gpu:
    """The adapter, opened in this process."""
    return Gpu(device.key)


def test_every_lane_walks_its_chain_at_every_size(gpu: Gpu, device: Device) -> None:
    made = Staircase(gpu)
    lanes = device.subgroup_size or 32
    limit = device.limits.workgroup_storage_bytes
    for size in (4096, limit // 2 + 4, limit):
        ends = made.ends(size)
        assert len(ends) == lanes
        # The first workgroup has half the steps; places are numbered from 5.
        steps = made.steps // 2
        assert ends == [5 + (lane + steps) % lanes for lane in range(lanes)]


def test_the_curve_reaches_from_little_to_the_limit(gpu: Gpu, device: Device) -> None:
    answer = resident_bytes(gpu)
    curve = json.loads(answer.detail)

    assert max(size for size, _ in curve) == device.limits.workgroup_storage_bytes
    assert all(time_ns > 0 for _, time_ns in curve)
    if device.software:
        assert device.resident_workgroup_bytes == 0
