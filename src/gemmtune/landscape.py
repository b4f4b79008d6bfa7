"""Recorded landscapes: every measured config of one problem and family on one device, in one file.

The file is gzipped JSON with sorted keys. At its top level stand ``kind`` ("gemmtune-landscape"),
``format`` (`FORMAT`), ``device``, ``problem``, ``family``, ``where``, ``selected``, ``seed``,
``policy``, ``versions``, ``generator_hash`` and ``columns``. Columns come in five groups:
``config`` (one per field), ``launch``, ``measurement``, ``failure`` and ``seconds``. A column is a
list with a value per row, or ``{"levels": [...], "codes": [...]}``, where code i means levels[i].
A row has a failure kind or a measurement; the columns of the other are null there. Numbers have
six digits. Measures and renders nothing.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from gemmtune.device import Device
from gemmtune.errors import GemmtuneError, LandscapeError
from gemmtune.job import FAILURE_KINDS, Failure, FailureKind, Measurement, Outcome, Policy, Versions
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Launch
from gemmtune.problem import Gemm

FORMAT = 1
"""Number of the format that this code writes. Every lower number still opens."""
KIND = "gemmtune-landscape"
MESSAGE_LIMIT = 300
"""Characters of a failure's message that are kept."""
_MEASURED = tuple(f.name for f in fields(Measurement))
_NEVER_MISSING = ("time_ns", "repetitions", "clock")
_SECONDS = ("compile_s", "verify_s", "measure_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One config and what came of it."""

    config: Config
    """The point of the family's space."""
    launches: tuple[Launch, ...]
    """Its passes; none where the file comes from a tuner that does not say."""
    result: Measurement | Failure
    """Its time, or why it has none."""
    compile_s: float = 0.0
    """Wall time of compilation."""
    verify_s: float = 0.0
    """Wall time of verification."""
    measure_s: float = 0.0
    """Wall time of timing."""

    @classmethod
    def of(cls, config: Config, launches: tuple[Launch, ...], outcome: Outcome) -> Recorded:
        """What the file keeps of an outcome: six digits, and no more than that of a message."""
        result: Measurement | Failure = outcome.result
        if isinstance(result, Measurement):
            values = {name: _rounded(value) for name, value in asdict(result).items()}
            result = Measurement(**values)
        else:
            result = Failure(kind=result.kind, message=result.message[:MESSAGE_LIMIT])
        seconds = {name: float(_rounded(value)) for name, value in outcome.kept_s.items()}
        return cls(config=config, launches=launches, result=result, **seconds)

    @property
    def time_ns(self) -> float | None:
        """Median time of one whole GEMM; None without a measurement."""
        return self.result.time_ns if isinstance(self.result, Measurement) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """Rows of one problem and family on one device, measured in one way."""

    device: Device
    """Where it was recorded."""
    gemm: Gemm
    """The problem."""
    family: str
    """Name of the kernel family."""
    where: str
    """The filter on the family's fields, as it was written; empty: the whole space."""
    selected: int
    """Legal configs that pass the filter."""
    seed: int
    """Of the inputs, and of the order in which the configs were measured."""
    policy: Policy
    """How time was measured."""
    versions: Versions
    """The software below the kernels."""
    generator_hash: str
    """Of the family's template and generator."""
    rows: tuple[Recorded, ...]
    """In the order they were finished; each config once."""

    @property
    def complete(self) -> bool:
        """Every selected config is there."""
        return len(self.rows) == self.selected

    @property
    def best(self) -> Recorded | None:
        """The fastest row; None where nothing worked."""
        timed = [row for row in self.rows if row.time_ns is not None]
        return min(timed, key=lambda row: row.time_ns or math.inf, default=None)

    @property
    def failures(self) -> dict[FailureKind, int]:
        """How many rows failed, by kind; kinds that did not occur are left out."""
        kinds = [row.result.kind for row in self.rows if isinstance(row.result, Failure)]
        return {kind: kinds.count(kind) for kind in FAILURE_KINDS if kind in kinds}

    def to_json(self) -> dict[str, Any]:
        """The document that the module's first words describe."""
        names = ("family", "where", "selected", "seed", "generator_hash")
        return {name: getattr(self, name) for name in names} | {
            "kind": KIND,
            "format": FORMAT,
            "device": self.device.to_json(),
            "problem": self.gemm.to_json(),
            "policy": asdict(self.policy),
            "versions": asdict(self.versions),
            "columns": _columns(self.rows),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Landscape:
        """The inverse of `to_json`.

        Raises:
            LandscapeError: it is no such document, or of a newer format.
        """
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise LandscapeError("it is not a landscape")
        if not isinstance(data.get("format"), int) or not 1 <= data["format"] <= FORMAT:
            raise LandscapeError(
                f"its format is {data.get('format')!r} and this gemmtune reads up to {FORMAT}; "
                "use a newer one"
            )
        try:
            names = ("family", "where", "selected", "seed", "generator_hash")
            return cls(
                **{name: data[name] for name in names},
                device=Device.from_json(data["device"]),
                gemm=Gemm.from_json(data["problem"]),
                policy=Policy(**data["policy"]),
                versions=Versions(**data["versions"]),
                rows=tuple(_rows(data["family"], data["columns"])),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise LandscapeError(f"it is damaged: {error!r}") from error

    def write(self, path: Path) -> None:
        """Replace the file at ``path`` at once: there is never half of one.

        Raises:
            LandscapeError: it cannot be written.
        """
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with partial.open("wb") as file:
                file.write(gzip.compress(text.encode(), mtime=0))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise LandscapeError(f"{path} cannot be written: {error.strerror}") from error

    @classmethod
    def read(cls, path: Path) -> Landscape:
        """The landscape in the file at ``path``.

        Raises:
            LandscapeError: there is none, or it cannot be read.
        """
        try:
            data = json.loads(gzip.decompress(path.read_bytes()))
        except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            raise LandscapeError(f"{path} is not a landscape, or damaged: {error}") from error
        except OSError as error:
            raise LandscapeError(f"{path} cannot be read: {error.strerror}") from error
        try:
            return cls.from_json(data)
        except GemmtuneError as error:
            raise LandscapeError(f"{path} cannot be read: {error}") from error


def config_class(family: str, names: Sequence[str]) -> type[Config]:
    """The config class of ``family`` if it has just these fields, else one made for them.

    So a file outlives the fields of the family, and files of other tuners can be read.
    """
    if family in FAMILIES:
        known = FAMILIES[family].config
        needed = {f.name for f in fields(known) if not f.metadata}
        if needed <= set(names) <= {f.name for f in fields(known)}:
            return known
    return _made_class(tuple(sorted(names)))


@cache
def _made_class(names: tuple[str, ...]) -> type[Config]:
    made = make_dataclass(
        "RecordedConfig",
        [(name, Any) for name in names],
        bases=(Config,),
        frozen=True,
        slots=True,
        kw_only=True,
    )
    return cast(type[Config], made)


def config_values(config: Config) -> dict[str, Any]:
    """Every field of a config, sorted, also those that its JSON leaves out."""
    return dict(sorted(asdict(config).items()))


def _rounded(value: Any) -> Any:
    """Six digits of a float; what is no number stays nan."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else math.nan


def _columns(rows: Sequence[Recorded]) -> dict[str, dict[str, Any]]:
    configs = [config_values(row.config) for row in rows]
    launches = [{"launches": [_launch_json(one) for one in row.launches]} for row in rows]
    measured = [asdict(r) if isinstance(r := row.result, Measurement) else {} for row in rows]
    failures = [asdict(r) if isinstance(r := row.result, Failure) else {} for row in rows]
    seconds = [{name: getattr(row, name) for name in _SECONDS} for row in rows]
    return {
        "config": _group(configs, tuple(configs[0]) if configs else ()),
        "launch": _group(launches, ("launches",)),
        "measurement": _group(measured, _MEASURED),
        "failure": _group(failures, ("kind", "message")),
        "seconds": _group(seconds, _SECONDS),
    }


def _group(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    return {name: _packed([_plain(row.get(name)) for row in rows]) for name in names}


def _plain(value: Any) -> Any:
    """JSON has no nan."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _packed(values: list[Any]) -> Any:
    """As levels and codes where that is shorter."""
    # By their text, for True == 1 and lists cannot be hashed.
    levels = {json.dumps(value): value for value in values}
    if len(levels) > len(values) // 2:
        return values
    codes = {text: code for code, text in enumerate(levels)}
    coded = [codes[json.dumps(value)] for value in values]
    return {"levels": list(levels.values()), "codes": coded}


def _unpacked(column: Any) -> list[Any]:
    if isinstance(column, dict):
        return [column["levels"][code] for code in column["codes"]]
    return list(column)


def _rows(family: str, columns: dict[str, dict[str, Any]]) -> Iterator[Recorded]:
    groups = {
        group: {name: _unpacked(column) for name, column in members.items()}
        for group, members in columns.items()
    }
    cls = config_class(family, list(groups["config"]))
    for i in range(len(groups["seconds"]["compile_s"])):
        config, launch, measured, failure, seconds = (
            {name: column[i] for name, column in groups[group].items()}
            for group in ("config", "launch", "measurement", "failure", "seconds")
        )
        result: Measurement | Failure
        if failure["kind"] is not None:
            result = Failure(**failure)
        else:
            if not 0.0 < measured["time_ns"] < math.inf:
                raise ValueError(f"row {i} has neither a failure nor a time above 0")
            result = Measurement(**{name: _number(name, v) for name, v in measured.items()})
        launches = tuple(map(_launch, launch["launches"]))
        yield Recorded(config=cls(**config), launches=launches, result=result, **seconds)


def _number(name: str, value: Any) -> Any:
    return math.nan if value is None and name not in _NEVER_MISSING else value


def _launch_json(launch: Launch) -> dict[str, Any]:
    return asdict(launch) | {"workgroup_size": list(launch.workgroup_size)}


def _launch(values: dict[str, Any]) -> Launch:
    return Launch(**values | {"workgroup_size": tuple(values["workgroup_size"])})
