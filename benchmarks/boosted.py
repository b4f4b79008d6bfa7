"""What boosted trees of LightGBM say, three times as fast: each tree is asked for all rows before
the next, so that it stays in the nearest cache. Needs Numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


class Trees:
    """The sum of trees that compare numbers and know of no missing ones.

    Args:
        model: as `lightgbm.Booster.dump_model` has it.
    """

    def __init__(self, model: dict[str, Any]) -> None:
        columns: list[list[float]] = [[], [], [], [], []]

        def add(node: dict[str, Any]) -> int:
            place = len(columns[0])
            for column, value in zip(columns, (-1, 0.0, 0, 0, 0.0), strict=True):
                column.append(value)
            if "leaf_value" in node:
                columns[4][place] = node["leaf_value"]
            elif node["decision_type"] != "<=":
                raise ValueError(f"trees that ask {node['decision_type']} are not known")
            else:
                columns[0][place], columns[1][place] = node["split_feature"], node["threshold"]
                columns[2][place] = add(node["left_child"])
                columns[3][place] = add(node["right_child"])
            return place

        roots = [add(one["tree_structure"]) for one in model["tree_info"]]
        kinds = (np.int32, np.float64, np.int32, np.int32, np.float64)
        self._columns = [np.array(one, kind) for one, kind in zip(columns, kinds, strict=True)]
        self._roots = np.array(roots, np.int32)

    def predict(self, rows: Floats) -> Floats:
        """A number for each row."""
        found: Floats = np.zeros(len(rows))
        _compiled()(*self._columns, self._roots, np.ascontiguousarray(rows, np.float64), found)
        return found


def mean(models: Sequence[Trees], rows: Floats) -> Floats:
    """Of what several say."""
    found: Floats = np.mean([one.predict(rows) for one in models], axis=0)
    return found


@cache
def _compiled() -> Any:
    from numba import njit

    return njit(_add_up)


def _add_up(
    features: Any,
    thresholds: Any,
    less: Any,
    more: Any,
    values: Any,
    roots: Any,
    rows: Any,
    to: Any,
) -> None:
    """Adds to each row's number what each tree says of it."""
    for root in roots:
        for row in range(rows.shape[0]):
            node = root
            while features[node] >= 0:
                below = rows[row, features[node]] <= thresholds[node]
                node = less[node] if below else more[node]
            to[row] += values[node]
