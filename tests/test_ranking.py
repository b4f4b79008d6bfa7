"""Ranking: the order that all predictions have, found without working out all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import islice
from random import Random

import pytest

from gemmtune._data import data_path
from gemmtune.kernels.base import step_of
from gemmtune.lookup.catalogue import Catalogue, signature_of
from gemmtune.lookup.leader import Leader
from gemmtune.lookup.portfolio import _Alike
from gemmtune.lookup.predict import (
    CHECKS_COST,
    Dispatch,
    Speed,
    distance,
    doubt,
    likeness,
    weights,
)
from gemmtune.lookup.ranking import Measured, Total
from gemmtune.problem import Gemm

KEY = "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"
DTYPES = ("f32,f32,f32,f32", "f16,f16,f16,f32")


@cache
def alike(dtypes: str) -> tuple[_Alike, Speed]:
    path = data_path("tuning.db")
    catalogue = Catalogue(path, signature_of(path) or ())
    leaders = list(catalogue.leaders(KEY, dtypes))
    # Some by an older template, which rank apart.
    older = [
        one._replace(generator_hash="older", time_ns=0.8 * one.time_ns) for one in leaders[::50]
    ]
    speed = catalogue.speed(KEY)
    return _Alike(leaders + older, speed), speed


def edges_of(gemm: Gemm) -> Callable[[Leader], bool]:
    return lambda leader: leader.unchecked and leader.config.lacks_checks(gemm)


def by_definition(dtypes: str, gemm: Gemm) -> list[tuple[str, str, float]]:
    """Family, config and predicted time of each, best first, one after the other."""
    known, speed = alike(dtypes)
    edges = edges_of(gemm)
    found: dict[tuple[bool, int, str, str], list[tuple[float, float, Leader]]] = {}
    for one in known.table(gemm)._configs:
        assert isinstance(one, Measured)
        needed = edges(one.first)
        work = speed.work(*dispatch(one, gemm), one.pace)
        for leader, (fixed, byte, unit) in zip(one.leaders, one.costs, strict=True):
            like = likeness(leader.kind, gemm.kind) or 1.0
            (weight,) = weights([math.dist(place(leader), place(gemm))], [like])
            time_ns = fixed + byte * gemm.traffic_bytes + unit * work
            pair = (weight, time_ns * (CHECKS_COST if needed else 1.0), leader)
            found.setdefault(one.names[needed], []).append(pair)
    ranked = []
    for (stale, unusual, family, text), every in found.items():
        total = sum(weight for weight, *_ in every)
        time_ns = math.exp(sum(weight * math.log(t) for weight, t, _ in every) / total)
        nearest = max(every, key=lambda each: each[0])[2]
        longest_ns = max(leader.time_ns for *_, leader in every)
        far = distance(nearest.gemm, gemm)
        score = (
            time_ns * (likeness(nearest.kind, gemm.kind) or 1.0) * doubt(far, time_ns, longest_ns)
        )
        ranked.append((stale, unusual, score, family, text, time_ns))
    best = {(family, text): t for *_, family, text, t in sorted(ranked, reverse=True)}
    order = dict.fromkeys((family, text) for *_, family, text, _ in sorted(ranked))
    return [(*name, best[name]) for name in order]


def place(of: Gemm | Leader) -> list[float]:
    return [math.log2(max(size, 1)) for size in (of.m, of.n, of.k, of.batch)]


def dispatch(one: Measured, gemm: Gemm) -> Dispatch:
    step = step_of(one.first.config, one.first.gemm)
    steps = math.ceil(gemm.k / one.first.shape.workgroups / step)
    return Dispatch(one.first.workgroups(gemm), steps * step)


def asked(dtypes: str, number: int) -> list[Gemm]:
    random = Random(11)
    a = dtypes[:3]

    def size() -> int:
        whole = random.choice((64, 256, 1024, 4096))
        return random.choice((whole, int(2 ** random.uniform(0, 13))))

    return [
        Gemm(
            m=size(),
            n=size(),
            k=size(),
            **dict.fromkeys("abc", a),  # type: ignore[arg-type]
            batch=random.choice((1, 1, 1, 4)),
            trans_b=random.random() < 0.3,
            bias=random.random() < 0.2,
        )
        for _ in range(number)
    ]


@pytest.mark.parametrize("dtypes", DTYPES)
def test_the_order_is_that_of_all_predictions(dtypes: str) -> None:
    for gemm in asked(dtypes, 12):
        wanted = by_definition(dtypes, gemm)
        ranked = list(alike(dtypes)[0].ranked(gemm, edges_of(gemm)))
        assert [(one.leader.family, one.leader.text) for one in ranked] == [
            (family, text) for family, text, _ in wanted
        ]
        assert [one.time_ns for one in ranked] == pytest.approx([t for *_, t in wanted])


@pytest.mark.parametrize("dtypes", DTYPES)
def test_few_configs_are_looked_behind_for_the_best(
    dtypes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, _ = alike(dtypes)
    made = []
    real = Total.__init__

    def counted(self: Total, *values: object) -> None:
        made.append(self)
        real(self, *values)  # type: ignore[arg-type]

    monkeypatch.setattr(Total, "__init__", counted)
    gemms = asked(dtypes, 40)
    for gemm in gemms:
        assert len(list(islice(known.ranked(gemm, edges_of(gemm)), 1))) == 1
    assert len(made) < 30 * len(gemms)
    made.clear()
    list(known.ranked(gemms[0], edges_of(gemms[0])))
    assert len(made) == len(known.table(gemms[0])._configs) > 140
