"""What peers.py measures, as dataclasses and as a JSON file that is always whole. Measures nothing.

The file is an object: ``format``, ``device``, ``versions``, ``rounds``, ``cache`` and ``sessions``
say what was measured how, ``copy_gbps`` and ``peak_tflops`` are what a device can do at most, and
``rows`` has a problem each with the results of every contestant. Lengths are bytes, times ns.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gemmtune.problem import Gemm
from gemmtune.shapes import parse_dtype

FORMAT = 1
DTYPES = ("f32", "f16", "f16-f32", "f16acc")
OURS, DEFAULT, CUBLAS, ORT = "gemmtune", "default", "cuBLAS", "onnxruntime-webgpu"
CONTESTANTS = (OURS, DEFAULT, CUBLAS, ORT)


def dtype_name(gemm: Gemm) -> str:
    """f32, f16, f16-f32, f16acc, f16x3, or all four dtypes where these have no name."""
    if gemm.math != "ieee":
        return gemm.math
    own = (gemm.a, gemm.b, gemm.c, gemm.acc)
    named = [name for name in DTYPES if parse_dtype(name) == own]
    return named[0] if named else ",".join(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One contestant on one problem."""

    rounds_ns: list[float]
    """The median of each round."""
    spread: float
    """Largest interquartile range over median of a round."""
    repetitions: int
    """Samples of all rounds."""
    error: float
    """Largest difference from the right C over its largest magnitude, of the elements checked."""
    checked: str
    """Which elements that is of."""
    inputs: str
    """cold: they rotate past the last-level cache. hot: they stay in it where they fit."""
    kernel: str = ""
    """Ours: family and where the config is from."""
    config: dict[str, Any] = field(default_factory=dict)
    """Ours: the config."""

    @property
    def time_ns(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.rounds_ns)

    @property
    def drift(self) -> float:
        """Range of the rounds' medians over their median."""
        return (max(self.rounds_ns) - min(self.rounds_ns)) / self.time_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One problem."""

    group: str
    """The set of shapes that it is from."""
    gemm: Gemm
    session: int
    """Index of the session that measured it."""
    entries: dict[str, Entry]
    """By contestant."""
    failures: dict[str, str] = field(default_factory=dict)
    """Contestants that could not, and why."""

    @property
    def dtype(self) -> str:
        """What ``--dtype`` calls it."""
        return dtype_name(self.gemm)

    def to_json(self) -> dict[str, Any]:
        """All fields, and what follows from them for those who read no Python."""
        gemm = self.gemm
        entries = {
            name: asdict(entry)
            | {
                "time_ns": entry.time_ns,
                "drift": entry.drift,
                "tflops": gemm.flops / entry.time_ns / 1e3,
                "gbps": gemm.traffic_bytes / entry.time_ns,
            }
            for name, entry in self.entries.items()
        }
        return {
            "group": self.group,
            "dtype": self.dtype,
            "key": gemm.key,
            "gemm": gemm.to_json(),
            "flops": gemm.flops,
            "traffic_bytes": gemm.traffic_bytes,
            "session": self.session,
            "entries": entries,
            "failures": self.failures,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        """The inverse of `to_json`."""
        names = Entry.__dataclass_fields__
        entries = {
            name: Entry(**{key: value for key, value in entry.items() if key in names})
            for name, entry in data["entries"].items()
        }
        return cls(
            group=data["group"],
            gemm=Gemm.from_json(data["gemm"]),
            session=data["session"],
            entries=entries,
            failures=data["failures"],
        )


@dataclass(kw_only=True)
class Results:
    """A results file."""

    device: dict[str, Any]
    """Name, backend, driver and key."""
    versions: dict[str, str]
    """Of all software that took part."""
    rounds: int
    copy_gbps: float
    """Bytes read and written by a copy in WGSL, per ns; 0: not measured."""
    peak_tflops: dict[str, float]
    """The best that is known of the device, by dtype, given by whoever ran it."""
    sessions: list[dict[str, Any]] = field(default_factory=list)
    """Date and command of each run that added rows."""
    rows: list[Row] = field(default_factory=list)

    def bound_ns(self, row: Row) -> float | None:
        """The shortest time that the two ceilings allow; None: one of them is not known.

        Bytes are every operand once, so a kernel whose inputs are in cache may be faster.
        """
        peak = self.peak_tflops.get(row.dtype)
        if not peak or not self.copy_gbps:
            return None
        return max(row.gemm.flops / peak / 1e3, row.gemm.traffic_bytes / self.copy_gbps)

    def write(self, path: Path) -> None:
        """Replaces the file at once, so that whoever is stopped leaves a whole one."""
        names = ("device", "versions", "rounds", "copy_gbps", "peak_tflops", "sessions")
        data = {"format": FORMAT} | {name: getattr(self, name) for name in names}
        data["rows"] = [row.to_json() for row in self.rows]
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(beside, path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """The inverse of `write`.

        Raises:
            SystemExit: it is no such file.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError("another format")
            rows = [Row.from_json(row) for row in data.pop("rows")]
            return cls(**data, rows=rows)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SystemExit(f"{path} has no results of peers.py: {error}") from error
