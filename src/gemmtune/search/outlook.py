"""What a fitted Gaussian process expects of some rows, kept right while these are asked and told.

A row that is asked adds one row to the Cholesky factor of all before, and a result is taken in by
a system as small as there are new results: no new fit, as long as only these rows are of interest.

Source: C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006,
algorithm 2.1; D. Ginsbourger, R. Le Riche, L. Carraro, "Kriging is well-suited to parallelize
optimization", 2010 (what is in flight counts as if it came out as expected).
"""

from __future__ import annotations

import numpy as np

from gemmtune.search.gaussian import Array, GaussianProcess

_LEAST = 1e-9


class Outlook:
    """Expectations of rows of features.

    Args:
        process: fitted; must not be fitted again while this is in use.
        x: features of the rows.
        others: other values of what the process learnt from, carried over like its own.
    """

    def __init__(self, process: GaussianProcess, x: Array, others: Array) -> None:
        self._process = process
        self._x = x
        self._others_centre = float(others.mean())
        targets = np.stack([process.targets, others - self._others_centre], axis=1)
        self._factor = process.whiten(process.covariance_of(process.x, x))
        self._learnt: Array = self._factor.T @ process.whiten(targets)
        self._expected = self._learnt
        self._left: Array = process.variance_of(x) - (self._factor * self._factor).sum(0)
        self._added: list[Array] = []
        """Rows of the factor, of what was asked since."""
        self._asked: dict[int, Array] = {}
        """Covariance with all rows, of what was asked, given what the process learnt from."""
        self._told: dict[int, tuple[float, float]] = {}

    def ask(self, column: int) -> None:
        """Row ``column`` is in flight: it will be known, and as if it came out as expected."""
        covariance = self._process.covariance_of(self._x[column : column + 1], self._x)[0]
        covariance -= self._factor[:, column] @ self._factor
        self._asked[column] = covariance
        if self._added:
            added = np.array(self._added)
            covariance = covariance - added[:, column] @ added
        row = covariance / np.sqrt(max(self._left[column], _LEAST) + self._process.noise)
        self._added.append(row)
        self._left -= row * row

    def tell(self, column: int, value: float, other: float) -> None:
        """What came of a row that was asked."""
        scaled = (value - self._process.centre) / self._process.scale
        self._told[column] = (scaled, other - self._others_centre)
        columns = list(self._told)
        across = np.array([self._asked[told] for told in columns])
        within = across[:, columns] + self._process.noise * np.eye(len(columns))
        off = np.array(list(self._told.values())) - self._learnt[columns]
        # What is still in flight moves along, and so moves nothing itself.
        self._expected = self._learnt + across.T @ np.linalg.solve(within, off)

    @property
    def mean(self) -> Array:
        """Of each row's value."""
        mean: Array = self._expected[:, 0] * self._process.scale + self._process.centre
        return mean

    @property
    def deviation(self) -> Array:
        """Of each row's value, the standard one."""
        deviation: Array = np.sqrt(np.maximum(self._left, _LEAST)) * self._process.scale
        return deviation

    @property
    def others(self) -> Array:
        """The other values, carried over to each row."""
        carried: Array = self._expected[:, 1] + self._others_centre
        return carried
