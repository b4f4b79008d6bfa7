"""Times for teachers to learn from: which pairs are proposed, and that they are timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from databases import config_of
from gemmtune.device import Device
from gemmtune.forest import Forest
from gemmtune.kernels.naive import NaiveConfig
from gemmtune.problem import Gemm
from gemmtune.store.rows import to_json_text

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NAMES = [("naive", to_json_text(config_of(number).to_json())) for number in range(40)]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


def test_the_fastest_the_first_and_some_others_are_proposed(module: Any) -> None:
    propose = module("propose_pairs")
    times = np.linspace(7.0, 8.0, 40)
    times[3] = np.nan  # is not legal
    times[5] = np.inf  # was not judged
    counts = np.zeros(40, int)
    for seed in range(200):
        found = propose.some(times, 30, np.random.default_rng(seed))
        assert found[:3] == [0, 1, 30]
        assert len(set(found)) == len(found) == propose.EACH
        counts[found] += 1
    assert counts[3] == counts[5] == 0
    assert counts[2] > counts[10] > counts[20]
    assert propose.some(times[:4], None, np.random.default_rng(0)) == [0, 1, 2]


def test_problems_are_proposed_by_chance_and_none_that_takes_long(module: Any) -> None:
    propose = module("propose_pairs")
    long = Gemm(m=16384, n=16384, k=16384)
    gemms = [*(Gemm(m=m, n=64, k=64) for m in range(1, 60)), long]
    times = np.tile(np.linspace(7.0, 8.0, 40), (len(gemms), 1))
    forest = Forest(NAMES[30:], [[9, 5]], "2026")
    one, same, other = (
        propose.proposed(gemms, NAMES, times, forest, "f32", 20, seed) for seed in (1, 1, 2)
    )
    assert one == same != other
    assert len({number for number, _ in one}) == 20
    assert all(gemms[number] != long and 39 in configs for number, configs in one)
    every = propose.proposed(gemms, NAMES, times, None, "f32", 1000, 1)
    assert {number for number, _ in every} == set(range(59))


@pytest.mark.parametrize("guess_ns", [10.0, 4e3, 1e6, 3e8])
def test_a_submission_is_as_long_as_it_is_meant_to_be(module: Any, guess_ns: float) -> None:
    quick = module("quick_times")
    warm, repeats, samples = quick.plan(guess_ns)
    assert min(warm, repeats) >= 1
    assert quick.LEAST_SAMPLES <= samples <= quick.SAMPLES
    if guess_ns >= 1e3:
        whole_ns = (warm + repeats * samples) * guess_ns
        assert whole_ns <= max(1.1e7, 1.1 * quick.LONG_NS, 5.5 * guess_ns)


def test_pairs_are_timed_and_kept_as_times(module: Any, device: Device, tmp_path: Path) -> None:
    file, packed = tmp_path / "pairs.json", tmp_path / "times.tsv.xz"
    names = [("naive", to_json_text(NaiveConfig().to_json())), NAMES[0]]
    illegal = ("naive", to_json_text(NaiveConfig(tile_m=32, tile_n=64).to_json()))
    problems = [("33x20x17", "f32", [[0, 1e7], [1, 1e7], [2, 1e7]]), ("8x8x8", "f32", [[0, 1e7]])]
    file.write_text(json.dumps({"configs": [*names, illegal], "problems": problems}))
    command = [sys.executable, str(BENCHMARKS / "quick_times.py"), str(file)]
    command += ["--output", str(packed), "--adapter", device.key, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    found = {
        (one.shape, name): time_ns for one, name, time_ns in module("times").read(packed, "f32")
    }
    shapes = [("33x20x17", names[0]), ("33x20x17", names[1]), ("8x8x8", names[0])]
    assert set(found) == set(dict.fromkeys(shapes))
    assert all(time_ns > 0 for time_ns in found.values())


def test_it_says_so_when_processes_end_early(module: Any) -> None:
    quick = module("quick_times")
    assert quick.lost([0, 0]) == ""
    assert quick.lost([0, 1, -9]) == "2 of 3 processes ended early, see above"
