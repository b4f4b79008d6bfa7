"""Which configs to measure again at the end, and what several measurements of one come to.

Values in, values out: running them is the loop's.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gemmtune.executors.steady import tolerance
from gemmtune.job import Failure, Measurement, Outcome
from gemmtune.store import Row

MARGIN = 0.03
"""Configs this close to the fastest might be it: single measurements repeat to about 3 %."""
MOST_LEADERS = 8
"""Of them, the fastest so many."""
ROUNDS = 4
"""Times that all leaders are measured in turn: A B C A B C."""
MOST_REPAIRS = 64
"""Configs touched by a disturbance that are measured again at most, the most promising ones."""


def repairs(rows: Sequence[Row], touched: Mapping[int, float]) -> list[Row]:
    """Rows measured while the device was not as it is now, that are near the top or seem to be.

    Args:
        rows: all that are known.
        touched: of `Drift.touched`; a row's time over its ratio is what it would be now.
    """
    timed = [(row.time_ns / touched.get(row.id, 1.0), row) for row in rows if row.time_ns]
    fastest = min((now_ns for now_ns, _ in timed), default=0.0)
    wrong = [
        (min(now_ns, row.time_ns or now_ns), row.id, row)
        for now_ns, row in timed
        if row.id in touched
    ]
    close = sorted(entry for entry in wrong if entry[0] <= fastest * (1.0 + 4 * MARGIN))
    return [row for _, _, row in close[:MOST_REPAIRS]]


def leaders(rows: Sequence[Row]) -> list[Row]:
    """The fastest and all that come near it, in this order."""
    timed = sorted((row.time_ns, row.id, row) for row in rows if row.time_ns is not None)
    return [row for time_ns, _, row in timed if time_ns <= timed[0][0] * (1.0 + MARGIN)][
        :MOST_LEADERS
    ]


def unsettled(rows: Sequence[Row], finalists: Sequence[Row]) -> list[Row]:
    """Rows that by their single measurement are faster than every finalist is by several."""
    ids = {row.id for row in finalists}
    best = min((row.time_ns for row in rows if row.id in ids and row.time_ns), default=None)
    if best is None:
        return leaders(rows)
    faster = [row for row in rows if row.id not in ids and row.time_ns and row.time_ns < best]
    return sorted(faster, key=lambda row: (row.time_ns, row.id))[:MOST_LEADERS]


def combined(outcomes: Sequence[Outcome]) -> Outcome:
    """Several measurements of one config as one: what it fails once, it has failed.

    Rounds in which the device was not as in the others do not count. The spread is that between
    rounds or the widest within one, whichever is more.
    """
    for outcome in outcomes:
        if isinstance(outcome.result, Failure):
            return outcome
    outcomes = _steady(outcomes)
    results = [o.result for o in outcomes if isinstance(o.result, Measurement)]
    times = [result.time_ns for result in results]
    median = statistics.median(times)
    spread = max(result.spread for result in results)
    if len(times) > 1:
        first, _, third = statistics.quantiles(times, n=4, method="inclusive")
        spread = max(spread, (third - first) / median)
    worst = max(results, key=lambda result: result.max_abs_error)
    result = replace(
        worst,
        time_ns=median,
        spread=spread,
        min_ns=min(result.min_ns for result in results),
        repetitions=sum(result.repetitions for result in results),
    )
    return replace(outcomes[-1], result=result)


def _steady(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    references = [o.reference_ns for o in outcomes if o.reference_ns is not None]
    if len(references) < len(outcomes) or len(references) < 3:
        return outcomes
    usual_ns, limit = statistics.median(references), tolerance(references)
    return [
        outcome
        for outcome, reference_ns in zip(outcomes, references, strict=True)
        if abs(reference_ns - usual_ns) <= limit * usual_ns
    ]
