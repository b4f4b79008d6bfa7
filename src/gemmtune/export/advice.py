"""Which kernels of a document to take first, by decision trees: as databases keep it of configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gemmtune.forest import is_question, voted
from gemmtune.problem import Gemm


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """For problems of one `Gemm.kind`."""

    newest: str
    """When the last measurement was taken that it knows of, UTC, ISO 8601."""
    kernels: tuple[tuple[str, ...], ...]
    """By number of a config in the trees, the ids of its kernels: the first that serves is it."""
    trees: tuple[Any, ...]
    """See `gemmtune.forest.Forest`; nothing is text."""

    def on(self, gemm: Gemm) -> list[tuple[str, ...]]:
        """The ids of kernels to take first, best config first; none for a batch."""
        if gemm.batch != 1:
            return []
        return [self.kernels[number] for number in voted(self.trees, gemm.m, gemm.n, gemm.k)]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        kernels = [list(ids) for ids in self.kernels]
        trees = [_told(tree) for tree in self.trees]
        return {"newest": self.newest, "kernels": kernels, "trees": trees}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Advice:
        """The inverse of `to_json`."""
        kernels = tuple(tuple(ids) for ids in data["kernels"])
        trees = tuple(_heard(tree) for tree in data["trees"])
        return cls(newest=data["newest"], kernels=kernels, trees=trees)


def _told(node: list[Any]) -> Any:
    """A tree whose leaves are objects, as documents have it."""
    if is_question(node):
        return [*node[:2], *map(_told, node[2:])]
    return {str(number): had for number, had in zip(node[::2], node[1::2], strict=True)}


def _heard(node: Any) -> list[Any]:
    """The inverse of `_told`."""
    if isinstance(node, dict):
        votes = sorted((int(number), had) for number, had in node.items())
        return [value for pair in votes for value in pair]
    what, threshold, less, more = node
    return [what, threshold, _heard(less), _heard(more)]
