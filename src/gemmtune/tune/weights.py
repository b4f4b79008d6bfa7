"""How the time for tuning is shared among problems that are asked for more or less often."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gemmtune.lookup import Wanted

EVEN_SHARE = 0.2
"""Of all the time, this much is shared evenly, so that rare problems are not left out."""


def budgets(wanted: Sequence[Wanted], budget_s: float | None) -> dict[str, float]:
    """Seconds for each problem by `Gemm.key`; together as many as ``budget_s`` for each.

    Args:
        wanted: the problems with how often they are asked for.
        budget_s: time per problem; None: no limit, so nothing to share.
    """
    total = sum(one.weight for one in wanted)
    if budget_s is None or not total:
        return {}
    whole_s = budget_s * len(wanted)
    return {
        one.gemm.key: EVEN_SHARE * budget_s + (1 - EVEN_SHARE) * whole_s * one.weight / total
        for one in wanted
    }


def coverage(wanted: Sequence[Wanted], tuned: Collection[str]) -> float:
    """Share of all that was asked for, by operations, that is tuned now.

    Args:
        wanted: the problems with how often they are asked for.
        tuned: `Gemm.key` of those that have a verified result.
    """
    total = sum(one.weight for one in wanted)
    return sum(one.weight for one in wanted if one.gemm.key in tuned) / total if total else 0.0
