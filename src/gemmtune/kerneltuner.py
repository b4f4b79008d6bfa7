"""Landscapes as Kernel Tuner's files and back: T4 results, and the cache its simulation mode reads.

T4 says what was measured; simulation needs the cache, which also says what may be asked. Times are
in milliseconds there. What the formats have no place for goes into T4's ``metadata`` and
``measurements``, so that a landscape of ours comes back whole. Knows files' contents only.

Source: https://github.com/KernelTuner/kernel_tuner (file_utils.py, util.py),
https://github.com/odgaard/TuningSchema (T4).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gemmtune.device import Device
from gemmtune.errors import LandscapeError
from gemmtune.job import FAILURE_KINDS, Failure, FailureKind, Measurement, Outcome, Policy, Versions
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Launch
from gemmtune.landscape import Landscape, Recorded, config_class, config_values
from gemmtune.problem import Gemm

T4_VERSION = "1.0.0"
"""Of the schema that is written."""
NS_PER_MS = 1e6
_INVALIDITY: dict[FailureKind, str] = {
    "compile": "compile",
    "validation": "constraints",
    "timeout": "timeout",
    "device_lost": "runtime",
    "crash": "runtime",
    "wrong_result": "correctness",
    "out_of_memory": "runtime",
    "too_slow": "timeout",
}
_KINDS: dict[str, FailureKind] = {
    "compile": "compile",
    "constraints": "validation",
    "timeout": "timeout",
    "runtime": "crash",
    "correctness": "wrong_result",
    "CompilationFailedConfig": "compile",
    "InvalidConfig": "validation",
    "RuntimeFailedConfig": "crash",
    "ErrorConfig": "crash",
}
"""Of T4's words and the cache's."""
_CACHE_ERRORS: dict[str, str] = {
    "compile": "CompilationFailedConfig",
    "constraints": "InvalidConfig",
}
_OTHER_FIELDS = tuple(f.name for f in fields(Measurement) if f.name != "time_ns")
_TIMES = ("compilation", "validation", "benchmark")
_CACHE_TIMES = ("compile_time", "verification_time", "benchmark_time")


def to_t4(landscape: Landscape) -> dict[str, Any]:
    """The document of T4 results."""
    about = {name: value for name, value in landscape.to_json().items() if name != "columns"}
    return {
        "schema_version": T4_VERSION,
        "metadata": {"timeunit": "milliseconds", "gemmtune": about},
        "results": [_t4_row(row) for row in landscape.rows],
    }


def _t4_row(row: Recorded) -> dict[str, Any]:
    result = row.result
    seconds = (row.compile_s, row.verify_s, row.measure_s)
    times: dict[str, Any] = dict(zip(_TIMES, (1e3 * s for s in seconds), strict=True))
    times |= {"framework": 0.0, "search_algorithm": 0.0, "runtimes": []}
    entry = {"configuration": config_values(row.config), "times": times, "objectives": ["time"]}
    if isinstance(result, Failure):
        said = {"failure": result.kind, "message": result.message}
        return entry | {
            "invalidity": _INVALIDITY[result.kind],
            "correctness": 0 if result.kind == "wrong_result" else 1,
            "measurements": [{"name": n, "value": v, "unit": ""} for n, v in said.items()],
        }
    time_ms = result.time_ns / NS_PER_MS
    times["runtimes"] = [time_ms]
    others = {name: getattr(result, name) for name in _OTHER_FIELDS}
    finite = {n: v for n, v in others.items() if isinstance(v, str) or math.isfinite(v)}
    units = {"min_ns": "ns"}
    return entry | {
        "invalidity": "correct",
        "correctness": 1,
        "measurements": [
            {"name": "time", "value": time_ms, "unit": "ms"},
            *({"name": n, "value": v, "unit": units.get(n, "")} for n, v in finite.items()),
        ],
    }


def to_cache(landscape: Landscape) -> dict[str, Any]:
    """The document that Kernel Tuner's ``tune_cache`` simulates on."""
    configs = [config_values(row.config) for row in landscape.rows]
    names = list(configs[0]) if configs else []
    gemm = landscape.gemm
    return {
        "device_name": landscape.device.name,
        "kernel_name": landscape.family,
        "problem_size": [gemm.m, gemm.n, gemm.k],
        "tune_params_keys": names,
        "tune_params": {name: _values(config[name] for config in configs) for name in names},
        "objective": "time",
        "cache": {
            ",".join(str(value) for value in config.values()): _cache_row(config, row)
            for config, row in zip(configs, landscape.rows, strict=True)
        },
    }


def _values(values: Iterator[Any]) -> list[Any]:
    return sorted({json.dumps(value): value for value in values}.values(), key=_order)


def _order(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _cache_row(config: Mapping[str, Any], row: Recorded) -> dict[str, Any]:
    seconds = (row.compile_s, row.verify_s, row.measure_s)
    entry = dict(config)
    entry |= dict(zip(_CACHE_TIMES, (1e3 * s for s in seconds), strict=True))
    entry |= {"strategy_time": 0.0, "framework_time": 0.0}
    if isinstance(row.result, Failure):
        error = _CACHE_ERRORS.get(_INVALIDITY[row.result.kind], "RuntimeFailedConfig")
        return entry | {"time": error, "__error__": error}
    time_ms = row.result.time_ns / NS_PER_MS
    return entry | {"time": time_ms, "times": [time_ms]}


def read(path: Path, gemm: Gemm | None = None, family: str | None = None) -> Landscape:
    """The landscape in a T4 or cache file, also one that Kernel Tuner never closed.

    Args:
        path: of the file.
        gemm: the problem; needed unless the file is an export of ours.
        family: what to call the kernel; None: as the file does.

    Raises:
        LandscapeError: it is neither, or the problem is not known.
    """
    try:
        data = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LandscapeError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LandscapeError(f"{path} is not JSON: {error}") from error
    try:
        known = data.get("metadata", {}).get("gemmtune") if isinstance(data, dict) else None
        if known is not None:
            empty = Landscape.from_json(known | {"columns": _NO_COLUMNS})
            gemm = gemm or empty.gemm
        if gemm is None:
            raise LandscapeError(f"{path} does not say which problem it is; give its shape")
        about = _foreign(data, gemm, family or "kernel") if known is None else empty
        rows = tuple(_rows(data, replace(about, gemm=gemm, family=family or about.family)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LandscapeError(
            f"{path} is neither T4 results nor a Kernel Tuner cache: {error!r}"
        ) from error
    return replace(
        about,
        gemm=gemm,
        family=family or about.family,
        selected=len(rows) if known is None else about.selected,
        rows=rows,
    )


_NO_COLUMNS: dict[str, Any] = {"config": {}, "launch": {}, "measurement": {}, "failure": {}} | {
    "seconds": {"compile_s": []}
}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        # A cache is appended to while tuning; only the last two brackets are missing then.
        return json.loads(text.rstrip().rstrip(",") + "}}")


def _foreign(data: Mapping[str, Any], gemm: Gemm, family: str) -> Landscape:
    """What is known of a file that another tuner wrote; without rows."""
    unknown = Versions(driver="unknown", backend="unknown", wgpu="none", compiler="unknown")
    return Landscape(
        device=Device(name=str(data.get("device_name", "unknown"))),
        gemm=gemm,
        family=str(data.get("kernel_name", family)),
        where="",
        selected=0,
        seed=0,
        policy=Policy(),
        versions=unknown,
        generator_hash="",
        rows=(),
    )


def _rows(data: Mapping[str, Any], about: Landscape) -> Iterator[Recorded]:
    if "results" in data:
        for row in data["results"]:
            times = [float(row["times"].get(name, 0.0)) for name in _TIMES]
            yield _recorded(row["configuration"], _t4_result(row), times, about)
        return
    names = data["tune_params_keys"]
    for row in data["cache"].values():
        times = [float(row.get(name, 0.0)) for name in _CACHE_TIMES]
        config = {name: row[name] for name in names}
        yield _recorded(config, _cache_result(row), times, about)


def _recorded(
    values: Mapping[str, Any],
    result: Measurement | Failure,
    times_ms: list[float],
    about: Landscape,
) -> Recorded:
    config: Config = config_class(about.family, list(values))(**values)
    compile_s, verify_s, measure_s = (time_ms / 1e3 for time_ms in times_ms)
    outcome = Outcome(
        job_id=0, result=result, compile_s=compile_s, verify_s=verify_s, measure_s=measure_s
    )
    return Recorded.of(config, _launches(config, about), outcome)


def _launches(config: Config, about: Landscape) -> tuple[Launch, ...]:
    family = FAMILIES.get(about.family)
    if family is None or not isinstance(config, family.config):
        return ()
    return family.launch(config, about.gemm)


def _t4_result(row: Mapping[str, Any]) -> Measurement | Failure:
    values = {one["name"]: one["value"] for one in row.get("measurements", [])}
    if row["invalidity"] != "correct":
        kind = values.get("failure", _KINDS[row["invalidity"]])
        if kind not in FAILURE_KINDS:
            raise ValueError(f"unknown failure {kind!r}")
        return Failure(kind=kind, message=str(values.get("message", row["invalidity"])))
    known = {name: values[name] for name in _OTHER_FIELDS if name in values}
    return _measurement(float(values["time"]), row["times"].get("runtimes") or [], known)


def _cache_result(row: Mapping[str, Any]) -> Measurement | Failure:
    error = row.get("__error__", row["time"])
    if isinstance(error, str):
        return Failure(kind=_KINDS[error], message=error)
    return _measurement(float(row["time"]), row.get("times") or [], {})


def _measurement(time_ms: float, runs_ms: list[float], known: dict[str, Any]) -> Measurement:
    """Errors that the file does not tell are nan, as nobody knows them."""
    values: dict[str, Any] = {
        "spread": 0.0,
        "min_ns": min([time_ms, *runs_ms]) * NS_PER_MS,
        "repetitions": max(len(runs_ms), 1),
        "clock": "gpu",
        "max_abs_error": math.nan,
        "max_rel_error": math.nan,
        "tolerance": math.nan,
    }
    return Measurement(**values | known | {"time_ns": time_ms * NS_PER_MS})
