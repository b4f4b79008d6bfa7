"""The copy of wgpu-native: what is patched, what is left alone, and when there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gemmtune import unlock as module
from gemmtune.errors import UnlockError
from gemmtune.executors.probe import check_library
from gemmtune.unlock import (
    VARIABLE,
    Check,
    Verdict,
    cache_folder,
    file_hash,
    find_patch,
    library_environment,
    library_path,
    remove,
    shipped_library,
    status,
    unlock,
    write_copy,
)


@pytest.fixture(scope="module")
def original() -> Path:
    """The library of the installed wgpu."""
    path = shipped_library()
    assert path is not None
    return path


def judge(original: Path, copy: Verdict) -> Callable[[Path], Check]:
    """Finds the original wanting and its copy as told."""

    def check(library: Path) -> Check:
        refused = library == original
        return Check(verdict="refused" if refused else copy, message="so it said")

    return check


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_copy_returns_zero_where_the_function_was_and_is_the_same_elsewhere(
    original: Path, tmp_path: Path
) -> None:
    before = original.read_bytes()

    found = unlock(check=judge(original, "granted"), cache=tmp_path)

    assert found.copy is not None
    copy = found.copy.read_bytes()
    at, code = find_patch(original)
    assert code[-1:] == b"\xc3" or code[-4:] == bytes.fromhex("c0035fd6")
    assert copy[at : at + len(code)] == code != before[at : at + len(code)]
    assert len(copy) == len(before)
    assert copy[:at] == before[:at]
    assert copy[at + len(code) :] == before[at + len(code) :]
    assert original.read_bytes() == before


def test_the_copy_loads_and_is_named_by_the_originals_hash(original: Path, tmp_path: Path) -> None:
    found = unlock(check=judge(original, "granted"), cache=tmp_path)

    assert found.copy is not None
    assert found.copy.stem == found.sha256 == file_hash(original)
    code = "import wgpu.backends.wgpu_native as w; print(w._ffi.lib_path)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: str(found.copy)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(found.copy)


def test_a_second_time_nothing_is_written_and_lief_is_not_needed(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = unlock(check=judge(original, "granted"), cache=tmp_path)
    assert first.copy is not None
    written_ns = first.copy.stat().st_mtime_ns
    monkeypatch.setitem(sys.modules, "lief", None)

    again = unlock(check=judge(original, "granted"), cache=tmp_path)

    assert again == first
    assert first.copy.stat().st_mtime_ns == written_ns


def test_a_copy_that_fails_its_check_is_deleted(original: Path, tmp_path: Path) -> None:
    with pytest.raises(UnlockError, match=r"does not grant .* \(so it said\); it was deleted"):
        unlock(check=judge(original, "refused"), cache=tmp_path)

    assert files(tmp_path) == []
    assert library_path(cache=tmp_path) is None


def test_a_copy_that_no_longer_works_is_made_again(original: Path, tmp_path: Path) -> None:
    found = unlock(check=judge(original, "granted"), cache=tmp_path)
    assert found.copy is not None
    whole = found.copy.read_bytes()
    found.copy.write_bytes(b"damaged")

    def check(library: Path) -> Check:
        return Check(verdict="granted" if library.read_bytes() == whole else "refused")

    unlock(check=check, cache=tmp_path)

    assert found.copy.read_bytes() == whole


def test_an_interrupted_write_leaves_nothing(original: Path, tmp_path: Path) -> None:
    def interrupted(library: Path) -> Check:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_copy(original, tmp_path / "copy.so", interrupted)

    assert files(tmp_path) == []


def test_a_library_that_grants_the_feature_is_not_copied(tmp_path: Path) -> None:
    found = unlock(check=lambda _: Check(verdict="granted"), cache=tmp_path)

    assert not found.needed
    assert found.copy is None
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("verdict", "says"),
    [("absent", "no adapter here offers cooperative-matrix"), ("failed", "could not be asked")],
)
def test_without_an_answer_of_refusal_nothing_is_written(
    tmp_path: Path, verdict: Verdict, says: str
) -> None:
    with pytest.raises(UnlockError, match=says):
        unlock(check=lambda _: Check(verdict=verdict), cache=tmp_path)

    assert files(tmp_path) == []


@pytest.mark.parametrize("what", ["text", "stripped"])
def test_a_library_without_the_symbol_is_refused(original: Path, tmp_path: Path, what: str) -> None:
    library = tmp_path / "lib.so"
    if what == "text":
        library.write_text("not a library")
    else:
        import _ctypes

        shutil.copyfile(_ctypes.__file__, library)

    with pytest.raises(UnlockError, match=r"lib\.so cannot be unlocked"):
        find_patch(library)


def test_a_folder_that_cannot_be_written_is_one_error(original: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UnlockError, match="the copy cannot be written to"):
        unlock(check=judge(original, "granted"), cache=tmp_path / "file")


def test_status_and_remove(original: Path, tmp_path: Path) -> None:
    assert status(cache=tmp_path).copy is None
    assert remove(cache=tmp_path) == ()
    made = unlock(check=judge(original, "granted"), cache=tmp_path)
    assert made.copy is not None
    older = made.copy.with_name("0123.so")
    older.write_bytes(b"of an older wgpu")
    assert status(cache=tmp_path) == made

    assert set(remove(cache=tmp_path)) == {made.copy, older}

    assert status(cache=tmp_path).copy is None
    assert files(tmp_path) == []
    assert original.is_file()


def test_children_get_the_copy_unless_a_library_is_named(original: Path, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    assert library_environment(home) == home
    made = unlock(check=judge(original, "granted"), environ=home)

    assert library_environment(home) == home | {VARIABLE: str(made.copy)}
    named = home | {VARIABLE: "/elsewhere/lib.so"}
    assert library_environment(named) == named
    assert status(environ=named).override == "/elsewhere/lib.so"


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [
        ("linux", {"HOME": "/h"}, "/h/.cache/gemmtune"),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "/c"}, "/c/gemmtune"),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "relative"}, "/h/.cache/gemmtune"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/gemmtune"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/gemmtune"),
    ],
)
def test_the_cache_is_where_the_platform_wants_it(
    platform: str, environ: dict[str, str], folder: str
) -> None:
    assert cache_folder(environ, platform) == Path(folder)


def test_an_unknown_platform_has_no_library() -> None:
    assert shipped_library("plan9") is None


def test_asking_the_adapters_of_this_machine_has_an_answer(original: Path) -> None:
    found = check_library(original)

    assert found.verdict in ("granted", "refused", "absent"), found
    assert found.verdict != "absent" or found.message


def test_a_library_that_does_not_load_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF and no more")

    found = check_library(broken)

    assert found.verdict == "failed"
    assert found.message


def test_the_module_does_not_import_wgpu() -> None:
    code = f"import sys, {module.__name__}; sys.exit('wgpu' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
