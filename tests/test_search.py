"""The search asks legal rows only, each once, the same for the same seed, and finds good ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import get_args

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmtune.errors import UsageError
from gemmtune.kernels.base import Config
from gemmtune.search import SAMPLERS, STARTUP, Candidate, SamplerName, Search
from gemmtune.search.gaussian import Array, GaussianProcess, expected_improvement
from gemmtune.search.guided import LEARNT, LOOKED_AT, START
from gemmtune.search.outlook import Outlook

Row = tuple[str, Config]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile(Config):
    """Like a family's config: numbers, a word, a switch."""

    m: int = 8
    n: int = 8
    k: int = 8
    order: str = "mk"
    prefetch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Single(Config):
    """A family of one."""

    width: int = 1


MODELS: tuple[SamplerName, ...] = ("guided", "tpe")

SIZES = (1, 2, 4, 8, 16, 32, 64)


def legal(tile: Tile) -> bool:
    return 16 <= tile.m * tile.n <= 1024 and tile.k <= tile.m


SPACE: list[Row] = [
    ("tile", tile)
    for m, n, k, order, prefetch in product(SIZES, SIZES, SIZES, ("km", "mk"), (False, True))
    if legal(tile := Tile(m=m, n=n, k=k, order=order, prefetch=prefetch))
]


def cost_ns(config: Config) -> float:
    """Best at one corner of the legal space, with knobs that only matter together."""
    assert isinstance(config, Tile)
    distance = abs(math.log2(config.m / 32)) + abs(math.log2(config.n / 16))
    distance += 0.5 * abs(math.log2(config.k / (config.m / 4)))
    distance += 0.4 * (config.order != "km") + 0.3 * (config.prefetch != (config.k >= 8))
    return 1000.0 * 1.5**distance


def play(
    search: Search,
    count: int,
    value: Callable[[Config], float | None] = cost_ns,
    in_flight: int = 1,
) -> list[Candidate]:
    """Ask ``count`` times with so many in flight; what was asked, in order."""
    asked: list[Candidate] = []
    waiting: list[Candidate] = []
    for _ in range(count):
        candidate = search.ask()
        if candidate is None:
            break
        asked.append(candidate)
        waiting.append(candidate)
        if len(waiting) >= in_flight:
            done = waiting.pop(0)
            search.tell(done, value(done.config))
    return asked


def rows(asked: list[Candidate]) -> list[Row]:
    return [(candidate.family, candidate.config) for candidate in asked]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_row_is_asked_exactly_once_then_none(sampler: SamplerName) -> None:
    small = SPACE[::9]
    search = Search(small, sampler=sampler, seed=1)

    asked = rows(play(search, len(small) + 5))

    assert sorted(asked, key=repr) == sorted(small, key=repr)
    assert search.ask() is None
    assert search.left == 0


def test_exhaustive_keeps_the_order_of_the_space() -> None:
    assert rows(play(Search(SPACE, sampler="exhaustive"), 50)) == SPACE[:50]


def test_random_is_a_permutation_that_depends_on_the_seed() -> None:
    first = rows(play(Search(SPACE, sampler="random", seed=1), 50))

    assert first != SPACE[:50]
    assert first != rows(play(Search(SPACE, sampler="random", seed=2), 50))


@pytest.mark.parametrize("sampler", get_args(SamplerName))
@pytest.mark.parametrize("in_flight", [1, 4])
def test_the_same_seed_gives_the_same_course(sampler: SamplerName, in_flight: int) -> None:
    first, second = (
        rows(play(Search(SPACE, sampler=sampler, seed=7), 60, in_flight=in_flight))
        for _ in range(2)
    )

    assert first == second


def test_another_seed_gives_another_course() -> None:
    first, second = (rows(play(Search(SPACE, seed=seed), 40)) for seed in (1, 2))

    assert first != second


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_defaults_come_first_even_from_outside_the_space(sampler: SamplerName) -> None:
    outside: Row = ("tile", Tile(m=3, n=5, k=7))
    first = [SPACE[40], outside]

    asked = play(Search(SPACE, first=first, sampler=sampler), 3)

    assert rows(asked)[:2] == first
    assert [candidate.origin == "default" for candidate in asked] == [True, True, False]


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_told_and_excluded_rows_are_never_asked(sampler: SamplerName) -> None:
    small = SPACE[::9]
    search = Search(small, first=small[:2], sampler=sampler)
    search.load([(*small[0], 5.0), (*small[3], None), ("gone", Single(), 1.0)])
    search.exclude(*small[1])
    search.exclude(*small[4])
    search.exclude("gone", Single())

    asked = rows(play(search, len(small)))

    assert set(asked) == set(small) - {small[0], small[1], small[3], small[4]}


def test_resuming_with_the_results_so_far_asks_only_the_rest() -> None:
    before = play(Search(SPACE, seed=3), 40)
    search = Search(SPACE, seed=3)
    search.load([(c.family, c.config, cost_ns(c.config)) for c in before])

    after = play(search, 60)

    assert not set(rows(before)) & set(rows(after))
    # What was learnt is used at once: no second start.
    assert {candidate.origin for candidate in after} <= {"model", "random"}


def test_a_result_that_comes_from_elsewhere_after_asking_counts_once() -> None:
    search = Search(SPACE, seed=0)
    candidate = search.ask()
    assert candidate is not None
    search.exclude(candidate.family, candidate.config)
    search.load([(candidate.family, candidate.config, 3.0)])
    search.tell(candidate, 4.0)

    assert len(play(search, 40)) == 40


def best_after(sampler: SamplerName, seed: int, count: int) -> float:
    asked = play(Search(SPACE, sampler=sampler, seed=seed), count)
    return min(cost_ns(candidate.config) for candidate in asked)


@pytest.mark.parametrize("sampler", MODELS)
def test_the_model_finds_better_rows_than_random_with_as_many_trials(sampler: SamplerName) -> None:
    seeds = range(12)
    best = min(cost_ns(config) for _, config in SPACE)

    model = [best_after(sampler, seed, 80) / best for seed in seeds]
    random = [best_after("random", seed, 80) / best for seed in seeds]

    assert np.mean(model) < np.mean(random)
    wins = sum(m <= r for m, r in zip(model, random, strict=True))
    assert wins >= 9
    assert sum(m <= 1.05 for m in model) > sum(r <= 1.05 for r in random)


@pytest.mark.parametrize("sampler", MODELS)
def test_the_model_keeps_away_from_where_configs_fail(sampler: SamplerName) -> None:
    def fails(config: Config) -> float | None:
        assert isinstance(config, Tile)
        return None if config.m >= 16 else cost_ns(config)

    asked = play(Search(SPACE, sampler=sampler, seed=5), 100, fails)
    proposed = [fails(c.config) is None for c in asked if c.origin == "model"]
    share = sum(fails(config) is None for _, config in SPACE) / len(SPACE)

    assert share > 0.6
    assert np.mean(proposed) < share * 0.6


@pytest.mark.parametrize("sampler", MODELS)
def test_it_goes_on_when_everything_fails(sampler: SamplerName) -> None:
    assert len(play(Search(SPACE, sampler=sampler, seed=1), 60, lambda _: None)) == 60


@pytest.mark.parametrize(
    ("sampler", "start", "least", "most"), [("tpe", STARTUP, 10, 50), ("guided", START, 3, 25)]
)
def test_a_random_share_stays_for_ever(
    sampler: SamplerName, start: int, least: int, most: int
) -> None:
    asked = play(Search(SPACE, sampler=sampler, seed=1), 200)
    origins = [candidate.origin for candidate in asked]

    assert origins[:start] == ["spread"] * start
    assert least <= origins[start:].count("random") <= most
    assert origins.count("model") > 120


@pytest.mark.parametrize("sampler", MODELS)
def test_families_are_searched_together_and_small_ones_are_seen(sampler: SamplerName) -> None:
    few: list[Row] = [("few", Single(width=width)) for width in range(5)]
    search = Search([*few, *SPACE], sampler=sampler, seed=2)

    asked = play(search, 120, lambda config: 9.0 if isinstance(config, Single) else cost_ns(config))

    assert {row for row in rows(asked) if row[0] == "few"} == set(few)
    assert len(set(rows(asked))) == 120


def test_a_family_of_one_row_is_enough() -> None:
    search = Search([("one", Single())])

    assert len(play(search, 3, lambda _: 1.0)) == 1


def test_an_empty_space_has_nothing_to_ask() -> None:
    assert Search([]).ask() is None


def test_the_expected_gain_is_a_share_that_falls() -> None:
    search = Search(SPACE, seed=4)
    assert search.expected_gain() is None
    gains = []
    for _ in range(150):
        play(search, 1)
        gains.append(search.expected_gain())

    assert gains[: START - 1] == [None] * (START - 1)
    known = [gain for gain in gains if gain is not None]
    assert all(0.0 <= gain < 1.0 for gain in known)
    assert np.mean(known[-20:]) < 0.2 * np.mean(known[:20])
    assert Search(SPACE, sampler="tpe").expected_gain() is None


def test_good_traits_lead_to_the_best_sooner_and_are_asked_only_where_it_looks() -> None:
    best = min(cost_ns(config) for _, config in SPACE)
    asked: set[Config] = set()

    def traits(_: str, config: Config) -> tuple[float, ...]:
        asked.add(config)
        return (math.log2(cost_ns(config)) + 0.3 * math.sin(len(config.key) * 7.0),)

    def until_best(seed: int, **options: object) -> int:
        search = Search(SPACE, seed=seed, **options)  # type: ignore[arg-type]
        times = [cost_ns(candidate.config) for candidate in play(search, 60)]
        return next((i for i, time in enumerate(times) if time <= 1.05 * best), 60)

    with_traits = [until_best(seed, traits=traits) for seed in range(10)]
    without = [until_best(seed) for seed in range(10)]

    assert np.mean(with_traits) < np.mean(without)
    many: list[Row] = [("many", Single(width=width)) for width in range(3 * LOOKED_AT)]
    asked.clear()
    search = Search(many, seed=1, traits=lambda *_: traits("", SPACE[0][1]))
    play(search, START + 4, lambda config: float(len(config.key)))
    assert len(asked) == 1


def test_thousands_of_rows_and_hundreds_of_results_are_borne() -> None:
    many: list[Row] = [("many", Single(width=width)) for width in range(5000)]
    search = Search(many, seed=1)
    search.load([(*row, 1000.0 + abs(i - 4321)) for i, row in enumerate(many[: 2 * LEARNT])])

    asked = play(search, 25, lambda config: 1000.0 + abs(config.width - 4321))  # type: ignore[attr-defined]

    assert len(set(rows(asked))) == 25
    assert min(abs(c.config.width - 4321) for c in asked) < 100  # type: ignore[attr-defined]


def test_a_gaussian_process_learns_which_feature_matters_and_how_sure_it_is() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((60, 3))
    y = np.sin(6 * x[:, 0])
    process = GaussianProcess(3)
    process.fit(x, y, 150)

    ahead = rng.random((40, 3))
    works = (x[:, 0] > 0.5).astype(float)
    outlook = Outlook(process, np.vstack([ahead, x, np.full((1, 3), 9.0)]), works)
    mean, deviation = outlook.mean[:40], outlook.deviation[:40]
    error = np.abs(mean - np.sin(6 * ahead[:, 0]))

    assert error.max() < 0.15
    assert np.mean(error < 3 * deviation + 0.02) > 0.9
    assert outlook.deviation[-1] > 5 * deviation.max()
    assert np.mean((outlook.others[40:100] > 0.5) == (works > 0.5)) > 0.9


def test_a_plane_reaches_beyond_what_was_learnt_from() -> None:
    rng = np.random.default_rng(2)
    x = rng.random((20, 2))
    far = np.array([[0.5, 2.0]])
    errors = []
    for sloping in (0, 1):
        process = GaussianProcess(2, sloping)
        process.fit(x, x[:, 1], 30)
        errors.append(abs(float(Outlook(process, far, x[:, 1]).mean[0]) - 2.0))

    assert errors[1] < 0.2
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("sloping", [0, 1])
def test_an_outlook_takes_results_in_as_a_new_fit_would(sloping: int) -> None:
    rng = np.random.default_rng(1)
    x, ahead = rng.random((30, 2)), rng.random((25, 2))
    y = np.sin(6 * x[:, 0]) + x[:, 1]
    y = (y - y.mean()) / y.std()
    process = GaussianProcess(2, sloping)
    process.fit(x, y, 20)
    outlook = Outlook(process, ahead, y)
    before = outlook.mean.copy()

    for column in range(12):
        outlook.ask(column)
    assert np.allclose(outlook.mean, before, atol=1e-9)
    for column, value in ((7, 2.0), (3, -1.0), (11, 0.5)):
        outlook.tell(column, value, value)

    # By the book: the covariance of everything known, those in flight at what is expected of them.
    told, flown = [7, 3, 11], [0, 1, 2, 4, 5, 6, 8, 9, 10]
    known = np.vstack([x, ahead[told]])
    values = np.concatenate([y, [2.0, -1.0, 0.5]])
    values = (values - process.centre) / process.scale

    def solve(rows: Array, right: Array) -> Array:
        noisy = process.covariance_of(rows, rows) + process.noise * np.eye(len(rows))
        return np.linalg.solve(noisy, right)

    across = process.covariance_of(ahead, known)
    mean = across @ solve(known, values) * process.scale + process.centre
    everything = np.vstack([known, ahead[flown]])
    across = process.covariance_of(ahead, everything)
    left = process.variance_of(ahead) - np.einsum("ij,ji->i", across, solve(everything, across.T))
    assert np.allclose(outlook.mean, mean, atol=1e-4)
    assert np.allclose(outlook.others, mean, atol=1e-4)
    assert np.allclose(outlook.deviation[12:], np.sqrt(left[12:]) * process.scale, atol=1e-4)


@given(
    mean=st.floats(-3, 3), deviation=st.floats(0.01, 2.0), best=st.floats(-3, 3), up=st.floats(0, 1)
)
def test_expected_improvement_is_what_sampling_says(
    mean: float, deviation: float, best: float, up: float
) -> None:
    one, worse = expected_improvement(np.array([mean, mean + up]), np.array([deviation] * 2), best)
    samples = mean + deviation * np.random.default_rng(0).standard_normal(4000)
    sampled = np.maximum(best - samples, 0.0).mean()

    # A mean that is larger by less than what rounding makes of it may come out a trace better.
    assert one >= 0.0
    assert 0.0 <= worse <= one * (1.0 + 1e-9) + 1e-15
    assert abs(one - sampled) < 0.06 * deviation + 0.05 * sampled


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(UsageError, match="guided, tpe, random, exhaustive"):
        Search(SPACE, sampler="magic")  # type: ignore[arg-type]


def test_nothing_is_logged_and_the_verbosity_is_left_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = optuna.logging.get_verbosity()
    play(Search(SPACE, seed=1), 30)

    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


@settings(max_examples=40, deadline=None)
@given(
    space=st.lists(st.sampled_from(SPACE), min_size=1, max_size=40),
    single=st.lists(st.builds(Single, width=st.integers(1, 4)), max_size=4),
    sampler=st.sampled_from(SAMPLERS),
    seed=st.integers(0, 2**32 - 1),
    in_flight=st.integers(1, 5),
    failing=st.integers(1, 6),
)
def test_any_space_is_covered_without_illegal_rows_or_repeats(
    space: list[Row],
    single: list[Single],
    sampler: SamplerName,
    seed: int,
    in_flight: int,
    failing: int,
) -> None:
    everything = [*space, *(("single", config) for config in single)]
    search = Search(everything, sampler=sampler, seed=seed)

    asked = rows(
        play(
            search,
            len(everything) + 1,
            lambda config: None if len(config.key) % failing == 0 else float(len(config.key)),
            in_flight,
        )
    )

    assert len(asked) == len(set(asked)) == search.size
    assert set(asked) == set(everything)
