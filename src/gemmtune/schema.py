"""What the writing and the reading side of a database agree on: its schema, its errors, its ageing.

Knows SQLite through the standard library only; tables and writing are the store's.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager

from gemmtune.errors import (
    ConfigError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreVersionError,
)
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.light import NamedTuple, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = 2
"""Number of the schema this code writes. Every lower number still opens."""

BEST_VIEW = """
CREATE VIEW best AS
SELECT measurement_id, device_id, problem_id, device, problem, policy, family, config_key, time_ns,
       spread
FROM (
    SELECT m.id AS measurement_id, m.device_id, m.problem_id, d.key AS device, p.key AS problem,
           m.policy, m.family, m.config_key, m.time_ns, m.spread,
           ROW_NUMBER() OVER (
               PARTITION BY m.device_id, m.problem_id, m.policy
               ORDER BY m.time_ns, m.family, m.config_key, m.uuid
           ) AS place
    FROM measurements m
    JOIN devices d ON d.id = m.device_id
    JOIN problems p ON p.id = m.problem_id
    WHERE m.status = 'ok'
) ranked
WHERE place = 1
"""
"""The fastest verified measurement of each problem on each device under each measurement policy,
for times under different ones do not compare; ties break one way only."""

_TIMES = """
SELECT p.key, p.kind, p.m, p.n, p.k, p.batch, p.json, m.family, m.config, m.time_ns,
       m.max_rel_error, m.driver, m.backend, m.wgpu, m.compiler, m.generator_hash, m.policy
FROM measurements m JOIN problems p ON p.id = m.problem_id
WHERE m.status = 'ok' AND m.device_id = (SELECT id FROM devices WHERE key = :device)
  AND {which} AND typeof(m.time_ns) = 'real'
ORDER BY m.time_ns, m.family, m.config_key, m.uuid
"""
TIMES_QUERY = _TIMES.format(which="(:dtypes IS NULL OR p.kind LIKE :dtypes || ':%')")
"""Every time of one device, of problems with such dtypes, NULL for all; the fastest first."""
TIMES_OF_QUERY = _TIMES.format(which="p.key = :problem")
"""The same of one problem."""

FASTEST_QUERY = """
SELECT p.kind, p.m, p.n, p.k, p.batch, p.json, MIN(m.time_ns)
FROM measurements m JOIN problems p ON p.id = m.problem_id
WHERE m.status = 'ok' AND m.device_id = (SELECT id FROM devices WHERE key = :device)
  AND (:policy IS NULL OR m.policy = :policy)
GROUP BY m.problem_id
"""
"""The least time of each problem of a device, under one policy; NULL: under any."""

LEARNED = 2
"""What is kept in the table `learned` is read by code with the same number: it is raised when that
begins to predict otherwise, or families to launch. A test holds what ships to it."""

_LEARNED_NUMBERS = (
    "tile_m, tile_n, each, step, held, more, least_fixed, least_byte, least_unit, longest_ns"
)
LEARNED_TABLE = f"""
CREATE TABLE learned (device, dtypes, basis, number, family, config, generator_hash, policy,
                      {_LEARNED_NUMBERS}, versions, times,
                      PRIMARY KEY (device, dtypes, basis, number))
"""
"""What `gemmtune.lookup` learns from the rows of a device and of problems with such dtypes, config
by config; see `lookup.learned`. Readers may do without."""
LEARNED_QUERY = f"""
SELECT family, config, generator_hash, policy, {_LEARNED_NUMBERS}, versions, times
FROM learned WHERE device = :device AND dtypes = :dtypes AND basis = {LEARNED} ORDER BY number
"""
LEARNED_TRIGGERS = {
    f"learned_{table}_{event}".lower(): f"""
CREATE TRIGGER learned_{table}_{event} AFTER {event} ON {table} BEGIN DELETE FROM learned; END
"""
    for table, events in (
        ("measurements", ("INSERT", "UPDATE", "DELETE")),
        ("problems", ("UPDATE", "DELETE")),
        ("devices", ("UPDATE", "DELETE")),
    )
    for event in events
}
"""By name, what has nothing learned outlive the rows that it comes from, whoever writes."""
FORESTS = "forests_3"
"""Name of the table of decision trees by device and `Gemm.kind`, see `gemmtune.forest`, with the
time of the newest measurement that they know of. The number is that of their format, which is what
their features mean, too. Readers may do without."""
FOREST_QUERY = f"""
SELECT newest, configs, trees, known FROM {FORESTS} WHERE device = :device AND kind = :kind
"""
UNSEEN_QUERY = """
SELECT DISTINCT p.m, p.n, p.k, p.batch FROM measurements m
JOIN devices d ON d.id = m.device_id JOIN problems p ON p.id = m.problem_id
WHERE m.id > :known AND m.finished_at > :newest AND m.status = 'ok'
AND d.key = :device AND p.kind = :kind
"""
"""The problems of measurements that are newer than one; up to that number none is."""
PROBLEMS_QUERY = """
SELECT id, key, kind, m, n, k, batch, json FROM problems WHERE kind LIKE :dtypes || ':%'
"""
"""Every problem with such dtypes."""

USUAL_POLICY = "2/cold/0.05s/7"
"""`Policy.key` of how results are timed unless one asks for something else; written out because
importing the policy would cost a lookup more than all the rest."""


def unusual(policy: str) -> int:
    """How far a policy is from the usual: 1 is an older number of it, 2 another way to time."""
    if policy == USUAL_POLICY:
        return 0
    return 1 if policy.partition("/")[2] == USUAL_POLICY.partition("/")[2] else 2


_MAGIC = b"SQLite format 3\0"
_WAL_FORMAT = 2  # bytes 18 and 19 of the header: https://www.sqlite.org/fileformat.html#ffvnum


class Fingerprints(NamedTuple):
    """What stood between a config and its time. None: not known, so never a difference."""

    driver: str | None = None
    """Driver name and version."""
    backend: str | None = None
    """vulkan, metal, d3d12, ..."""
    wgpu: str | None = None
    """wgpu-py's version."""
    compiler: str | None = None
    """Shader compiler and version."""
    generator_hash: str | None = None
    """Of template and generator."""
    policy: str | None = None
    """Key of the measurement policy."""

    def demotions(self, now: Fingerprints) -> tuple[str, ...]:
        """Why a time taken under these is only a hint under ``now``, in words."""
        words = {"generator_hash": "template", "policy": "measurement policy"}
        reasons = []
        for field, then, today in zip(self._fields, self, now, strict=True):
            if None not in (then, today) and then != today:
                name = words.get(field, field)
                reasons.append(f"{name} was {then or 'unknown'}, is {today or 'unknown'}")
        return tuple(reasons)


def parse_config(family: str, text: str) -> Config:
    """The config that JSON ``text`` is in ``family``.

    Raises:
        ConfigError: the family is not known, or the text is not one of its configs.
    """
    if family not in FAMILIES:
        raise ConfigError(f"no family {family!r}; this gemmtune has {', '.join(FAMILIES)}")
    try:
        data = loads(text)
    except ValueError as error:
        raise ConfigError(f"a config of {family} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"a config of {family} is not a JSON object: {text[:80]}")
    config: Config = FAMILIES[family].config.from_json(data)
    return config


def require_schema(number: object, where: str) -> None:
    """Refuse what this code cannot read.

    Raises:
        StoreCorruptError: ``number`` is no schema number.
        StoreVersionError: it is higher than `SCHEMA`.
    """
    if not isinstance(number, int) or number < 1:
        raise foreign(where)
    if number > SCHEMA:
        raise StoreVersionError(
            f"{where} has schema {number}, this gemmtune reads up to {SCHEMA}: "
            f"upgrade gemmtune, or use another database"
        )


def foreign(where: str) -> StoreCorruptError:
    """There is a database, but none that gemmtune made."""
    return StoreCorruptError(f"{where} is a database, but not one of gemmtune's; give another path")


def require_file(path: str | Path) -> None:
    """Refuse a path under which there cannot be a database to read.

    Raises:
        StoreError: it is a directory, or there is nothing.
    """
    if os.path.isdir(path):
        raise _is_directory(path)
    if not os.path.exists(path):
        raise StoreError(f"there is no database at {path}; `gemmtune tune --db {path}` makes one")


def read_only_uri(path: str | Path) -> str:
    """The SQLite URI that reads ``path`` and leaves nothing behind.

    A database in WAL mode whose log does not exist has no writer and is complete in itself, but
    SQLite would still make the log's files beside it, or fail where the folder cannot be written;
    ``immutable`` reads the file alone. With a log, its shared memory is used as it is found.
    """
    uri = _uri_of(path)
    header = header_of(path)
    alone = not os.path.exists(f"{path}-wal") or not can_write(_folder_of(path))
    if len(header) == 20 and header[18] == _WAL_FORMAT and alone:
        return f"{uri}?mode=ro&immutable=1"
    return f"{uri}?mode=ro"


def _uri_of(path: str | Path) -> str:
    """As https://www.sqlite.org/uri.html has it, for Windows too."""
    text = os.path.join(os.getcwd(), path).replace(os.sep, "/")
    quoted = "".join(
        chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in os.fsencode(text)
    )
    return f"file://{quoted}" if quoted.startswith("/") else f"file:///{quoted}"


_PLAIN = frozenset("/:-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def _folder_of(path: str | Path) -> str:
    return os.path.dirname(path) or os.curdir


def header_of(path: str | Path) -> bytes:
    """The first bytes of the file; none of an empty one.

    Raises:
        StoreCorruptError: they are not SQLite's, which would take a very short file for an empty
            database and write over it.
    """
    with open(path, "rb") as file:
        header = file.read(20)
    if header and not header.startswith(_MAGIC):
        raise StoreCorruptError(
            f"{path} is damaged or not a database; restore a copy or give another path"
        )
    return header


def can_write(path: str | Path) -> bool:
    """Whether this process may write the file or folder."""
    if os.access in os.supports_effective_ids:
        return os.access(path, os.W_OK, effective_ids=True)
    return os.access(path, os.W_OK)


def connect_read_only(path: str | Path, timeout_s: float) -> sqlite3.Connection:
    """A connection that cannot change ``path``; waits ``timeout_s`` for a lock."""
    return sqlite3.connect(
        read_only_uri(path),
        uri=True,
        timeout=timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )


@contextmanager
def translated(path: str | Path) -> Iterator[None]:
    """What SQLite or the system says about ``path`` leaves as one of the StoreErrors.

    Raises:
        StoreError: one of its subclasses where there is a fitting one.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    except StoreError:
        raise
    except PermissionError as error:
        raise StoreReadOnlyError(f"{path} cannot be opened: permission denied") from error
    except OSError as error:
        raise _cannot_open(path) from error


def store_error(error: BaseException, path: str | Path) -> StoreError:
    """The StoreError that says what SQLite's ``error`` about ``path`` means for the user."""
    # The low byte is the primary code: https://www.sqlite.org/rescode.html
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLockedError(
            f"{path} is locked by another process; try again when that has finished"
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorruptError(
            f"{path} is damaged or not a database ({error}); restore a copy or give another path"
        )
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return _read_only(path)
    if primary == sqlite3.SQLITE_FULL:
        return StoreFullError(
            f"there is no space left for {path}; all that was committed is kept: free some space"
        )
    if primary == sqlite3.SQLITE_CANTOPEN:
        return _cannot_open(path)
    if primary == sqlite3.SQLITE_ERROR and "no such" in str(error):
        return StoreCorruptError(
            f"{path} lacks a part of gemmtune's schema ({error}); give another path"
        )
    return StoreError(f"{path} cannot be used: {error}")


def _read_only(path: str | Path) -> StoreReadOnlyError:
    if not os.path.exists(path):
        return StoreReadOnlyError(f"{path} cannot be made; give a path that can be written")
    return StoreReadOnlyError(
        f"{path} cannot be written; copy it to a folder of yours and give that with --db"
    )


def _cannot_open(path: str | Path) -> StoreError:
    folder = _folder_of(path)
    if os.path.isdir(path):
        return _is_directory(path)
    if not os.path.isdir(folder):
        return StoreError(f"{folder} is not a folder; make it first, or give another path")
    if not can_write(path if os.path.exists(path) else folder) or not can_write(folder):
        return _read_only(path)
    return StoreError(f"{path} cannot be opened")


def _is_directory(path: str | Path) -> StoreError:
    example = os.path.join(path, "tuning.db")
    return StoreError(f"{path} is a directory; give a file, e.g. {example}")
