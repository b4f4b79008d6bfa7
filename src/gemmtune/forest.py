"""Which configs to take first for a problem of one device, by decision trees that learned it from
many more predictions than a lookup has time for; see docs/selection.md. Reads no database.
"""

from __future__ import annotations

from gemmtune.light import NamedTuple, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

LARGEST_ALIGNMENT = 64
"""Sizes that are multiples of more than this are alike."""


def features(m: int, n: int, k: int) -> tuple[int, ...]:
    """What trees compare, whole numbers all: sizes, products of them, the largest powers of two
    that divide them, and numbers of square tiles of 32, 64 and 128.
    """
    tiles = [-(-m // side) * -(-n // side) for side in (32, 64, 128)]
    powers = [min(size & -size, LARGEST_ALIGNMENT) for size in (m, n, k)]
    return (m, n, k, m * n, m * k, n * k, m * n * k, *powers, *tiles)


class Forest(NamedTuple):
    """Decision trees for problems of one device and kind, and what they speak of."""

    configs: list[tuple[str, str]]
    """Family and config as JSON, by number."""
    trees: list[Any]
    """Each a node, as JSON has it. One that asks is a number of `features`, a threshold, the node
    to go on at where the feature is less, and the one where it is not. A leaf has by number of a
    config, as text, its votes: what it has over configs that are not named."""
    newest: str
    """When the last measurement was taken that they know of, UTC, ISO 8601."""

    @classmethod
    def from_row(cls, newest: str, configs: str, trees: str) -> Forest:
        """As a database keeps it.

        Raises:
            ValueError: it cannot be read.
        """
        return cls([(family, text) for family, text in loads(configs)], loads(trees), newest)

    def to_row(self) -> dict[str, str]:
        """The columns that `from_row` reads."""
        from json import dumps

        configs, trees = (dumps(each, separators=(",", ":")) for each in (self.configs, self.trees))
        return {"newest": self.newest, "configs": configs, "trees": trees}

    def first(self, m: int, n: int, k: int) -> list[tuple[str, str]]:
        """The configs that have votes for a problem of that size, best first."""
        return [self.configs[number] for number in voted(self.trees, m, n, k)]


def voted(trees: Iterable[Any], m: int, n: int, k: int) -> list[int]:
    """Numbers of what has votes, the most first, of as many the lowest."""
    asked, votes = features(m, n, k), dict[str, int]()
    for node in trees:
        while type(node) is list:
            what, threshold, less, more = node
            node = less if asked[what] < threshold else more
        for number, had in node.items():
            votes[number] = votes.get(number, 0) + had
    return sorted(map(int, votes), key=lambda number: (-votes[str(number)], number))
