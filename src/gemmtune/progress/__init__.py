"""What tuning tells while it works, and showing that to people."""

from __future__ import annotations

from gemmtune.progress.events import (
    Drifted,
    Event,
    ProblemFinished,
    ProblemSkipped,
    ProblemStarted,
    Report,
    Settling,
    SpaceListed,
    Standing,
    StopReason,
    Tick,
    TrialFinished,
)
from gemmtune.progress.show import Mode, Progress

__all__ = [
    "Drifted",
    "Event",
    "Mode",
    "ProblemFinished",
    "ProblemSkipped",
    "ProblemStarted",
    "Progress",
    "Report",
    "Settling",
    "SpaceListed",
    "Standing",
    "StopReason",
    "Tick",
    "TrialFinished",
]
