"""The measurements of a device that may ship, and databases of some of them. Chooses nothing.

Only what lookups could choose counts: verified times by today's templates and the usual policy, of
configs that lead somewhere, that is are as fast as the fastest of their family on some problem of
the same dtypes, at least among those that may ship, and of these with bounds checks. Whether there
are more rows in a database changes nothing, so that one with only these (`keep`) is worth as much
as all that was ever measured.
"""

from __future__ import annotations

import lzma
import os
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from choices import TIMED_ONLY, catalogue_of, merged, unpacked

from gemmtune.device import Device
from gemmtune.forest import Forest
from gemmtune.kernels import FAMILIES
from gemmtune.lookup.leader import Leader
from gemmtune.lookup.learned import rows_of
from gemmtune.lookup.portfolio import _Alike
from gemmtune.schema import (
    FORESTS,
    LEARNED,
    LEARNED_TABLE,
    LEARNED_TRIGGERS,
    USUAL_POLICY,
    read_only_uri,
)
from gemmtune.store import Store
from gemmtune.store.tables import claim_of
from gemmtune.ties import TIE

Text = tuple[str, str]
"""Family and config, as JSON."""

QUERY = """
SELECT m.id, m.finished_at, m.owner_run, p.key, p.kind, p.m, p.n, p.k, p.batch, p.json, m.family,
       m.config, m.time_ns, m.max_rel_error, m.driver, m.backend, m.wgpu, m.compiler,
       m.generator_hash, m.policy
FROM measurements m
JOIN devices d ON d.id = m.device_id JOIN problems p ON p.id = m.problem_id
WHERE m.status = 'ok' AND d.key = ? AND m.policy = ?
ORDER BY m.time_ns, m.family, m.config_key, m.uuid
"""

CLAIM = """
UPDATE OR IGNORE measurements SET claim = (
    SELECT claim_of(d.key, p.key, family, config_key, generator_hash, policy, driver, backend, wgpu,
                    compiler)
    FROM devices d, problems p WHERE d.id = device_id AND p.id = problem_id
) WHERE claim IS NULL
"""

TRIM = f"""
UPDATE measurements SET claim = NULL, compile_s = NULL, verify_s = NULL, measure_s = NULL,
granted_at = NULL, needs = NULL, started_at = finished_at, deadline = '', owner_host = '',
owner_pid = 0, owner_start = '',
owner_run = CASE owner_run WHEN '{TIMED_ONLY}' THEN owner_run ELSE 'tune' END
"""
"""Takes out of a row what neither choosing nor lookups read; claims are worked out again."""


class Row(NamedTuple):
    """A measurement."""

    number: int
    """Its id."""
    finished_at: str
    """UTC, ISO 8601."""
    searched: bool
    """A search came upon the config; otherwise it was known and only timed."""
    leader: Leader
    """All else that lookups see of it; whether it leads is not said."""

    @property
    def text(self) -> Text:
        """Its family and config."""
        return self.leader.family, self.leader.text

    @property
    def dtypes(self) -> str:
        """Of its problem, as `Gemm.kind` begins."""
        return self.leader.kind.partition(":")[0]

    @property
    def shape(self) -> str:
        """`Gemm.shape` of its problem."""
        return self.leader.key.partition(":")[0]


def leading(leaders: Iterable[Leader]) -> dict[Text, set[str]]:
    """By config that leads somewhere, the problems where it is as fast as any of its family.

    Args:
        leaders: times of problems that all have the same dtypes.
    """
    every = list(leaders)
    fastest: dict[tuple[str, str], float] = {}
    for one in every:
        here = (one.key, one.family)
        fastest[here] = min(one.time_ns, fastest.get(here, one.time_ns))
    found: dict[Text, set[str]] = defaultdict(set)
    for one in every:
        if one.time_ns <= (1 + TIE) * fastest[one.key, one.family]:
            found[one.family, one.text].add(one.key)
    return dict(found)


class Pool:
    """The rows of a database that may ship, of one device."""

    def __init__(self, path: Path, device_key: str, held_out: Iterable[str] = ()) -> None:
        """Reads them.

        Args:
            path: the database.
            device_key: `Device.key`.
            held_out: `Gemm.shape` of what must have no part in choosing.
        """
        self.held_out = frozenset(held_out)
        self.device = catalogue_of(path).devices[device_key]
        by_dtypes: dict[str, list[Row]] = defaultdict(list)
        with closing(sqlite3.connect(read_only_uri(path), uri=True)) as connection:
            for number, at, run, *rest in connection.execute(QUERY, (device_key, USUAL_POLICY)):
                leader = Leader._make((*rest, self.device, False))
                if leader.family in FAMILIES and not leader.stale:
                    row = Row(number, at, run != TIMED_ONLY, leader)
                    by_dtypes[row.dtypes].append(row)
        self.every: list[Row] = []
        """All that count, the fastest first."""
        self.rows: dict[str, dict[Text, Row]] = defaultdict(dict)
        """The fastest row of each config, by problem."""
        self.usable: dict[str, dict[Text, Row]] = defaultdict(dict)
        """Those that may be chosen from: none of held-out shapes or of configs found there."""
        for rows in by_dtypes.values():
            banned = self.found_on_held_out(rows)
            free = [
                row for row in rows if row.shape not in self.held_out and row.text not in banned
            ]
            # What leads only where those are left out that must not ship counts as well.
            leads = {*leading(row.leader for row in rows), *leading(row.leader for row in free)}
            first = [row for row in rows if row.text in leads]
            counts = leads | {(one.family, one.with_checks(True).text) for *_, one in first}
            self.every += [row for row in rows if row.text in counts]
            for found, some in ((self.rows, rows), (self.usable, free)):
                for row in some:
                    if row.text in counts:
                        found[row.leader.key].setdefault(row.text, row)

    def found_on_held_out(self, rows: Iterable[Row]) -> set[Text]:
        """Configs that a search came upon on a held-out shape before they were timed elsewhere."""
        there: dict[Text, str] = {}
        elsewhere: dict[Text, str] = {}
        for row in rows:
            held = row.shape in self.held_out
            if row.searched or not held:
                first = there if held else elsewhere
                first[row.text] = min(row.finished_at, first.get(row.text, row.finished_at))
        return {text for text, at in there.items() if at <= elsewhere.get(text, at)}

    def of_kind(self, kind: str) -> list[str]:
        """Keys of problems of a `Gemm.kind` that have rows to choose from, sorted."""
        return sorted(key for key in self.usable if key.partition(":")[2] == kind)

    def times(self, keys: Iterable[str]) -> dict[str, dict[Text, float]]:
        """Nanoseconds by problem and config, of those to choose from."""
        return {
            key: {text: row.leader.time_ns for text, row in self.usable[key].items()}
            for key in keys
        }


def whole(paths: list[Path], folder: Path) -> Path:
    """One database of all, in a file of its own in that folder."""
    target = folder / "whole.db"
    if len(paths) > 1:
        return merged(paths, target)
    with (
        closing(sqlite3.connect(read_only_uri(unpacked(paths[0])), uri=True)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
    with Store.open(target):  # which brings an older one to today's schema
        return target


def ship(
    source: Path,
    numbers: Collection[int],
    output: Path,
    device: Device | None = None,
    forests: Mapping[str, Forest] | None = None,
) -> None:
    """Writes a database of these measurements, oldest first, and what is known of their devices,
    without what nobody reads of rows that others measured; with a device's trees by kind.
    """

    def finish(made: Path) -> None:
        if device and forests:
            with Store.open(made) as store:
                store.take_in(device, [], "", forests)
                store.compact()
        learn(made)

    _write(source, numbers, output, (TRIM, CLAIM), "finished_at, uuid", finish)


def keep(source: Path, numbers: Collection[int], output: Path) -> None:
    """The same in less space; packed where ``output`` ends with xz. Like rows are put side by side,
    and claims are left out, which follow from the rest.
    """
    _write(source, numbers, output, (TRIM,), "family, config_key, problem_id, time_ns, uuid")


def learn(path: Path) -> None:
    """Keeps in a database what lookups learn of its results, so that they need not again."""
    catalogue = catalogue_of(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN")
        connection.execute("DROP TABLE IF EXISTS learned")
        connection.execute(LEARNED_TABLE)
        for name, trigger in LEARNED_TRIGGERS.items():
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
            connection.execute(trigger)
        numbers = dict(connection.execute("SELECT key, id FROM problems"))
        for device in sorted(catalogue.devices):
            leaders = catalogue.leaders(device)
            for dtypes in sorted({one.kind.partition(":")[0] for one in leaders}):
                alike = _Alike(list(catalogue.leaders(device, dtypes)), catalogue.speed(device))
                for number, row in enumerate(rows_of(alike.configs(), numbers)):
                    values = (device, dtypes, LEARNED, number, *row)
                    marks = ", ".join("?" * len(values))
                    connection.execute(f"INSERT INTO learned VALUES ({marks})", values)
        connection.commit()


def _write(
    source: Path,
    numbers: Collection[int],
    output: Path,
    changes: Iterable[str],
    order: str,
    finish: Callable[[Path], None] = lambda _: None,
) -> None:
    """Puts a whole file under ``output`` or leaves what is there: it is made elsewhere first."""
    if Path(f"{output}-wal").exists():
        raise SystemExit(f"{output} is in use; close what has it open")
    with TemporaryDirectory(dir=output.absolute().parent, prefix=".gemmtune-") as folder:
        made = Path(folder) / "made.db"
        shutil.copyfile(source, made)
        with closing(sqlite3.connect(made)) as connection:
            connection.create_function("claim_of", -1, claim_of, deterministic=True)
            connection.execute("CREATE TEMP TABLE kept (id INTEGER PRIMARY KEY)")
            connection.executemany("INSERT INTO kept VALUES (?)", ((one,) for one in numbers))
            connection.execute("DELETE FROM measurements WHERE id NOT IN (SELECT id FROM kept)")
            for table, column in (("problems", "problem_id"), ("devices", "device_id")):
                connection.execute(
                    f"DELETE FROM {table} WHERE id NOT IN (SELECT {column} FROM measurements)"
                )
            connection.execute("DELETE FROM probes WHERE device_id NOT IN (SELECT id FROM devices)")
            connection.execute("DELETE FROM interrupted")
            connection.execute(f"DROP TABLE IF EXISTS {FORESTS}")  # of other measurements
            for change in changes:
                connection.execute(change)
            connection.execute(
                f"CREATE TEMP TABLE sorted AS SELECT * FROM measurements ORDER BY {order}"
            )
            connection.execute("UPDATE sorted SET id = rowid")
            connection.execute("DELETE FROM measurements")
            connection.execute("INSERT INTO measurements SELECT * FROM sorted")
            connection.commit()
            # Complete in one file, as `Store.compact` leaves it.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA page_size = 8192")  # 1 % less than with 4096, or 16384
            connection.execute("VACUUM")
        finish(made)
        if output.suffix == ".xz":
            packed = Path(folder) / "made.db.xz"
            packed.write_bytes(lzma.compress(made.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
            made = packed
        os.replace(made, output)
