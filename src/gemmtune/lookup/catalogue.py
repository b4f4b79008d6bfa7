"""What a database holds for lookups, read once per version of the file through sqlite3."""

from __future__ import annotations

import math
import os
from contextlib import closing
from functools import lru_cache
from itertools import compress
from operator import itemgetter

from gemmtune.device import Device
from gemmtune.errors import StoreError
from gemmtune.generators import generator_hash
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Launch, step_of
from gemmtune.light import NamedTuple, loads
from gemmtune.lookup.predict import Speed, tiles
from gemmtune.problem import Gemm, traffic_of
from gemmtune.schema import (
    FASTEST_QUERY,
    LEARNED_QUERY,
    LEARNED_TABLE,
    LEARNED_TRIGGERS,
    PROBLEMS_QUERY,
    TIMES_OF_QUERY,
    TIMES_QUERY,
    USUAL_POLICY,
    Fingerprints,
    connect_read_only,
    foreign,
    parse_config,
    require_schema,
    translated,
    unusual,
)
from gemmtune.ties import TIE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

BUSY_TIMEOUT_S = 5.0
"""How long a lookup waits for a database that another process holds."""

_UNCHECKED, _CHECKED = '"checked":false', '"checked":true'  # in a config's JSON
_READS = 3  # of a file that changes while it is read

Signature = tuple[int, ...]


def signature_of(path: str | Path) -> Signature | None:
    """What changes when the database does; None where there is nothing in it."""
    try:
        main = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if main.st_size == 0:
        return None
    try:
        log = os.stat(f"{path}-wal")
    except FileNotFoundError:
        return (main.st_mtime_ns, main.st_size, main.st_ino)
    return (main.st_mtime_ns, main.st_size, main.st_ino, log.st_mtime_ns, log.st_size)


def is_unchecked(text: str) -> bool:
    """Whether a config is compiled without bounds checks, by its JSON."""
    return _UNCHECKED in text


def checked(text: str) -> str:
    """The JSON of the same config with bounds checks."""
    return text.replace(_UNCHECKED, _CHECKED)


class Shape(NamedTuple):
    """How a config's kernel is dispatched, as far as its time depends on it."""

    passes: int
    """How many there are."""
    invocations: int
    """Of one workgroup of the pass that multiplies."""
    workgroups: float
    """Of that pass, per tile: more than one where k is split."""
    tile: tuple[int, int] | None
    """Rows and columns of a tile; None: the family has none, and `workgroups` means nothing."""
    step: int
    """Elements of k that a workgroup takes at a time; see `step_of`."""


class Leader(NamedTuple):
    """The time of a config on a problem and device: of one that is the fastest of its family on
    some problem with the same dtypes. A row of `TIMES_QUERY` and more: lookups read thousands.
    """

    key: str
    """`Gemm.key`."""
    kind: str
    """`Gemm.kind`."""
    m: int
    n: int
    k: int
    batch: int
    problem: str
    """The problem as JSON."""
    family: str
    text: str
    """The config as JSON."""
    time_ns: float
    max_rel_error: float | None
    """As measured; None: not known."""
    driver: str | None
    backend: str | None
    wgpu: str | None
    compiler: str | None
    generator_hash: str | None
    policy: str | None
    device: Device
    leads: bool
    """It is the fastest of its family on this very problem, or as fast."""

    @property
    def gemm(self) -> Gemm:
        """The problem; read when it is first wanted, mostly its sizes are enough.

        Raises:
            ProblemError, ValueError, TypeError: it cannot be read.
        """
        return _gemm(self.problem)

    @property
    def traffic_bytes(self) -> int:
        """`Gemm.traffic_bytes`.

        Raises:
            ProblemError, ValueError, TypeError: as `gemm`.
        """
        return _traffic(self.kind, self.m, self.n, self.k, self.batch, self.problem)

    @property
    def unchecked(self) -> bool:
        """The config is compiled without bounds checks."""
        return is_unchecked(self.text)

    def with_checks(self, needed: bool) -> Leader:
        """The same with bounds checks where they are needed."""
        if not (needed and self.unchecked):
            return self
        return self._replace(text=checked(self.text))

    @property
    def then(self) -> Fingerprints:
        """What it was measured with."""
        return _then(*self[_DRIVER : _POLICY + 1])

    @property
    def config(self) -> Config:
        """The config; read when it is first wanted, for most leaders never are.

        Raises:
            ConfigError: this gemmtune has no such family, or it has other fields by now.
        """
        return _config(self.family, self.text)

    @property
    def shape(self) -> Shape:
        """Its dispatches.

        Raises:
            ConfigError: as `config`.
        """
        return _shape(self.family, self.config, self.gemm)

    def workgroups(self, gemm: Gemm) -> int:
        """Of the pass that multiplies ``gemm``.

        Raises:
            ConfigError: as `config`.
        """
        return _main_of(FAMILIES[self.family].launch(self.config, gemm)).workgroups

    @property
    def stale(self) -> bool:
        """The template has changed since."""
        return self.generator_hash != generator_hash(self.family)

    @property
    def unusual(self) -> int:
        """Over 0 where it was not timed as is usual today, so that times do not compare; most where
        not even the way was, e.g. with inputs in the cache.
        """
        return unusual(self.policy or "")


_KEY, _KIND, _FAMILY, _TEXT, _TIME, _DRIVER, _TEMPLATE, _POLICY = map(
    Leader._fields.index,
    ("key", "kind", "family", "text", "time_ns", "driver", "generator_hash", "policy"),
)


def _leading(rows: list[tuple[Any, ...]], device: Device) -> Iterator[Leader]:
    """Of times that are ordered, those of configs that lead somewhere: that are tied for the
    fastest of a problem with these dtypes, among those of its family, template and policy.
    """
    contest, config = itemgetter(_KEY, _FAMILY, _TEMPLATE, _POLICY), itemgetter(_TEXT, _POLICY)
    fastest: dict[tuple[str, ...], float] = {}
    leads = [row[_TIME] <= (1 + TIE) * fastest.setdefault(contest(row), row[_TIME]) for row in rows]
    names = [(row[_KIND].partition(":")[0], *config(row)) for row in rows]
    leading = set(compress(names, leads))
    made = Leader._make
    for row, name, it in zip(rows, names, leads, strict=True):
        if name in leading and row[_FAMILY] in FAMILIES:
            yield made((*row, device, it))


@lru_cache(maxsize=4096)
def _config(family: str, text: str) -> Config:
    return parse_config(family, text)


@lru_cache(maxsize=4096)
def _shape(family: str, config: Any, gemm: Gemm) -> Shape:
    launches = FAMILIES[family].launch(config, gemm)
    main = _main_of(launches)
    tile = (config.tile_m, config.tile_n) if hasattr(config, "tile_n") else None
    return Shape(
        passes=len(launches),
        invocations=math.prod(main.workgroup_size),
        workgroups=main.workgroups / max(tiles(gemm, *tile), 1) if tile else 0.0,
        tile=tile,
        step=step_of(config, gemm),
    )


def _main_of(launches: tuple[Launch, ...]) -> Launch:
    return next((one for one in launches if one.entry_point == "main"), launches[0])


class Catalogue:
    """What one database holds, read once; one device's rows when they are first needed."""

    def __init__(
        self,
        path: str | Path,
        signature: Signature,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        first: tuple[str | None, str] = (None, ""),
    ) -> None:
        """Of the file at ``path`` while it has that `signature_of`.

        Args:
            path: the database.
            signature: see `signature_of`.
            busy_timeout_s: how long to wait for who holds it.
            first: a device and a problem, by their keys, that are asked about next.
        """
        self._busy_timeout_s = busy_timeout_s
        self.path = path
        self.signature = signature
        texts, rows = self._read(
            ("SELECT json FROM devices ORDER BY key", {}), (TIMES_OF_QUERY, _wanted(*first))
        )
        devices = [_device(row[0]) for row in texts]
        self.devices = {device.key: device for device in devices if device is not None}
        self._first = first, rows
        self.asked = 0
        """How often `winners` were."""
        self._leaders: dict[tuple[str, str | None], tuple[Leader, ...]] = {}
        self._speeds: dict[str, Speed] = {}

    def winners(self, device_key: str, problem_key: str) -> tuple[Leader, ...]:
        """Of one device and problem, those that `Leader.leads` is said of: all that are the fastest
        of their families, or as fast. The other leaders, which `leaders` has too, won elsewhere.
        """
        if device_key not in self.devices:
            return ()
        self.asked += 1
        first, rows = self._first
        if first != (device_key, problem_key):
            (rows,) = self._read((TIMES_OF_QUERY, _wanted(device_key, problem_key)))
        return tuple(one for one in _leading(rows, self.devices[device_key]) if one.leads)

    def leaders(self, device_key: str, dtypes: str | None = None) -> tuple[Leader, ...]:
        """Of one device, the fastest first.

        Args:
            device_key: `Device.key`.
            dtypes: only of problems with these, as `Gemm.kind` begins; the others are not read.
        """
        if device_key not in self.devices:
            return ()
        if (device_key, dtypes) not in self._leaders:
            device = self.devices[device_key]
            (rows,) = self._read((TIMES_QUERY, {"device": device_key, "dtypes": dtypes}))
            self._leaders[device_key, dtypes] = tuple(_leading(rows, device))
        return self._leaders[device_key, dtypes]

    def learned(self, device_key: str, dtypes: str) -> tuple[list[tuple[Any, ...]], ...]:
        """What the database keeps of what was learned from these rows, and the problems that it is
        about, as `lookup.learned` reads them; nothing where it keeps nothing.
        """
        wanted: dict[str, str | None] = {"device": device_key, "dtypes": dtypes}
        return tuple(self._read((LEARNED_QUERY, wanted), (PROBLEMS_QUERY, wanted)))

    def speed(self, device_key: str) -> Speed:
        """What the results of one device say of it as a whole."""
        if device_key not in self._speeds:
            rows: list[tuple[Any, ...]] = []
            for policy in (USUAL_POLICY, None) if device_key in self.devices else ():
                wanted = {"device": device_key, "policy": policy}
                rows = rows or self._read((FASTEST_QUERY, wanted))[0]
            known = [(bytes_, row[-1]) for row in rows if (bytes_ := _traffic_or_none(row[:-1]))]
            kind = self.devices[device_key].adapter_type if rows else ""
            self._speeds[device_key] = Speed.of(kind, known)
        return self._speeds[device_key]

    def _read(self, *queries: tuple[str, dict[str, str | None]]) -> list[list[tuple[Any, ...]]]:
        """The rows of queries. Again where the file was replaced or folded meanwhile."""
        for attempt in range(_READS):
            before = signature_of(self.path)
            try:
                rows = self._read_once(queries)
            except StoreError:
                if attempt == _READS - 1 or signature_of(self.path) == before:
                    raise
                continue
            if signature_of(self.path) == before:
                break
        return rows

    def _read_once(
        self, queries: tuple[tuple[str, dict[str, str | None]], ...]
    ) -> list[list[tuple[Any, ...]]]:
        with (
            translated(self.path),
            closing(connect_read_only(self.path, self._busy_timeout_s)) as connection,
        ):
            connection.execute("BEGIN")
            tables = dict(connection.execute("SELECT lower(name), sql FROM sqlite_master"))
            if not tables:
                return [[] for _ in queries]  # made, and killed before the first table
            if not {"meta", "measurements"} <= tables.keys():
                raise foreign(str(self.path))
            number = connection.execute("SELECT MAX(schema) FROM meta").fetchone()[0]
            require_schema(number, str(self.path))
            # With other columns it is another gemmtune's.
            learned = tables.get("learned") == LEARNED_TABLE.strip()
            learned = learned and LEARNED_TRIGGERS.keys() <= tables.keys()
            return [
                connection.execute(*each).fetchall() if learned or each[0] != LEARNED_QUERY else []
                for each in queries
            ]


def _wanted(device_key: str | None, problem_key: str) -> dict[str, str | None]:
    return {"device": device_key, "problem": problem_key}


# One row that cannot be read, of another version of gemmtune or damaged, never hides the others;
# `gemmtune db check` names it.


def _device(text: str) -> Device | None:
    try:
        return Device.from_json(loads(text))
    except (ValueError, TypeError, AttributeError):
        return None


@lru_cache(maxsize=4096)
def _gemm(text: str) -> Gemm:
    return Gemm.from_json(loads(text))


@lru_cache(maxsize=4096)
def _then(*versions: str | None) -> Fingerprints:
    driver, backend, wgpu, compiler, template, policy = versions
    return Fingerprints(
        driver=driver,
        backend=backend,
        wgpu=wgpu,
        compiler=compiler,
        generator_hash=template,
        policy=policy,
    )


def _traffic(kind: str, m: int, n: int, k: int, batch: int, problem: str) -> int:
    return traffic_of(kind, m, n, k) if batch == 1 else _gemm(problem).traffic_bytes


def _traffic_or_none(row: tuple[Any, ...]) -> int:
    """Bytes of a problem; 0: it cannot be read."""
    try:
        return _traffic(*row)
    except (ValueError, TypeError, KeyError):
        return 0
