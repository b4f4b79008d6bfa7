"""Makes results for tests of the store and of lookups: times by decree, no kernel runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gemmtune.device import Device
from gemmtune.generators import generator_hash
from gemmtune.job import Failure, Measurement, Outcome, Policy, Versions
from gemmtune.kernels.base import Config, Needs
from gemmtune.kernels.naive import NaiveConfig
from gemmtune.problem import Gemm
from gemmtune.store import Owner, Store
from strategies import H100

GEMM = Gemm(m=64, n=64, k=64)
DEVICE = replace(H100, device_id=0x2330, driver="580.1")
POLICY = Policy()
OWNER = Owner.current("test")


def versions_of(device: Device) -> Versions:
    return Versions(
        driver=device.driver,
        backend=device.backend,
        wgpu="0.32.0",
        compiler="naga 29",
        gemmtune="0.1.0",
    )


def config_of(number: int) -> NaiveConfig:
    """A different config for every number from 0 to 63, all legal everywhere."""
    return NaiveConfig(tile_m=1 + number % 8, tile_n=1 + number // 8)


def measurement(time_ns: float) -> Measurement:
    return Measurement(
        time_ns=time_ns,
        spread=0.01,
        min_ns=time_ns * 0.9,
        repetitions=9,
        clock="model",
        max_abs_error=1e-6,
        max_rel_error=1e-7,
        tolerance=1e-5,
    )


def outcome(result: Measurement | Failure) -> Outcome:
    return Outcome(job_id=0, result=result, compile_s=0.5, verify_s=0.25, measure_s=0.125)


def begin(
    store: Store,
    config: Config | None = None,
    *,
    device: Device = DEVICE,
    gemm: Gemm = GEMM,
    family: str = "naive",
    template: str | None = None,
    versions: Versions | None = None,
    owner: Owner = OWNER,
    policy: Policy = POLICY,
    deadline_s: float = 60.0,
    needs: Needs | None = None,
) -> int | None:
    return store.begin(
        device,
        gemm,
        family,
        config_of(0) if config is None else config,
        generator_hash=generator_hash(family) if template is None else template,
        policy=policy,
        versions=versions or versions_of(device),
        seed=7,
        owner=owner,
        deadline_s=deadline_s,
        needs=needs,
    )


def add(
    store: Store,
    result: float | Failure,
    config: Config | None = None,
    *,
    device: Device = DEVICE,
    gemm: Gemm = GEMM,
    family: str = "naive",
    template: str | None = None,
    policy: Policy = POLICY,
) -> int:
    """A finished row: a time in nanoseconds, or a failure."""
    number = begin(
        store, config, device=device, gemm=gemm, family=family, template=template, policy=policy
    )
    assert number is not None
    value = result if isinstance(result, Failure) else measurement(result)
    assert store.finish(number, outcome(value))
    return number


def files_beside(path: Path) -> set[str]:
    """The names in the folder of ``path``."""
    return {file.name for file in path.parent.iterdir()}
