"""A landscape survives its file as it is, damaged files say so, and replay gives what was there."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmtune.errors import LandscapeError
from gemmtune.executors import open_executor
from gemmtune.executors.fake import FakeExecutor
from gemmtune.executors.replay import ReplayExecutor
from gemmtune.job import FAILURE_KINDS, Failure, Job, Measurement, Outcome
from gemmtune.kernels.base import Launch
from gemmtune.kernels.tiled import TiledConfig
from gemmtune.landscape import (
    FORMAT,
    MESSAGE_LIMIT,
    Landscape,
    Recorded,
    config_class,
    config_values,
)
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.search import SAMPLERS, SamplerName
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, tune
from landscapes import landscape_of
from strategies import H100, gemms, legal_configs

GEMM = Gemm(m=64, n=64, k=64)
SMALL = landscape_of(FakeExecutor(), GEMM, "tiled")

numbers = st.floats(1e-3, 1e12).map(lambda x: float(f"{x:.6g}"))
measurements = st.builds(
    Measurement,
    time_ns=numbers,
    spread=numbers,
    min_ns=numbers,
    repetitions=st.integers(1, 9999),
    clock=st.sampled_from(["gpu", "host", "model"]),
    max_abs_error=numbers,
    max_rel_error=numbers,
    tolerance=numbers,
)
failures = st.builds(Failure, kind=st.sampled_from(FAILURE_KINDS), message=st.text(max_size=40))
rows = st.builds(
    Recorded,
    config=st.sampled_from(legal_configs("tiled", GEMM, H100)[::37]),
    launches=st.lists(
        st.builds(
            Launch,
            workgroups=st.integers(0, 2**31),
            workgroup_size=st.tuples(*[st.integers(1, 64)] * 3),
            workgroup_storage_bytes=st.integers(0, 2**16),
        ),
        max_size=2,
    ).map(tuple),
    result=measurements | failures,
    compile_s=numbers,
    verify_s=numbers,
    measure_s=numbers,
)
landscapes = st.builds(
    replace,
    st.just(SMALL),
    gemm=gemms(),
    where=st.text(max_size=20),
    rows=st.lists(rows, max_size=30).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(landscape=landscapes)
def test_a_landscape_comes_back_as_it_was(landscape: Landscape) -> None:
    text = json.dumps(landscape.to_json(), sort_keys=True, allow_nan=False)

    assert Landscape.from_json(json.loads(text)) == landscape


def test_the_file_comes_back_and_the_same_landscape_makes_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json.gz", tmp_path / "other.json.gz"
    SMALL.write(one)
    Landscape.read(one).write(other)

    assert Landscape.read(one) == SMALL
    assert one.read_bytes() == other.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, other]


def test_numbers_that_are_none_and_long_messages_are_kept_short() -> None:
    result = SMALL.rows[0].result
    assert isinstance(result, Measurement)
    strange = replace(result, time_ns=1234567.89, max_rel_error=math.inf)
    launches = (Launch(workgroups=1, workgroup_size=(1, 1, 1)),)
    config = SMALL.rows[0].config
    timed = Recorded.of(config, launches, Outcome(job_id=0, result=strange))
    failed = Recorded.of(
        config, launches, Outcome(job_id=0, result=Failure(kind="compile", message="x" * 9999))
    )
    again = Landscape.from_json(replace(SMALL, rows=(timed, failed)).to_json())

    read = again.rows[0].result
    assert isinstance(read, Measurement)
    assert read.time_ns == 1234570.0
    assert math.isnan(read.max_rel_error)
    assert again.rows[1].result == Failure(kind="compile", message="x" * MESSAGE_LIMIT)
    assert again.failures == {"compile": 1}


def test_thousands_of_rows_take_little_room(tmp_path: Path) -> None:
    first = SMALL.rows[0]
    assert isinstance(first.result, Measurement)
    rows = []
    for i, config in enumerate(legal_configs("tiled", GEMM, H100)[:2000]):
        numbers = {
            name: float(f"{abs(math.sin(i + 1)):.6g}") for name in ("spread", "max_abs_error")
        }
        result = replace(first.result, time_ns=1e5 + 7 * i, min_ns=1e5 + 6 * i, **numbers)
        rows.append(replace(first, config=config, result=result, measure_s=0.1 + i / 7000))
    landscape = replace(SMALL, rows=tuple(rows))
    landscape.write(tmp_path / "large.json.gz")

    assert len(landscape.rows) == 2000
    assert (tmp_path / "large.json.gz").stat().st_size < 200_000


def test_rows_outlive_the_fields_of_their_family(tmp_path: Path) -> None:
    data = SMALL.to_json()
    data["columns"]["config"]["colour"] = ["red"] * len(SMALL.rows)
    read = Landscape.from_json(data)

    assert config_class("tiled", list(SMALL.rows[0].config.to_json())) is TiledConfig
    assert config_class("tiled", list(config_values(SMALL.rows[0].config))) is TiledConfig
    assert [row.time_ns for row in read.rows] == [row.time_ns for row in SMALL.rows]
    assert read.rows[0].config.to_json() == config_values(SMALL.rows[0].config) | {"colour": "red"}
    assert len({row.config for row in read.rows}) == len(read.rows)
    assert Landscape.from_json(read.to_json()) == read


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": FORMAT + 1}, "reads up to"),
        ({"format": "new"}, "reads up to"),
        ({"kind": "recipe"}, "not a landscape"),
        ({"columns": {}}, "damaged"),
        ({"problem": {"m": 1}}, "damaged"),
        ({"policy": {"colour": 1}}, "damaged"),
    ],
)
def test_what_is_no_landscape_says_so(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "bad.json.gz"
    path.write_bytes(gzip.compress(json.dumps(SMALL.to_json() | change).encode()))

    with pytest.raises(LandscapeError, match=words):
        Landscape.read(path)


def test_a_row_needs_a_failure_or_a_time() -> None:
    data = SMALL.to_json()
    data["columns"]["measurement"]["time_ns"] = [0.0] * len(SMALL.rows)

    with pytest.raises(LandscapeError, match="neither a failure nor a time"):
        Landscape.from_json(data)


def test_a_cut_file_or_none_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cut.json.gz"
    with pytest.raises(LandscapeError, match="cannot be read: No such file"):
        Landscape.read(path)
    SMALL.write(path)
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(LandscapeError, match="damaged"):
        Landscape.read(path)


def test_a_file_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="cannot be written"):
        SMALL.write(tmp_path / "missing" / "a.json.gz")

    assert not list(tmp_path.iterdir())


def test_replay_gives_what_was_recorded_and_fails_what_was_not(tmp_path: Path) -> None:
    path = tmp_path / "small.json.gz"
    SMALL.write(path)
    executor = open_executor(f"replay:{path}")
    assert isinstance(executor, ReplayExecutor)
    known = SMALL.rows[7]
    unknown = legal_configs("tiled", GEMM, H100)[-1]
    for job_id, config in enumerate((known.config, unknown)):
        kernel = render("tiled", config, GEMM, executor.device)
        executor.submit(Job(id=job_id, gemm=GEMM, kernel=kernel))

    outcomes = {
        outcome.job_id: outcome for outcome in (executor.next(), executor.next()) if outcome
    }

    assert outcomes[0].result == known.result
    assert outcomes[0].compile_s == known.compile_s
    assert isinstance(outcomes[1].result, Failure)
    assert outcomes[1].result.kind == "validation"
    assert executor.device.key.startswith("replay/")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_search_runs_on_a_replay(tmp_path: Path, sampler: SamplerName) -> None:
    executor = ReplayExecutor(SMALL)
    with Store.open(tmp_path / "tuning.db") as store:
        options = TuneOptions(families=("tiled",), sampler=sampler, trials=25)
        (result,) = tune([GEMM], executor, store, options, now=lambda: executor.now_s)
        rows = store.measurements(executor.device.key, GEMM.key)

    known = {row.config: row.time_ns for row in SMALL.rows}
    assert result.measured == len(rows) == 25
    assert result.best is not None
    assert [row.time_ns for row in rows] == [known.get(row.config) for row in rows]
    assert executor.now_s > 0
