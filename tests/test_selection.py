"""benchmarks/selection.py: its shares are those of a database whose times are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from databases import add
from gemmtune.device import Device
from gemmtune.kernels import FAMILIES
from gemmtune.problem import Gemm
from gemmtune.shapes import preset, read_shapes
from gemmtune.store import Store

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "selection.py"
DEVICE = Device(name="made up", adapter_type="discrete")
SMALL = Gemm(m=256, n=256, k=256)
LARGE = Gemm(m=2048, n=2048, k=2048)
FRESH = Gemm(m=1024, n=1024, k=1024)
CONFIGS = [
    replace(FAMILIES["tiled"].default(LARGE, DEVICE), dims="dynamic", group_m=group_m)
    for group_m in (1, 2, 4)
]


def database(path: Path, times: Mapping[Gemm, Sequence[float | None]]) -> Path:
    """Times of `CONFIGS`, in order; None: not measured."""
    with Store.open(path) as store:
        for gemm, each in times.items():
            for config, time_ns in zip(CONFIGS, each, strict=False):
                if time_ns is not None:
                    add(store, time_ns, config, device=DEVICE, gemm=gemm, family="tiled")
    return path


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """What it writes as JSON for one tuned and one fresh shape."""
    shapes, found = folder / "shapes.txt", folder / "found.json"
    shapes.write_text(FRESH.shape)
    options = ["--shapes-file", str(shapes), "--device", DEVICE.key, "--dtype", "f32"]
    command = [sys.executable, str(SCRIPT), *options, "--json", str(found), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(found.read_text())[FRESH.kind]
    return result


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """The first config is best for the small shape, the second for the large one."""
    return database(tmp_path / "tuned.db", {SMALL: [2e4, 6e4, 8e4], LARGE: [4e5, 2e5, 5e5]})


def test_shares_are_those_of_the_times(tuned: Path, tmp_path: Path) -> None:
    reference = database(tmp_path / "reference.db", {FRESH: [1e5, 8e4, 4e4]})
    found = run(tmp_path, "--tuned", str(tuned), "--reference", str(reference), "--times")
    alone = found["leave_one_out"]["lookup"]
    assert alone["shares"] == pytest.approx({SMALL.shape: 2 / 6, LARGE.shape: 2 / 4})
    assert alone["geometric_mean"] == pytest.approx((2 / 6 * 2 / 4) ** 0.5)
    assert found["never_tuned"]["nearest neighbour"]["shares"] == {FRESH.shape: 4 / 8}
    curve = found["by_number"]
    assert list(curve) == ["1", "2"]  # the third config wins nothing that was tuned
    # The first config loses a half where the second is best, the second two thirds the other way.
    assert curve["1"]["lookup"]["shares"] == {FRESH.shape: 4 / 10}
    assert curve["2"]["best choice"]["shares"] == {FRESH.shape: 4 / 8}


def test_lookups_choose_by_the_times_of_all_databases(tmp_path: Path) -> None:
    tuned = database(tmp_path / "tuned.db", {SMALL: [2e4], LARGE: [None, 2e6]})
    times = database(tmp_path / "times.db", {SMALL: [None, 6e4], LARGE: [9e6]})
    reference = database(tmp_path / "reference.db", {FRESH: [1e5, 8e4]})
    shares = []
    for paths in ([tuned], [tuned, times]):
        names = [str(path) for path in paths]
        found = run(tmp_path, "--tuned", *names, "--reference", str(reference), "--times")
        shares.append(found["never_tuned"]["lookup"]["shares"][FRESH.shape])
    # By its one victory the first is predicted to be faster, not by what it took for the large one.
    assert shares == pytest.approx([0.8, 1.0])


def test_a_choice_that_was_not_measured_is_no_share(tuned: Path, tmp_path: Path) -> None:
    reference = database(tmp_path / "reference.db", {FRESH: [1e5]})
    found = run(tmp_path, "--tuned", str(tuned), "--reference", str(reference), "--times")
    near = found["never_tuned"]["nearest neighbour"]
    assert near["shares"] == {FRESH.shape: None}
    assert (near["measured"], near["geometric_mean"]) == (0, None)


def test_results_of_the_fresh_shapes_are_never_chosen_from(tuned: Path, tmp_path: Path) -> None:
    both = database(tuned, {FRESH: [1e5, 8e4, 4e4]})
    found = run(tmp_path, "--tuned", str(both), "--reference", str(both), "--times")
    assert set(found["leave_one_out"]["lookup"]["shares"]) == {SMALL.shape, LARGE.shape}
    assert found["never_tuned"]["lookup"]["shares"][FRESH.shape] < 1


def test_the_most_useful_pairs_are_measured_first(
    tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    choices, portfolio = import_module("choices"), import_module("portfolio")
    found = choices.Tuned([tuned], DEVICE.key, FRESH.kind, {FRESH.key})
    times = choices.measured([tuned], DEVICE.key)
    gemms = portfolio.asked(found, [FRESH], None)
    assert [gemm.shape for gemm in gemms] == [FRESH.shape, SMALL.shape, LARGE.shape]
    pairs = list(portfolio.pairs(found, gemms, times))
    assert len(pairs) == len(set(pairs))
    assert not [name for gemm, name in pairs if name in times.get(gemm.key, {})]
    first = [name for gemm, name in pairs if gemm == FRESH]
    assert first[0] == found.lookup(FRESH, found.leaders, times)
    assert {("tiled", CONFIGS[0]), ("tiled", CONFIGS[1])} <= set(first)
    few = list(portfolio.pairs(found, [FRESH], times, most=1))
    assert few == [(FRESH, first[0])]
    assert portfolio.asked(found, [FRESH], "file") == [FRESH]
    assert FRESH not in portfolio.asked(found, [FRESH], "tuned")


def test_shapes_are_those_of_the_rule_and_the_held_out_in_no_other_set() -> None:
    sets = {}
    for name, options in (("untuned", []), ("heldout", ["--held-out"])):
        path = SCRIPT.parent / "shapes" / f"{name}.txt"
        command = [sys.executable, str(SCRIPT.with_name("untuned.py")), *options]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert printed == path.read_text()
        sets[name] = {gemm.shape for gemm in read_shapes(path)}
        assert len(sets[name]) == 44
    known = sets["untuned"] | {gemm.shape for gemm in preset("core")}
    assert not sets["heldout"] & known


def test_prediction_errors_are_those_of_the_times(tmp_path: Path) -> None:
    twice = Gemm(m=2048, n=2048, k=4096)
    path = database(tmp_path / "tuned.db", {LARGE: [2e4], twice: [4e4]})
    command = [sys.executable, str(SCRIPT.with_name("prediction.py")), "--tuned", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 ordered pairs")
    # Twice the operations took twice as long; of the first, the rule takes 3 us for the launch,
    # 9 for memory traffic, of which there is 5/3 as much, and 8 for twice the sums and as long as
    # for 64 more.
    assert "by operations: median 0 %, worst tenth a factor of 1.00" in done.stdout
    sums = 8 * (4096 + 64) / (2048 + 64)
    assert f"worst tenth a factor of {40 / (3 + 9 * 5 / 3 + sums):.2f}" in done.stdout


def test_tables_go_between_the_marks(tuned: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- selection: begin -->\nold\n<!-- selection: end -->\nz\n")
    for _ in range(2):
        run(tmp_path, "--tuned", str(tuned), "--times", "--write", str(page))
    text = page.read_text()
    assert text.startswith("a\n<!-- selection: begin -->\n\nf32, 2 tuned shapes")
    assert text.endswith("<!-- selection: end -->\nz\n")
    assert "old" not in text
    assert text.count("| geometric mean |") == 1
