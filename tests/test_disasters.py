"""Tuning runs in which kernels really crash the driver or never end: each costs one config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import QUICK
from gemmtune.device import Device
from gemmtune.executors import Executor, open_executor
from gemmtune.job import Failure, Job, Outcome
from gemmtune.problem import Gemm
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, known, tune

GEMM = Gemm(m=64, n=64, k=64)
TRIALS = 6
HEAD = """
@group(0) @binding(3) var<storage, read_write> c: array<u32>;
var<workgroup> tile: array<u32, 64>;
@compute @workgroup_size(1)
fn main() {
"""
CRASH = HEAD + "tile[1000000000u + c[1] % 2u] = 7u; c[1] = tile[c[2] % 64u]; }"
"""Writes far outside of workgroup memory, which unchecked kernels can: a segmentation fault."""
ENDLESS = (
    HEAD.replace("size(1)", "size(256)")
    + "var x = bitcast<f32>(c[1]); for (var i = 0u; i < 4000000000u; i++) {"
    + "x = sin(x * 1.01 + 0.5);" * 200
    + "} c[1] = bitcast<u32>(x); }"
)
"""Far longer than the limit. llvmpipe leaves a loop after 65,536 rounds, so each round is slow."""


class Sabotaged:
    """An executor that runs other WGSL in place of some jobs' own, the first of them number 0."""

    def __init__(self, executor: Executor, wgsl: dict[int, str]) -> None:
        self._executor = executor
        self._wgsl = wgsl
        self._count = 0
        self.sabotaged: dict[str, int] = {}
        """Numbers of the jobs by the keys of their configs."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._executor, name)

    @property
    def on_grant(self) -> object:
        return self._executor.on_grant

    @on_grant.setter
    def on_grant(self, hook: object) -> None:
        self._executor.on_grant = hook

    def submit(self, job: Job) -> None:
        wgsl = self._wgsl.get(self._count)
        if wgsl is not None:
            self.sabotaged[job.kernel.config.key] = self._count
            job = replace(job, kernel=replace(job.kernel, wgsl=wgsl, unchecked=True))
        self._count += 1
        self._executor.submit(job)

    def next(self, timeout_s: float | None = None) -> Outcome | None:
        return self._executor.next(timeout_s)


@pytest.fixture
def workers(device: Device) -> Iterator[Executor]:
    """Workers of their own: they will die. Only where a crash takes down nothing but a process."""
    if not device.software:
        pytest.skip(
            "only a software adapter may be crashed: a real driver may take the machine down"
        )
    opened = open_executor(f"local:{device.key}", workers=1, policy=QUICK)
    yield opened
    opened.close()


def test_kernels_that_crash_the_driver_or_never_end_cost_themselves_only(
    workers: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "LIMIT_FLOOR_S", 5.0)
    executor = Sabotaged(workers, {1: CRASH, 3: ENDLESS})
    with Store.open(tmp_path / "tuning.db") as store:
        options = TuneOptions(
            budget_s=None, trials=TRIALS, families=("tiled",), policy=QUICK, sampler="random"
        )
        (result,) = tune([GEMM], executor, store, options)
        rows = {row.config_key: row for row in store.measurements(executor.device.key, GEMM.key)}

        assert (result.trials, result.stop) == (TRIALS, "trials")
        assert result.best is not None
        assert len(executor.sabotaged) == 2
        for key, row in rows.items():
            number = executor.sabotaged.get(key)
            if number is None:
                assert row.status == "ok", row.result
                continue
            assert isinstance(row.result, Failure)
            assert row.result.kind == ("crash" if number == 1 else "timeout"), row.result
        assert len(rows) == TRIALS
        assert store.check() == []

        (again,) = tune([GEMM], Sabotaged(workers, {}), store, options)
        assert again.measured == 0  # what failed is known to have, and not tried again
