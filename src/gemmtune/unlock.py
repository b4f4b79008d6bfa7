"""Lets wgpu-native grant ``cooperative-matrix``: a copy of its library that calls it no experiment.

wgpu-core asks one small function which features are experimental and refuses those, and its C API
has no way to accept the risk (gfx-rs/wgpu-native#617, #630; seen with wgpu-native 29). In the copy
that function returns 0. The library that wgpu ships is only ever read. Imports no wgpu; whether the
copy does its duty is for the caller's check to find out.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gemmtune.errors import MissingExtraError, UnlockError

if TYPE_CHECKING:
    import lief

VARIABLE = "WGPU_LIB_PATH"
"""wgpu-py loads the library at this path instead of its own."""
SYMBOL = "all_experimental_mask"
"""Part of the mangled name of the function that says which features are experimental."""

_LIBRARIES = {
    "linux": "libwgpu_native-release.so",
    "darwin": "libwgpu_native-release.dylib",
    "win32": "wgpu_native-release.dll",
}
_RETURN_ZERO = {
    # xor eax, eax; xor edx, edx; ret
    "x86_64": bytes.fromhex("31c0 31d2 c3"),
    # mov x0, #0; mov x1, #0; ret
    "aarch64": bytes.fromhex("000080d2 010080d2 c0035fd6"),
}
"""A function that returns a 128-bit 0, by processor."""
_ELF_PROCESSORS = {"X86_64": "x86_64", "AARCH64": "aarch64"}
_MACHO_PROCESSORS = {"X86_64": "x86_64", "ARM64": "aarch64"}

Verdict = Literal["granted", "refused", "absent", "failed"]
"""granted: an adapter gave a device with the feature. refused: one has it and wgpu-native says no.
absent: no adapter has it. failed: there was no answer, or a driver's error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What came of asking every adapter for a device with the feature, in another process."""

    verdict: Verdict
    """See `Verdict`."""
    message: str = ""
    """What wgpu-native or the driver said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Which library wgpu ships, and its copy."""

    original: Path | None
    """The library; None: wgpu is not installed, or not from a wheel."""
    sha256: str
    """Of the original."""
    copy: Path | None
    """The patched copy of exactly this original, if there is one."""
    override: str
    """What the environment's `VARIABLE` already names; it wins."""
    needed: bool = True
    """False: wgpu-native grants the feature by itself."""

    def to_json(self) -> dict[str, Any]:
        """All fields; paths as text."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }


def cache_folder(environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> Path:
    """Where gemmtune keeps what it can make again; it need not exist."""
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or os.path.expanduser("~"))
    if platform == "darwin":
        folder = home / "Library" / "Caches"
    elif platform == "win32":
        folder = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        # Relative paths are to be ignored: https://specifications.freedesktop.org/basedir-spec
        given = environ.get("XDG_CACHE_HOME", "")
        folder = Path(given) if given.startswith("/") else home / ".cache"
    return folder / "gemmtune"


def shipped_library(platform: str = sys.platform) -> Path | None:
    """The library inside the installed wgpu, found without importing it; None if there is none."""
    spec = importlib.util.find_spec("wgpu")
    name = _LIBRARIES.get(platform)
    if spec is None or name is None:
        return None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / "resources" / name
        if path.is_file():
            return path
    return None


def file_hash(path: Path) -> str:
    """sha256 of a file, in hex; read again only when the file has changed."""
    facts = path.stat()
    return _hash(str(path), facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=8)
def _hash(path: str, mtime_ns: int, size_bytes: int) -> str:  # noqa: ARG001 (part of the key)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def status(
    *, cache: Path | None = None, environ: Mapping[str, str] | None = None, needed: bool = True
) -> Status:
    """How things stand. Writes nothing and starts nothing.

    Args:
        cache: the cache folder; None: the user's.
        environ: None: the process's.
        needed: see `Status.needed`.
    """
    environ = os.environ if environ is None else environ
    original = shipped_library()
    copy = library_path(cache=cache, environ=environ)
    return Status(
        original=original,
        sha256="" if original is None else file_hash(original),
        copy=copy,
        override=environ.get(VARIABLE, "").strip(),
        needed=needed,
    )


def library_path(
    *, cache: Path | None = None, environ: Mapping[str, str] | None = None
) -> Path | None:
    """The patched copy of the library that is installed now, or None."""
    original = shipped_library()
    if original is None:
        return None
    path = _copy_of(original, cache_folder(environ) if cache is None else cache)
    return path if path.is_file() else None


def library_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """``environ`` for a child that is to use the copy, unless it names a library already."""
    result = dict(os.environ if environ is None else environ)
    if not result.get(VARIABLE, "").strip() and (path := library_path(environ=result)):
        result[VARIABLE] = str(path)
    return result


def _copy_of(original: Path, cache: Path) -> Path:
    return cache / "wgpu-native" / f"{file_hash(original)}{original.suffix}"


def unlock(
    *,
    check: Callable[[Path], Check],
    cache: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Status:
    """Makes the copy and has it checked, unless it is there or not needed.

    Args:
        check: asks the adapters through this library, in another process.
        cache: the cache folder; None: the user's.
        environ: None: the process's.

    Raises:
        UnlockError: it cannot work here; nothing is left behind.
        MissingExtraError: the copy has to be made and LIEF is not installed.
    """
    original = shipped_library()
    if original is None:
        raise UnlockError(
            "there is no wgpu-native library to copy: wgpu is not installed from one of its wheels "
            f"for Linux, macOS or Windows (platform {sys.platform})"
        )
    copy = _copy_of(original, cache_folder(environ) if cache is None else cache)
    before = check(original)
    if before.verdict == "granted":
        return status(cache=cache, environ=environ, needed=False)
    if before.verdict == "absent":
        raise UnlockError(
            f"nothing to unlock: no adapter here offers cooperative-matrix{_said(before)}; newer "
            "drivers may"
        )
    if before.verdict == "failed":
        raise UnlockError(f"the adapters could not be asked for cooperative-matrix{_said(before)}")
    if not copy.is_file() or check(copy).verdict != "granted":
        write_copy(original, copy, check)
    return status(cache=cache, environ=environ)


def _said(check: Check) -> str:
    return f" ({check.message})" if check.message else ""


def remove(
    *, cache: Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """Deletes every copy, also those of libraries that were installed before; returns them."""
    folder = (cache_folder(environ) if cache is None else cache) / "wgpu-native"
    found = tuple(sorted(folder.iterdir())) if folder.is_dir() else ()
    try:
        for path in found:
            path.unlink(missing_ok=True)
        if folder.is_dir():
            folder.rmdir()
    except OSError as error:
        raise UnlockError(f"the copies in {folder} cannot be deleted: {error}") from error
    return found


def write_copy(original: Path, copy: Path, check: Callable[[Path], Check]) -> None:
    """Writes the patched copy of ``original`` to ``copy``, which appears whole and checked or not.

    Raises:
        UnlockError: the library has no such symbol, cannot be written, or fails the check.
        MissingExtraError: LIEF is not installed.
    """
    at, code = find_patch(original)
    with _beside(copy) as draft:
        shutil.copyfile(original, draft)
        with draft.open("r+b") as file:
            file.seek(at)
            file.write(code)
        if original.suffix == ".dylib":
            _sign(draft)
        after = check(draft)
        if after.verdict != "granted":
            raise UnlockError(
                "the patched copy of wgpu-native does not grant cooperative-matrix either"
                f"{_said(after)}; it was deleted"
            )
        draft.chmod(0o644)
        os.replace(draft, copy)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new file in the folder of ``path``, gone at the end if it is still there."""
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=path.parent, prefix="draft-", suffix=path.suffix)
        os.close(number)
        draft = Path(name)
        yield draft
    except OSError as error:
        raise UnlockError(f"the copy cannot be written to {path.parent}: {error}") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def find_patch(library: Path) -> tuple[int, bytes]:
    """Where in the file the function is, and the code that makes it return 0.

    Raises:
        UnlockError: not a library of Linux or macOS, for another processor, or without the symbol.
        MissingExtraError: LIEF is not installed.
    """
    try:
        import lief
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("lief", "tune") from error
    lief.logging.disable()
    binary = lief.parse(library)
    if isinstance(binary, lief.ELF.Binary):
        processor = _ELF_PROCESSORS.get(binary.header.machine_type.name)
        base = 0
    elif isinstance(binary, lief.MachO.Binary):
        processor = _MACHO_PROCESSORS.get(binary.header.cpu_type.name)
        base = binary.fat_offset
    else:
        raise UnlockError(
            f"{library.name} cannot be unlocked: only the libraries of Linux and macOS name the "
            "function to patch"
        )
    if processor is None:
        raise UnlockError(f"{library.name} is for a processor that gemmtune has no patch for")
    address, room = _function(binary, library)
    code = _RETURN_ZERO[processor]
    at = binary.virtual_address_to_offset(address)
    if not isinstance(at, int) or room < len(code):
        raise UnlockError(f"{SYMBOL} of {library.name} is too small, or not in the file")
    return base + at, code


def _function(binary: lief.ELF.Binary | lief.MachO.Binary, library: Path) -> tuple[int, int]:
    """Address of the function and bytes up to its end, or to the next symbol."""
    symbols = [(symbol.value, str(symbol.name)) for symbol in binary.symbols if symbol.value]
    found = {address for address, name in symbols if SYMBOL in name}
    if len(found) != 1:
        raise UnlockError(
            f"{library.name} cannot be unlocked: its symbol table has {len(found)} functions "
            f"{SYMBOL} instead of 1; another release of wgpu may have it"
        )
    (address,) = found
    following = [other for other, _ in symbols if other > address]
    return address, min(following, default=address) - address


def _sign(library: Path) -> None:
    """Signs a changed macOS library anew; without a valid signature it would not be loaded."""
    tool = shutil.which("codesign")
    if tool is None:
        raise UnlockError(
            "the patched copy must be signed and there is no codesign; install Xcode's "
            "command line tools: xcode-select --install"
        )
    run = subprocess.run(
        [tool, "--force", "--sign", "-", str(library)], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise UnlockError(f"codesign refused the patched copy: {' '.join(run.stderr.split())}")
