"""From databases to a document, and back to rows of one."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gemmtune.device import Device
from gemmtune.dialect import dialect_of
from gemmtune.errors import ConfigError, DocumentError
from gemmtune.export.advice import Advice
from gemmtune.export.kernels import fallbacks, portable
from gemmtune.export.values import Document, Portable, Timed, Tuned
from gemmtune.forest import Forest, read
from gemmtune.generators import generator_hash
from gemmtune.job import Measurement, Outcome, Policy, Versions
from gemmtune.kernels import FAMILIES
from gemmtune.problem import Gemm
from gemmtune.schema import unusual
from gemmtune.store import Arrival, Row, Store
from gemmtune.validity import generalised

_MEASURED = tuple(f.name for f in fields(Measurement))
_SECONDS = ("compile_s", "verify_s", "measure_s")
_NAMED = ("seed", "generator_hash", "started_at", "finished_at", "uuid")

_Made = dict[tuple[str, str, str], list[Timed]]
"""Results with a kernel, by family, config as JSON and kind of the problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What of a database is exported."""

    device: str | None = None
    """Part of the device's key or name; None: the only one there is."""
    shapes: tuple[str, ...] = ()
    """`Gemm.shape` of the problems; none: all."""
    dtypes: tuple[str, str, str, str] | None = None
    """Of a, b, c and the sums; None: all."""
    dialect: str = "naga"
    """Whose WGSL: naga for wgpu, tint for Dawn, so for Chromium."""
    top: int = 1
    """So many of the fastest of each problem, family and policy."""

    def takes(self, gemm: Gemm) -> bool:
        """Whether results of this problem are wanted."""
        dtypes = (gemm.a, gemm.b, gemm.c, gemm.acc)
        return (not self.shapes or gemm.shape in self.shapes) and self.dtypes in (None, dtypes)


def export(stores: Sequence[Store], selection: Selection, generator: str) -> Document:
    """The document of one device.

    Args:
        stores: where to look; the same row in several counts once.
        selection: what to take.
        generator: name and version of the program.

    Raises:
        DocumentError: no device is meant, or several, or nothing of it is left.
    """
    device = _choose(stores, selection.device)
    kernels: dict[str, Portable] = {}
    there = sorted(_rows(stores, device, selection), key=lambda each: each[0].key)
    known = {} if selection.shapes else _forests(stores, device, there)
    problems, forests = _problems(there, known, device, selection, kernels)
    if not problems:
        raise DocumentError(
            f"no verified result of {device.key} is in {_places(stores)} with these options; "
            "`gemmtune db info` lists what is"
        )
    last: dict[str, tuple[str, ...]] = {}
    for tuned in problems:
        if tuned.gemm.kind not in last:
            found = fallbacks(tuned.gemm)
            kernels |= {one.id: one for one in found if one.id not in kernels}
            last[tuned.gemm.kind] = tuple(one.id for one in found)
    return Document(
        device=device,
        generator=generator,
        kernels=tuple(kernels[name] for name in sorted(kernels)),
        problems=tuple(problems),
        forests=forests,
        fallbacks=last,
    )


def _problems(
    found: Iterable[tuple[Gemm, list[Row]]],
    known: Mapping[str, Forest],
    device: Device,
    selection: Selection,
    kernels: dict[str, Portable],
) -> tuple[list[Tuned], dict[str, Advice]]:
    """Those with results, in their order, and what is advised of which kinds; the kernels join
    ``kernels``.
    """
    made: _Made = defaultdict(list)
    tuned = []
    wanted = {(*name, kind) for kind, forest in known.items() for name in forest.configs}
    for gemm, rows in found:
        results = []
        for row, timed in _results(gemm, rows, device, selection, kernels):
            results.append(timed)
            made[row.family, row.config_json, gemm.kind].append(timed)
        if results:
            tuned.append((Tuned(gemm=gemm, results=tuple(results)), rows))
    # Configs that are advised and nowhere among the fastest have kernels, too.
    for one, rows in tuned:
        for row in rows:
            name = (row.family, row.config_json, one.gemm.kind)
            if name in wanted and name not in made and _usual(row):
                made[name] += _made(one.gemm, row, device, selection, kernels)
    problems = [replace(one, others=tuple(_others(one, rows, made))) for one, rows in tuned]
    return problems, {kind: _advice(kind, one, made) for kind, one in known.items()}


def _forests(
    stores: Sequence[Store], device: Device, found: Iterable[tuple[Gemm, list[Row]]]
) -> dict[str, Forest]:
    """The newest of each kind that knows of all results: where there are newer ones, kernels are
    ranked by predicted time alone.
    """
    last: dict[str, str] = {}
    for gemm, rows in found:
        ends = [row.finished_at or "" for row in rows]
        last[gemm.kind] = max([last.get(gemm.kind, ""), *ends])
    forests: dict[str, Forest] = {}
    for store in stores:
        for kind, forest in store.forests(device.key).items():
            known = forests.get(kind, forest).newest
            if kind in last and forest.newest >= max(last[kind], known):
                forests[kind] = forest
    return forests


def _advice(kind: str, forest: Forest, made: _Made) -> Advice:
    """The same of kernels: that of each config, and what of it serves more sizes."""
    kernels = []
    for family, text in forest.configs:
        alike = made.get((family, text, kind), [])
        ids = [one.kernel for one in alike[:1]]
        ids += [name for one in alike for name in one.general]
        kernels.append(tuple(dict.fromkeys(ids)))
    trees = tuple(map(read, forest.trees))
    return Advice(newest=forest.newest, kernels=tuple(kernels), trees=trees)


def _choose(stores: Sequence[Store], part: str | None) -> Device:
    """The device that ``part`` means.

    Raises:
        DocumentError: none, or several.
    """
    devices = {device.key: device for store in stores for device in store.devices()}
    text = (part or "").lower()
    if text in devices:
        return devices[text]
    found = [d for key, d in sorted(devices.items()) if text in key or text in d.name.lower()]
    if len(found) == 1:
        return found[0]
    there = ", ".join(device.key for device in found) or ", ".join(sorted(devices)) or "none"
    asked = f"{len(found)} devices match {part!r}" if part else f"there are {len(found)} devices"
    raise DocumentError(
        f"{asked} in {_places(stores)}, and a document holds one; give --device one of: {there}"
    )


def _places(stores: Sequence[Store]) -> str:
    return " and ".join(store.where for store in stores) or "any database"


def _rows(
    stores: Sequence[Store], device: Device, selection: Selection
) -> Iterator[tuple[Gemm, list[Row]]]:
    """Every problem that is wanted with its verified rows."""
    gemms = {gemm.key: gemm for store in stores for gemm in store.problems(device.key)}
    for key, gemm in gemms.items():
        if selection.takes(gemm):
            rows = {row.uuid: row for s in stores for row in s.measurements(device.key, key)}
            yield gemm, [row for row in rows.values() if row.status == "ok"]


def _results(
    gemm: Gemm,
    rows: Iterable[Row],
    device: Device,
    selection: Selection,
    kernels: dict[str, Portable],
) -> Iterator[tuple[Row, Timed]]:
    """The rows that are wanted, best first; their kernels join ``kernels``."""
    taken: Counter[tuple[str, str]] = Counter()
    readable = [row for row in rows if row.family in FAMILIES]
    readable.sort(
        key=lambda row: (
            row.generator_hash != generator_hash(row.family),
            unusual(row.policy),
            row.time_ns,
            row.uuid,
        )
    )
    for row in readable:
        if taken[row.family, row.policy] >= selection.top:
            continue
        for timed in _made(gemm, row, device, selection, kernels):
            taken[row.family, row.policy] += 1
            yield row, timed


def _made(
    gemm: Gemm, row: Row, device: Device, selection: Selection, kernels: dict[str, Portable]
) -> Iterator[Timed]:
    """A row with its kernels, which join ``kernels``; none that this version or dialect lacks."""
    dialect = dialect_of(selection.dialect)
    try:
        kernel = portable(row.family, row.config, gemm, device, dialect)
    except ConfigError:
        return
    config = generalised(row.family, row.config, gemm, device)
    general = None if config is None else portable(row.family, config, gemm, device, dialect)
    for one in (kernel, general):
        if one is not None:
            kernels.setdefault(one.id, one)
    yield _timed(row, kernel.id, (general.id,) if general else (), kernel.config)


def _usual(row: Row) -> bool:
    """It was taken with today's template and policy."""
    return row.policy == Policy().key and row.generator_hash == generator_hash(row.family)


def _others(tuned: Tuned, rows: Iterable[Row], made: _Made) -> Iterator[Timed]:
    """Today's usual times of configs that have kernels because of other problems, too."""
    known = {one.facts["uuid"] for one in tuned.results}
    for row in sorted(rows, key=lambda row: (row.time_ns, row.uuid)):
        alike = made.get((row.family, row.config_json, tuned.gemm.kind))
        if alike and row.uuid not in known and _usual(row):
            first = alike[0]
            ids = (name for one in alike for name in one.general or (one.kernel,))
            general = tuple(name for name in dict.fromkeys(ids) if name != first.kernel)
            yield _timed(row, first.kernel, general, first.config)


def _timed(row: Row, kernel: str, general: tuple[str, ...], config: Mapping[str, Any]) -> Timed:
    facts = asdict(row.result) if isinstance(row.result, Measurement) else {}
    facts |= {name: getattr(row, name) for name in (*_SECONDS, *_NAMED)}
    return Timed(
        kernel=kernel,
        general=general,
        family=row.family,
        config=config,
        # JSON has no NaN: an error that could not be told is null.
        facts={k: None if v != v else v for k, v in facts.items()},
        conditions=asdict(row.versions) | {"policy": row.policy},
    )


def arrivals(document: Document) -> list[Arrival]:
    """The document's measurements, as a store takes them in.

    Raises:
        DocumentError: a value is not one of a measurement.
    """
    found = []
    for tuned in document.problems:
        for one in tuned.timed:
            try:
                found.append(_arrival(one, tuned.gemm))
            except (KeyError, TypeError, ValueError) as error:
                raise DocumentError(
                    f"a result of {tuned.gemm.key} cannot be read ({error}); export it again"
                ) from error
    return found


def forests(document: Document) -> dict[str, Forest]:
    """The document's decision trees, as a store takes them in. A config that has no kernel in the
    document's dialect is one that no family has.
    """
    kernels = {one.id: one for one in document.kernels}
    found = {}
    for kind, one in document.forests.items():
        firsts = [kernels[ids[0]] if ids else None for ids in one.kernels]
        configs = [(each.family, _text(each.config)) if each else ("", "{}") for each in firsts]
        found[kind] = Forest(configs=configs, trees=list(one.trees), newest=one.newest)
    return found


def _text(config: Mapping[str, Any]) -> str:
    """As databases have it."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


def _arrival(timed: Timed, gemm: Gemm) -> Arrival:
    if timed.family not in FAMILIES:
        raise ConfigError(
            f"its kernel is of family {timed.family!r}; this gemmtune has {', '.join(FAMILIES)}"
        )
    facts = timed.facts
    numbers = {name: _number(facts[name]) for name in _MEASURED if name != "clock"}
    clock = facts["clock"]
    if clock not in ("gpu", "host", "model"):
        raise ValueError(f"no clock is called {clock!r}")
    measurement = Measurement(clock=clock, **numbers)
    if not 0.0 < measurement.time_ns < math.inf:
        raise ValueError(f"its time is {measurement.time_ns} ns")
    seconds = {name: _number(facts[name]) for name in _SECONDS}
    return Arrival(
        gemm=gemm,
        family=timed.family,
        config=FAMILIES[timed.family].config.from_json(timed.config),
        outcome=Outcome(job_id=0, result=measurement, **seconds),
        versions=Versions(**{f.name: str(timed.conditions[f.name]) for f in fields(Versions)}),
        policy=str(timed.conditions["policy"]),
        seed=int(facts["seed"]),
        **{name: str(facts[name]) for name in _NAMED if name != "seed"},
    )


def _number(value: Any) -> Any:
    """A number as it is, null as NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"{value!r} is not a number")
    return math.nan if value is None else value


def loads(text: str, wgsl: Mapping[str, str] | None = None) -> Document:
    """The document that JSON ``text`` is.

    Raises:
        DocumentError: it is none.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DocumentError(f"the document is not JSON: {error}") from error
    return Document.from_json(data, wgsl)
