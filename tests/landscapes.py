"""Landscapes for tests, from what an executor says."""

from __future__ import annotations

from itertools import islice

from gemmtune.executors import Executor
from gemmtune.generators import generator_hash
from gemmtune.job import Job, Policy
from gemmtune.kernels import FAMILIES
from gemmtune.landscape import Landscape, Recorded
from gemmtune.problem import Gemm
from gemmtune.render import render


def landscape_of(executor: Executor, gemm: Gemm, family: str, most: int = 50) -> Landscape:
    """The default and the first configs of a family's space, one after the other."""
    record, device = FAMILIES[family], executor.device
    space = islice(record.space(gemm, device), most)
    rows = []
    for config in dict.fromkeys([record.default(gemm, device), *space]):
        kernel = render(family, config, gemm, device)
        executor.submit(Job(id=len(rows), gemm=gemm, kernel=kernel))
        outcome = executor.next()
        assert outcome is not None
        rows.append(Recorded.of(config, kernel.launches, outcome))
    return Landscape(
        device=device,
        gemm=gemm,
        family=family,
        where="",
        selected=len(rows),
        seed=0,
        policy=Policy(),
        versions=executor.versions,
        generator_hash=generator_hash(family),
        rows=tuple(rows),
    )
