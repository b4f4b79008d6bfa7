"""A Gaussian process over numbered features: what a row's value may be, learnt from a few others.

Kernel Matérn 5/2 with a length of its own for every feature, and a plane through some of them;
lengths, signal and noise are those that make the data likely, found by a few steps of Adam from
where they were.

Source: C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", 2006,
equations 2.25, 4.16, 4.17 and 5.9; D. P. Kingma, J. Ba, "Adam", arXiv:1412.6980.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LENGTH = 1.5
"""Of a feature whose values span 0 to 1, before anything is known; log-normal by one e-fold."""
NOISE = 0.1
"""Of a value over the spread of all, likewise."""
SLOPE = 0.5
"""Variance of a plane's slope along a feature that spans 0 to 1, over that of the values."""
_RATE = 0.1
_BETAS = (0.8, 0.95)
_JITTER = 1e-6


class GaussianProcess:
    """Values of features; not fitted at first.

    Args:
        count: of features.
        sloping: so many of the last ones also explain values by a plane, which reaches beyond the
            rows that were learnt from.
    """

    def __init__(self, count: int, sloping: int = 0) -> None:
        self._sloping = sloping
        # log lengths, then log signal, then log noise
        self._prior = np.array([math.log(LENGTH)] * count + [0.0, math.log(NOISE)])
        self._width = np.array([1.0] * count + [1.0, 0.7])
        self._least = np.array([-3.0] * count + [-2.0, -4.5])
        self._most = np.array([4.0] * count + [2.0, 0.0])
        self._log = self._prior.copy()
        self._mean = np.zeros(count + 2)
        self._square = np.zeros(count + 2)
        self._steps = 0
        self.centre, self.scale = 0.0, 1.0
        """Mean and deviation of the values that were learnt from."""
        self.x: Array = np.zeros((0, count))
        """Features of the rows that were learnt from."""
        self._inverse: Array = np.zeros((0, 0))
        self.targets: Array = np.zeros(0)
        """The values that were learnt from, centred and over `scale`."""

    def fit(self, x: Array, y: Array, steps: int) -> None:
        """Learn from rows ``x`` (n x count) with values ``y``.

        Args:
            x: features.
            y: values.
            steps: of Adam on lengths, signal and noise; 0 leaves them.
        """
        self.centre, self.scale = float(y.mean()), float(y.std()) + _JITTER
        target = (y - self.centre) / self.scale
        apart = [(column[:, None] - column[None, :]) ** 2 for column in x.T] if steps else []
        for _ in range(steps):
            self._step(self._gradient(x, target, apart))
        factor = np.linalg.cholesky(self.covariance_of(x, x) + self.noise * np.eye(len(x)))
        self._inverse = np.linalg.inv(factor)
        self.targets = target
        self.x = x

    def whiten(self, right: Array) -> Array:
        """The inverse of the Cholesky factor of all rows' covariance, times ``right``."""
        whitened: Array = self._inverse @ right
        return whitened

    @property
    def noise(self) -> float:
        """Variance of a value's noise over `scale`."""
        return math.exp(2 * self._log[-1]) + _JITTER

    def variance_of(self, x: Array) -> Array:
        """Of the values of rows before anything is known of them, over `scale`."""
        plane = self._along(x)
        variance: Array = math.exp(2 * self._log[-2]) + SLOPE * (plane * plane).sum(1)
        return variance

    def covariance_of(self, one: Array, other: Array) -> Array:
        """Of two sets of rows."""
        covariance: Array = self._near(one, other)[0] + self._plane(one, other)
        return covariance

    def _along(self, x: Array) -> Array:
        """Of rows, what the plane goes along, from its middle."""
        along: Array = x[:, x.shape[1] - self._sloping :] - 0.5
        return along

    def _plane(self, one: Array, other: Array) -> Array:
        """The plane's part of the covariance of two sets of rows."""
        plane: Array = SLOPE * self._along(one) @ self._along(other).T
        return plane

    def _near(self, one: Array, other: Array) -> tuple[Array, Array]:
        """The part of the covariance that fades, and what its slope in the squared distance has."""
        inverse = np.exp(-self._log[:-2])
        one, other = one * inverse, other * inverse
        square = (one * one).sum(1)[:, None] + (other * other).sum(1)[None, :]
        root = np.sqrt(5.0 * np.maximum(square - 2.0 * one @ other.T, 0.0))
        decay = math.exp(2 * self._log[-2]) * np.exp(-root)
        covariance: Array = (1.0 + root + root * root / 3.0) * decay
        return covariance, (1.0 + root) * decay

    def _gradient(self, x: Array, target: Array, apart: list[Array]) -> Array:
        """Of the log posterior of the hyperparameters."""
        near, slope = self._near(x, x)
        inverse = np.linalg.inv(near + self._plane(x, x) + self.noise * np.eye(len(x)))
        alpha = inverse @ target
        outer = np.outer(alpha, alpha) - inverse
        gradient: Array = (self._prior - self._log) / self._width**2
        weighted = outer * slope * (5.0 / 6.0)
        for i, square in enumerate(apart):
            gradient[i] += np.vdot(weighted, square) * math.exp(-2 * self._log[i])
        gradient[-2] += np.vdot(outer, near)
        gradient[-1] += np.trace(outer) * math.exp(2 * self._log[-1])
        return gradient

    def _step(self, gradient: Array) -> None:
        first, second = _BETAS
        self._steps += 1
        self._mean = first * self._mean + (1 - first) * gradient
        self._square = second * self._square + (1 - second) * gradient**2
        mean = self._mean / (1 - first**self._steps)
        root = np.sqrt(self._square / (1 - second**self._steps))
        moved = self._log + _RATE * mean / (root + 1e-8)
        self._log = np.clip(moved, self._least, self._most)


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """How far below ``best`` a value is to be expected, not counting when it is above.

    Source: D. R. Jones, M. Schonlau, W. J. Welch, "Efficient global optimization", 1998.
    """
    z = (best - mean) / deviation
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    # numpy has no erf, and approximations are worst in the tail, where most rows are.
    below = np.fromiter(map(math.erfc, (-z / math.sqrt(2)).tolist()), np.float64, len(z)) / 2
    gain: Array = deviation * np.maximum(z * below + density, 0.0)
    return gain
