"""Forests: what they say comes first, of the problems that they know of, wherever they are kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from databases import DEVICE, add, config_of
from gemmtune.export import Selection, arrivals, export, forests, loads, schema, to_text
from gemmtune.forest import Forest, features, read, voted
from gemmtune.lookup import Lookup, lookup, refresh
from gemmtune.lookup.candidates import Search
from gemmtune.lookup.catalogue import Catalogue, signature_of
from gemmtune.lookup.portfolio import portfolio_of
from gemmtune.problem import Gemm
from gemmtune.schema import FORESTS
from gemmtune.store import Store
from gemmtune.store.rows import to_json_text

KIND = "f32,f32,f32,f32:nn"
EVER = "9999-01-01T00:00:00.000000Z"
NAMES = [("naive", to_json_text(config_of(number).to_json())) for number in range(4)]
TREES = [
    [0, 100, [1, 5, 2, 9], [4, 4096, [3, 7], [0, 1, 3, 2]]],
    "[8,4,[],[1,5,2,1]]",
]
"""On m: 2 or 1, whichever the second tree adds to by the alignment of n; larger ones 3."""


def test_features_are_whole_numbers_of_sizes_and_what_follows_from_them() -> None:
    assert features(96, 130, 7) == (
        *(96, 130, 7, 96 * 130, 96 * 7, 130 * 7, 96 * 130 * 7),
        *(32, 2, 1),
        *(100, 90, 6 * 3, 13, 6 * 2, 9, 6, 4),  # of 16 rows: 96 of 96, 130 of 144, 18 of 132
        *(100, 81, 3 * 3, 6, 3 * 2, 4, 3, 2),
        *(75, 67, 2 * 3, 4, 2 * 2, 3, 2, 1),
        *(75, 50, 3, 2, 2, 1, 1, 0),
    )
    assert features(16 * 133, 64, 1)[12:14] == (133, 50)
    assert features(0, 256, 1)[7:14] == (0, 64, 1, 0, 100, 0, 0)


def test_the_most_votes_come_first_then_the_lowest_number() -> None:
    assert voted(TREES, 50, 7, 9) == [2, 1]
    assert voted(TREES, 50, 8, 9) == [1, 2]
    assert voted(TREES, 500, 8, 8) == [3, 1, 2]
    assert voted(TREES, 500, 7, 9) == [3, 0]
    assert voted([[10, 1, 9, 1]], 1, 1, 1) == [9, 10]
    assert voted([], 1, 1, 1) == []


def test_deep_nodes_are_text_in_a_database_and_mean_the_same() -> None:
    deep: list[object] = [1, 7]
    for threshold in range(2, 30):
        deep = [0, threshold, [threshold, 5], deep]
    forest = Forest(NAMES, [deep], EVER)
    row = forest.to_row()
    kept = Forest.from_row(**row)
    assert row["trees"].count('"') == 2
    assert kept.trees != forest.trees
    assert list(map(read, kept.trees)) == forest.trees
    assert kept.to_row() == row
    for m in range(1, 40):
        assert voted(kept.trees, m, 1, 1) == voted(forest.trees, m, 1, 1)


def test_long_text_is_deflated_and_damaged_text_is_no_forest() -> None:
    names = NAMES * 50
    row = Forest(names, [[0, 1]], EVER).to_row()
    assert len(row["configs"]) < sum(len(text) for _, text in names) / 20
    assert Forest.from_row(**row).configs == names
    for damaged in (row["configs"][4:], row["configs"][:-8], "x", "[1"):
        with pytest.raises(ValueError, match=r".+"):
            Forest.from_row(**row | {"configs": damaged})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four configs on one problem, the first the fastest, and each the fastest of another."""
    path = tmp_path / "tuned.db"
    with Store.open(path) as store:
        for number in range(4):
            add(store, 1e5 * (1 + number), config_of(number), gemm=Gemm(m=64, n=64, k=64))
            add(store, 1e5, config_of(number), gemm=Gemm(m=64 << number, n=64 << number, k=1024))
    return path


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    refresh()


def plant(path: Path, newest: str = EVER, kind: str = KIND) -> None:
    with Store.open(path) as store:
        store.take_in(DEVICE, [], "a test", {kind: Forest(NAMES, TREES, newest)})
    refresh()


def last(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        newest: str = connection.execute("SELECT max(finished_at) FROM measurements").fetchone()[0]
    return newest


def first(path: Path, gemm: Gemm) -> Lookup:
    return lookup(gemm, device=DEVICE, path=path)


ASKED = Gemm(m=50, n=52, k=60)


def test_what_has_votes_comes_first_and_then_what_is_predicted_to_be_fast(path: Path) -> None:
    by_rule = first(path, ASKED)
    assert by_rule.config == config_of(0)
    times = {by_rule.config: by_rule.time_ns} | {
        one.config: one.time_ns for one in by_rule.alternatives
    }
    plant(path)
    found = first(path, ASKED)
    assert (found.source, found.config) == ("near", config_of(1))
    assert found.time_ns == times[config_of(1)]
    rest = [one.config for one in found.alternatives if one.source == "near"]
    assert rest[:2] == [config_of(2), config_of(0)]
    assert len(set(rest)) == len(rest) == 3
    assert first(path, replace(ASKED, m=700, n=50)).config == config_of(3)


def test_a_device_without_results_follows_those_of_the_most_similar_one(path: Path) -> None:
    plant(path)
    other = replace(DEVICE, name="another", device_id=DEVICE.device_id + 1)
    found = lookup(ASKED, device=other, path=path)
    assert (found.source, found.config) == ("device", config_of(1))
    assert "most similar device, and named by decision trees" in found.why


def test_a_measurement_of_the_very_problem_counts_more(path: Path) -> None:
    plant(path)
    found = first(path, Gemm(m=64, n=64, k=64))
    assert (found.source, found.config) == ("exact", config_of(0))


def test_batches_and_other_kinds_are_not_spoken_of(path: Path) -> None:
    before = [first(path, each).config for each in (replace(ASKED, batch=2), ASKED)]
    plant(path, kind="f32,f32,f32,f32:nt")
    assert first(path, ASKED).config == before[1]
    plant(path)
    assert first(path, replace(ASKED, batch=2)).config == before[0]
    assert first(path, ASKED).config != before[1]


def test_what_it_does_not_know_of_counts_more_nearby(path: Path) -> None:
    plant(path, last(path))
    assert first(path, ASKED).config == config_of(1)
    with Store.open(path) as store:
        add(store, 2e2, config_of(3), gemm=Gemm(m=40, n=40, k=60))
    refresh()
    assert first(path, ASKED).config == config_of(3)
    assert first(path, Gemm(m=10, n=8, k=60)).config == config_of(1), "too far from what is new"
    plant(path, "")
    assert first(path, Gemm(m=10, n=8, k=60)).config == config_of(1), "the newer forest stays"


def test_results_elsewhere_are_new_by_their_time(path: Path, tmp_path: Path) -> None:
    newest = last(path)
    own = tmp_path / "own.db"
    with Store.open(own) as store:
        add(store, 2e2, config_of(3), gemm=Gemm(m=40, n=40, k=60))
    plant(path, newest)

    def config(gemm: Gemm) -> object:
        both = tuple(Catalogue(each, signature_of(each) or ()) for each in (own, path))
        return Search(both, gemm, None, DEVICE, None).answer().config

    assert config(ASKED) == config_of(3)
    assert config(Gemm(m=10, n=8, k=60)) == config_of(1)


@pytest.mark.parametrize("column", ["configs", "trees"])
def test_one_that_cannot_be_read_is_none(path: Path, column: str) -> None:
    plant(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE {FORESTS} SET {column} = '[[1'")
        connection.commit()
    refresh()
    assert first(path, ASKED).config == config_of(0)


@pytest.mark.parametrize("trees", ["[7]", "[[99,1,[],[]]]", '["{"]', "[[9,1]]", "[[1,2,3]]", "{}"])
def test_trees_that_make_no_sense_say_nothing(path: Path, trees: str) -> None:
    plant(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE {FORESTS} SET trees = ?", (trees,))
        connection.commit()
    refresh()
    assert first(path, ASKED).config == config_of(0)


def test_configs_without_measurements_are_passed_over(path: Path) -> None:
    names = [NAMES[0], ("naive", to_json_text(config_of(9).to_json())), NAMES[2], ("gone", "{}")]
    with Store.open(path) as store:
        store.take_in(DEVICE, [], "a test", {KIND: Forest(names, TREES, EVER)})
    assert first(path, ASKED).config == config_of(2)


def test_a_config_that_is_named_twice_comes_once(path: Path) -> None:
    with Store.open(path) as store:
        twice = Forest([NAMES[1], NAMES[1], NAMES[0]], [[0, 3, 1, 2, 2, 1]], EVER)
        store.take_in(DEVICE, [], "a test", {KIND: twice})
    found = first(path, ASKED)
    near = [found.config, *(one.config for one in found.alternatives if one.source == "near")]
    assert near[:2] == [config_of(1), config_of(0)]
    portfolio = portfolio_of((Catalogue(path, signature_of(path) or ()),), DEVICE.key, ASKED)
    ranked = [one.leader.text for one in portfolio.ranked(ASKED, lambda _: False)]
    assert len(ranked) == len(set(ranked)) == 4


def test_merging_takes_the_newer_one(path: Path, tmp_path: Path) -> None:
    plant(path, "2026")
    for newest, kept in (("2027", "2027"), ("2025", "2027")):
        other = tmp_path / f"{newest}.db"
        with Store.open(other) as store:
            store.take_in(DEVICE, [], "a test", {KIND: Forest(NAMES, TREES, newest)})
        with Store.open(path) as store:
            store.merge(other)
            assert store.forests(DEVICE.key)[KIND].newest == kept
            assert store.forests("another") == {}
    with Store.open(path) as store:
        store.take_in(DEVICE, [], "a test", {KIND: Forest(NAMES, TREES[:1], "2027")})
        assert len(store.forests(DEVICE.key)[KIND].trees) == 1, "grown again of the same results"
    with Store.open(tmp_path / "none.db") as store:
        assert store.forests(DEVICE.key) == {}


def test_documents_have_them_with_a_kernel_for_each_config(path: Path, tmp_path: Path) -> None:
    plant(path)
    with Store.open(path) as store:
        document = export([store], Selection(), "gemmtune test")
    text = to_text(document)
    jsonschema.validate(document.to_json(), schema())
    assert all(document.forests[KIND].kernels)
    found = loads(text)
    assert found == document
    with Store.open(tmp_path / "again.db") as store:
        store.take_in(found.device, arrivals(found), "a document", forests(found))
        assert to_text(export([store], Selection(), "gemmtune test")) == text
        assert store.forests(DEVICE.key)[KIND] == Forest(NAMES, list(map(read, TREES)), EVER)


def test_configs_that_a_dialect_cannot_spell_are_left_out_of_documents(
    path: Path, tmp_path: Path
) -> None:
    names = [*NAMES[:3], ("gone", "{}")]
    with Store.open(path) as store:
        store.take_in(DEVICE, [], "a test", {KIND: Forest(names, TREES, EVER)})
        document = export([store], Selection(), "gemmtune test")
    assert [len(ids) for ids in document.forests[KIND].kernels] == [1, 1, 1, 0]
    jsonschema.validate(document.to_json(), schema())
    with Store.open(tmp_path / "again.db") as store:
        store.take_in(document.device, arrivals(document), "a document", forests(document))
        assert export([store], Selection(), "gemmtune test") == document
    assert first(tmp_path / "again.db", ASKED).config == config_of(1)


def test_documents_of_some_shapes_or_newer_results_have_none(path: Path) -> None:
    plant(path)
    with Store.open(path) as store:
        some = export([store], Selection(shapes=("64x64x64",)), "gemmtune test")
        assert some.forests == {}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE {FORESTS} SET newest = '2020'")
        connection.commit()
    with Store.open(path) as store:
        assert export([store], Selection(), "gemmtune test").forests == {}
