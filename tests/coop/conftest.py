"""The driver that the tests of cooperative matrices run on, and wgpu-native unlocked for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gemmtune.executors.local.adapters import adapters, describe
from gemmtune.executors.probe import check_library
from gemmtune.unlock import Status, cache_folder, unlock


def pytest_report_header() -> list[str]:
    return [f"adapter: {device.name}, {device.driver}" for device in map(describe, adapters())]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take no workers first: of two processes one has them while the other probes."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        # Not of its set-up: the first to need workers waits minutes for what is probed.
        item.add_marker(pytest.mark.timeout(300, func_only=True))
    if len(ours) == len(items):
        items.sort(key=lambda item: "executor" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session", autouse=True)
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Status]:
    """Has wgpu-native grant cooperative matrices, for these tests only."""
    with pytest.MonkeyPatch.context() as patch:
        # What drivers compiled stays where it was: compiling it again takes a minute.
        patch.setenv("MESA_SHADER_CACHE_DIR", str(cache_folder().parent))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield unlock(check=check_library)
