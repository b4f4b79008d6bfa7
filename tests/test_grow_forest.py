"""Growing decision trees: they name what is fast, and are what lookups read."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from databases import DEVICE, add, config_of
from gemmtune.forest import features, is_question, read, voted
from gemmtune.problem import Gemm
from gemmtune.store import Store
from gemmtune.store.rows import to_json_text

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NAMES = [("naive", to_json_text(config_of(number).to_json())) for number in range(8)]


@pytest.fixture
def grow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield import_module("grow_forest")
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


def judged(number: int) -> tuple[list[Gemm], np.ndarray[Any, Any]]:
    """Sizes, and what each of eight configs takes by decree: the best depends on m, k and on
    whether n is aligned; two are nowhere the best, and one is not always legal.
    """
    rng = np.random.default_rng(7)
    sizes = [tuple(int(2**x) for x in rng.uniform(0, 13, 3)) for _ in range(number)]
    gemms = [Gemm(m=m, n=n, k=k) for m, n, k in sizes]
    times = np.full((number, 8), 1.0)
    for row, (m, n, k) in enumerate(sizes):
        best = 0 if m < 20 else 1 if k > 900 else 2 if n % 4 == 0 else 3
        times[row, best] = 0.0
        times[row, 4] = 0.1
        times[row, 5] = math.nan if n % 2 else 0.02 + times[row, 3]
    return gemms, times


def test_the_few_configs_that_serve_all_sizes_best_are_found(grow: Any) -> None:
    _, times = judged(500)
    chosen = grow.portfolio(grow.losses_of(times), 5)
    assert set(chosen[:5]) == {0, 1, 2, 3, 4}
    assert grow.portfolio(grow.losses_of(times), 1) == [4]


def test_trees_name_what_is_fast_on_other_sizes_too(grow: Any) -> None:
    gemms, times = judged(3000)
    forest = grow.forest(gemms[500:], NAMES, times[500:], 3, "2026")
    mean, worst = grow.reached(forest, NAMES, gemms[:500], times[:500])
    assert mean > 0.99
    assert worst > 0.3
    assert forest.newest == "2026"
    again = type(forest).from_row(**forest.to_row())
    assert again._replace(trees=list(map(read, again.trees))) == forest


def test_sizes_of_which_nothing_is_known_say_nothing(grow: Any) -> None:
    gemms, times = judged(300)
    times[:100] = math.inf
    times[:100, ::2] = math.nan
    losses = grow.losses_of(times)
    assert (losses[:100] == grow.NEVER).all()
    assert losses[100:].min(1).tolist() == [0.0] * 200
    forest = grow.forest(gemms, NAMES, times, 1, "2026")
    assert grow.reached(forest, NAMES, gemms, times) == grow.reached(
        forest, NAMES, gemms[100:], times[100:]
    )


def test_only_what_is_fast_on_a_near_size_is_judged_on_another(grow: Any) -> None:
    gemms, times = judged(2000)
    near = grow.Near(gemms[200:], grow.losses_of(times[200:]) <= grow.FAST)
    lost = [
        min(here) - min(here[near.fast(gemm)])
        for gemm, here in zip(gemms[:200], times[:200, :5], strict=True)
        if near.fast(gemm).max() < 5
    ]
    assert sum(one == 0 for one in lost) > 0.9 * len(lost)
    assert np.mean([len(near.fast(gemm)) for gemm in gemms[:200]]) < 6


def test_leaves_hold_votes_of_few_configs_over_the_next(grow: Any) -> None:
    means = np.array([0.5, 0.1, 0.7, 0.0, 0.2, 0.45])
    assert grow.votes(means) == [1, 10, 3, 12, 4, 8, 5, 1]
    assert grow.votes(np.array([0.2, 0.0])) == [0, 20, 1, 25]
    assert grow.votes(np.array([0.3, 0.002, 0.001, 0.003, 0.004, 0.005])) == [2, 1]


def test_only_configs_with_votes_are_kept_under_new_numbers(grow: Any) -> None:
    trees = [[3, 9, [4, 1], [7, 2, 2, 1]]]
    assert grow.used(trees) == {2, 4, 7}
    assert grow.renumbered(trees[0], {2: 0, 4: 1, 7: 2}) == [3, 9, [1, 1], [2, 2, 0, 1]]


@pytest.mark.parametrize(
    ("low", "high", "round_"),
    [(383, 385, 384), (40, 90, 60), (8, 1030, 100), (0, 1, 1), (99, 100, 100)],
)
def test_thresholds_are_round_numbers_between_two_values(
    grow: Any, low: int, high: int, round_: int
) -> None:
    assert grow.rounded_between(low, high) == round_


def test_inner_nodes_send_every_size_to_one_of_two_sides(grow: Any) -> None:
    gemms, times = judged(400)
    inputs = np.array([features(one.m, one.n, one.k) for one in gemms])
    node = grow.Grower(inputs, grow.losses_of(times)).tree()
    assert is_question(node)
    reached = [voted([node], one.m, one.n, one.k) for one in gemms]
    best = [int(np.nanargmin(row)) for row in times]
    assert np.mean([one[0] == two for one, two in zip(reached, best, strict=True)]) > 0.9


def test_trees_find_what_only_two_questions_together_save(grow: Any) -> None:
    drawn = np.random.default_rng(1)
    inputs = drawn.integers(1, 200, (600, 4))
    corner = (inputs[:, 0] < 100) & (inputs[:, 1] < 100)
    losses = np.column_stack([np.where(corner, 0.0, 0.5), np.full(600, 0.05)])
    tree = grow.Grower(inputs, losses).tree()

    def leaf(row: Any) -> list[int]:
        node = tree
        while is_question(node):
            node = node[2 if row[node[0]] < node[1] else 3]
        return node

    best = [max(zip(one[1::2], one[::2], strict=True))[1] for one in map(leaf, inputs)]
    assert np.mean((np.array(best) == 0) == corner) > 0.95


def test_times_are_kept_in_a_file_and_read_again(
    grow: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = import_module("times")
    database, packed = tmp_path / "pool.db", tmp_path / "times.tsv.xz"
    with Store.open(database) as store:
        for number, m in enumerate((64, 96, 64)):
            add(store, 1e5 + number, config_of(number), gemm=Gemm(m=m, n=32, k=8))
        add(store, 1e5, config_of(1), gemm=Gemm(m=8, n=8, k=8, trans_b=True))
        add(store, 1e5, config_of(1), gemm=Gemm(m=8, n=8, k=8), template="older")
    assert times.write(database, DEVICE.key, packed) == 3
    assert sorted(times.read(packed, "f32"), key=lambda one: one[2]) == [
        (Gemm(m=64, n=32, k=8), NAMES[0], 100000.0),
        (Gemm(m=96, n=32, k=8), NAMES[1], 100001.0),
        (Gemm(m=64, n=32, k=8), NAMES[2], 100002.0),
    ]
    assert list(times.read(packed, "f16")) == []


def test_made_up_sizes_keep_away_from_those_held_out(grow: Any) -> None:
    teacher = import_module("teacher")
    held_out = [Gemm(m=1, n=4096, k=4096)]
    sizes = teacher.Sizes("f32", 3, held_out)
    found = sizes.take(300)
    assert len({one.key for one in found}) == 300
    assert all(one.flops <= teacher.MOST_OPERATIONS for one in found)
    assert teacher.Sizes("f32", 3, held_out).take(300) == found
    assert held_out[0] not in found
    assert {one.m == 1 for one in found} == {True, False}


def test_made_up_sizes_have_styles(grow: Any) -> None:
    teacher = import_module("teacher")
    sizes = teacher.Sizes
    several = {style: sizes("f16", 3, [], style=style).take(400) for style in ("any", "decimal")}
    several["models"] = sizes("f16", 3, []).take(400)
    known = {k: sum(one.n in teacher.WIDTHS for one in gemms) / 400 for k, gemms in several.items()}
    assert known["models"] > 2 * known["any"]
    decimal = [sum(one.k % 100 == 0 for one in several[style]) for style in ("decimal", "any")]
    assert decimal[0] > 200 > decimal[1]
    rows = sizes("f16", 3, [], style="rows").take(400)
    assert {one.m for one in rows} <= {*teacher.ROWS, *teacher.MORE_ROWS}
    assert sum(one.n in teacher.WIDTHS for one in rows) < 200


def test_a_teacher_learns_from_numbers_for_every_config(grow: Any) -> None:
    teacher = import_module("teacher")
    configs = teacher.parsed(NAMES)
    rows = [teacher.features(Gemm(m=60, n=50, k=40), "naive", one) for _, one in configs]
    assert len({len(row) for row in rows}) == 1
    assert len({tuple(row) for row in rows}) == len(rows)
    assert rows[0][teacher.TRAFFIC] == math.log2(Gemm(m=60, n=50, k=40).traffic_bytes)
    assert np.isfinite(teacher.first_guess(np.array(rows), "f32")).all()


def test_boosted_trees_add_up_what_each_says(grow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    boosted = import_module("boosted")
    monkeypatch.setattr(boosted, "_compiled", lambda: boosted._add_up)
    deep = {"split_feature": 1, "threshold": 4.0, "decision_type": "<="}
    deep |= {"left_child": {"leaf_value": 10.0}, "right_child": {"leaf_value": 20.0}}
    root = {"split_feature": 0, "threshold": 2.5, "decision_type": "<="}
    root |= {"left_child": deep, "right_child": {"leaf_value": 30.0}}
    model = {"tree_info": [{"tree_structure": root}, {"tree_structure": {"leaf_value": 1.0}}]}
    trees = boosted.Trees(model)
    rows = np.array([[2.5, 4.0], [2.5, 4.1], [2.6, 0.0]])
    assert trees.predict(rows).tolist() == [11.0, 21.0, 31.0]
    assert boosted.mean([trees, boosted.Trees({"tree_info": []})], rows).tolist() == [
        5.5,
        10.5,
        15.5,
    ]
    with pytest.raises(ValueError, match="trees that ask =="):
        boosted.Trees({"tree_info": [{"tree_structure": root | {"decision_type": "=="}}]})
