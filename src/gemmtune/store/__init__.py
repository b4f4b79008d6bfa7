"""Results kept in a database: transactional, mergeable, never deleted by ageing.

The only home of sqlalchemy. Does not decide what to measure, and `lookup` reads without it.
"""

from __future__ import annotations

from gemmtune.store.arrivals import Arrival
from gemmtune.store.info import BestInfo, DeviceInfo, Info, ProblemInfo
from gemmtune.store.merge import MergeReport
from gemmtune.store.owner import Owner
from gemmtune.store.rows import Row, Status
from gemmtune.store.store import Store

__all__ = [
    "Arrival",
    "BestInfo",
    "DeviceInfo",
    "Info",
    "MergeReport",
    "Owner",
    "ProblemInfo",
    "Row",
    "Status",
    "Store",
]
