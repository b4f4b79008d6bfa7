"""One measurement as lookups see it. Reads no database."""

from __future__ import annotations

import math
from functools import lru_cache

from gemmtune.device import Device
from gemmtune.generators import generator_hash
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Launch, step_of
from gemmtune.light import NamedTuple, loads
from gemmtune.lookup.predict import tiles
from gemmtune.problem import Gemm, traffic_of
from gemmtune.schema import Fingerprints, parse_config, unusual

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNCHECKED, _CHECKED = '"checked":false', '"checked":true'  # in a config's JSON


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


_DRIVER, _POLICY = map(Leader._fields.index, ("driver", "policy"))


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


def traffic_or_none(row: tuple[Any, ...]) -> int:
    """Bytes of a problem; 0: it cannot be read."""
    try:
        return _traffic(*row)
    except (ValueError, TypeError, KeyError):
        return 0
