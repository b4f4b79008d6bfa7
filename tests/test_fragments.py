"""Which fragments are believed: what drivers may do when they are tried, and what is remembered."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gemmtune.device import Device, Fragment
from gemmtune.executors import fragments
from gemmtune.executors.fragments import CANDIDATES, FEATURE, forget_fragments, probe_fragments
from gemmtune.executors.local.fragments import LOADS, source

DEVICE = Device(name="GPU", features=(FEATURE, "shader-f16", "subgroup"), subgroup_size=32)
ALL = tuple(sorted(CANDIDATES))


def telling(**words: str) -> tuple[str, ...]:
    """A worker whose fragments ``s8_f16_f32`` and so on behave as the words say."""
    told = {name.removeprefix("s").replace("_", " "): word for name, word in words.items()}
    return (sys.executable, str(Path(__file__).parent / "dying_worker.py"), json.dumps(told))


def test_fragments_that_are_right_are_all_believed_in_order(tmp_path: Path) -> None:
    probe = probe_fragments(DEVICE, "", tmp_path, telling())

    assert probe.device.fragments == ALL
    assert probe.fresh


@pytest.mark.parametrize("word", ["die", "lost", "wrong numbers"])
@pytest.mark.parametrize("which", ["s8_f16_f16", "s8_f32_f32", "s16_f32_f32"])
def test_a_driver_that_fails_at_one_costs_that_one(tmp_path: Path, word: str, which: str) -> None:
    probe = probe_fragments(DEVICE, "", tmp_path, telling(**{which: word}))

    size, ab, acc = which.removeprefix("s").split("_")
    failed = Fragment(size=int(size), ab=ab, acc=acc)
    assert probe.device.fragments == tuple(one for one in ALL if one != failed)


def test_several_failures_in_a_row_cost_just_those(tmp_path: Path) -> None:
    dies = telling(s8_f16_f16="lost", s8_f16_f32="die", s8_f32_f32="lost", s16_f32_f32="die")

    probe = probe_fragments(DEVICE, "", tmp_path, dies)

    assert probe.device.fragments == tuple(one for one in ALL if one.size == 16 and one.ab == "f16")


def test_what_was_found_is_remembered_and_can_be_forgotten(tmp_path: Path) -> None:
    first = probe_fragments(DEVICE, "", tmp_path, telling(s16_f16_f16="die"))
    again = probe_fragments(DEVICE, "", tmp_path, telling())
    assert not again.fresh
    assert again.device == first.device

    forget_fragments(tmp_path)

    assert probe_fragments(DEVICE, "", tmp_path, telling()).device.fragments == ALL


def test_another_driver_is_probed_anew(tmp_path: Path) -> None:
    probe_fragments(DEVICE, "", tmp_path, telling())
    other = Device(name="GPU", features=DEVICE.features, subgroup_size=32, driver="2")

    assert probe_fragments(other, "", tmp_path, telling()).fresh


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fragments": []}', "\0\xff", '{"key": 3}'])
def test_a_damaged_memory_is_probed_anew(tmp_path: Path, text: str) -> None:
    probe_fragments(DEVICE, "", tmp_path, telling())
    (file,) = (tmp_path / "fragments").iterdir()
    file.write_text(text, encoding="latin-1")

    probe = probe_fragments(DEVICE, "", tmp_path, telling())

    assert probe.fresh
    assert probe.device.fragments == ALL


def test_impossible_fragments_in_the_memory_are_not_believed(tmp_path: Path) -> None:
    probe_fragments(DEVICE, "", tmp_path, telling())
    (file,) = (tmp_path / "fragments").iterdir()
    data = json.loads(file.read_text())
    data["fragments"][0]["size"] = 64
    file.write_text(json.dumps(data))

    assert probe_fragments(DEVICE, "", tmp_path, telling()).fresh


def test_a_worker_that_never_opens_the_device_proves_nothing(tmp_path: Path) -> None:
    probe = probe_fragments(DEVICE, "", tmp_path, telling(opening="die"))

    assert probe.device.fragments == ()
    assert probe_fragments(DEVICE, "", tmp_path, telling()).device.fragments == ALL


def test_a_hang_costs_that_one_and_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragments, "LIMIT_S", 1.0)
    probe = probe_fragments(DEVICE, "", tmp_path, telling(s8_f16_f32="hang"))

    assert probe.device.fragments == tuple(
        one for one in ALL if one != Fragment(size=8, ab="f16", acc="f32")
    )
    assert probe_fragments(DEVICE, "", tmp_path, telling()).fresh


def test_a_device_without_the_feature_is_not_probed(tmp_path: Path) -> None:
    without = Device(features=("subgroup",), refused=(FEATURE,), subgroup_size=8)

    probe = probe_fragments(without, "", tmp_path, ("/nonexistent/worker",))

    assert probe.device == without
    assert not probe.fresh


def test_without_f16_only_f32_is_tried(tmp_path: Path) -> None:
    device = Device(features=(FEATURE, "subgroup"), subgroup_size=32)

    found = probe_fragments(device, "", tmp_path, telling()).device.fragments

    assert {one.ab for one in found} == {"f32"}


def test_where_nothing_can_be_kept_the_answer_still_comes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    probe = probe_fragments(DEVICE, "", tmp_path / "file", telling())

    assert probe.device.fragments == ALL


@pytest.mark.parametrize("fragment", CANDIDATES, ids=lambda f: f"{f.size}-{f.ab}-{f.acc}")
def test_every_word_of_the_probe_is_filled_in(fragment: Fragment) -> None:
    for memory, width in LOADS:
        wgsl = source(fragment, memory, width, 32)

        assert "$" not in wgsl.replace("a dollar sign", "")
        assert f"coop_mat{fragment.size}x{fragment.size}<{fragment.ab}, A>" in wgsl
        assert ("enable f16;" in wgsl) == ("f16" in (fragment.ab, fragment.acc))
