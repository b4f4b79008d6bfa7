"""Answers questions about an open device. Survives neither a crash nor a lost device."""

from __future__ import annotations

from gemmtune.executors.local.fragments import wrongness
from gemmtune.executors.local.gpu import Gpu, JobError
from gemmtune.executors.local.residency import resident_bytes
from gemmtune.job import Failure
from gemmtune.probes import Answer, Finding, Question


def answer(gpu: Gpu, question: Question) -> Finding:
    """What the device does when it is asked; a failure where it does it wrong or not at all."""
    try:
        if question.fragment is None:
            return resident_bytes(gpu)
        wrong = wrongness(gpu, question.fragment, question.source, question.width)
    except JobError as error:
        return Failure(kind=error.kind, message=str(error))
    if wrong:
        return Failure(kind="wrong_result", message=wrong)
    return Answer(number=1)
