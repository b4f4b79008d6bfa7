"""The adapter that tests run kernels on: the machine's best, or the one that is expected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from gemmtune.device import Device
from gemmtune.errors import DeviceError
from gemmtune.executors import open_executor
from gemmtune.executors.pool import Pool
from gemmtune.job import Job, Outcome, Policy
from gemmtune.kernels.base import Kernel
from gemmtune.lookup import find
from gemmtune.problem import Gemm
from gemmtune.store import Store

# These take an adapter with cooperative matrices: `make test-coop` brings one.
collect_ignore = [] if "GEMMTUNE_EXPECT_FRAGMENTS" in os.environ else ["coop"]

# Tests change databases and want to see it at once; see test_lookup for the time it is trusted.
find.TRUST_S = 0.0

QUICK = Policy(warmup_s=0.0, min_time_s=0.0, min_repetitions=3, max_repetitions=3)
"""Times under it mean nothing, and take none."""


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Remembers what is probed of the adapter while the tests run, for all processes that do."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with Store.open(folder / "probed.db") as store:
        yield store


@pytest.fixture(scope="session")
def executor(memory: Store) -> Iterator[Pool]:
    """Workers on the adapter; skips where there is none, fails where one is expected."""
    expected = os.environ.get("GEMMTUNE_EXPECT_ADAPTER")
    try:
        opened = open_executor(f"local:{expected or ''}", workers=1, policy=QUICK, memory=memory)
    except DeviceError as error:
        if expected is not None:
            pytest.fail(f"GEMMTUNE_EXPECT_ADAPTER={expected}: {error}", pytrace=False)
        pytest.skip(f"needs a WebGPU adapter: {error}")
    assert isinstance(opened, Pool)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def device(executor: Pool) -> Device:
    """The adapter, as its workers describe it."""
    return executor.device


@pytest.fixture
def run_kernel(executor: Pool) -> Callable[[Gemm, Kernel], Outcome]:
    """Verifies and times one kernel of one problem on the adapter."""

    def run(gemm: Gemm, kernel: Kernel) -> Outcome:
        executor.submit(Job(id=0, gemm=gemm, kernel=kernel))
        outcome = executor.next()
        assert outcome is not None
        return outcome

    return run
