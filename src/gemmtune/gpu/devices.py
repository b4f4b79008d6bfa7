"""wgpu devices for applications: requested, and described as gemmtune describes devices."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gemmtune.device import Device, Limits
from gemmtune.errors import DeviceLostError, MissingExtraError, StoreError, UnlockError
from gemmtune.lookup import default_paths, recorded
from gemmtune.unlock import VARIABLE, library_path


def request_device(selector: str = "", *, matrices: bool = False) -> Any:
    """A wgpu device with everything of its adapter that kernels can use.

    Args:
        selector: an index, or part of the adapter's name or key; empty: the best.
        matrices: also with native matrices, through the copy of wgpu-native that
            ``gemmtune unlock`` has made. Only before anything has imported wgpu.

    Raises:
        DeviceError: no such adapter, or its driver gives no device.
        UnlockError: there is no copy, or another library is loaded already.
        MissingExtraError: wgpu is not installed.
    """
    if matrices:
        _use_unlocked()
    with needing_wgpu():
        from gemmtune.executors.local import adapters
    found = adapters.adapters()
    devices = [adapters.describe(adapter) for adapter in found]
    index = adapters.choose(devices, selector)
    opened, device = adapters.open_device(found[index], devices[index])
    if matrices and not device.has(adapters.MATRICES):
        raise UnlockError(
            f"{device.name} has no native matrices to use: its driver does not offer "
            f"{adapters.MATRICES}, or wgpu-native refuses it; `gemmtune devices` says which"
        )
    return opened


def _use_unlocked() -> None:
    """Has wgpu load the copy when it is imported."""
    if os.environ.get(VARIABLE, "").strip():
        return
    copy = library_path()
    if copy is None:
        raise UnlockError("native matrices need `gemmtune unlock` to be run once on this machine")
    if "wgpu.backends.wgpu_native" in sys.modules:
        raise UnlockError(
            "wgpu is imported already, with the library that refuses native matrices; call "
            f"request_device(matrices=True) before that, or start with {VARIABLE}={copy}"
        )
    os.environ[VARIABLE] = str(copy)


@contextmanager
def needing_wgpu() -> Iterator[None]:
    """Where wgpu or numpy is not installed, says which extra brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("wgpu", "numpy"):
            raise
        raise MissingExtraError.of(error.name, "gpu") from error


def describe(wgpu_device: Any) -> Device:
    """The device as it was requested: its own features and limits, not all of the adapter's.

    Runs a kernel of one invocation for the size of subgroups. What only a probe can tell, which
    native matrices are right, is what the databases say of this adapter and driver; where they say
    nothing it is found out in processes of its own, and kept in the user's.
    """
    from gemmtune.executors.local import adapters

    whole = adapters.describe(wgpu_device.adapter)
    usable = {*adapters.USED_FEATURES, adapters.MATRICES} & set(wgpu_device.features)
    device = replace(
        whole,
        features=tuple(sorted(usable)),
        refused=tuple(name for name in whole.refused if name not in usable),
        limits=_limits(wgpu_device.limits),
    )
    with translated(device.name):
        device = adapters.with_subgroup_size(device, wgpu_device)
    known = recorded(device.key)
    if known is not None and known.subgroup_size == device.subgroup_size:
        return replace(
            device,
            fragments=known.fragments if device.has(adapters.MATRICES) else (),
            resident_workgroup_bytes=known.resident_workgroup_bytes,
        )
    if not device.has(adapters.MATRICES):
        return device
    keys = [adapters.describe(each).key for each in adapters.adapters()]
    return _probed(device, str(keys.index(device.key)))


def _probed(device: Device, selector: str) -> Device:
    """With what is found out and kept; unchanged where the packages for keeping are missing."""
    from gemmtune.executors.probing import probe

    try:
        from gemmtune.store import Store
    except ModuleNotFoundError:
        return device
    try:
        with Store.open(default_paths(os.environ)[0]) as store:
            return probe(device, selector, store).device
    except StoreError:
        return probe(device, selector).device


def _limits(granted: Any) -> Limits:
    from gemmtune.executors.local.adapters import LIMITS

    return Limits(**{name: int(granted[dashed]) for name, dashed in LIMITS.items()})


@contextmanager
def translated(name: str) -> Iterator[None]:
    """What wgpu raises about a device that is lost leaves as `DeviceLostError`."""
    import wgpu

    try:
        yield
    except wgpu.GPUError as error:
        if "device is lost" not in str(error).lower():
            raise
        raise DeviceLostError(
            f"the device {name} is lost: its driver gave it up, or it was destroyed; request "
            "another one and make its buffers anew"
        ) from error
