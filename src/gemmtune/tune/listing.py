"""The search of one problem, made: its space listed, which takes seconds, and what comes first.

Measures nothing. A space is listed in a thread, while what comes first anyway is measured.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from gemmtune.device import Device
from gemmtune.executors import Executor
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.kernels.predict import traits
from gemmtune.problem import Gemm
from gemmtune.search import Search
from gemmtune.store import Store
from gemmtune.tune.options import TuneOptions
from gemmtune.tune.relatives import relatives
from gemmtune.tune.shared import open_study

if TYPE_CHECKING:
    from gemmtune.search.study import Storage

Rows = Sequence[tuple[str, Config]]

SKETCHED = 13
"""The first search has of the sizes that a space goes through each so many-th; no number of values
of a size is a multiple of it, so all of them come up."""

_SWITCH_S = 0.0005
"""A thread that waits for the interpreter gets it after so long. Every step of a statement of SQL
is such a wait: with the usual 5 ms, writing down one job takes a tenth of a second."""


def searched_families(gemm: Gemm, device: Device, options: TuneOptions) -> tuple[str, ...]:
    """Those to search, ``tiled`` first: its default runs everywhere and is the baseline."""
    names = options.families or tuple(name for name in FAMILIES if name != "naive")
    usable = [name for name in names if not FAMILIES[name].supported(gemm, device)]
    return tuple(sorted(usable, key=lambda name: name != "tiled"))


class Lister:
    """Lists the space of one problem.

    Args:
        gemm: the problem.
        executor: whose device it is for.
        families: those to search.
        options: how.
        storage: where the search is shared; None: it is not.
        ended: whether nothing more will be asked, so that the rest need not be listed.
    """

    def __init__(
        self,
        gemm: Gemm,
        executor: Executor,
        families: Sequence[str],
        options: TuneOptions,
        storage: Storage | None,
        ended: Callable[[], bool],
    ) -> None:
        self._gemm = gemm
        self._executor = executor
        self._families = families
        self._options = options
        self._storage = storage
        self._ended = ended

    def first(self, store: Store) -> Rows:
        """What is tried before all others: defaults, then winners that the store knows."""
        device = self._executor.device
        defaults = [(name, FAMILIES[name].default(self._gemm, device)) for name in self._families]
        return [*defaults, *relatives(store, self._gemm, device, self._families)]

    def stages(self, first: Rows) -> tuple[Callable[[], Search], ...]:
        """The searches to make, each over more of the space than the one before, the last over all
        of it. Only a search by a model is any good with a part.
        """

        def sketch() -> Search:
            return Search(
                self._space(SKETCHED),
                first=first,
                sampler="guided",
                seed=self._options.seed,
                traits=self._traits,
            )

        whole = partial(self.search, first)
        return (sketch, whole) if self._options.sampler == "guided" else (whole,)

    def search(self, first: Rows) -> Search:
        """The search over all of the space."""
        device, versions = self._executor.device, self._executor.versions
        return Search(
            self._space(),
            first=first,
            sampler=self._options.sampler,
            seed=self._options.seed,
            traits=self._traits,
            study=open_study(self._storage, self._gemm, device, versions, self._options.policy),
        )

    def _space(self, every: int = 1) -> Iterator[tuple[str, Config]]:
        for name in self._families:
            for config in FAMILIES[name].space(self._gemm, self._executor.device, every):
                if self._ended():
                    return
                yield name, config

    def _traits(self, family: str, config: Config) -> tuple[float, ...]:
        record = FAMILIES[family]
        launches = record.launch(config, self._gemm)
        device = self._executor.device
        return traits(launches, self._gemm, device, matrices=record.multiplies_matrices)


class Beside:
    """A search that is made in a thread of its own."""

    def __init__(self, thread: ThreadPoolExecutor, make: Callable[[], Search]) -> None:
        self._made: Future[Search] = thread.submit(make)

    @property
    def done(self) -> bool:
        """It is there, or failed."""
        return self._made.done()

    def wait(self, timeout_s: float) -> None:
        """Until it is there, at most so long."""
        wait((self._made,), timeout_s)

    def result(self) -> Search:
        """The search, or what went wrong with it."""
        return self._made.result()


@contextmanager
def beside(make: Callable[[], Search]) -> Iterator[Beside]:
    """Makes a search while others work: they get the interpreter soon, and no garbage is looked for
    among the hundred thousands of rows that come and stay, which takes longer than making them.
    """
    interval_s, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(min(interval_s, _SWITCH_S))
    gc.disable()
    try:
        with ThreadPoolExecutor(1) as thread:
            yield Beside(thread, make)
    finally:
        sys.setswitchinterval(interval_s)
        if collects:
            gc.enable()
