"""Products on wgpu devices against float64, and what goes wrong with buffers and devices."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wgpu

from databases import add
from gemmtune.device import Device
from gemmtune.errors import DeviceError, DeviceLostError, OperandError, UnlockError
from gemmtune.executors.local import adapters
from gemmtune.gpu import Matmul, matmul, plan, request_device
from gemmtune.gpu.arrays import upload
from gemmtune.gpu.context import context_of
from gemmtune.kernels import FAMILIES
from gemmtune.lookup import read_record, record
from gemmtune.problem import ACTIVATIONS, Gemm
from gemmtune.store import Store
from gemmtune.unlock import VARIABLE

EXPECTED = os.environ.get("GEMMTUNE_EXPECT_ADAPTER")
RNG = np.random.default_rng(3)
LIMITS = {"f32": 1e-6, "f16": 2e-3}
"""Largest error over the largest magnitude; products here are short."""


@pytest.fixture(scope="module")
def device() -> Any:
    """A device with all its adapter has; skips where there is none, fails where one is expected."""
    try:
        return request_device(EXPECTED or "")
    except DeviceError as error:
        if EXPECTED is not None:
            pytest.fail(f"GEMMTUNE_EXPECT_ADAPTER={EXPECTED}: {error}", pytrace=False)
        pytest.skip(f"needs a WebGPU adapter: {error}")


@pytest.fixture
def plain(device: Any) -> Any:
    """Another device of the adapter, with WebGPU's least limits and no feature."""
    return device.adapter.request_device_sync()


def values(*shape: int, dtype: str = "f4") -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(dtype)


def act(x: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "gelu":
        return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
    return x / (1.0 + np.exp(-x)) if name == "silu" else x


def assert_close(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], dtype: str) -> None:
    assert found.shape == wanted.shape
    scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-30)
    assert float(np.abs(found - wanted).max(initial=0.0)) <= LIMITS[dtype] * scale


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (values(5, 7), values(7, 9)),
        (values(64, 64), values(64, 48)),
        (values(33, 65).T, values(17, 33).T),
        (values(20, 14)[::2, ::2], values(7, 18)[:, ::2]),
        (values(3, 5, 7), values(3, 7, 9)),
        (values(2, 3, 5, 8), values(8, 4)),
        (values(4, 4), values(3, 4, 4)),
        (values(3, 7, 5).swapaxes(1, 2), values(3, 7, 9)),
        (values(1, 100), values(100, 1)),
        (values(3, 0), values(0, 4)),
        (values(0, 4), values(4, 4)),
        (values(0, 2, 4), values(4, 4)),
    ],
    ids=lambda x: f"{x.shape}",
)
@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_matmul_of_every_layout(device: Any, a: Any, b: Any, dtype: str) -> None:
    # astype keeps the order in memory, so views stay views.
    a, b = a.astype(dtype, order="K"), b.astype(dtype, order="K")
    found = matmul(a, b, device=device)
    assert found.dtype == a.dtype
    assert_close(
        found, np.matmul(a.astype("f8"), b.astype("f8")), "f32" if dtype == "f4" else "f16"
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_matmul_with_an_epilogue(device: Any, activation: Any) -> None:
    a, b, c, bias = values(2, 12, 20), values(20, 8), values(2, 12, 8), values(8)
    found = matmul(a, b, bias=bias, c=c, alpha=0.5, beta=-2.0, activation=activation, device=device)
    wanted = act(0.5 * (a.astype("f8") @ b) - 2.0 * c + bias, activation)
    assert_close(found, wanted, "f32")


def test_matmul_of_both_types_gives_the_wider_one_or_what_is_asked(device: Any) -> None:
    a, b = values(5, 7, dtype="f2"), values(7, 9)
    wanted = a.astype("f8") @ b
    assert matmul(a, b, device=device).dtype == np.float32
    assert_close(matmul(a, b, device=device), wanted, "f32")
    half = matmul(a, b, dtype="f2", device=device)
    assert half.dtype == np.float16
    assert_close(half, wanted, "f16")


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((values(2, 3), values(4, 5)), {}, r"a's columns \(3\) must be as many as b's rows \(4\)"),
        ((values(3), values(3, 4)), {}, r"shape \(3,\)"),
        ((values(2, 3, dtype="f8"), values(3, 4)), {}, "float64"),
        ((np.ones((2, 3), int), values(3, 4)), {}, "int64"),
        ((values(2, 3, 4), values(3, 4, 5)), {}, "batch"),
        ((values(2, 3), values(3, 4)), {"bias": values(3)}, r"bias has shape \(3,\)"),
        ((values(2, 3), values(3, 4)), {"beta": 1.0}, "beta and c"),
        ((values(2, 3), values(3, 4)), {"beta": 1.0, "c": values(4, 2)}, "c has shape"),
        ((values(2, 3), values(3, 4)), {"dtype": "f8"}, "float64"),
    ],
)
def test_operands_that_do_not_fit_are_named(
    device: Any, args: Any, options: Any, message: str
) -> None:
    with pytest.raises(OperandError, match=message):
        matmul(*args, device=device, **options)


# Plans


def buffers_of(device: Any, *arrays: np.ndarray[Any, Any]) -> list[Any]:
    return [upload(device, array) for array in arrays]


def read(device: Any, buffer: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.frombuffer(device.queue.read_buffer(buffer), "f4")[: np.prod(shape)].reshape(shape)


def test_plans_are_encoded_into_a_pass_of_the_callers(device: Any) -> None:
    x, w1, w2 = values(6, 16), values(16, 24), values(24, 4)
    a, b1, b2 = buffers_of(device, x, w1, w2)
    hidden, y = buffers_of(device, np.empty((6, 24), "f4"), np.empty((6, 4), "f4"))
    first = plan(device, Gemm(m=6, n=24, k=16, activation="relu"))
    second = plan(device, Gemm(m=6, n=4, k=24))
    encoder = device.create_command_encoder()
    run = encoder.begin_compute_pass()
    first.encode(run, a, b1, hidden)
    second.encode(run, hidden, b2, y)
    run.end()
    device.queue.submit([encoder.finish()])
    wanted = np.maximum(x.astype("f8") @ w1, 0.0) @ w2
    assert_close(read(device, y, (6, 4)), wanted, "f32")


def test_a_plan_is_made_once(device: Any) -> None:
    gemm = Gemm(m=6, n=24, k=16)
    assert plan(device, gemm) is plan(device, replace(gemm))
    assert plan(device, replace(gemm, alpha=2.0)) is not plan(device, gemm)


def test_a_new_number_of_rows_compiles_nothing_for_the_same_config(
    device: Any, tmp_path: Path
) -> None:
    described, path = context_of(device).device, tmp_path / "tuned.db"
    gemm = Gemm(m=64, n=40, k=24, bias=True, activation="silu")
    static = replace(FAMILIES["tiled"].default(gemm, described), dims="static", unroll_k=8)
    with Store.open(path) as store:
        add(store, 10.0, static, device=described, gemm=gemm, family="tiled")
    x, w, bias = values(200, 24), values(24, 40), values(40)
    wanted = act(x.astype("f8") @ w + bias, "silu")
    a, b, extra = buffers_of(device, x, w, bias)
    (c,) = buffers_of(device, np.empty((200, 40), "f4"))
    compiled = context_of(device).pipeline_count
    for m in (1, 2, 7, 65, 100, 200):
        ready = plan(device, replace(gemm, m=m), path=path)
        ready.run(a, b, c, extra)
        assert_close(read(device, c, (m, 40)), wanted[:m], "f32")
        assert ready.choice.config == replace(static, dims="dynamic")
    assert context_of(device).pipeline_count == compiled + 1


def test_a_layer_is_right_for_every_number_of_rows(device: Any) -> None:
    w, bias = values(40, 24), values(40)
    layer = Matmul(w.T, bias=bias, device=device)
    for m in (3, 1, 64, 65, 200):
        x = values(m, 24)
        assert_close(layer(x), x.astype("f8") @ w.T + bias, "f32")


def test_encoding_again_makes_nothing(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = plan(device, Gemm(m=8, n=8, k=8))
    a, b, c = buffers_of(device, values(8, 8), values(8, 8), np.empty((8, 8), "f4"))
    ready.run(a, b, c)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("something was made")

    for name in ("create_buffer", "create_bind_group", "create_shader_module"):
        monkeypatch.setattr(type(device), name, refuse)
    ready.run(a, b, c)


def test_other_buffers_have_other_bind_groups(device: Any) -> None:
    ready = plan(device, Gemm(m=8, n=8, k=8))
    for _ in range(40):
        x, w = values(8, 8), values(8, 8)
        a, b, c = buffers_of(device, x, w, np.empty((8, 8), "f4"))
        ready.run(a, b, c)
        assert_close(read(device, c, (8, 8)), x.astype("f8") @ w, "f32")


def test_buffers_that_do_not_fit_are_named(device: Any, plain: Any) -> None:
    ready = plan(device, Gemm(m=8, n=8, k=8))
    a, b, c = buffers_of(device, values(8, 8), values(8, 8), np.empty((8, 8), "f4"))
    (small,) = buffers_of(device, values(8, 7))
    (foreign,) = buffers_of(plain, values(8, 8))
    vertex = device.create_buffer(size=256, usage=wgpu.BufferUsage.VERTEX)
    for wrong, message in (
        (small, "a has 224 bytes and 8x8x8:f32,f32,f32,f32:nn needs 256"),
        (foreign, "another device"),
        (vertex, "without BufferUsage.STORAGE"),
        (values(8, 8), "GPUBuffer, not ndarray"),
    ):
        with pytest.raises(OperandError, match=message):
            ready.run(wrong, b, c)
    with pytest.raises(OperandError, match="has none"):
        ready.run(a, b, c, b)
    with pytest.raises(OperandError, match="bias must be"):
        plan(device, Gemm(m=8, n=8, k=8, bias=True)).run(a, b, c)


def test_threads_share_plans(device: Any) -> None:
    failures = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(5):
            a, b = (rng.standard_normal((16, 16)).astype("f4") for _ in "ab")
            if np.abs(matmul(a, b, device=device) - a.astype("f8") @ b).max() > 1e-4:
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Devices


def test_halves_on_a_device_without_them_are_multiplied_in_f32(plain: Any) -> None:
    a, b = values(5, 7, dtype="f2"), values(7, 9, dtype="f2")
    found = matmul(a, b, device=plain)
    assert found.dtype == np.float16
    assert_close(found, a.astype("f8") @ b.astype("f8"), "f16")
    with pytest.raises(DeviceError, match="lacks shader-f16"):
        plan(plain, Gemm(m=5, n=9, k=7, a="f16", b="f16", c="f16"))


def tuned_for(device: Device, gemm: Gemm, family: str, path: Path) -> None:
    """A database in which ``family`` is best for ``gemm``."""
    with Store.open(path) as store:
        add(
            store,
            10.0,
            FAMILIES[family].default(gemm, device),
            device=device,
            gemm=gemm,
            family=family,
        )
        add(store, 99.0, device=device, gemm=gemm)


def test_the_tuned_kernel_is_taken_where_the_device_has_its_features(
    device: Any, plain: Any, tmp_path: Path
) -> None:
    described = context_of(device).device
    if not described.has("subgroup"):
        pytest.skip("the adapter has no subgroups")
    gemm, path = Gemm(m=24, n=40, k=16), tmp_path / "tuned.db"
    tuned_for(described, gemm, "subgroup", path)
    x, w = values(24, 16), values(16, 40)
    for one, family in ((device, "subgroup"), (plain, "naive")):
        ready = plan(one, gemm, path=path)
        assert ready.choice.family == family
        a, b, c = buffers_of(one, x, w, np.empty((24, 40), "f4"))
        ready.run(a, b, c)
        assert_close(read(one, c, (24, 40)), x.astype("f8") @ w, "f32")
    assert "subgroup would be faster, but the device lacks the feature" in ready.choice.why


def test_a_kernel_tuned_without_checks_runs_without_them_at_edges_and_other_sizes(
    device: Any, tmp_path: Path
) -> None:
    described = context_of(device).device
    gemm, path = Gemm(m=1, n=99, k=203), tmp_path / "tuned.db"
    default: Any = FAMILIES["gemv"].default(gemm, described)
    with Store.open(path) as store:
        config = replace(default, dims="static", checked=False)
        add(store, 10.0, config, device=described, gemm=gemm, family="gemv")
    for one in (gemm, replace(gemm, n=101, k=157)):
        x, w = values(1, one.k), values(one.k, one.n)
        ready = plan(device, one, path=path)
        assert (ready.choice.family, ready.choice.config.unchecked) == ("gemv", True)
        a, b, c = buffers_of(device, x, w, np.empty((1, one.n), "f4"))
        ready.run(a, b, c)
        assert_close(read(device, c, (1, one.n)), x.astype("f8") @ w, "f32")


def test_a_kernel_that_the_driver_refuses_gives_way_to_one_that_works(
    device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = context_of(device).device
    gemm, path = Gemm(m=24, n=40, k=24, bias=True), tmp_path / "tuned.db"
    tuned_for(described, gemm, "subgroup", path)
    real = type(device).create_shader_module

    def refuse(self: Any, *, code: str, **options: Any) -> Any:
        return real(self, code="nonsense" if "kernel for" in code and "subgroup" in code else code)

    monkeypatch.setattr(type(device), "create_shader_module", refuse)
    ready = plan(device, gemm, path=path)
    assert ready.choice.family != "subgroup"
    assert "was refused here" in ready.choice.why


def test_a_lost_device_is_an_error_of_its_own(device: Any) -> None:
    lost = device.adapter.request_device_sync()
    ready = plan(lost, Gemm(m=8, n=8, k=8))
    a, b, c = buffers_of(lost, values(8, 8), values(8, 8), np.empty((8, 8), "f4"))
    lost.destroy()
    with pytest.raises(DeviceLostError, match="request another one"):
        ready.run(a, b, c)
    with pytest.raises(DeviceLostError):
        matmul(values(4, 4), values(4, 4), device=lost)
    with pytest.raises(DeviceLostError):
        plan(lost, Gemm(m=9, n=9, k=9, bias=True))


def test_native_matrices_on_request_need_the_copy_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UnlockError, match="gemmtune unlock"):
        request_device(matrices=True)
    from gemmtune import unlock

    original = unlock.shipped_library()
    assert original is not None
    copy = unlock._copy_of(original, tmp_path / "gemmtune")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"")
    with pytest.raises(UnlockError, match="imported already"):
        request_device(matrices=True)
    assert VARIABLE not in os.environ


def test_an_adapter_that_is_not_there_is_told() -> None:
    with pytest.raises(DeviceError, match="no adapter matches"):
        request_device("no such adapter")


def test_a_described_device_is_keyed_as_tuning_keys_it(device: Any) -> None:
    keys = [adapters.describe(each).key for each in adapters.adapters()]
    assert context_of(device).device.key in keys


def test_products_are_recorded_as_often_as_they_are_encoded(device: Any, tmp_path: Path) -> None:
    file = tmp_path / "shapes.jsonl"
    layer = Matmul(values(16, 8), device=device)
    with record(file):
        for _ in range(3):
            layer(values(5, 16))
    assert [(one.gemm.shape, one.count) for one in read_record(file)] == [("5x8x16", 3)]
