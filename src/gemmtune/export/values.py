"""An exported document as values, and its way to and from JSON: all that a program needs of one
device's results without Python. Reads no database and renders nothing.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.errors import DocumentError
from gemmtune.export.advice import Advice
from gemmtune.kernels.base import PARAMS_SIZE_BYTES
from gemmtune.lookup import Dispatch, Pace, Parts, Speed, depth
from gemmtune.problem import Gemm
from gemmtune.validity import Count, Range

FORMAT = 1
"""Number of the document's format that this code writes and reads."""

PARAMS_FIELDS = (
    *("m", "n", "k", "batch", "stride_a", "stride_b", "stride_c"),
    *("first_workgroup", "last_workgroup", "alpha", "beta"),
)
"""Of the uniform struct Params, four bytes each, in order; alpha and beta are f32, others u32."""


def schema() -> dict[str, Any]:
    """The JSON Schema of the document."""
    text = (data_path("export") / "document.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def params_layout() -> dict[str, Any]:
    """Name, type and offset of each field of Params."""
    return {
        "size": PARAMS_SIZE_BYTES,
        "fields": [
            {"name": name, "type": "f32" if name in ("alpha", "beta") else "u32", "offset": 4 * i}
            for i, name in enumerate(PARAMS_FIELDS)
        ],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One dispatch of a kernel; those of one kernel run in order."""

    entry_point: str
    """Of the module."""
    workgroup_size: tuple[int, int, int]
    """Invocations in x, y, z."""
    workgroups: Count
    """How many, to be folded into a grid."""
    workspace: str | None = None
    """Type of the binding workspace in this pass; None: the one that the kernel's bindings say."""

    def to_json(self) -> dict[str, Any]:
        """All fields, of the optional one its value if it has any."""
        values = {
            "entry_point": self.entry_point,
            "workgroup_size": list(self.workgroup_size),
            "workgroups": self.workgroups.to_json(),
        }
        return values | ({"workspace": self.workspace} if self.workspace else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pass:
        """The inverse of `to_json`."""
        x, y, z = data["workgroup_size"]
        rule = Count(**data["workgroups"])
        return cls(
            entry_point=data["entry_point"],
            workgroup_size=(x, y, z),
            workgroups=rule,
            workspace=data.get("workspace"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a device must have for a kernel."""

    features: tuple[str, ...] = ()
    """By the names that the dialect's engine has for them, sorted."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """WebGPU's names; at least these."""
    subgroup_size: int | None = None
    """Exactly this; None: any."""
    unchecked: bool = False
    """Only as fast as measured where it is compiled without bounds checks; right in any case."""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"features": list(self.features), "limits": dict(self.limits)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Needs:
        """The inverse of `to_json`."""
        return cls(**{**data, "features": tuple(data["features"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Portable:
    """A kernel with all that it takes to launch it."""

    id: str
    """Family and the start of a hash of its config and WGSL."""
    family: str
    """Name of the kernel family."""
    config: Mapping[str, Any]
    """`Config.to_json` of the point of its space."""
    kind: str
    """`Gemm.kind` of the problems that it solves."""
    dialect: str | None
    """Whose WGSL it is written in; None: plain WGSL, which every engine takes."""
    wgsl: str
    """Source text."""
    bindings: tuple[Mapping[str, Any], ...]
    """Number, name and type of each binding of group 0."""
    passes: tuple[Pass, ...]
    """What is dispatched, in order."""
    workspace_bytes: Count | None
    """Size of the buffer at the binding of that name; None: there is none."""
    step_k: int = 1
    """Elements of k that a workgroup takes at a time; 1 in older documents."""
    needs: Needs
    """What a device must have."""
    valid: Mapping[str, Range]
    """By size or stride; what is not named may be anything. Strides matter with a batch only."""

    @property
    def main(self) -> Pass:
        """The pass that multiplies."""
        return next(one for one in self.passes if one.entry_point == "main")

    def dispatch(self, gemm: Gemm) -> Dispatch:
        """What of that runs for ``gemm``."""
        rule = self.main.workgroups
        share = max(gemm.k, 1) / max(rule.times, 1)
        return Dispatch(rule.of(gemm), depth(share, self.step_k))

    def serves(self, gemm: Gemm) -> bool:
        """Whether it gives right results for ``gemm``, on a device that has what it needs."""
        if gemm.kind != self.kind:
            return False
        return all(
            _value(gemm, name) in one
            for name, one in self.valid.items()
            if gemm.batch > 1 or not name.startswith("stride")
        )

    def to_json(self, *, inline: bool = True) -> dict[str, Any]:
        """All fields but the id; the text, or the name of its file."""
        wgsl = {"wgsl": self.wgsl} if inline else {"wgsl_file": f"{self.id}.wgsl"}
        return wgsl | {
            "family": self.family,
            "config": dict(self.config),
            "kind": self.kind,
            "dialect": self.dialect,
            "bindings": [dict(one) for one in self.bindings],
            "passes": [one.to_json() for one in self.passes],
            "workspace_bytes": self.workspace_bytes and self.workspace_bytes.to_json(),
            "step_k": self.step_k,
            "needs": self.needs.to_json(),
            "valid": {name: one.to_json() for name, one in sorted(self.valid.items())},
        }

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any], wgsl: str) -> Portable:
        """The inverse of `to_json`."""
        return cls(
            id=name,
            wgsl=wgsl,
            **{key: data[key] for key in ("family", "config", "kind", "dialect")},
            bindings=tuple(data["bindings"]),
            passes=tuple(Pass.from_json(one) for one in data["passes"]),
            workspace_bytes=Count(**rule) if (rule := data["workspace_bytes"]) else None,
            step_k=data.get("step_k", 1),
            needs=Needs.from_json(data["needs"]),
            valid={key: Range(**one) for key, one in data["valid"].items()},
        )


def _value(gemm: Gemm, name: str) -> int:
    if name.startswith("stride_"):
        return gemm.stride(name[-1])
    value: int = getattr(gemm, name)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One verified measurement: a row of a database without the numbers and owner it had there."""

    kernel: str
    """Id of the kernel, in `Tuned.others` of one with the same config."""
    general: tuple[str, ...]
    """Ids of the same config as kernels for any size of their class; none: it is that already."""
    family: str
    """Name of the kernel family."""
    config: Mapping[str, Any]
    """`Config.to_json`."""
    facts: Mapping[str, Any]
    """The numbers measured, when, and the row's name in every database."""
    conditions: Mapping[str, str]
    """The versions and policy it was measured under."""

    @property
    def time_ns(self) -> float:
        """Median time of one whole product."""
        return float(self.facts["time_ns"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A problem with its measurements, best first."""

    gemm: Gemm
    """The problem."""
    results: tuple[Timed, ...]
    """Today's templates before older ones, then the fastest first."""
    others: tuple[Timed, ...] = ()
    """What else was measured here with configs that have kernels, the fastest first: it counts
    where times are predicted."""

    @property
    def timed(self) -> tuple[Timed, ...]:
        """All measurements."""
        return (*self.results, *self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One device's results."""

    device: Device
    """The device."""
    generator: str
    """The gemmtune that wrote it."""
    kernels: tuple[Portable, ...]
    """By id."""
    problems: tuple[Tuned, ...]
    """By key."""
    forests: Mapping[str, Advice] = field(default_factory=dict)
    """By `Gemm.kind`: which kernels to take first."""
    fallbacks: Mapping[str, tuple[str, ...]]
    """By `Gemm.kind`: ids of kernels that between them serve every size on every device."""

    @property
    def speed(self) -> Speed:
        """What the results say of the device as a whole."""
        results = [
            (tuned.gemm.traffic_bytes, one.time_ns)
            for tuned in self.problems
            for one in tuned.results
        ]
        return Speed.of(self.device.adapter_type, results)

    @property
    def paces(self) -> dict[str, Pace]:
        """Of each kernel that was timed, or that does what a timed one does for more sizes."""
        kernels, speed = {one.id: one for one in self.kernels}, self.speed
        times: defaultdict[str, list[tuple[Parts, Dispatch]]] = defaultdict(list)
        for tuned in self.problems:
            gemm = tuned.gemm
            for one in tuned.timed:
                for kernel in (kernels[name] for name in (one.kernel, *one.general)):
                    parts = speed.parts(one.time_ns, gemm.traffic_bytes, len(kernel.passes))
                    times[kernel.id].append((parts, kernel.dispatch(gemm)))
        return {
            name: speed.pace(math.prod(kernels[name].main.workgroup_size), each)
            for name, each in sorted(times.items())
        }

    def to_json(self, *, inline: bool = True) -> dict[str, Any]:
        """The document of format `FORMAT`.

        Args:
            inline: WGSL within; else by the name of a file beside it.
        """
        conditions = sorted({_key_of(one) for p in self.problems for one in p.timed})
        numbers = {one: number for number, one in enumerate(conditions)}
        return {
            "format": FORMAT,
            "generator": self.generator,
            "device_key": self.device.key,
            "device": self.device.to_json(),
            "params": params_layout(),
            "model": self.speed._asdict() | {"paces": {k: list(v) for k, v in self.paces.items()}},
            "conditions": [dict(one) for one in conditions],
            "kernels": {one.id: one.to_json(inline=inline) for one in self.kernels},
            "problems": [_tuned_json(one, numbers) for one in self.problems],
            "forests": {kind: one.to_json() for kind, one in sorted(self.forests.items())},
            "fallbacks": {kind: list(ids) for kind, ids in sorted(self.fallbacks.items())},
        }

    @classmethod
    def from_json(cls, data: Any, wgsl: Mapping[str, str] | None = None) -> Document:
        """The inverse of `to_json`.

        Args:
            data: what JSON holds.
            wgsl: the texts of kernels that are not within it, by id.

        Raises:
            DocumentError: it is not one, or of a format that this gemmtune does not read.
        """
        require_format(data)
        try:
            return cls(
                device=Device.from_json(data["device"]),
                generator=data["generator"],
                kernels=tuple(
                    Portable.from_json(name, one, _text(name, one, wgsl or {}))
                    for name, one in sorted(data["kernels"].items())
                ),
                problems=tuple(_tuned(one, data) for one in data["problems"]),
                forests={k: Advice.from_json(one) for k, one in data.get("forests", {}).items()},
                fallbacks={kind: tuple(ids) for kind, ids in data["fallbacks"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DocumentError(
                f"the document is damaged ({type(error).__name__}: {error}); export it again"
            ) from error


def _text(name: str, kernel: Mapping[str, Any], others: Mapping[str, str]) -> str:
    """The kernel's text; empty where it is in a file that nobody has read."""
    text: str = kernel["wgsl"] if "wgsl" in kernel else others.get(name, "")
    return text


def require_format(data: Any) -> None:
    """Refuse what this code does not read.

    Raises:
        DocumentError: no document, or of a higher format.
    """
    number = data.get("format") if isinstance(data, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise DocumentError("this is not a document that `gemmtune export` wrote: it has no format")
    if number > FORMAT:
        raise DocumentError(
            f"the document has format {number}, this gemmtune reads up to {FORMAT}: "
            "upgrade gemmtune"
        )


def _key_of(timed: Timed) -> tuple[tuple[str, str], ...]:
    """Its conditions, so that they can be told apart."""
    return tuple(sorted(timed.conditions.items()))


def _tuned_json(tuned: Tuned, numbers: Mapping[Any, int]) -> dict[str, Any]:
    def rows(these: tuple[Timed, ...]) -> Iterator[dict[str, Any]]:
        for one in these:
            yield {
                "kernel": one.kernel,
                "general": list(one.general),
                "conditions": numbers[_key_of(one)],
                **one.facts,
            }

    return {
        "problem": tuned.gemm.to_json(),
        "key": tuned.gemm.key,
        "results": list(rows(tuned.results)),
        "others": list(rows(tuned.others)),
    }


def _tuned(data: Mapping[str, Any], document: Mapping[str, Any]) -> Tuned:
    names = {f.name for f in fields(Timed)}

    def timed(one: Mapping[str, Any]) -> Timed:
        kernel, general = document["kernels"][one["kernel"]], one["general"]
        return Timed(
            kernel=one["kernel"],
            # Older documents have one id, or null.
            general=tuple([general] if isinstance(general, str) else general or ()),
            family=kernel["family"],
            config=kernel["config"],
            facts={name: value for name, value in one.items() if name not in names},
            conditions=document["conditions"][one["conditions"]],
        )

    return Tuned(
        gemm=Gemm.from_json(data["problem"]),
        results=tuple(timed(one) for one in data["results"]),
        others=tuple(timed(one) for one in data.get("others", ())),
    )
