"""benchmarks/choose_shipped.py: what ships out of a database whose times are known."""

from __future__ import annotations

import json
import lzma
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from databases import OWNER, begin, files_beside, measurement, outcome
from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.lookup import lookup
from gemmtune.problem import Gemm
from gemmtune.schema import parse_config, read_only_uri
from gemmtune.store import Owner, Store

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
DEVICE = Device(name="made up", adapter_type="discrete")
SMALL = Gemm(m=256, n=256, k=256)
LARGE = Gemm(m=2048, n=2048, k=2048)
HELD = Gemm(m=1000, n=1000, k=1000)
PRESET = Gemm(m=1024, n=1024, k=1024)
TURNED = replace(LARGE, trans_b=True)
A, B, C = (
    replace(FAMILIES["tiled"].default(LARGE, DEVICE), dims="dynamic", group_m=group_m)
    for group_m in (1, 2, 4)
)
BY_HAND = replace(OWNER, run="portfolio")

Result = tuple[Gemm, Config, float]


def database(path: Path, *results: Result, owner: Owner = OWNER) -> Path:
    """Results one after the other."""
    with Store.open(path) as store:
        for gemm, config, time_ns in results:
            number = begin(store, config, device=DEVICE, gemm=gemm, family="tiled", owner=owner)
            assert number is not None
            store.finish(number, outcome(measurement(time_ns)))
    return path


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules import each other by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)


class Script:
    """The script with one held-out shape, beside a folder that it may write to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.held_out = folder / "heldout.txt"
        self.hold_out(HELD)

    def hold_out(self, *gemms: Gemm) -> None:
        self.held_out.write_text("\n".join(gemm.shape for gemm in gemms))

    def __call__(self, *pool: Path, options: Sequence[str] = ()) -> dict[str, Any]:
        found = self.folder / "found.json"
        arguments = [*map(str, pool), "--held-out", str(self.held_out), "--json", str(found)]
        line = ["choose_shipped.py", *arguments, "--deep", "2", *options]
        self._monkeypatch.setattr(sys, "argv", line)
        module("choose_shipped").main()
        result: dict[str, Any] = json.loads(found.read_text())["f32"]
        return result

    def why(self, *pool: Path, options: Sequence[str] = ()) -> dict[tuple[Gemm, Config], str]:
        """The reason of each row."""
        gemms = {gemm.key: gemm for gemm in (SMALL, LARGE, HELD, PRESET, TURNED)}
        chosen = self(*pool, options=options)["chosen"]
        return {(gemms[key], parse_config(family, text)): why for key, family, text, why in chosen}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    (tmp_path / "out").mkdir()
    return Script(tmp_path, monkeypatch)


def module(name: str) -> ModuleType:
    return import_module(name)


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    """What tells a row from others, with what lookups read of it."""
    query = """
        SELECT m.id, m.uuid, m.claim, p.key, m.family, m.config, m.time_ns, m.max_rel_error,
               m.finished_at
        FROM measurements m JOIN problems p ON p.id = m.problem_id ORDER BY m.id
    """
    with closing(sqlite3.connect(read_only_uri(path), uri=True)) as connection:
        return connection.execute(query).fetchall()


def two_problems(path: Path, *more: Result) -> Path:
    """The first config is best for the small problem, the second for the large one."""
    known = [(SMALL, A, 2e4), (SMALL, B, 6e4), (LARGE, A, 4e5), (LARGE, B, 1.2e5)]
    return database(path, *known, *more)


def test_each_problem_ships_its_best_and_what_shows_a_bad_choice(
    script: Script, tmp_path: Path
) -> None:
    pool = two_problems(tmp_path / "pool.db")
    expected = {(SMALL, A): "best of the portfolio", (LARGE, B): "best of the portfolio"}
    assert script.why(pool, options=["--tolerance", "f32=0.9"]) == expected
    # Without the small problem only the second config is known, and takes three times as long.
    found = script.why(pool)
    assert found == expected | {(SMALL, B): "counterexample", (LARGE, A): "counterexample"}
    few = script.why(pool, options=["--configs", "f32=1", "--tolerance", "f32=0.9"])
    # The large problem gains no more than the small one, so the text decides.
    assert sorted(few.values()) == ["best of the portfolio"] * 2 + ["own best"]


def test_counterexamples_change_what_lookups_choose(script: Script, tmp_path: Path) -> None:
    like = Gemm(m=256, n=256, k=512)
    pool = two_problems(tmp_path / "pool.db", (like, A, 3e4), (like, B, 2.9e4))
    rule = module("leave_out").Rule
    known = module("pool").Pool(pool, DEVICE.key).rows
    best = [known[SMALL.key][text_of(A)], known[LARGE.key][text_of(B)]]
    shown = [*best, known[SMALL.key][text_of(B)]]
    choices = [
        next(rule(DEVICE, [row.leader for row in rows]).left_out(like)) for rows in (best, shown)
    ]
    assert choices == [text_of(B), text_of(A)]


def text_of(config: Config) -> tuple[str, str]:
    return "tiled", json.dumps(config.to_json(), separators=(",", ":"), sort_keys=True)


def test_no_config_that_was_found_on_a_held_out_shape_ships(script: Script, tmp_path: Path) -> None:
    there, here = (HELD, C, 1e4), (SMALL, C, 1e4)
    found = {
        "first": database(tmp_path / "first.db", there, here),
        "later": database(tmp_path / "later.db", here, there),
        "timed": database(tmp_path / "timed.db", there, owner=BY_HAND),
    }
    database(found["timed"], here)
    configs = {
        name: {row[1] for row in script.why(two_problems(path))} for name, path in found.items()
    }
    assert configs == {"first": {A, B}, "later": {B, C}, "timed": {B, C}}


def test_no_row_of_a_held_out_shape_ships_but_a_presets(script: Script, tmp_path: Path) -> None:
    times = [(HELD, A, 5e4), (HELD, B, 4e4), (PRESET, C, 1e4), (PRESET, A, 6e4), (PRESET, B, 5e4)]
    pool = two_problems(tmp_path / "pool.db", *times)
    assert script.why(pool)[PRESET, C] == "best of the portfolio"
    script.hold_out(HELD, PRESET)
    found = script.why(pool)
    assert {row: why for row, why in found.items() if row[0] not in (SMALL, LARGE)} == {
        (PRESET, B): "preset, held out"
    }
    # Nor does it change what else ships.
    alone = two_problems(tmp_path / "alone.db")
    assert script.why(alone) == {row: why for row, why in found.items() if row[0] != PRESET}


def test_every_problem_ships_a_row(script: Script, tmp_path: Path) -> None:
    wide = Gemm(m=64, n=64, k=64, a="f16", b="f16", c="f32", acc="f32")
    relu = replace(SMALL, activation="relu")
    pool = two_problems(tmp_path / "pool.db", (PRESET, A, 5e4), (wide, A, 3e3), (relu, B, 3e4))
    output = tmp_path / "out" / "tuning.db"
    found = script(pool, options=["--output", str(output)])
    assert PRESET.shape not in found["without_row"]
    assert SMALL.shape not in found["without_row"]  # no preset's
    keys = {gemm.key for gemm in (SMALL, LARGE, PRESET, wide, relu)}
    assert {row[3] for row in rows_of(output)} == keys
    answer = lookup(PRESET, DEVICE.key, path=output)
    assert (answer.source, answer.config) == ("exact", A)


def test_operands_stored_otherwise_ship_where_predictions_are_bad(
    script: Script, tmp_path: Path
) -> None:
    reasons = []
    for name, slow in (("good", 2.05e5), ("bad", 9e5)):
        times = [(TURNED, A, 2e5), (TURNED, B, slow)]
        reasons.append(script.why(two_problems(tmp_path / f"{name}.db", *times)).get((TURNED, A)))
    assert reasons == [None, "stored otherwise"]


def test_packed_pools_choose_the_same_rows(script: Script, tmp_path: Path) -> None:
    slow = replace(A, group_m=8)
    pool = two_problems(tmp_path / "pool.db", (HELD, C, 1e4), (HELD, A, 2e4), (LARGE, slow, 9e9))
    kept, outputs = tmp_path / "kept.db.xz", [tmp_path / "out" / f"{i}.db" for i in range(3)]
    options = ["--keep", str(kept), "--output", str(outputs[0])]
    found = script(pool, options=options)
    assert script(kept, options=["--output", str(outputs[1])]) == found
    # Pools may come in parts.
    part = database(tmp_path / "part.db", (PRESET, A, 5e4))
    script(kept, part, options=["--output", str(outputs[2])])
    first, second, both = map(rows_of, outputs)
    assert first == second
    assert all(row[2] for row in first)
    assert {row[3] for row in both} == {SMALL.key, LARGE.key, PRESET.key}
    with Store.open(outputs[0], read_only=True) as store:
        assert store.check() == []
    # What leads nowhere is not kept, what was measured on held-out shapes is.
    plain = tmp_path / "plain.db"
    plain.write_bytes(lzma.decompress(kept.read_bytes()))
    assert {(row[3], row[6]) for row in rows_of(pool)} - {
        (row[3], row[6]) for row in rows_of(plain)
    } == {(LARGE.key, 9e9)}


def test_the_benchmarks_read_packed_databases(tmp_path: Path) -> None:
    choices = module("choices")
    plain = two_problems(tmp_path / "pool.db")
    packed = tmp_path / "pool.db.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes()))
    assert choices.measured([packed], DEVICE.key) == choices.measured([plain], DEVICE.key)
    assert choices.device_in(packed) == DEVICE.key
    assert choices.tuned_gemms(packed, DEVICE.key) == {SMALL.key: SMALL, LARGE.key: LARGE}
    tuned = choices.Tuned([packed, packed], DEVICE.key, SMALL.kind)
    assert set(tuned.gemms) == {SMALL.key, LARGE.key}
    damaged = tmp_path / "damaged.db.xz"
    damaged.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(SystemExit, match="damaged"):
        choices.measured([damaged], DEVICE.key)


def test_a_database_is_written_whole_or_not_at_all(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, output = two_problems(tmp_path / "pool.db"), tmp_path / "out" / "tuning.db"
    output.write_bytes(b"as it was")
    with monkeypatch.context() as broken:
        # Fails after rows were deleted.
        broken.setattr(module("pool"), "CLAIM", "UPDATE measurements SET time_ns = NULL")
        with pytest.raises(sqlite3.IntegrityError):
            script(pool, options=["--output", str(output)])
    assert output.read_bytes() == b"as it was"
    assert files_beside(output) == {"tuning.db"}
    script(pool, options=["--output", str(output)])
    assert len(rows_of(output)) == 4
    assert files_beside(output) == {"tuning.db"}
    output.with_name("tuning.db-wal").touch()
    with pytest.raises(SystemExit, match="in use"):
        script(pool, options=["--output", str(output)])


def test_older_templates_and_other_policies_do_not_count(script: Script, tmp_path: Path) -> None:
    pool = two_problems(tmp_path / "pool.db", (LARGE, C, 1e5), (SMALL, C, 1e4))
    assert {config for _, config in script.why(pool)} == {C}
    with closing(sqlite3.connect(pool)) as connection:
        connection.execute("UPDATE measurements SET generator_hash = 'old' WHERE time_ns = 1e5")
        connection.execute("UPDATE measurements SET policy = '1/hot' WHERE time_ns = 1e4")
        connection.commit()
    assert {config for _, config in script.why(pool)} == {A, B}


def test_nothing_is_written_where_nothing_may_ship(script: Script, tmp_path: Path) -> None:
    pool, output = database(tmp_path / "pool.db", (HELD, A, 5e4)), tmp_path / "out" / "tuning.db"
    with pytest.raises(SystemExit, match="made up"):
        script(pool, options=["--output", str(output)])
    assert not files_beside(output)


def test_what_ships_is_among_the_measurements_that_are_kept() -> None:
    kept = module("choices").unpacked(BENCHMARKS / "results" / "selection-h100" / "pool.db.xz")
    there = {row[1]: row[3:7] for row in rows_of(kept)}
    shipped = {row[1]: row[3:7] for row in rows_of(data_path("tuning.db"))}
    assert shipped.items() <= there.items()


def test_unknown_dtypes_of_an_option_are_refused(script: Script, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="f64=3"):
        script(two_problems(tmp_path / "pool.db"), options=["--configs", "f64=3"])


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_left_out_problems_are_ranked_as_lookups_rank(dtype: str) -> None:
    """The one that tells the device's bandwidth and some others, out of what ships."""
    choices, shipped = module("choices"), data_path("tuning.db")
    plan = next(plan for plan in module("choose_shipped").PLANS if plan.dtype == dtype)
    tuned = choices.Tuned([shipped], choices.KEY, plan.kind)
    rule = module("leave_out").Rule(choices.devices(shipped)[choices.KEY], tuned.rows)
    widest = max(tuned.leaders, key=lambda one: one.traffic_bytes / one.time_ns)
    keys = {widest.key, *sorted(tuned.gemms)[:: len(tuned.gemms) // 5]}
    for key in keys:
        rest = [one for one in tuned.leaders if one.key != key]
        ranking = tuned.ranking(tuned.gemms[key], rest)
        found = list(islice(rule.left_out(tuned.gemms[key]), 20))
        assert len(found) >= 5
        # Lookups go on with defaults that were never measured.
        parsed = [(family, parse_config(family, text)) for family, text in found]
        assert parsed == ranking[: len(found)]


def test_choices_by_all_results_are_those_of_lookups(tmp_path: Path) -> None:
    fresh: Iterable[Gemm] = [Gemm(m=m, n=512, k=k) for m in (64, 4096) for k in (128, 8192)]
    pool = two_problems(tmp_path / "pool.db", (LARGE, C, 2.1e5), (SMALL, C, 1.9e4))
    rows: Mapping[str, Mapping[Any, Any]] = module("pool").Pool(pool, DEVICE.key).rows
    leaders = [row.leader for here in rows.values() for row in here.values()]
    rule = module("leave_out").Rule(DEVICE, leaders)
    for gemm in fresh:
        answer = lookup(gemm, DEVICE.key, path=pool)
        assert next(rule.choices(gemm)) == text_of(answer.config)
