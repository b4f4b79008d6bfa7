"""Whether going on is worth it: what trials are expected to gain, and what the last ones did."""

from __future__ import annotations

from collections import deque

PATIENCE = 10
"""Proposals in a row from which a model has to expect less: its view of one is noisy."""
WINDOW = 50
"""Trials that have to have gained less, where no model says what to expect."""


class Gain:
    """Says when the expected gain is below a threshold.

    Args:
        threshold: share of the best time, e.g. 0.01; None: never.
    """

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._expected: deque[float] = deque(maxlen=PATIENCE)
        self._best_ns: deque[float] = deque(maxlen=WINDOW + 1)

    def expect(self, share: float | None) -> None:
        """Take in what the search expects of its newest proposal; None: it cannot say."""
        if share is not None:
            self._expected.append(share)

    def measured(self, best_ns: float | None) -> None:
        """Take in the best time after one more trial; None: there is none yet."""
        if best_ns is not None:
            self._best_ns.append(best_ns)

    @property
    def too_small(self) -> bool:
        """More trials are not worth it."""
        if self._threshold is None:
            return False
        if self._expected:
            return len(self._expected) == PATIENCE and max(self._expected) < self._threshold
        best = self._best_ns
        return len(best) > WINDOW and best[0] / best[-1] - 1.0 < self._threshold
