"""Which config to measure next: ask and tell over the enumerated legal space."""

from __future__ import annotations

from gemmtune.search.ask import DEFAULT_SAMPLER, SAMPLERS, SamplerName, Search
from gemmtune.search.rows import RANDOM_SHARE, STARTUP, Candidate, Origin

__all__ = [
    "DEFAULT_SAMPLER",
    "RANDOM_SHARE",
    "SAMPLERS",
    "STARTUP",
    "Candidate",
    "Origin",
    "SamplerName",
    "Search",
]
