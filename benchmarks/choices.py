"""What three rules choose for a shape out of a database of tuned ones, and times by config.

Used by `selection.py`, which compares the choices, and `portfolio.py`, which measures them. Every
database may be packed with xz, as `NAME.db.xz`.
"""

from __future__ import annotations

import atexit
import lzma
import math
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from gemmtune import Gemm
from gemmtune.device import Device
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.lookup import distance
from gemmtune.lookup.candidates import Search
from gemmtune.lookup.catalogue import Catalogue, signature_of
from gemmtune.lookup.leader import Leader
from gemmtune.lookup.predict import Speed
from gemmtune.schema import USUAL_POLICY, parse_config, read_only_uri
from gemmtune.store import Store

Name = tuple[str, Config]
"""Family and config."""
Times = dict[str, dict[Name, float]]
"""By problem and config: nanoseconds."""

KEY = "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"

TIMED_ONLY = "portfolio"
"""`Owner.run` of `portfolio.py`, which searches for no config: it times those that are known."""

SIZES = (1, 2, 4, 8, 16)
"""Numbers of configs whose worth is told; and all there are."""

QUERY = """
SELECT p.key, m.family, m.config, m.time_ns FROM measurements m
JOIN devices d ON d.id = m.device_id JOIN problems p ON p.id = m.problem_id
WHERE m.status = 'ok' AND d.key = ? AND m.policy = ?
"""


@cache
def unpacked(path: Path) -> Path:
    """The database itself; of one packed with xz, a copy that goes when the process ends."""
    if path.suffix != ".xz":
        return path
    folder = mkdtemp(prefix="gemmtune-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    plain = Path(folder) / path.stem
    try:
        with lzma.open(path) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (lzma.LZMAError, EOFError) as error:
        raise SystemExit(f"{path} is damaged or not packed with xz: {error}") from error
    return plain


def measured(paths: Iterable[Path], device_key: str, policy: str = USUAL_POLICY) -> Times:
    """Every time that was measured on a device in one way; the fastest where several were."""
    times: Times = defaultdict(dict)
    for path in paths:
        connection = sqlite3.connect(read_only_uri(unpacked(path)), uri=True)
        for problem, family, config, time_ns in connection.execute(QUERY, (device_key, policy)):
            name = (family, parse_config(family, config))
            times[problem][name] = min(time_ns, times[problem].get(name, math.inf))
        connection.close()
    return times


def devices(path: Path) -> dict[str, Device]:
    """Those that a database has results of, by key."""
    return catalogue_of(path).devices


def device_in(path: Path) -> str:
    """The H100 that the results here come from, or the only device of a database."""
    keys = sorted(devices(path))
    if KEY in keys:
        return KEY
    if len(keys) != 1:
        raise SystemExit(f"{path} has {len(keys)} devices; give --device one of {', '.join(keys)}")
    return keys[0]


def tuned_gemms(path: Path, device_key: str) -> dict[str, Gemm]:
    """Every problem that was tuned on a device, timed as is usual, by key."""
    rows = catalogue_of(path).leaders(device_key)
    return {row.key: row.gemm for row in rows if row.leads and not row.unusual}


def merged(paths: Iterable[Path], target: Path) -> Path:
    """Databases brought together in a new one."""
    with Store.open(target) as store:
        for path in paths:
            store.merge(unpacked(path))
    return target


def catalogue_of(path: Path) -> Catalogue:
    """What lookups see of a database."""
    signature = signature_of(path)
    if signature is None:
        raise SystemExit(f"there is no database at {path}; give one that was tuned")
    plain = unpacked(path)
    return Catalogue(plain, signature_of(plain) or signature)


class Tuned:
    """The tuned shapes of one kind on one device, less those that must not be known.

    Several databases are taken together, as `gemmtune db merge` would: what one of them tuned and
    another timed belongs together.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        device_key: str,
        kind: str,
        unknown: Iterable[str] = (),
        policy: str = USUAL_POLICY,
    ) -> None:
        hidden = set(unknown)
        self.device_key = device_key
        with TemporaryDirectory() as folder:
            whole = merged(paths, Path(folder) / "whole.db") if len(paths) > 1 else paths[0]
            self._catalogue = catalogue_of(whole)
            rows = self._catalogue.leaders(device_key)
            self._forest = self._catalogue.forest(device_key, kind)
        self.rows = [
            row
            for row in rows
            if row.kind == kind and row.key not in hidden and row.then.policy == policy
        ]
        self.leaders = [row for row in self.rows if row.leads]
        self.gemms = {leader.key: leader.gemm for leader in self.leaders}
        self._reached: dict[Name, float] = {}
        """By config, what `one_best` adds up of the times that it was last asked with."""
        self._times: Times = {}
        self._ranked: tuple[Gemm, Sequence[Leader], bool, list[Name]] | None = None
        """The last question to `ranking`, which several rules ask."""

    def fitting(self, leader: Leader, gemm: Gemm) -> Name | None:
        """Its config for ``gemm``, with bounds checks where edges need them; None: not legal."""
        family, config = FAMILIES[leader.family], leader.config
        if family.check(config, gemm, leader.device) and config.unchecked:
            config = replace(config, **{"checked": True})
        return None if family.check(config, gemm, leader.device) else (leader.family, config)

    def ranking(self, gemm: Gemm, rest: Sequence[Leader], forest: bool | None = None) -> list[Name]:
        """What a lookup that knows ``rest`` would take, best first: their configs, by all times
        on the problems that these leaders are of.

        Args:
            gemm: the problem.
            rest: what is known.
            forest: whether decision trees have a say; None: where these know nothing of the
                problem, and all that they speak of is known.
        """
        if forest is None:
            forest = gemm.key not in self.gemms and rest is self.leaders
        last = self._ranked
        if last and last[0] == gemm and last[1] is rest and last[2] == forest:
            return last[3]
        names, keys = {(one.family, one.text) for one in rest}, {one.key for one in rest}
        known = [row for row in self.rows if row.key in keys and (row.family, row.text) in names]
        catalogue = copy(self._catalogue)
        dtypes = gemm.kind.partition(":")[0]
        catalogue._leaders = {(self.device_key, dtypes): tuple(known)}
        adapter = catalogue.devices[self.device_key].adapter_type
        seen = ((one.gemm.traffic_bytes, one.time_ns) for one in known)
        catalogue.learned = lambda *_: ([], [])  # what is kept is of all results
        catalogue.forest = lambda *_: self._forest if forest else None
        catalogue.unseen = lambda *_: []
        catalogue._speeds = {self.device_key: Speed.of(adapter, seen)}
        search = Search((catalogue,), gemm, self.device_key, None, None)
        answers = search._answers()
        found = list(dict.fromkeys((one.family, one.config) for one in answers))
        self._ranked = gemm, rest, forest, found
        return found

    def lookup(self, gemm: Gemm, rest: Sequence[Leader], _: Times) -> Name | None:
        """What a lookup takes."""
        return next(iter(self.ranking(gemm, rest)), None)

    def predicted(self, gemm: Gemm, rest: Sequence[Leader], _: Times) -> Name | None:
        """What a lookup would take without decision trees."""
        return next(iter(self.ranking(gemm, rest, forest=False)), None)

    def of_measured(self, gemm: Gemm, rest: Sequence[Leader], times: Times) -> Name | None:
        """What a lookup would take if there were only what was measured on the very shape."""
        here = times.get(gemm.key, {})
        return next((name for name in self.ranking(gemm, rest) if name in here), None)

    def nearest(self, gemm: Gemm, rest: Sequence[Leader], _: Times) -> Name | None:
        """The fastest legal config of the nearest shape that has one."""
        near = sorted(rest, key=lambda one: (distance(one.gemm, gemm), one.time_ns))
        return next((name for one in near if (name := self.fitting(one, gemm))), None)

    def one_best(self, gemm: Gemm, rest: Sequence[Leader], times: Times) -> Name | None:
        """The legal winner that does best on the other shapes."""
        names = {name for one in rest if (name := self.fitting(one, gemm))}
        missing = self.gemms.keys() - {one.key for one in rest}

        def reached(name: Name) -> float:
            """On all shapes, worked out once, less on those that are not known."""
            if self._times is not times:
                self._times, self._reached = times, {}
            if name not in self._reached:
                self._reached[name] = math.fsum(shares_of(name, self.gemms, times))
            return self._reached[name] - math.fsum(shares_of(name, missing, times))

        return max(sorted(names, key=text_of), key=reached, default=None)


def shares_of(name: Name, gemms: Iterable[str], times: Times) -> list[float]:
    """The logarithm of the share of the fastest that a config reaches on each shape; where it was
    not measured, it counts as half as fast as the fastest.
    """
    shares = []
    for key in gemms:
        best = min(times[key].values())
        shares.append(math.log(best / times[key].get(name, 2 * best)))
    return shares


def portfolios(leaders: Sequence[Leader], times: Times) -> dict[int, set[Name]]:
    """The best few configs for the leaders' shapes, by number: one more at a time, greedily."""
    gemms = list(dict.fromkeys(one.key for one in leaders))
    left = sorted({(one.family, one.config) for one in leaders}, key=text_of)
    shares = {name: shares_of(name, gemms, times) for name in left}
    every, chosen, found = set(left), set[Name](), dict[int, set[Name]]()
    reached = [math.log(0.5)] * len(gemms)  # by the best of those chosen
    while left and len(chosen) < SIZES[-1]:
        best = max(left, key=lambda name: math.fsum(map(max, reached, shares[name])))
        left.remove(best)
        chosen = chosen | {best}
        reached = list(map(max, reached, shares[best]))
        if len(chosen) in SIZES:
            found[len(chosen)] = chosen
    return found | {len(every): every}


def only(leaders: Iterable[Leader], names: set[Name]) -> list[Leader]:
    """The leaders with one of these configs."""
    return [one for one in leaders if (one.family, one.config) in names]


def text_of(name: Name) -> tuple[str, str]:
    """The same as text, e.g. to sort by."""
    return name[0], name[1].key
