"""What an application really asks for: problems with counts, in a file of JSON lines."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmtune.errors import UsageError
from gemmtune.problem import Gemm


class Record:
    """Counts problems by device. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: Counter[tuple[Gemm, str]] = Counter()
        self._lock = threading.Lock()

    def count(self, gemm: Gemm, device_key: str) -> None:
        """Notes that ``gemm`` was asked for once more."""
        with self._lock:
            self.counts[gemm, device_key] += 1

    def save(self) -> None:
        """Adds the counts to the file and begins again at 0.

        Raises:
            UsageError: the file cannot be written.
        """
        with self._lock:
            lines = [
                json.dumps({"count": n, "device": key, "problem": gemm.to_json()}, sort_keys=True)
                for (gemm, key), n in self.counts.items()
            ]
            self.counts.clear()
        if not lines:
            return
        try:
            # One write at the end of the file, so that processes do not cut into each other's.
            with open(self.path, "ab", buffering=0) as file:
                file.write(("\n".join(lines) + "\n").encode())
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A problem and how often it was asked for."""

    gemm: Gemm
    """The problem; of several that a tuner cannot tell apart, the first."""
    count: int
    """Times in all."""

    @property
    def weight(self) -> float:
        """Operations that were asked for in all: where the time went, roughly."""
        return float(self.count) * max(self.gemm.flops, self.gemm.traffic_bytes, 1)


def read_record(path: str | Path) -> list[Wanted]:
    """What was recorded, the heaviest first.

    Raises:
        UsageError: there is no such file, or a line is not one of a record's.
    """
    found: dict[str, Wanted] = {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the record {path} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        gemm, count = _parsed(line, f"line {number} of {path}")
        known = found.get(gemm.key)
        found[gemm.key] = Wanted(
            gemm=known.gemm if known else gemm, count=count + (known.count if known else 0)
        )
    if not found:
        raise UsageError(f"the record {path} is empty: nothing was looked up while it was open")
    return sorted(found.values(), key=lambda one: (-one.weight, one.gemm.key))


def _parsed(line: str, where: str) -> tuple[Gemm, int]:
    try:
        data: Any = json.loads(line)
        count = data["count"]
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"count is {count!r}")
        return Gemm.from_json(data["problem"]), count
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{where} is none that `gemmtune.record` writes: {error}") from error
