"""Lookups: what is found at which level, that it is legal, and that finding it costs nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from math import exp, log, log2
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemmtune
from databases import DEVICE, GEMM, add, config_of, files_beside, versions_of
from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.errors import (
    ConfigError,
    DeviceError,
    ProblemTooLargeError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreVersionError,
    UsageError,
)
from gemmtune.job import Policy
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import step_of
from gemmtune.kernels.naive import NaiveConfig
from gemmtune.lookup import (
    default_paths,
    find,
    lookup,
    read_record,
    record,
    refresh,
    search_path,
    user_database,
)
from gemmtune.lookup.candidates import Search
from gemmtune.lookup.catalogue import Catalogue, signature_of
from gemmtune.lookup.portfolio import MOST_ALONE
from gemmtune.lookup.predict import LAUNCH_NS, Dispatch, Parts, Speed
from gemmtune.problem import Gemm
from gemmtune.schema import SCHEMA, USUAL_POLICY
from gemmtune.store import Store
from gemmtune.ties import tied
from strategies import DEVICES, H100, LAVAPIPE, MATRICES, gemms

HALF = Gemm(m=64, n=64, k=64, a="f16", b="f16", c="f16")
HUGE = NaiveConfig(tile_m=32, tile_n=32)
"""1024 invocations: not for devices with WebGPU's least limits."""
SMALL = Device(name="Small GPU", vendor_id=0x8086, device_id=1, backend="vulkan", driver="1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuning.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def size(m: int, n: int = 64, k: int = 64, batch: int = 1) -> Gemm:
    return Gemm(m=m, n=n, k=k, batch=batch)


# Levels


def test_exact_is_the_fastest_measurement_of_this_problem_here(store: Store, path: Path) -> None:
    add(store, 200.0, config_of(1))
    add(store, 100.0, config_of(2))
    add(store, 50.0, config_of(3), device=replace(DEVICE, driver="581"))
    found = lookup(GEMM, DEVICE.key, path=path)
    assert (found.source, found.config, found.time_ns) == ("exact", config_of(2), 100.0)
    assert found.why == "measured for this problem on this device"
    assert found.demotions == ()
    assert found.device == DEVICE
    assert found.problem_key == GEMM.key
    assert found.gflops == pytest.approx(2 * 64**3 / 100.0)


def test_of_several_as_fast_the_one_that_takes_least_is_exact(store: Store, path: Path) -> None:
    # config_of(n): tiles of 1 + n % 8 by 1 + n // 8, one invocation each.
    add(store, 100.0, config_of(63))
    add(store, 100.4, config_of(9))
    add(store, 100.2, config_of(36))
    add(store, 101.0, config_of(0))

    found = lookup(GEMM, DEVICE.key, path=path)

    assert (found.config, found.time_ns) == (config_of(9), 100.4)
    assert tied(store.measurements(DEVICE.key, GEMM.key), GEMM)[0].config == found.config


def test_of_those_the_winner_is_the_same_in_whatever_order_they_came(tmp_path: Path) -> None:
    found = []
    for name, order in (("one.db", (1, 8, 63)), ("two.db", (63, 8, 1))):
        with Store.open(tmp_path / name) as store:
            for number in order:
                add(store, 100.0, config_of(number))
        found.append(lookup(GEMM, DEVICE.key, path=tmp_path / name).config)

    assert found[0] == found[1] == config_of(8)


def test_values_of_alpha_do_not_matter_but_reading_c_does(store: Store, path: Path) -> None:
    add(store, 100.0)
    assert lookup(replace(GEMM, alpha=2.0), DEVICE.key, path=path).source == "exact"
    read = lookup(replace(GEMM, beta=1.0), DEVICE.key, path=path)
    assert (read.source, read.config) == ("near", config_of(0))


def test_todays_template_beats_a_faster_time_of_an_older_one(store: Store, path: Path) -> None:
    add(store, 50.0, config_of(1), template="older")
    old = lookup(GEMM, DEVICE.key, path=path)
    assert (old.source, old.config) == ("exact", config_of(1))
    assert "template was older" in old.demotions[0]
    add(store, 100.0, config_of(2))
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(2)


def test_times_with_inputs_in_the_cache_count_where_there_are_no_others(
    store: Store, path: Path
) -> None:
    hot = Policy(cache="hot")
    add(store, 50.0, config_of(1), policy=hot)
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(1)
    add(store, 100.0, config_of(2))
    add(store, 60.0, config_of(3), policy=hot)
    found = lookup(GEMM, DEVICE.key, path=path)
    assert (found.config, found.time_ns) == (config_of(2), 100.0)
    near = lookup(size(128), DEVICE.key, path=path)
    assert (near.source, near.config) == ("near", config_of(2))


def test_an_older_number_of_the_policy_comes_between_the_usual_and_other_ways(
    store: Store, path: Path
) -> None:
    class Older(Policy):
        @property
        def key(self) -> str:
            return "1" + super().key[1:]

    add(store, 100.0, config_of(1), policy=Older())
    add(store, 60.0, config_of(2), policy=Policy(cache="hot"))
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(1)
    add(store, 120.0, config_of(3))
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(3)


def test_a_time_is_expected_only_for_sizes_of_the_same_order(store: Store, path: Path) -> None:
    add(store, 1e6, gemm=size(2048))
    half = lookup(size(1024), DEVICE.key, path=path)
    # All but the launch is in proportion to the workgroups, or nearly so to the traffic.
    assert half.time_ns == pytest.approx(LAUNCH_NS + (1e6 - LAUNCH_NS) / 2, rel=2e-2)
    far = lookup(size(1), DEVICE.key, path=path)
    assert (far.source, far.time_ns, far.gflops, far.expected_share) == ("near", None, None, None)


def test_versions_that_differ_are_told(store: Store, path: Path) -> None:
    add(store, 100.0)
    versions = replace(versions_of(DEVICE), compiler="naga 30")
    found = lookup(GEMM, DEVICE.key, path=path, versions=versions)
    assert found.demotions == ("compiler was naga 29, is naga 30",)


def test_near_is_what_is_predicted_to_be_fastest(store: Store, path: Path) -> None:
    add(store, 4e6, config_of(9), gemm=size(8192))  # tiles of 2 x 2
    add(store, 4e5, config_of(63), gemm=size(4096))  # 8 x 8
    add(store, 1e5, config_of(18), gemm=replace(size(4096), a="f16", b="f16"))  # another dtype
    found = lookup(size(2048), DEVICE.key, path=path)
    assert (found.source, found.config) == ("near", config_of(63))
    assert found.problem_key == size(4096).key
    half = (0.75 * 16 + 0.25 * 2048 / 132) / (4096 / 132)  # of its workgroups, 15.5 and 31
    assert found.time_ns == pytest.approx(LAUNCH_NS + (4e5 - LAUNCH_NS) * half, rel=1e-2)
    assert "4096x64x64" in found.why
    assert found.expected_share == pytest.approx(0.95 - 0.04)
    assert [other.config for other in found.alternatives][:1] == [config_of(9)]


FULL_SPEED = replace(size(4096, 4096, 4096), a="f16", b="f16")
"""Its traffic in `add(store, 1e4, ...)` makes that of small problems next to nothing."""


def test_workgroups_that_keep_no_multiprocessor_busy_take_as_long(store: Store, path: Path) -> None:
    # 16 x 8 tiles of 8 x 8, four of which keep one of 132 busy: half as many take as long.
    add(store, 1e5, config_of(63), gemm=Gemm(m=128, n=64, k=1024))
    add(store, 1e4, gemm=FULL_SPEED)
    half = lookup(Gemm(m=64, n=64, k=1024), DEVICE.key, path=path)
    assert half.time_ns == pytest.approx(1e5, rel=1e-3)
    twice = lookup(Gemm(m=128, n=64, k=2048), DEVICE.key, path=path)
    # Beside its sums a workgroup takes as long as for 64 more of k.
    more = (2048 + 64) / (1024 + 64)
    assert twice.time_ns == pytest.approx(LAUNCH_NS + more * (1e5 - LAUNCH_NS), rel=1e-3)


def test_one_workgroup_more_on_some_multiprocessors_counts_for_most_of_one_on_all(
    store: Store, path: Path
) -> None:
    # Four workgroups of 64 invocations on each of 132; then some get a fifth.
    add(store, 1e5, config_of(63), gemm=Gemm(m=264, n=128, k=1024))
    add(store, 1e4, gemm=FULL_SPEED)
    found = lookup(Gemm(m=288, n=128, k=1024), DEVICE.key, path=path)
    waves = (0.75 * 5 + 0.25 * 576 / 132) / 4
    assert found.time_ns == pytest.approx(LAUNCH_NS + waves * (1e5 - LAUNCH_NS), rel=1e-3)


def test_how_many_keep_a_multiprocessor_busy_is_learned_from_four_times() -> None:
    speed = Speed(at_once=128, busy=256, launch_ns=3e3, bytes_per_ns=0.0)
    # Three do, not two, and writing a tile takes as long as 512 of k.
    sizes = [(number, k) for k in (64, 1000, 8192) for number in (10, 300, 380, 390, 700, 5000)]
    times = [
        (Parts(3e3, 0.0, speed.waves(number, 3) * (k + 512)), Dispatch(number, k))
        for number, k in sizes
    ]
    assert speed.pace(128, times) == (3, 512)
    assert speed.pace(128, times[:3]) == (2, 64)
    assert speed.pace(512, ()) == (1, 64)


def test_times_that_tell_nothing_of_a_pace_leave_the_usual_one() -> None:
    speed = Speed(at_once=128, busy=256, launch_ns=3e3, bytes_per_ns=1.0)
    one_wave = [(Parts(3e3, 1e3, 1e4), Dispatch(100, 1024))] * 8
    assert speed.pace(128, one_wave) == (2, 64)
    only_traffic = [(Parts(3e3, 1e3, 0.0), Dispatch(100, k)) for k in range(64, 1024, 64)]
    assert speed.pace(128, only_traffic) == (2, 64)


def test_small_workgroups_share_a_multiprocessor(store: Store, path: Path) -> None:
    # Tiles of 8 x 8 have 64 invocations each: four of them on each of 132 take as long as one.
    add(store, 1e5, config_of(63), gemm=Gemm(m=264, n=128, k=1024))
    add(store, 1e4, gemm=FULL_SPEED)
    half = lookup(Gemm(m=264, n=64, k=1024), DEVICE.key, path=path)
    assert half.time_ns == pytest.approx(1e5, rel=1e-3)
    twice = lookup(Gemm(m=264, n=256, k=1024), DEVICE.key, path=path)
    assert twice.time_ns == pytest.approx(LAUNCH_NS + 2 * (1e5 - LAUNCH_NS), rel=1e-3)


def test_memory_traffic_is_predicted_apart_from_the_waves(store: Store, path: Path) -> None:
    # It is as fast as memory is, of which 0.45 grow with the traffic; waves are as many.
    thin, wide = Gemm(m=8, n=1024, k=4096), Gemm(m=16, n=1024, k=4096)
    add(store, 1e5, config_of(63), gemm=thin)
    found = lookup(wide, DEVICE.key, path=path)
    traffic = wide.traffic_bytes / thin.traffic_bytes
    assert found.time_ns == pytest.approx(LAUNCH_NS + 4.5e4 * traffic + 5.5e4 - LAUNCH_NS)


def test_every_pass_costs_a_launch(store: Store, path: Path) -> None:
    deep = Gemm(m=64, n=64, k=8192)
    space = FAMILIES["tiled"].space(deep, DEVICE)
    config = next(one for one in space if len(FAMILIES["tiled"].launch(one, deep)) == 2)
    add(store, 3e4, config, gemm=deep, family="tiled")
    add(store, 1e3, gemm=FULL_SPEED)
    found = lookup(replace(deep, k=16384), DEVICE.key, path=path)
    assert found.config == config
    assert found.time_ns == pytest.approx(2 * LAUNCH_NS + 2 * (3e4 - 2 * LAUNCH_NS), rel=1e-2)


@pytest.mark.parametrize(("k", "share"), [(32, 1.0), (8, 1.0), (33, (64 + 64) / (32 + 64))])
def test_workgroups_take_whole_steps_of_k(store: Store, path: Path, k: int, share: float) -> None:
    there = Gemm(m=512, n=512, k=32)
    space = FAMILIES["tiled"].space(there, DEVICE)
    config = next(one for one in space if step_of(one, there) == 32)
    add(store, 1e6, config, gemm=there, family="tiled")
    found = lookup(replace(there, k=k), DEVICE.key, path=path)
    traffic = replace(there, k=k).traffic_bytes / there.traffic_bytes
    work = 1e6 - LAUNCH_NS - 0.45e6
    assert found.time_ns == pytest.approx(LAUNCH_NS + 0.45e6 * traffic + work * share)


def test_a_config_is_predicted_from_all_that_it_was_measured_on(store: Store, path: Path) -> None:
    add(store, 1e4, gemm=FULL_SPEED)
    one, other, asked = size(4096), size(16384), size(8192)
    add(store, LAUNCH_NS + 1e5, config_of(63), gemm=one)
    add(store, LAUNCH_NS + 8e5, config_of(63), gemm=other)
    found = lookup(asked, DEVICE.key, path=path)
    # 2 * 1e5 and 8e5 / 2 beside the launch, from one doubling on either side.
    assert found.time_ns == pytest.approx(((LAUNCH_NS + 2e5) * (LAUNCH_NS + 4e5)) ** 0.5, rel=1e-3)
    nearer = lookup(size(12000), DEVICE.key, path=path)
    assert nearer.problem_key == other.key
    ups, downs = log2(12000 / 4096), log2(16384 / 12000)
    weights = 1 / (1 + ups) ** 4, 1 / (1 + downs) ** 4
    times = LAUNCH_NS + 1e5 * 12000 / 4096, LAUNCH_NS + 8e5 * 12000 / 16384
    logs = sum(w * log(t) for w, t in zip(weights, times, strict=True)) / sum(weights)
    assert nearer.time_ns == pytest.approx(exp(logs), rel=1e-3)


def test_times_of_a_config_that_won_elsewhere_count(store: Store, path: Path) -> None:
    # By its victory far away alone, the first would be predicted to win here, too.
    small, large = size(1024), size(65536)
    add(store, 9e4, config_of(62), gemm=small)
    add(store, 6e4, config_of(63), gemm=small)
    add(store, 2e6, config_of(62), gemm=large)
    add(store, 7e6, config_of(63), gemm=large)
    assert lookup(size(1500), DEVICE.key, path=path).config == config_of(63)
    assert lookup(size(50000), DEVICE.key, path=path).config == config_of(62)


def test_a_config_that_never_won_is_not_chosen(store: Store, path: Path) -> None:
    add(store, 5e4, config_of(63), gemm=size(1024))
    add(store, 6e4, config_of(62), gemm=size(1024))
    found = lookup(size(2048), DEVICE.key, path=path)
    assert found.config == config_of(63)
    assert config_of(62) not in [one.config for one in found.alternatives]
    exact = lookup(size(1024), DEVICE.key, path=path)
    assert config_of(62) not in [one.config for one in exact.alternatives]


def test_what_was_measured_on_the_problem_by_another_driver_is_believed(
    store: Store, path: Path
) -> None:
    add(store, 1e5, config_of(1))
    add(store, 1e9, config_of(1), gemm=size(64, 64, 128))
    found = lookup(GEMM, device=replace(DEVICE, driver="590.2"), path=path)
    assert found.time_ns == pytest.approx(1e5)


def test_another_epilogue_is_near_and_another_layout_less_so(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(1), gemm=replace(GEMM, trans_b=True))
    add(store, 120.0, config_of(2), gemm=replace(GEMM, bias=True))
    found = lookup(GEMM, DEVICE.key, path=path)
    assert (found.source, found.config) == ("near", config_of(2))
    assert found.alternatives[0].config == config_of(1)


def test_what_won_without_checks_is_taken_with_them_where_there_are_edges(
    store: Store, path: Path
) -> None:
    device = replace(MATRICES, device_id=0x2330, driver="580.1")
    whole = Gemm(m=1024, n=1024, k=1024, a="f16", b="f16", c="f16")
    default = FAMILIES["coopmat"].default(whole, device)
    config = replace(default, dims="static", checked=False)  # type: ignore[call-arg]
    add(store, 1e5, config, device=device, gemm=whole, family="coopmat")
    assert lookup(whole, device=device, path=path).config == config
    found = lookup(replace(whole, m=1000, n=1000), device=device, path=path)
    assert (found.source, found.config) == ("near", replace(config, checked=True))  # type: ignore[call-arg]
    double = lookup(replace(whole, m=2048), device=device, path=path)
    assert double.config == config


def test_what_clamps_its_own_indices_stays_without_checks_where_there_are_edges(
    store: Store, path: Path
) -> None:
    device = replace(MATRICES, device_id=0x2330, driver="580.1")
    thin = Gemm(m=1, n=1024, k=1024, a="f16", b="f16", c="f16")
    default = FAMILIES["gemv"].default(thin, device)
    config = replace(default, dims="static", checked=False)  # type: ignore[call-arg]
    add(store, 1e4, config, device=device, gemm=thin, family="gemv")
    found = lookup(replace(thin, n=1001, k=1003), device=device, path=path)
    assert (found.source, found.config) == ("near", config)
    assert found.kernel.unchecked


def test_alternatives_end_with_what_always_works(store: Store, path: Path) -> None:
    for number in range(12):
        add(store, 100.0 + number, config_of(number), gemm=size(64 + number))
    found = lookup(size(64), DEVICE.key, path=path)
    rest = found.alternatives
    assert len(rest) == 8
    assert [one.family for one in rest[-2:]] == ["tiled", "naive"]
    assert [one.source for one in rest] == ["near"] * 6 + ["default"] * 2
    assert len({(one.family, one.config) for one in (found, *rest)}) == 9
    for one in rest:
        assert not FAMILIES[one.family].check(one.config, one.gemm, one.device)
    assert found.alternatives is rest


def test_accuracy_that_is_asked_for_is_kept_or_refused(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(1))  # max_rel_error 1e-7
    assert lookup(GEMM, DEVICE.key, path=path, max_rel_err=2e-7).config == config_of(1)
    deeper = size(64, 64, 640)
    assert lookup(deeper, DEVICE.key, path=path, max_rel_err=4e-7).config == config_of(1)
    with pytest.raises(UsageError, match="max_rel_err=2e-07"):
        lookup(deeper, DEVICE.key, path=path, max_rel_err=2e-7)
    # Kernels whose own error is not known are held to what rounding explains.
    mixed = replace(GEMM, a="f16")
    assert lookup(mixed, device=H100, path=path, max_rel_err=1e-6).source == "default"
    with pytest.raises(UsageError, match="max_rel_err=1e-09"):
        lookup(GEMM, DEVICE.key, path=path, max_rel_err=1e-9)


def test_every_kernel_of_today_gives_the_same_bits_every_time(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(1))
    assert lookup(GEMM, DEVICE.key, path=path, deterministic=True).config == config_of(1)


def test_near_passes_over_what_check_refuses(store: Store, path: Path) -> None:
    add(store, 10.0, HUGE, device=SMALL, gemm=size(128))
    add(store, 10.0, config_of(1), device=SMALL, gemm=size(1024))
    found = lookup(size(100), SMALL.key, path=path)
    assert (found.source, found.config) == ("near", config_of(1))


def test_another_driver_of_the_same_hardware_comes_next(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(1))
    now = replace(DEVICE, driver="590.2")
    found = lookup(GEMM, device=now, path=path)
    assert (found.source, found.config) == ("device", config_of(1))
    assert found.time_ns == pytest.approx(100.0)
    assert found.demotions == ("driver was 580.1, is 590.2",)
    by_key = lookup(GEMM, now.key, path=path)
    assert (by_key.source, by_key.config, by_key.device) == ("device", config_of(1), DEVICE)
    assert "limits" in by_key.why


def test_the_most_similar_device_comes_after_that(store: Store, path: Path) -> None:
    strange = replace(H100, name="Other", vendor_id=0x1002, device_id=9, driver="1")
    cousin = replace(H100, name="Cousin", device_id=9, driver="1", subgroup_size=16)
    add(store, 10.0, config_of(1), device=strange)
    add(store, 99.0, config_of(2), device=cousin, gemm=size(4096))
    found = lookup(GEMM, device=DEVICE, path=path)
    assert (found.source, found.config, found.time_ns) == ("device", config_of(2), None)
    assert "Cousin" in found.why


def test_software_and_hardware_are_never_mixed(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(1), device=LAVAPIPE)
    assert lookup(GEMM, device=DEVICE, path=path).source == "default"
    assert lookup(GEMM, path=path).source == "default"
    cpu = replace(LAVAPIPE, name="SwiftShader")
    assert lookup(GEMM, device=cpu, path=path).source == "device"


def test_the_default_is_tiled(path: Path) -> None:
    path.touch()
    found = lookup(GEMM, device=DEVICE, path=path)
    assert (found.source, found.family, found.time_ns) == ("default", "tiled", None)
    assert found.config == FAMILIES["tiled"].default(GEMM, DEVICE)


def test_an_unknown_device_gets_f16_by_assumption(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(1), gemm=HALF)
    for key in (None, "vulkan/0000-0000/nothing/1"):
        found = lookup(HALF, key, path=path)
        assert (found.source, found.config) == ("device", config_of(1))
        assert "taken to have shader-f16" in found.why
        assert found.kernel.features == ("shader-f16",)


def test_an_unknown_device_is_taken_to_hold_the_problem(path: Path) -> None:
    path.touch()
    found = lookup(Gemm(m=16384, n=16384, k=16384), path=path)
    assert f"bindings of {4 * 16384**2} bytes" in found.why


def test_what_a_device_cannot_do_is_an_error(path: Path) -> None:
    path.touch()
    with pytest.raises(DeviceError, match="lacks shader-f16"):
        lookup(HALF, device=SMALL, path=path)
    with pytest.raises(ProblemTooLargeError, match="one binding of this device"):
        lookup(Gemm(m=16384, n=16384, k=16384), device=SMALL, path=path)


@pytest.mark.parametrize("shape", ["0x4x4", "4x4x0", "1x1x1", "4x4x4x0"])
def test_sizes_of_0_and_1_have_an_answer(store: Store, path: Path, shape: str) -> None:
    add(store, 100.0)
    found = lookup(Gemm.parse(shape), device=DEVICE, path=path)
    assert found.source == "near"
    assert found.wgsl


def test_rows_of_other_versions_and_damaged_ones_hide_nothing(path: Path) -> None:
    with Store.open(path) as store:
        good = add(store, 500.0, config_of(0))
        for number, (column, value) in enumerate(
            (
                ("family", "later"),
                ("config", "{"),
                ("config", '{"tile":1}'),
                ("config", '{"tile_m":"8","tile_n":8}'),
                ("config", '{"tile_m":0,"tile_n":8}'),
                ("time_ns", "soon"),
            )
        ):
            bad = add(store, 1.0, config_of(1 + number), template=f"{number}")
            edit(path, f"UPDATE measurements SET {column} = ? WHERE id = ?", value, bad)
        assert good
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(0)


@pytest.fixture(scope="module")
def assorted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Legal and illegal configs of every family, kind and size, on several devices."""
    path = tmp_path_factory.mktemp("lookup") / "tuning.db"
    with Store.open(path) as store:
        for device in (replace(H100, driver="1"), replace(LAVAPIPE, driver="1"), SMALL):
            for gemm in (GEMM, HALF, size(7, 9, 1), size(4096, 4096, 4096, 3)):
                if FAMILIES["naive"].supported(gemm, device):
                    continue
                add(store, 1.0, HUGE, device=device, gemm=gemm)
                for family, source in (("tiled", H100), ("subgroup", H100), ("subgroup", LAVAPIPE)):
                    for config in islice(FAMILIES[family].space(gemm, source), 0, 300, 100):
                        template = source.name
                        add(
                            store,
                            2.0,
                            config,
                            device=device,
                            gemm=gemm,
                            family=family,
                            template=template,
                        )
    return path


@settings(max_examples=60, deadline=None)
@given(gemm=gemms(), device=st.sampled_from((*DEVICES, SMALL, replace(H100, driver="1"), None)))
def test_every_answer_is_legal(assorted: Path, gemm: Gemm, device: Device | None) -> None:
    try:
        found = lookup(gemm, device=device, path=assorted)
    except DeviceError:
        assert device is not None
        assert FAMILIES["naive"].supported(gemm, device)
        return
    assert FAMILIES[found.family].check(found.config, gemm, found.device) == ()
    assert found.launches == FAMILIES[found.family].launch(found.config, gemm)
    assert device is None or found.device == device


@settings(max_examples=40, deadline=None)
@given(
    gemm=st.sampled_from((GEMM, HALF, size(7, 9, 1), size(4096, 4096, 4096, 3))),
    device=st.sampled_from((SMALL, replace(H100, driver="1"), replace(LAVAPIPE, driver="1"))),
    deterministic=st.booleans(),
    max_rel_err=st.sampled_from((None, 1e-3, 1e-9)),
)
def test_what_the_results_of_a_problem_tell_alone_is_what_all_tell(
    assorted: Path,
    gemm: Gemm,
    device: Device,
    deterministic: bool,
    max_rel_err: float | None,
) -> None:
    if FAMILIES["naive"].supported(gemm, device):
        return
    catalogue = Catalogue(assorted, signature_of(assorted) or ())
    search = Search(
        (catalogue,),
        gemm,
        device.key,
        device,
        None,
        deterministic=deterministic,
        max_rel_err=max_rel_err,
    )
    alone = search._at_once(tuple)
    assert alone in (None, next(search._answers(), None))


def test_a_tuned_problem_is_answered_from_its_own_results(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, 100.0, config_of(1))
    add(store, 100.3, config_of(9))
    add(store, 300.0, config_of(2), gemm=size(128))
    read: list[str] = []
    real = Catalogue.leaders

    def leaders(self: Catalogue, device_key: str, dtypes: str | None = None) -> object:
        read.append(device_key)
        return real(self, device_key, dtypes)

    monkeypatch.setattr(Catalogue, "leaders", leaders)
    found = lookup(GEMM, DEVICE.key, path=path)
    assert (found.source, found.config, read) == ("exact", config_of(1), [])
    assert [one.config for one in found.alternatives][:2] == [config_of(9), config_of(2)]
    assert set(read) == {DEVICE.key}


def test_all_is_read_once_many_tuned_problems_were_asked_for(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for m in range(1, 31):
        add(store, 100.0 + m, config_of(m), gemm=size(m))
    read: list[str] = []
    real = Catalogue._read

    def counted(self: Catalogue, *queries: tuple[str, dict[str, str | None]]) -> object:
        read.append(queries[0][0])
        return real(self, *queries)

    monkeypatch.setattr(Catalogue, "_read", counted)
    found = [lookup(size(m), DEVICE.key, path=path) for m in range(1, 31)]
    assert [one.time_ns for one in found] == [100.0 + m for m in range(1, 31)]
    assert all(one.source == "exact" for one in found)
    assert len(read) <= MOST_ALONE + 3


def test_a_fastest_result_that_cannot_be_read_leaves_the_answer_to_all(
    store: Store, path: Path
) -> None:
    add(store, 200.0, config_of(1))
    add(store, 100.0, config_of(1), gemm=size(128))
    bad = add(store, 150.0, config_of(2))
    edit(path, "UPDATE measurements SET config = '{' WHERE id = ?", bad)
    catalogue = Catalogue(path, signature_of(path) or ())
    search = Search((catalogue,), GEMM, DEVICE.key, None, None)
    assert search._at_once(tuple) is None
    assert search.answer().config == config_of(1)


# Databases


def edit(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_exact_anywhere_beats_near_and_near_comes_from_all(tmp_path: Path) -> None:
    catalogues = []
    for name, rows in (("own", {300: 1, 4096: 2}), ("shipped", {64: 3, 256: 4})):
        with Store.open(tmp_path / name) as store:
            for m, number in rows.items():
                add(store, 100.0 * m, config_of(number), gemm=size(m))
        signature = signature_of(tmp_path / name)
        assert signature is not None
        catalogues.append(Catalogue(tmp_path / name, signature))

    def found(m: int) -> tuple[str, object]:
        answer = Search(tuple(catalogues), size(m), DEVICE.key, None, None).answer()
        return answer.source, answer.config

    assert found(64) == ("exact", config_of(3))
    assert found(256) == ("exact", config_of(4))
    assert {found(70), found(310)} <= {("near", config_of(n)) for n in (1, 2, 3, 4)}


def test_todays_template_in_a_later_database_beats_an_older_one_in_the_first(
    tmp_path: Path,
) -> None:
    catalogues = []
    for name, time_ns, template in (("own", 50.0, "older"), ("shipped", 100.0, None)):
        with Store.open(tmp_path / name) as store:
            add(store, time_ns, template=template)
        signature = signature_of(tmp_path / name)
        assert signature is not None
        catalogues.append(Catalogue(tmp_path / name, signature))

    found = Search(tuple(catalogues), GEMM, DEVICE.key, None, None).answer()

    assert (found.source, found.time_ns, found.demotions) == ("exact", 100.0, ())


def test_a_database_that_changes_is_noticed_in_time_or_when_asked(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "TRUST_S", 3600.0)
    refresh()
    add(store, 100.0, config_of(1))
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(1)
    add(store, 90.0, config_of(2))
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(1)
    refresh()
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(2)
    refresh()


def test_a_database_that_changes_is_noticed(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(1))
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(1)
    add(store, 90.0, config_of(2))
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(2)
    store.close()
    assert lookup(GEMM, DEVICE.key, path=path).config == config_of(2)
    assert files_beside(path) == {"tuning.db"}


def test_the_same_question_gets_the_same_object(store: Store, path: Path) -> None:
    add(store, 100.0)
    assert lookup(GEMM, DEVICE.key, path=path) is lookup(GEMM, DEVICE.key, path=path)


def test_threads_get_the_same_answers(store: Store, path: Path) -> None:
    for number in range(8):
        add(store, 100.0, config_of(number), gemm=size(2 << number))
    found: list[list[object]] = []

    def ask() -> None:
        found.append([lookup(size(m), DEVICE.key, path=path).config for m in range(1, 200)])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(answers == found[0] for answers in found)


def test_reading_leaves_no_files_behind(path: Path) -> None:
    with Store.open(path) as store:
        add(store, 100.0)
    before = path.read_bytes()
    assert lookup(GEMM, DEVICE.key, path=path).source == "exact"
    assert files_beside(path) == {"tuning.db"}
    assert path.read_bytes() == before


def test_every_schema_that_was_shipped_is_read(path: Path) -> None:
    for number in range(1, SCHEMA + 1):
        fixture = Path(__file__).parent / "fixtures" / f"schema{number}.db"
        found = lookup(GEMM, DEVICE.key, path=shutil.copy(fixture, path))
        assert (found.source, found.time_ns) == ("exact", 100.0)


@pytest.mark.parametrize("content", [b"", None])
def test_an_empty_database_holds_nothing(path: Path, content: bytes | None) -> None:
    if content is None:  # what a tuner leaves that is killed before its first commit
        edit(path, "PRAGMA user_version = 1")
    else:
        path.write_bytes(content)
    assert lookup(GEMM, path=path).source == "default"


def test_a_path_without_a_database_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database at"):
        lookup(GEMM, path=tmp_path / "nothing.db")
    with pytest.raises(StoreError, match="is a directory"):
        lookup(GEMM, path=tmp_path)
    with pytest.raises(StoreError, match="postgresql:// URLs"):
        lookup(GEMM, path="postgresql://host/name")


def test_bad_databases_raise_what_the_store_raises(path: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"x" * 5000)
    notes = tmp_path / "notes.db"
    edit(notes, "CREATE TABLE notes (text TEXT)")
    Store.open(path).close()
    edit(path, f"UPDATE meta SET schema = {SCHEMA + 1}")
    for file, kind in (
        (noise, StoreCorruptError),
        (notes, StoreCorruptError),
        (path, StoreVersionError),
    ):
        with pytest.raises(kind) as looking_up:
            lookup(GEMM, path=file)
        with pytest.raises(kind) as opening:
            Store.open(file)
        assert str(looking_up.value) == str(opening.value)


def test_a_locked_database_is_an_error(path: Path) -> None:
    with Store.open(path) as store:
        store.compact()  # without WAL a writer keeps readers out
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreLockedError, match="locked by another process"):
        Catalogue(path, signature_of(path) or (), busy_timeout_s=0.05)
    other.close()


# Where databases are


def test_a_users_database_lies_in_the_platforms_data_folder() -> None:
    home = {"HOME": "/home/me"}
    assert user_database(home, "linux") == Path("/home/me/.local/share/gemmtune/tuning.db")
    given = home | {"XDG_DATA_HOME": "/data"}
    assert user_database(given, "linux") == Path("/data/gemmtune/tuning.db")
    relative = home | {"XDG_DATA_HOME": "data"}
    assert user_database(relative, "linux") == user_database(home, "linux")
    assert user_database(home, "darwin") == Path(
        "/home/me/Library/Application Support/gemmtune/tuning.db"
    )
    local = {"LOCALAPPDATA": "/local"}
    assert user_database(local, "win32") == Path("/local/gemmtune/tuning.db")


def test_databases_are_searched_in_order() -> None:
    shipped = data_path("tuning.db")
    home = {"HOME": "/home/me"}
    assert default_paths(home) == (user_database(home), shipped)
    named = home | {"GEMMTUNE_DB": "/mine.db"}
    assert search_path(None, named) == (Path("/mine.db"), shipped)
    assert search_path("/this.db", named) == (Path("/this.db"),)
    with pytest.raises(StoreError, match="postgresql://"):
        search_path(None, {"GEMMTUNE_DB": "postgresql://host/name"})


@pytest.mark.parametrize("name", ["a b.db", "what?mode=rw.db", "50%41.db", "#1.db", "größe.db"])
def test_a_database_may_have_any_name(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / "plain.db") as store:
        add(store, 100.0, config_of(1))
    (tmp_path / "plain.db").rename(tmp_path / name)
    assert lookup(GEMM, DEVICE.key, path=tmp_path / name).config == config_of(1)
    assert lookup(GEMM, DEVICE.key, path=str(tmp_path / name)).source == "exact"


def test_a_users_database_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMTUNE_DB", str(tmp_path / "later" / "tuning.db"))
    assert lookup(GEMM, device=LAVAPIPE).family in FAMILIES


def test_the_environment_names_the_database(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, 100.0)
    monkeypatch.setenv("GEMMTUNE_DB", str(path))
    assert gemmtune.lookup(GEMM, DEVICE.key).source == "exact"


# What it costs


def test_looking_up_in_a_real_database_loads_no_heavy_package(path: Path) -> None:
    with Store.open(path) as store:
        add(store, 100.0)
    code = (
        "import json, sys, gemmtune\n"
        "found = gemmtune.lookup(gemmtune.Gemm(m=64, n=64, k=64), sys.argv[1], path=sys.argv[2])\n"
        "heavy = {'numpy', 'wgpu', 'optuna', 'sqlalchemy', 'jinja2'} & set(sys.modules)\n"
        "print(json.dumps([found.source, found.launches[0].workgroups, sorted(heavy)]))\n"
    )
    arguments = [sys.executable, "-c", code, DEVICE.key, str(path)]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == ["exact", 64 * 64, []]


def test_wgsl_is_rendered_for_the_problem_asked_for(store: Store, path: Path) -> None:
    add(store, 100.0, config_of(9), gemm=size(4096))
    found = lookup(size(100), DEVICE.key, path=path)
    assert size(100).key in found.wgsl
    assert found.kernel is found.kernel
    assert found.kernel.launches == found.launches
    assert found.kernel_in("naga") is found.kernel
    with pytest.raises(ConfigError, match="supported: naga, tint"):
        found.kernel_in("spirv")


# Records


def test_what_is_asked_for_is_counted_and_added_up(
    store: Store, path: Path, tmp_path: Path
) -> None:
    add(store, 100.0)
    file = tmp_path / "shapes.jsonl"
    lookup(size(8), DEVICE.key, path=path)
    for _ in range(2):
        with record(file) as recorder:
            lookup(size(8), DEVICE.key, path=path)
            lookup(size(8), DEVICE.key, path=path)
            lookup(size(4096), DEVICE.key, path=path)
        assert recorder.counts == {}
    wanted = read_record(file)
    assert [(one.gemm.m, one.count) for one in wanted] == [(4096, 2), (8, 4)]
    line = json.loads(file.read_text().splitlines()[0])
    assert line == {"count": 2, "device": DEVICE.key, "problem": size(8).to_json()}


def test_a_record_counts_every_thread(store: Store, path: Path, tmp_path: Path) -> None:
    add(store, 100.0)

    def work() -> None:
        for m in range(1, 50):
            lookup(size(m), DEVICE.key, path=path)

    with record(tmp_path / "shapes.jsonl") as recorder:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(recorder.counts.values()) == 4 * 49


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("nonsense", "line 1"),
        ('{"count": 0, "problem": {"m": 1, "n": 1, "k": 1}}', "count is 0"),
        ('{"count": 1, "problem": {"m": 1}}', "line 1"),
    ],
)
def test_a_record_that_is_none_is_told(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "shapes.jsonl"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_record(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_record(tmp_path / "none")


def test_the_usual_policy_is_written_out_right() -> None:
    assert Policy().key == USUAL_POLICY
