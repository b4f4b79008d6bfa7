"""The adapter that the tests of cooperative matrices run on: one that has them, and no other."""

from __future__ import annotations

import re

from gemmtune.executors.local.adapters import MATRICES, adapters, describe

FIRST_MESA = (26, 1)
"""The first release whose lavapipe has cooperative matrices."""


def test_the_only_adapter_is_the_software_one() -> None:
    (device,) = [describe(adapter) for adapter in adapters()]

    assert device.software
    assert device.backend == "vulkan"


def test_mesa_is_new_enough_to_have_cooperative_matrices() -> None:
    driver = describe(adapters()[0]).driver
    found = re.match(r"Mesa (\d+)\.(\d+)", driver)

    assert found, driver
    assert (int(found[1]), int(found[2])) >= FIRST_MESA


def test_wgpu_finds_cooperative_matrices_on_the_adapter() -> None:
    assert MATRICES in adapters()[0].features
