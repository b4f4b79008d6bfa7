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
ROWS, COLUMNS = (16, 32, 64, 128), (64, 128, 256)
"""Of tiles that C may be covered with."""
AT_ONCE = 132
"""Workgroups that an H100 has at once, one for each multiprocessor. What is over has most of them
wait; on a device with another number trees make of it what they can."""


def features(m: int, n: int, k: int) -> tuple[int, ...]:
    """What trees compare, whole numbers all: sizes, products of them and the largest powers of two
    that divide them. Then, for each number of `ROWS`, how full with m such tiles are, and n if it
    were the width, in percent, and for each of `COLUMNS` how many tiles there are, and how full
    with them `AT_ONCE` are in the mean.
    """
    powers = [min(size & -size, LARGEST_ALIGNMENT) for size in (m, n, k)]
    across = [-(-n // columns) for columns in COLUMNS]
    tiled = list[int]()
    for rows in ROWS:
        down = -(-m // rows)
        tiled += (_filled(m, rows), _filled(n, rows))
        for each in across:
            tiled += (down * each, _filled(down * each, AT_ONCE))
    return (m, n, k, m * n, m * k, n * k, m * n * k, *powers, *tiled)


def _filled(number: int, by: int) -> int:
    """Percent of the least multiple that holds a number, rounded down."""
    return 100 * number // (-(-number // by) * by or 1)


class Forest(NamedTuple):
    """Decision trees for problems of one device and kind, and what they speak of."""

    configs: list[tuple[str, str]]
    """Family and config as JSON, by number."""
    trees: list[Any]
    """Each a node, or one as text, which is read when it is come to. A node that asks is a list of
    a number of `features`, a threshold, the node to go on at where the feature is less, and the
    one where it is not. A leaf is a list of numbers only: those of configs, each followed by its
    votes, which are what it has over configs that are not named."""
    newest: str
    """When the last measurement was taken that they know of, UTC, ISO 8601."""

    @classmethod
    def from_row(cls, newest: str, configs: str, trees: str) -> Forest:
        """As a database keeps it.

        Raises:
            ValueError: it cannot be read.
        """
        return cls([(family, text) for family, text in _of(configs)], loads(trees), newest)

    def to_row(self) -> dict[str, str]:
        """The columns that `from_row` reads. Deep nodes are text in it."""
        trees = _json([_folded(read(node), TEXT_FROM) for node in self.trees])
        return {"newest": self.newest, "configs": _text(self.configs), "trees": trees}

    def first(self, m: int, n: int, k: int) -> list[tuple[str, str]]:
        """The configs that have votes for a problem of that size, best first."""
        return [self.configs[number] for number in voted(self.trees, m, n, k)]


def voted(trees: Iterable[Any], m: int, n: int, k: int) -> list[int]:
    """Numbers of what has votes, the most first, of as many the lowest. Text that it comes to in a
    tree is replaced by the nodes that it means.
    """
    asked, votes = features(m, n, k), dict[int, int]()
    for tree in trees:
        node = _of(tree) if type(tree) is str else tree
        while is_question(node):
            side = 2 if asked[node[0]] < node[1] else 3
            if type(node[side]) is str:
                node[side] = _of(node[side])  # for whoever comes this way next
            node = node[side]
        for number, had in zip(node[::2], node[1::2], strict=True):
            votes[number] = votes.get(number, 0) + had
    return sorted(votes, key=lambda number: (-votes[number], number))


def is_question(node: list[Any]) -> bool:
    """Whether a node asks; otherwise it is a leaf."""
    return len(node) == 4 and type(node[3]) is not int


def read(node: Any) -> Any:
    """A tree with no text in it."""
    if type(node) is str:
        return read(_of(node))
    return [*node[:2], read(node[2]), read(node[3])] if is_question(node) else node


TEXT_FROM = 6
"""So deep are the nodes that are text in a database: a lookup reads a sixtieth of a tree."""


def _folded(node: list[Any], depth: int) -> Any:
    """A tree with text from a depth on."""
    if not is_question(node):
        return node
    if not depth:
        return _text(node)
    return [*node[:2], *(_folded(each, depth - 1) for each in node[2:])]


def _json(value: Any) -> str:
    from json import dumps

    return dumps(value, separators=(",", ":"))


def _text(value: Any) -> str:
    """A list as JSON, or deflated without header and in base64 if that is shorter."""
    from base64 import b64encode
    from zlib import MAX_WBITS, compressobj

    text = _json(value)
    small = compressobj(level=9, wbits=-MAX_WBITS)
    packed = b64encode(small.compress(text.encode()) + small.flush()).decode()
    return min(text, packed, key=len)


def _of(text: str) -> Any:
    """The inverse of `_text`.

    Raises:
        ValueError: it is neither.
    """
    if text[:1] != "[":
        from binascii import a2b_base64
        from zlib import MAX_WBITS, decompress, error

        try:
            text = decompress(a2b_base64(text), -MAX_WBITS).decode()
        except error as wrong:
            raise ValueError(f"neither JSON nor deflated: {text[:40]}") from wrong
    return loads(text)
