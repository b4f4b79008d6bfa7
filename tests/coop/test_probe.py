"""From a wgpu-native that refuses matrices to fragments that are right, on an adapter with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gemmtune.device import Device, Fragment
from gemmtune.executors import list_devices
from gemmtune.executors.probe import check_library
from gemmtune.executors.probing import FEATURE, probe
from gemmtune.job import Measurement, Outcome
from gemmtune.kernels.base import Kernel
from gemmtune.kernels.naive import NaiveConfig
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.store import Store
from gemmtune.unlock import Status

LOADS = (1, 2, 4)
NEEDED = Fragment(size=8, ab="f16", acc="f32", workgroup=LOADS, storage=LOADS)


def test_the_library_that_wgpu_ships_refuses_and_its_copy_grants(unlocked: Status) -> None:
    assert unlocked.original is not None
    if not unlocked.needed:
        assert check_library(unlocked.original).verdict == "granted"
        return
    assert unlocked.copy is not None
    assert check_library(unlocked.original).verdict == "refused"
    assert check_library(unlocked.copy).verdict == "granted"


def test_workers_have_the_feature_and_the_fragment(device: Device) -> None:
    assert device.has(FEATURE)
    assert device.refused == ()
    assert NEEDED in device.fragments
    assert list(device.fragments) == sorted(device.fragments)


def test_the_list_of_devices_tells_the_same(device: Device, memory: Store) -> None:
    assert device in list_devices(memory)


def test_what_was_found_is_remembered(device: Device, memory: Store) -> None:
    again = probe(replace(device, fragments=()), "", memory, ("/nonexistent/worker",))

    assert not again.fresh
    assert again.device == device
    assert device in memory.devices()


def test_an_unchecked_kernel_runs(
    run_kernel: Callable[[Gemm, Kernel], Outcome], device: Device
) -> None:
    gemm = Gemm(m=20, n=30, k=10)
    kernel = replace(render("naive", NaiveConfig(), gemm, device), unchecked=True)

    assert isinstance(run_kernel(gemm, kernel).result, Measurement)
