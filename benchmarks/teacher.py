"""What a config takes on a problem, by boosted trees over both that learned from all measurements.

They know what the rule of lookups does not, how one config is like another, but take too long for a
lookup and need LightGBM and Numba: `grow_forest.py` has them tell what is fast on thousands of
made-up sizes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from boosted import Trees, mean
from pool import Text

from gemmtune import Gemm
from gemmtune.device import Device
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, step_of
from gemmtune.lookup import distance
from gemmtune.schema import parse_config
from gemmtune.shapes import parse_dtype

Floats = npt.NDArray[np.floating[Any]]

Time = tuple[Gemm, Text, float]
"""A problem, a config and nanoseconds."""

ROUNDS = 1500
SEEDS = (1, 2)
"""Of models whose mean counts."""
OPTIONS = {
    "objective": "l2",
    "learning_rate": 0.05,
    "num_leaves": 127,
    "min_data_in_leaf": 10,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "verbose": -1,
    "num_threads": 1,
}
SLOW = (2.0, 0.05)
"""A time x times the best of its problem counts x to the minus first, and the second more."""

NUMBERS = (
    *("group_m", "vec", "pad", "stages", "load", "flight", "turns", "out_frags", "subgroups_m"),
    *("subgroups_n", "subgroups_k", "frags_m", "frags_n", "reg_m", "reg_n", "wg_m", "wg_n"),
    *("lanes_n", "pad_a", "pad_b", "unroll_k", "lanes_k", "lanes_l", "reg_s", "reg_l", "sg_lanes"),
)
"""Knobs whose value is a feature."""
SETTINGS = (
    *(("order", "all_first"), ("hold", "last"), ("hold", "first"), ("pack", True), ("wide", True)),
    *(
        ("prefetch", True),
        ("checked", True),
        ("dims", "static"),
        ("tile_a", "mk"),
        ("tile_b", "kn"),
    ),
    *(("a_from", "storage"), ("b_from", "storage"), ("side", "m"), ("tile_dtype", "f16")),
)
"""Knobs that are set so, or not."""
PROCESSORS = 132
"""Of an H100; of other devices, workgroups for each of so many are still a number that matters."""
TRAFFIC, WORK = 16, 18
"""Places of two features that a first guess is made of."""


def features(gemm: Gemm, family: str, config: Config) -> list[float]:
    """Numbers that the time of a config on a problem depends on; mostly powers of two."""

    def log(value: float) -> float:
        return math.log2(max(value, 1e-3))

    knobs = config.to_json()
    launches = FAMILIES[family].launch(config, gemm)
    main = next((one for one in launches if one.entry_point == "main"), launches[0])
    split, step = knobs.get("split_k", 1), step_of(config, gemm)
    tile_m, tile_n = getattr(config, "tile_m", 1), getattr(config, "tile_n", 1)
    depth = math.ceil(gemm.k / split / step) * step
    each = main.workgroups / PROCESSORS
    size = 2 if gemm.a == "f16" else 4
    return [
        sorted(FAMILIES).index(family),
        *(log(side) for side in (gemm.m, gemm.n, gemm.k, gemm.batch, main.workgroups)),
        *(log(value) for value in (math.prod(main.workgroup_size), split, step, tile_m, tile_n)),
        *(log(value) for value in (depth, depth / step, main.workgroup_storage_bytes + 1)),
        math.ceil(gemm.m / tile_m) * tile_m / gemm.m,
        math.ceil(gemm.n / tile_n) * tile_n / gemm.n,
        log(gemm.traffic_bytes),
        log(main.workgroups * depth * (tile_m + tile_n) * size),
        log(main.workgroups * depth * tile_m * tile_n),
        *(math.ceil(each) / each, log(each), len(launches)),
        *(min(side & -side, 16) for side in (gemm.k, gemm.n, gemm.m)),
        log(split * gemm.m * gemm.n),
        *(float(knobs.get(name, 0)) for name in NUMBERS),
        *(float(knobs.get(name) == value) for name, value in SETTINGS),
    ]


def first_guess(rows: Floats, dtype: str) -> Floats:
    """Logarithms of nanoseconds that traffic, operations and a launch would take on an H100: models
    learn what is beside it.
    """
    per_ns = 3.5e5 if dtype == "f16" else 5e4
    guess: Floats = np.log(2 ** rows[:, TRAFFIC] / 2.5e3 + 3000 + 2 * 2 ** rows[:, WORK] / per_ns)
    return guess


def lessons(known: list[Time], dtype: str, other: int) -> tuple[Floats, Floats, Floats]:
    """Features, the last of which tells devices apart, what models learn of them, and weights."""
    best: dict[Gemm, float] = {}
    for gemm, _, time_ns in known:
        best[gemm] = min(time_ns, best.get(gemm, math.inf))
    inputs = np.array(
        [[*features(gemm, name[0], parse_config(*name)), other] for gemm, name, _ in known]
    )
    told = np.log([time_ns for *_, time_ns in known]) - first_guess(inputs, dtype)
    power, least = SLOW
    shares = np.array([best[gemm] / time_ns for gemm, _, time_ns in known])
    return inputs, told, shares**power + least


class Teacher:
    """Models of all that was measured with operands of one dtype."""

    def __init__(
        self, device: Device, dtype: str, times: Iterable[Time], alike: Iterable[Time] = ()
    ) -> None:
        """Of a device that is much like this one, times are worth having too."""
        self.device, self.dtype = device, dtype
        import lightgbm  # which is not among what development needs

        tables = [
            table
            for other, known in enumerate([list(times), list(alike)])
            if known
            for table in [lessons(known, dtype, other)]
        ]
        inputs, told, weights = (np.concatenate(column) for column in zip(*tables, strict=True))
        self._models = []
        for seed in SEEDS:
            lesson = lightgbm.Dataset(inputs, told, weight=weights)
            learned = lightgbm.train(OPTIONS | {"seed": seed}, lesson, ROUNDS)
            self._models.append(Trees(learned.dump_model()))

    def times(self, gemm: Gemm, configs: Sequence[tuple[Text, Config]]) -> Floats:
        """Logarithms of nanoseconds, NaN where a config is not legal even with bounds checks."""
        found = np.full(len(configs), np.nan, np.float32)
        rows, places = [], []
        for place, ((family, _), config) in enumerate(configs):
            legal = self.fitting(family, config, gemm)
            if legal is not None:
                rows.append([*features(gemm, family, legal), 0])
                places.append(place)
        if rows:
            inputs = np.array(rows)
            found[places] = mean(self._models, inputs) + first_guess(inputs, self.dtype)
        return found

    def fitting(self, family: str, config: Config, gemm: Gemm) -> Config | None:
        """The config as it is run on a problem; None: it cannot."""
        check = FAMILIES[family].check
        if not check(config, gemm, self.device):
            return config
        if not config.unchecked:
            return None
        checked = replace(config, **{"checked": True})
        return None if check(checked, gemm, self.device) else checked


def parsed(names: Iterable[Text]) -> list[tuple[Text, Config]]:
    """Configs by name."""
    return [(name, parse_config(*name)) for name in names]


WIDTHS = (
    *(256, 320, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1536, 1792, 2048, 2304, 2560, 3072),
    *(3584, 4096, 4544, 4608, 5120, 5632, 6144, 6400, 6912, 7168, 8192, 9216, 10240, 11008, 12288),
    *(13824, 14336, 16384, 18176, 18432, 22016, 28672),
)
"""Of layers of models."""
STEPS, ENDS = (16, 32, 64, 128), (256, 20480)
"""What widths are multiples of, of any model, and the least and most."""
ROWS = (25, 32, 48, 64, 77, 96, 100, 112, 128, 160, 192, 200, 224, 256)
MORE_ROWS = (
    *(197, 256, 257, 300, 384, 400, 500, 512, 577, 640, 729, 768, 900, 1000, 1024, 1200, 1370),
    *(1500, 1600, 2000, 2048, 3000, 4096),
)
SHALLOW = (8, 16, 24, 32, 40, 48, 50, 64, 80, 96, 100, 128)
MOST_OPERATIONS, MOST_BYTES = 2e12, 2**29
APART = 0.1
"""Made-up sizes are so many doublings from held-out ones at least."""


DECIMAL = 0.5
"""So many sides of deep problems are round as decimal numbers."""


class Sizes:
    """Made-up sizes of the sorts that people multiply, each once."""

    def __init__(
        self, dtype: str, seed: int, held_out: Iterable[Gemm], *, style: str = "models"
    ) -> None:
        """With layers as wide as those of known models, of "any" multiple of 16 to 128, such with
        "rows" of known ones only, where sizes are round as "decimal" numbers, or "deep" ones only.
        """
        self._random = random.Random(seed)
        self._style = style
        self._dtypes = dict(zip(("a", "b", "c", "acc"), parse_dtype(dtype), strict=True))
        self._held_out = list(held_out)
        self._seen: set[tuple[int, int, int]] = set()

    def take(self, number: int) -> list[Gemm]:
        """So many more."""
        found: list[Gemm] = []
        while len(found) < number:
            sides = self._sides()
            m, n, k = sides
            gemm = Gemm(m=m, n=n, k=k, **self._dtypes)  # type: ignore[arg-type]
            if (
                sides not in self._seen
                and gemm.flops <= MOST_OPERATIONS
                and gemm.traffic_bytes <= MOST_BYTES
                and min((distance(gemm, one) for one in self._held_out), default=1.0) >= APART
            ):
                self._seen.add(sides)
                found.append(gemm)
        return found

    def _between(self, low: int, high: int) -> int:
        """Evenly in logarithms."""
        return round(2 ** self._random.uniform(math.log2(low), math.log2(high)))

    def _round(self, low: int, high: int) -> int:
        """The same with three bits, or two digits."""
        size = self._between(low, high)
        deep = self._style == "deep" and self._random.random() < DECIMAL
        if self._style == "decimal" or deep:
            step = 10 ** max(len(str(size)) - self._random.choice((1, 2)), 0)
            return max(1, round(size / step) * step)
        step = 2 ** max(int(math.log2(size)) - 2, 0)
        return max(1, round(size / step) * step)

    def _width(self) -> int:
        if self._style == "models":
            return self._random.choice(WIDTHS)
        if self._style == "decimal":
            return self._round(*ENDS)
        step = self._random.choice(STEPS)
        return step * self._between(*(end // step for end in ENDS))

    def _sides(self) -> tuple[int, int, int]:
        r, between, even = self._random, self._between, self._round
        wide = [self._width(), self._width()]

        def rows(known: tuple[int, ...], low: int, high: int) -> int:
            return r.choice(known) if self._style in ("models", "rows") else between(low, high)

        sorts = {
            "vector": (26, (1, *wide)),
            "few rows": (36, (r.randint(2, 8), *wide)),
            "some rows": (32, (r.randint(9, 24), *wide)),
            "more rows": (40, (rows(ROWS, 25, 256), *wide)),
            "many rows": (44, (rows(MORE_ROWS, 193, 4096), *wide)),
            "tall and thin": (16, (between(1000, 30000), r.randint(2, 8), even(32, 8000))),
            "tall": (14, (between(1000, 30000), even(8, 160), even(16, 3000))),
            "shallow": (16, (even(32, 3000), even(500, 16000), r.choice(SHALLOW))),
            "tall, shallow": (10, (between(300, 30000), even(32, 256), r.choice(SHALLOW[1::2]))),
            "odd": (24, (between(8, 3000), between(8, 3500), between(8, 3000))),
            "odd and thin": (12, (between(1, 64), between(100, 6000), between(20, 6000))),
            "any": (20, (even(8, 8192), even(8, 8192), even(8, 8192))),
            "deep": (24, (even(8, 256), even(16, 1000), even(4000, 60000))),
        }
        only = {"rows": ("more rows", "many rows"), "deep": ("deep",)}.get(self._style, sorts)
        sorts = {name: sorts[name] for name in only}
        weights = [weight for weight, _ in sorts.values()]
        ((_, (m, n, k)),) = r.choices(list(sorts.values()), weights)
        return m, n, k
