"""What is believed of a device: what drivers may do when they are asked, and what is remembered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gemmtune.device import Device, Fragment
from gemmtune.executors import probing
from gemmtune.executors.local.fragments import source
from gemmtune.executors.probing import CANDIDATES, FEATURE, LOADS, basis_of, probe
from gemmtune.job import Failure
from gemmtune.probes import Answer, Question
from gemmtune.store import Store

DEVICE = Device(name="GPU", features=(FEATURE, "shader-f16", "subgroup"), subgroup_size=32)
EVERY_LOAD = {"workgroup": (1, 2, 4), "storage": (1, 2, 4)}
ALL = tuple(sorted(replace(one, **EVERY_LOAD) for one in CANDIDATES))
NOWHERE = ("/nonexistent/worker",)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "tuning.db") as opened:
        yield opened


def telling(**words: str) -> tuple[str, ...]:
    """A worker that behaves as the words say at questions like ``s8_f16_f32``."""
    told = {name.removeprefix("s").replace("_", " "): word for name, word in words.items()}
    return (sys.executable, str(Path(__file__).parent / "dying_worker.py"), json.dumps(told))


def without(size: int, ab: str, acc: str) -> tuple[Fragment, ...]:
    return tuple(one for one in ALL if (one.size, one.ab, one.acc) != (size, ab, acc))


def test_what_is_right_is_all_believed_in_order() -> None:
    found = probe(DEVICE, "", worker=telling())

    assert found.device == replace(DEVICE, fragments=ALL, resident_workgroup_bytes=49152)
    assert found.fresh


@pytest.mark.parametrize("word", ["die", "lost", "wrong numbers"])
@pytest.mark.parametrize("which", ["s8_f16_f16", "s8_f32_f32", "s16_f32_f32"])
def test_a_driver_that_fails_at_one_costs_that_one(word: str, which: str) -> None:
    found = probe(DEVICE, "", worker=telling(**{which: word})).device

    size, ab, acc = which.removeprefix("s").split("_")
    assert found.fragments == without(int(size), ab, acc)
    assert found.resident_workgroup_bytes == 49152


def test_several_failures_in_a_row_cost_just_those() -> None:
    dies = telling(s8_f16_f16="lost", s8_f16_f32="die", s8_f32_f32="lost", s16_f32_f32="die")

    found = probe(DEVICE, "", worker=dies).device

    assert found.fragments == tuple(one for one in ALL if one.size == 16 and one.ab == "f16")


@pytest.mark.parametrize("word", ["die", "lost", "wrong numbers"])
def test_a_load_that_fails_costs_that_load(word: str) -> None:
    told = {"16_f16_f32_storage_4": word, "16_f16_f32_workgroup_2": word}

    found = probe(DEVICE, "", worker=telling(**told)).device

    expected = Fragment(size=16, ab="f16", acc="f32", workgroup=(1, 4), storage=(1, 2))
    assert found.fragment(16, "f16", "f32") == expected
    assert len(found.fragments) == len(ALL)


def test_what_fails_at_the_first_load_is_not_tried_with_others(tmp_path: Path) -> None:
    log = tmp_path / "log"

    probe(DEVICE, "", worker=telling(s8_f16_f16="wrong numbers", log=str(log)))

    asked = log.read_text().splitlines()
    assert [line for line in asked if "8 f16 f16" in line] == ["fragment 8 f16 f16 workgroup 1"]
    assert len([line for line in asked if "8 f16 f32" in line]) == len(LOADS)


@pytest.mark.parametrize("word", ["die", "lost", "wrong numbers"])
def test_a_driver_that_fails_over_workgroup_memory_costs_that_only(word: str) -> None:
    found = probe(DEVICE, "", worker=telling(memory=word)).device

    assert found == replace(DEVICE, fragments=ALL)


def test_what_was_found_is_remembered_with_its_reasons(store: Store) -> None:
    first = probe(DEVICE, "", store, telling(s16_f16_f16="die"))
    again = probe(DEVICE, "", store, NOWHERE)

    assert not again.fresh
    assert again.device == first.device
    assert store.devices() == [first.device]
    known = store.findings(DEVICE, basis_of(DEVICE))
    died = known["fragment 16 f16 f16 workgroup 1"]
    assert isinstance(died, Failure)
    assert died.kind == "crash"
    assert "the driver fell over (exit code 101)" in died.message
    assert known["workgroup_memory"] == Answer(number=49152)


def test_failures_that_were_taken_back_are_asked_again(store: Store) -> None:
    probe(DEVICE, "", store, telling(s16_f16_f16="die"))

    assert store.retry() == 1

    found = probe(DEVICE, "", store, telling())
    assert found.fresh
    assert found.device.fragments == ALL


@pytest.mark.parametrize("change", [{"driver": "2"}, {"subgroup_size": 16}])
def test_another_driver_or_subgroup_size_is_probed_anew(
    store: Store, change: dict[str, object]
) -> None:
    probe(DEVICE, "", store, telling())

    assert probe(replace(DEVICE, **change), "", store, telling()).fresh


def test_another_wgpu_native_is_probed_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(DEVICE, "", store, telling())
    (tmp_path / "other.so").write_bytes(b"another library")
    monkeypatch.setenv("WGPU_LIB_PATH", str(tmp_path / "other.so"))

    assert probe(DEVICE, "", store, telling()).fresh


def test_a_process_killed_over_a_question_leaves_it_behind_as_a_crash(store: Store) -> None:
    question = Question(subject="fragment", fragment=CANDIDATES[0])
    probe(DEVICE, "", store, telling())
    dead = f"""
import os
from gemmtune.store import Store
from test_probing import DEVICE, basis_of
with Store.open({str(store.path)!r}) as store:
    store.begin_probe(DEVICE, basis_of(DEVICE), {question.key!r})
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", dead], cwd=Path(__file__).parent, check=False)

    found = probe(DEVICE, "", store, NOWHERE)

    assert found.device.fragments == without(8, "f16", "f16")


def test_a_worker_that_never_opens_the_device_proves_nothing(store: Store) -> None:
    found = probe(DEVICE, "", store, telling(opening="die"))

    assert found.device == DEVICE
    assert probe(DEVICE, "", store, telling()).device.fragments == ALL


def test_a_hang_costs_that_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "LIMIT_S", 1.0)
    found = probe(DEVICE, "", store, telling(s8_f16_f32="hang"))

    assert found.device.fragments == without(8, "f16", "f32")
    assert store.retry(kinds=["timeout"]) == 1


def test_a_device_without_matrices_is_asked_about_its_memory_only(tmp_path: Path) -> None:
    plain = Device(features=("subgroup",), refused=(FEATURE,), subgroup_size=8)
    log = tmp_path / "log"

    found = probe(plain, "", worker=telling(log=str(log)))

    assert found.device == replace(plain, resident_workgroup_bytes=49152)
    assert log.read_text() == "workgroup_memory\n"


def test_a_software_adapter_is_not_asked_about_its_memory(store: Store) -> None:
    plain = Device(adapter_type="cpu", features=("subgroup",), subgroup_size=8)

    found = probe(plain, "", store, NOWHERE)

    assert found.device == plain
    assert not found.fresh
    assert store.devices() == []


def test_without_f16_only_f32_is_tried() -> None:
    device = Device(features=(FEATURE, "subgroup"), subgroup_size=32)

    found = probe(device, "", worker=telling()).device.fragments

    assert {one.ab for one in found} == {"f32"}


def test_questions_survive_json() -> None:
    for question in (
        Question(subject="workgroup_memory"),
        Question(subject="fragment", fragment=CANDIDATES[3], source="storage", width=4),
    ):
        assert Question.from_json(json.loads(json.dumps(question.to_json()))) == question


@pytest.mark.parametrize("fragment", CANDIDATES, ids=lambda f: f"{f.size}-{f.ab}-{f.acc}")
def test_every_word_of_the_probe_is_filled_in(fragment: Fragment) -> None:
    for memory, width in LOADS:
        wgsl = source(fragment, memory, width, 32)

        assert "$" not in wgsl.replace("a dollar sign", "")
        assert f"coop_mat{fragment.size}x{fragment.size}<{fragment.ab}, A>" in wgsl
        assert ("enable f16;" in wgsl) == ("f16" in (fragment.ab, fragment.acc))
