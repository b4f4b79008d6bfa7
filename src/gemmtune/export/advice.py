"""Which kernels of a document to take first, by decision trees: as databases keep it of configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemmtune.forest import voted
from gemmtune.problem import Gemm


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """For problems of one `Gemm.kind`."""

    newest: str
    """When the last measurement was taken that it knows of, UTC, ISO 8601."""
    kernels: tuple[tuple[str, ...], ...]
    """By number of a config in the trees, the ids of its kernels: the first that serves is it."""
    trees: Sequence[Any]
    """See `gemmtune.forest.Forest`."""

    def on(self, gemm: Gemm) -> list[tuple[str, ...]]:
        """The ids of kernels to take first, best config first; none for a batch."""
        if gemm.batch != 1:
            return []
        return [self.kernels[number] for number in voted(self.trees, gemm.m, gemm.n, gemm.k)]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        kernels = [list(ids) for ids in self.kernels]
        return {"newest": self.newest, "kernels": kernels, "trees": list(self.trees)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Advice:
        """The inverse of `to_json`."""
        kernels = tuple(tuple(ids) for ids in data["kernels"])
        return cls(newest=data["newest"], kernels=kernels, trees=data["trees"])
