"""The driver that the tests of cooperative matrices run on, and wgpu-native unlocked for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gemmtune.executors.local.adapters import adapters, describe
from gemmtune.executors.probe import check_library
from gemmtune.unlock import Status, cache_folder, unlock


def pytest_report_header() -> list[str]:
    return [f"adapter: {device.name}, {device.driver}" for device in map(describe, adapters())]


@pytest.fixture(scope="session", autouse=True)
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Status]:
    """Has wgpu-native grant cooperative matrices, for these tests only."""
    with pytest.MonkeyPatch.context() as patch:
        # What drivers compiled stays where it was: compiling it again takes a minute.
        patch.setenv("MESA_SHADER_CACHE_DIR", str(cache_folder().parent))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield unlock(check=check_library)
