"""What is kept of what was learned: the same answers, and none that outlive their rows."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random

import pytest

from databases import DEVICE, GEMM, add, config_of
from gemmtune._data import data_path
from gemmtune.lookup import Lookup, refresh
from gemmtune.lookup import lookup as look_up
from gemmtune.lookup.candidates import Search
from gemmtune.lookup.catalogue import Catalogue, signature_of
from gemmtune.problem import Gemm
from gemmtune.schema import LEARNED_QUERY, LEARNED_TRIGGERS
from gemmtune.store import Store

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
H100 = "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"
SHIPPED = data_path("tuning.db")
Learn = Callable[[Path], None]


@pytest.fixture
def learn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Learn]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield import_module("pool").learn
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Results of nine configs on products of many sizes."""
    path = tmp_path / "tuning.db"
    random = Random(3)
    with Store.open(path) as store:
        for number in range(9):
            for _ in range(random.choice((1, 2, 5, 9))):
                m, n = random.randint(1, 5000), random.randint(1, 5000)
                gemm = Gemm(m=m, n=n, k=64, bias=number > 6)
                add(store, random.uniform(1e4, 1e6), config_of(number), gemm=gemm)
    return path


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def kept(path: Path, device: str = DEVICE.key, dtypes: str = "f32,f32,f32,f32") -> list[tuple]:
    """What a lookup reads of it."""
    return Catalogue(path, signature_of(path) or ()).learned(device, dtypes)[0]


def told(found: Lookup) -> list[object]:
    """An answer and all of its alternatives."""
    return [
        (one.family, one.config, one.source, one.why, one.time_ns, one.problem_key, one.demotions)
        for one in (found, *found.alternatives)
    ]


def answers(path: Path, device: str, gemms: list[Gemm], **wishes: object) -> list[list[object]]:
    refresh()
    return [told(look_up(gemm, device, path=path, **wishes)) for gemm in gemms]  # type: ignore[arg-type]


def asked(number: int) -> list[Gemm]:
    """Products of any sizes."""
    random = Random(7)

    def size() -> int:
        return int(2 ** random.uniform(0, 12))

    def some() -> bool:
        return random.random() < 0.2

    return [Gemm(m=size(), n=size(), k=size(), trans_b=some(), bias=some()) for _ in range(number)]


def test_answers_are_the_same_with_what_was_learned_and_without(path: Path, learn: Learn) -> None:
    gemms = [*asked(40), GEMM]
    without = answers(path, DEVICE.key, gemms)
    assert kept(path) == []
    learn(path)
    assert len(kept(path)) == 9
    assert answers(path, DEVICE.key, gemms) == without


def test_answers_are_the_same_out_of_the_shipped_results(tmp_path: Path) -> None:
    plain = tmp_path / "plain.db"
    plain.write_bytes(SHIPPED.read_bytes())
    edit(plain, "DROP TABLE learned")
    gemms = asked(25)
    halves = [replace(gemm, a="f16", b="f16", c="f16") for gemm in asked(25)]
    for every in (gemms, halves):
        assert answers(SHIPPED, H100, every) == answers(plain, H100, every)
        for wishes in ({"deterministic": True}, {"max_rel_err": 1e-2}):
            some = every[:5]
            assert answers(SHIPPED, H100, some, **wishes) == answers(plain, H100, some, **wishes)


def test_what_ships_is_what_is_learned_of_it_today(tmp_path: Path, learn: Learn) -> None:
    again = tmp_path / "again.db"
    again.write_bytes(SHIPPED.read_bytes())
    learn(again)
    for dtypes in ("f32,f32,f32,f32", "f16,f16,f16,f32"):
        then, now = (kept(each, H100, dtypes) for each in (SHIPPED, again))
        assert len(then) == len(now) > 100
        for one, other in zip(then, now, strict=True):
            # Sums may be rounded otherwise by another Python.
            assert one[:9] == other[:9]
            assert one[9:13] == pytest.approx(other[9:13], rel=1e-12)
            assert one[13] == other[13]


def test_what_is_written_to_ship_has_it(path: Path, tmp_path: Path, learn: Learn) -> None:
    shipped = tmp_path / "shipped.db"
    sys.modules[learn.__module__].ship(path, {1, 2, 3, 4, 5}, shipped)  # type: ignore[attr-defined]
    assert kept(shipped)
    gemms = asked(5)
    found = answers(shipped, DEVICE.key, gemms)
    edit(shipped, "DROP TRIGGER learned_measurements_insert")
    assert kept(shipped) == []
    assert answers(shipped, DEVICE.key, gemms) == found


def test_only_databases_that_are_made_to_ship_keep_it(path: Path) -> None:
    assert kept(SHIPPED, H100)
    assert kept(path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE measurements SET time_ns = 1.5 WHERE id = 1",
        "DELETE FROM measurements WHERE id = 1",
        "INSERT INTO measurements SELECT * FROM spare",
        "INSERT OR REPLACE INTO measurements SELECT * FROM measurements WHERE id = 1",
        "UPDATE problems SET m = m + 1 WHERE id = 1",
        "UPDATE devices SET described_at = NULL",
    ],
)
def test_whatever_is_written_to_its_rows_deletes_it(
    path: Path, learn: Learn, statement: str
) -> None:
    edit(
        path,
        "CREATE TABLE spare AS SELECT * FROM measurements WHERE id = 2",
        "DELETE FROM measurements WHERE id = 2",
    )
    learn(path)
    assert kept(path)
    edit(path, statement)
    assert kept(path) == []


def test_a_result_that_a_tuner_adds_counts_at_once(path: Path, learn: Learn) -> None:
    learn(path)
    best = config_of(20)
    assert best not in {one[1] for one in answers(path, DEVICE.key, [GEMM])[0]}
    with Store.open(path) as store:
        add(store, 1.0, best, gemm=replace(GEMM, m=65))
    assert answers(path, DEVICE.key, [GEMM])[0][0][1] == best


def test_it_is_not_read_where_something_took_a_trigger_away(path: Path, learn: Learn) -> None:
    for name in LEARNED_TRIGGERS:
        learn(path)
        assert kept(path)
        edit(path, f"DROP TRIGGER {name}")
        assert kept(path) == []


def test_what_other_code_has_learned_is_not_read(path: Path, learn: Learn) -> None:
    learn(path)
    edit(path, "UPDATE learned SET basis = basis + 1")
    assert kept(path) == []
    assert "basis = " in LEARNED_QUERY


def test_what_is_kept_in_other_columns_is_not_read(path: Path, learn: Learn) -> None:
    without = answers(path, DEVICE.key, asked(5))
    learn(path)
    edit(path, "ALTER TABLE learned RENAME COLUMN step TO steps")
    assert kept(path) == []
    assert answers(path, DEVICE.key, asked(5)) == without


def test_results_of_several_databases_are_learned_from_together(
    path: Path, tmp_path: Path, learn: Learn
) -> None:
    other = tmp_path / "other.db"
    with Store.open(other) as store:
        add(store, 1.0, config_of(30), gemm=replace(GEMM, m=66))
    learn(path)
    learn(other)
    both = tuple(Catalogue(each, signature_of(each) or ()) for each in (path, other))
    assert Search(both, GEMM, DEVICE.key, None, None).answer().config == config_of(30)


def test_older_templates_come_last_also_of_what_was_learned(path: Path, learn: Learn) -> None:
    with Store.open(path) as store:
        add(store, 1.0, config_of(40), gemm=replace(GEMM, m=66), template="older")
    without = answers(path, DEVICE.key, [GEMM])
    learn(path)
    assert answers(path, DEVICE.key, [GEMM]) == without
    assert without[0][0][1] != config_of(40)


def test_a_merged_database_has_only_rows(path: Path, tmp_path: Path, learn: Learn) -> None:
    learn(path)
    merged = tmp_path / "merged.db"
    with Store.open(merged) as store:
        store.merge(path)
    assert kept(merged) == []
    assert answers(merged, DEVICE.key, asked(5)) == answers(path, DEVICE.key, asked(5))
