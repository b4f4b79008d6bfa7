"""Recording measures what was selected, keeps it when interrupted, and goes on from there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from conftest import QUICK
from gemmtune.cli import main
from gemmtune.errors import DeviceError, UsageError
from gemmtune.executors.fake import DEVICE, FakeExecutor
from gemmtune.executors.pool import Pool
from gemmtune.job import FailureKind, Job, Measurement
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.tiled import TiledConfig
from gemmtune.landscape import Landscape
from gemmtune.problem import Gemm
from gemmtune.tune.record import RecordOptions, RecordProgress, record, select

GEMM = Gemm(m=64, n=64, k=64)


def tiled(where: str = "", **options: object) -> RecordOptions:
    return RecordOptions(family="tiled", where=where, **options)  # type: ignore[arg-type]


def test_a_filter_selects_by_value_and_a_field_named_twice_may_have_either() -> None:
    everything = select("tiled", GEMM, DEVICE)
    some = select("tiled", GEMM, DEVICE, "tile_k=8, tile_k=16,prefetch=true,dims=static")

    assert some == [
        config
        for config in everything
        if config.tile_k in (8, 16) and config.prefetch and config.dims == "static"
    ]
    assert 0 < len(some) < len(everything)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("colour=red", "the fields of tiled are wg_m"),
        ("tile_k", "not FIELD=VALUE"),
        ("tile_k=", "not FIELD=VALUE"),
        ("tile_k=7", "tile_k is one of 16, 32, 8"),
    ],
)
def test_a_filter_that_makes_no_sense_says_what_would(where: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        select("tiled", GEMM, DEVICE, where)


def test_a_family_that_cannot_do_the_problem_says_why() -> None:
    with pytest.raises(DeviceError, match=r"coopmat cannot do 64x64x64:.*operands in f16"):
        select("coopmat", GEMM, DEVICE)


def test_everything_selected_is_there_with_its_failures(tmp_path: Path) -> None:
    def fails(job: Job) -> FailureKind | None:
        assert isinstance(job.kernel.config, TiledConfig)
        return "wrong_result" if job.kernel.config.pad_a else None

    path = tmp_path / "one.json.gz"
    seen: list[RecordProgress] = []
    options = tiled("tile_k=8,stages=1,wg_m=8,vec=4,split_k=1")
    landscape = record(GEMM, FakeExecutor(fails=fails), path, options, report=seen.append)

    selected = select("tiled", GEMM, DEVICE, options.where)
    assert landscape == Landscape.read(path)
    assert landscape.complete
    assert {row.config for row in landscape.rows} == set(selected)
    assert landscape.failures == {"wrong_result": sum(config.pad_a > 0 for config in selected)}
    assert len(seen) == seen[-1].wanted == seen[-1].done == seen[-1].new == len(selected)
    assert seen[-1].failed == landscape.failures["wrong_result"]
    assert all(row.launches for row in landscape.rows)


def test_a_sample_is_a_choice_by_seed_that_begins_with_the_default(tmp_path: Path) -> None:
    one, same, other = (
        record(GEMM, FakeExecutor(), tmp_path / name, tiled(sample=40, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )

    assert one == same
    assert {row.config for row in one.rows} != {row.config for row in other.rows}
    assert len(one.rows) == 40
    assert not one.complete
    assert FAMILIES["tiled"].default(GEMM, DEVICE) in [row.config for row in one.rows[:4]]


def test_a_larger_sample_goes_on_where_a_smaller_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "one.json.gz"
    first = record(GEMM, FakeExecutor(), path, tiled(sample=20))
    seen: list[RecordProgress] = []
    second = record(GEMM, FakeExecutor(), path, tiled(sample=50), report=seen.append)

    assert second.rows[:20] == first.rows
    assert len(second.rows) == 50
    assert len(seen) == seen[-1].new == 30


def test_a_file_goes_on_with_a_selection_that_has_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "one.json.gz"
    narrow = record(GEMM, FakeExecutor(), path, tiled(where="tile_k=8", sample=5))
    wide = record(GEMM, FakeExecutor(), path, tiled(where="tile_k=8,tile_k=16", sample=30))
    before = path.read_bytes()

    assert wide.rows[:5] == narrow.rows
    assert wide.selected > narrow.selected
    with pytest.raises(UsageError, match="configs that are not among the"):
        record(GEMM, FakeExecutor(), path, tiled(where="tile_k=16", sample=40))
    assert path.read_bytes() == before


def test_a_file_recorded_in_another_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "one.json.gz"
    record(GEMM, FakeExecutor(), path, tiled(sample=5))
    before = path.read_bytes()

    with pytest.raises(UsageError, match="another policy; give another file"):
        record(GEMM, FakeExecutor(), path, tiled(sample=9, policy=QUICK))
    with pytest.raises(UsageError, match="another gemm; give another file"):
        record(Gemm(m=32, n=64, k=64), FakeExecutor(), path, tiled(sample=9))
    assert path.read_bytes() == before


def test_time_that_is_up_ends_it_and_keeps_what_there_is(tmp_path: Path) -> None:
    executor = FakeExecutor()
    path = tmp_path / "one.json.gz"
    landscape = record(GEMM, executor, path, tiled(budget_s=10.0), now=lambda: executor.now_s)

    # Each takes 0.4 s of the fake executor's time, four at once.
    assert 90 <= len(landscape.rows) <= 104
    assert Landscape.read(path) == landscape


def test_ctrl_c_keeps_what_there_is_and_a_second_call_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "one.json.gz"

    def interrupt(progress: RecordProgress) -> None:
        if progress.new == 7:
            os.kill(os.getpid(), signal.SIGINT)

    first = record(GEMM, FakeExecutor(), path, tiled(sample=30), report=interrupt)
    second = record(GEMM, FakeExecutor(), path, tiled(sample=30))

    assert len(first.rows) == 7
    assert second.rows[:7] == first.rows
    assert len({row.config for row in second.rows}) == 30


def test_the_file_grows_while_it_is_measured(tmp_path: Path) -> None:
    executor = FakeExecutor()
    path = tmp_path / "one.json.gz"
    sizes: list[int] = []

    def look(_: RecordProgress) -> None:
        sizes.append(len(Landscape.read(path).rows) if path.exists() else 0)

    record(GEMM, executor, path, tiled(sample=150), now=lambda: executor.now_s, report=look)

    assert 0 < sizes[-1] < 150
    assert sizes == sorted(sizes)


def test_real_kernels_are_recorded(executor: Pool, tmp_path: Path) -> None:
    gemm = Gemm(m=33, n=20, k=17)
    options = RecordOptions(family="tiled", sample=3, where="wg_m=8,reg_m=1", policy=QUICK)
    landscape = record(gemm, executor, tmp_path / "real.json.gz", options)

    assert len(landscape.rows) == 3
    assert all(isinstance(row.result, Measurement) for row in landscape.rows)
    assert all(row.compile_s > 0 for row in landscape.rows)
    assert landscape.device == executor.device


def test_the_commands_record_and_say_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.json.gz"
    command = [
        "record",
        str(path),
        "--shape",
        "64x64x64",
        "--family",
        "tiled",
        "--executor",
        "fake",
    ]

    assert main([*command, "--sample", "25", "--where", "tile_k=8"]) == 0
    recorded = capsys.readouterr()
    assert main(["landscape", "info", str(path)]) == 0
    shown = capsys.readouterr()
    assert main(["record", str(path), *command[2:], "--where", "tile_k=7"]) == 2
    refused = capsys.readouterr()

    assert "25 of 25 configs, 0 failed" in recorded.err
    assert recorded.out == shown.out
    assert "(none failed)" in shown.out
    assert "configs within so much of the best: 1%:" in shown.out
    assert "tile_k is one of" in refused.err
    assert refused.err.count("\n") == 1


def test_a_folder_that_is_not_there_is_noticed_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing" / "one.json.gz"

    code = main(
        ["record", str(path), "--shape", "64x64x64", "--family", "tiled", "--executor", "fake"]
    )

    assert code == 2
    assert "there is no folder" in capsys.readouterr().err
