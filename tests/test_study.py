"""A search shared through a storage of Optuna's: claims, results, resumption, and the dead."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from gemmtune import Gemm
from gemmtune.cli import main
from gemmtune.errors import MissingExtraError, StoreError, UsageError
from gemmtune.executors.fake import DEVICE, FakeExecutor
from gemmtune.kernels import FAMILIES
from gemmtune.search import SamplerName, Search
from gemmtune.search.rows import Row
from gemmtune.search.study import Storage, Study
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, TuneResult, tune

GEMM = Gemm(m=1, n=512, k=512)
SPACE: list[Row] = [
    (name, config)
    for name in ("gemv", "tiled")
    for config, _ in zip(FAMILIES[name].space(GEMM, DEVICE), range(10), strict=False)
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'search.db'}"


@pytest.fixture
def storages(url: str) -> Iterator[tuple[Storage, Storage]]:
    """Of two tuners."""
    with Storage(url, heartbeat_s=1, grace_s=1) as one, Storage(url, heartbeat_s=1) as other:
        yield one, other


def states(storage: Storage) -> list[str]:
    (study,) = storage.optuna.get_all_studies()
    return [trial.state.name for trial in storage.optuna.get_all_trials(study._study_id)]


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_two_searches_ask_each_row_once_between_them(
    storages: tuple[Storage, Storage], sampler: SamplerName
) -> None:
    searches = [
        Search(SPACE, sampler=sampler, seed=seed, study=Study(storage, "one"))
        for seed, storage in enumerate(storages)
    ]
    asked: list[Row] = []

    while candidates := [c for search in searches if (c := search.ask()) is not None]:
        for search, candidate in product(searches, candidates):
            row = (candidate.family, candidate.config)
            if search is searches[candidates.index(candidate)]:
                asked.append(row)
                search.tell(candidate, None if len(asked) % 5 == 0 else 100.0 + len(asked))
        for search in searches:
            search.exchange()

    assert len(asked) == len(set(asked)) == len(SPACE)
    assert states(storages[0]).count("PRUNED") == len(SPACE) // 5
    assert states(storages[0]).count("COMPLETE") == len(SPACE) - len(SPACE) // 5


def test_a_claim_goes_to_one_tuner_and_is_free_again_when_that_gives_up(
    storages: tuple[Storage, Storage],
) -> None:
    first, second = (Search(SPACE, sampler="exhaustive", study=Study(s, "one")) for s in storages)

    candidate = first.ask()
    other = second.ask()
    first.give_up()
    second.exchange()
    again = second.ask()

    assert candidate is not None
    assert other is not None
    assert (other.family, other.config) == SPACE[1] != (candidate.family, candidate.config)
    assert again == candidate


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_the_trial_of_a_dead_tuner_is_failed_and_asked_again(
    storages: tuple[Storage, Storage], sampler: SamplerName
) -> None:
    dead = Search(SPACE[:3], sampler=sampler, study=Study(storages[1], "one"))
    lost = dead.ask()
    clock_s = [0.0]
    study = Study(storages[0], "one", now=lambda: clock_s[0])
    living = Search(SPACE[:3], sampler=sampler, study=study)
    others = [living.ask(), living.ask()]
    for candidate in others:
        assert candidate is not None
        assert candidate != lost
        living.tell(candidate, 5.0)
    assert living.ask() is None

    # The database's clock, by which it tells who is silent, counts whole seconds.
    path = storages[0].where.removeprefix("sqlite:///")
    with sqlite3.connect(path) as file:
        file.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")
    file.close()
    clock_s[0] += 60.0
    living.exchange()
    again = living.ask()

    assert lost is not None
    assert again is not None
    assert (again.family, again.config) == (lost.family, lost.config)
    assert sorted(states(storages[0])) == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    # It was not dead after all: what it measured counts, and the other's turn ends with it.
    dead.tell(lost, 7.0)
    assert states(storages[0]).count("COMPLETE") == 3


def test_a_tuner_that_died_before_its_first_sign_of_life_is_noticed_too(
    storages: tuple[Storage, Storage],
) -> None:
    dead = Search(SPACE[:1], study=Study(storages[1], "one"))
    lost = dead.ask()
    path = storages[0].where.removeprefix("sqlite:///")
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM trial_heartbeats")
    file.close()
    clock_s = [0.0]
    living = Search(SPACE[:1], study=Study(storages[0], "one", now=lambda: clock_s[0]))
    assert living.ask() is None

    for _ in range(2):
        clock_s[0] += 60.0
        living.exchange()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")
    file.close()
    clock_s[0] += 60.0
    living.exchange()

    assert lost is not None
    assert (again := living.ask()) is not None
    assert again.config == lost.config


def tuned(store: Path, url: str | None, **options: object) -> tuple[TuneResult, FakeExecutor]:
    executor = FakeExecutor()
    with Store.open(store) as opened:
        values = {"budget_s": None, "families": ("gemv",), **options}
        chosen = TuneOptions(**values)  # type: ignore[arg-type]
        if url is None:
            (result,) = tune([GEMM], executor, opened, chosen, now=lambda: executor.now_s)
        else:
            with Storage(url) as storage:
                (result,) = tune(
                    [GEMM], executor, opened, chosen, now=lambda: executor.now_s, storage=storage
                )
    return result, executor


@pytest.mark.parametrize("sampler", ["guided", "tpe"])
def test_a_second_run_knows_the_first_ones_trials_without_its_database(
    tmp_path: Path, url: str, sampler: str
) -> None:
    first, _ = tuned(tmp_path / "one.db", url, trials=12, sampler=sampler)
    tuned(tmp_path / "two.db", url, trials=12, sampler=sampler)

    with Store.open(tmp_path / "one.db") as one, Store.open(tmp_path / "two.db") as two:
        mine = {row.config_key for row in one.measurements(DEVICE.key, GEMM.key)}
        theirs = {row.config_key for row in two.measurements(DEVICE.key, GEMM.key)}
    # Every tuner measures the baseline, from which its time limits follow.
    assert mine & theirs == {FAMILIES["gemv"].default(GEMM, DEVICE).key}
    assert len(mine | theirs) == 23
    assert first.trials == 12
    with Storage(url) as storage:
        assert states(storage).count("COMPLETE") == 23
        assert "RUNNING" not in states(storage)


def test_a_model_takes_another_course_when_it_knows_what_others_told(
    storages: tuple[Storage, Storage],
) -> None:
    rows = [("gemv", config) for config in FAMILIES["gemv"].space(GEMM, DEVICE)]
    told = Study(storages[0], "one")
    told.expect({"gemv": FAMILIES["gemv"].config})
    for at, row in enumerate(rows[:40]):
        told.finish(row, 1000.0 + at)

    search = Search(rows, study=Study(storages[1], "one"))
    origins = []
    for _ in range(8):
        candidate = search.ask()
        assert candidate is not None
        assert (candidate.family, candidate.config) not in rows[:40]
        origins.append(candidate.origin)

    # Alone it would begin with rows that fill the space.
    assert "model" in origins
    assert "spread" not in origins


def test_a_row_told_from_the_database_is_told_to_others(tmp_path: Path, url: str) -> None:
    tuned(tmp_path / "one.db", None, trials=5)
    tuned(tmp_path / "one.db", url, trials=6)

    with Storage(url) as storage:
        assert states(storage) == ["COMPLETE"] * 6


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("nonsense", UsageError, "not a database URL"),
        ("sqlite://", UsageError, "keeps nothing"),
        ("nosuch://host/name", UsageError, "knows no database 'nosuch'"),
        ("postgresql://tuner@127.0.0.1:1/none", StoreError, "see that it is there"),
        ("sqlite:////nowhere/at/all.db", StoreError, "unable to open"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_clear_line(
    url: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Storage(url)


def test_a_missing_driver_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"psycopg: pip install 'gemmtune\[postgres\]'"):
        Storage("postgresql://tuner@127.0.0.1:1/none")


def test_the_file_of_the_results_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tuning.db"
    Store.open(path).close()
    before = path.read_bytes()
    argv = ["tune", "--shape", "8x8x8", "--db", str(path), "--storage", f"sqlite:///{path}"]

    assert main(argv) == 2

    assert "the search needs a file of its own" in capsys.readouterr().err
    assert path.read_bytes() == before
