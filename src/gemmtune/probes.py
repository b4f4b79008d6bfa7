"""Questions about a device that only a kernel can answer, their answers, and who remembers them.

Asks nothing itself: executors do, in processes that may die of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from gemmtune.device import Device, Fragment
from gemmtune.job import Failure

Source = Literal["workgroup", "storage"]
"""Memory that the fragments of A and B are loaded from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question; what it asks about says `subject`."""

    subject: Literal["fragment", "workgroup_memory"]
    """fragment: are its numbers right? workgroup_memory: how much does a multiprocessor hold?"""
    fragment: Fragment | None = None
    """The multiply-add in question."""
    source: Source = "workgroup"
    """Where its A and B come from."""
    width: int = 1
    """Elements of one pointee: 1 is a scalar, 2 and 4 are vectors."""

    @property
    def key(self) -> str:
        """Short text, e.g. ``fragment 16 f16 f32 storage 4``: equal keys, equal questions."""
        if self.fragment is None:
            return self.subject
        one = self.fragment
        return f"{self.subject} {one.size} {one.ab} {one.acc} {self.source} {self.width}"

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Question:
        """The inverse of `to_json`."""
        fragment = data["fragment"]
        return cls(**data | {"fragment": fragment and Fragment.from_json(fragment)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a question that was answered."""

    number: int
    """fragment: 1 for right. workgroup_memory: bytes; 0 where the speed does not tell."""
    detail: str = ""
    """What it was concluded from, as JSON."""


Finding = Answer | Failure
"""A failure is remembered too: the driver is not put to that test again."""


class Memory(Protocol):
    """Keeps findings per device, driver and basis; a `Store` does.

    Raises (any method):
        StoreError: it cannot be read or written.
    """

    def findings(self, device: Device, basis: str) -> dict[str, Finding]:
        """What is known, by `Question.key`; also that a process died over a question."""

    def begin_probe(self, device: Device, basis: str, question: str) -> None:
        """Write down that a question is about to be put to the driver."""

    def finish_probe(self, device: Device, basis: str, question: str, finding: Finding) -> None:
        """Write down what came of it."""

    def describe(self, device: Device) -> None:
        """Write down what the device was found to be."""
