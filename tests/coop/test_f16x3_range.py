"""coopmat_f16x3 keeps the bound that its module states, for inputs that are out to break it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gemmtune.device import Device
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.coopmat_f16x3 import CoopmatF16x3Config
from gemmtune.problem import Gemm
from gemmtune.unlock import library_environment

FAMILY = FAMILIES["coopmat_f16x3"]
U = 2.0**-24
M, N, K = 20, 24, 70
LARGEST = float(np.finfo(np.float32).max)
Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def spread(random: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Any:
    """Powers of ten between 10^low and 10^high."""
    return 10.0 ** random.uniform(low, high, shape)


def pairs() -> dict[str, Pair]:
    """A of M x K and B of K x N; every one in f32, every product finite."""
    random = np.random.default_rng(7)
    a, b = random.standard_normal((M, K)), random.standard_normal((K, N))
    holes_a, holes_b = a.copy(), b.copy()
    holes_a[3:7] = 0.0
    holes_b[:, 5:9] = 0.0
    found = {
        "normal": (a, b),
        "tiny": (a * 1e-30, b * 1e-6),
        "huge": (a * 1e30, b * 1e6),
        "huge by tiny": (a * 1e30, b * 1e-30),
        "subnormal": (a * 1e-40, b * 1e36),
        "largest": (np.sign(a) * LARGEST, b * 1e-4),
        "rows apart": (a * spread(random, (M, 1), -30, 30), b * spread(random, (1, N), -7, 6)),
        "mixed in a row": (a * spread(random, (M, K), -30, 0), b),
        "mixed everywhere": (a * spread(random, (M, K), -9, 9), b * spread(random, (K, N), -9, 9)),
        "one giant a row": (np.where(np.arange(K) == 9, a * 1e30, a), b),
        "powers of two": (np.exp2(np.round(a)), np.exp2(np.round(b))),
        "all ones in the mantissa": (np.full((M, K), 2 - 2.0**-23), np.full((K, N), 2 - 2.0**-23)),
        "cancelling": (np.concatenate([a[:, :35], -a[:, :35]], 1), np.concatenate([b[:35]] * 2)),
        "zero rows and columns": (holes_a, holes_b),
        "zeros": (np.zeros((M, K)), b),
    }
    return {name: (a.astype(np.float32), b.astype(np.float32)) for name, (a, b) in found.items()}


def multiply(folder: Path, device: Device, config: CoopmatF16x3Config, many: list[Pair]) -> Any:
    """C of every pair, computed as one batch."""
    gemm = Gemm(m=M, n=N, k=K, batch=len(many), math="f16x3")
    job = {
        "problem": gemm.to_json(),
        "family": "coopmat_f16x3",
        "config": config.to_json(),
        "device": device.to_json(),
    }
    (folder / "job.json").write_text(json.dumps(job))
    for name, matrices in zip(("a", "b"), zip(*many, strict=True), strict=True):
        np.save(folder / f"{name}.npy", np.stack(matrices))
    script = Path(__file__).with_name("multiply.py")
    subprocess.run(
        [sys.executable, str(script), str(folder)], check=True, env=library_environment()
    )
    return np.load(folder / "c.npy").astype(np.float64)


def bound(a: NDArray[np.float64], b: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    """The largest error that the module's docstring allows."""
    sizes = np.abs(a) @ np.abs(b)
    row = np.maximum(np.max(np.abs(a), 1, keepdims=True), 2.0**-98)
    column = np.maximum(np.max(np.abs(b), 0, keepdims=True), 2.0**-98)
    far = row * np.sum(np.abs(b), 0) + np.sum(np.abs(a), 1, keepdims=True) * column
    return U * (2 * depth + K / depth + K / 256 + 13) * sizes + 2.0**-28 * far + 2.0**-126


def configs(device: Device) -> dict[str, CoopmatF16x3Config]:
    gemm = Gemm(m=M, n=N, k=K, math="f16x3")
    changes = {"frag": 8, "frags_m": 1, "frags_n": 1, "tile_k": 16, "chain": 2}
    within = dataclasses.replace(FAMILY.default(gemm, device), **changes)
    apart = dataclasses.replace(within, corrections="apart")
    presplit = dataclasses.replace(apart, presplit=True, vec=4, frags_m=2, frags_n=2)
    return {"within": within, "apart": apart, "presplit": presplit}


@pytest.fixture(params=["within", "apart", "presplit"])
def config(request: pytest.FixtureRequest, device: Device) -> CoopmatF16x3Config:
    return configs(device)[request.param]


def test_the_bound_holds_for_every_finite_input(
    tmp_path: Path, device: Device, config: CoopmatF16x3Config
) -> None:
    cases = pairs()
    found = multiply(tmp_path, device, config, list(cases.values()))

    for (name, (a, b)), c in zip(cases.items(), found, strict=True):
        right = a.astype(np.float64) @ b.astype(np.float64)
        allowed = bound(a.astype(np.float64), b.astype(np.float64), config.frag * config.chain)
        over = np.max(np.abs(c - right) / allowed)
        assert over <= 1.0, f"{name}: {over} of what is allowed"
        # and for rows whose elements are alike, as good as f32
        if name in ("normal", "tiny", "huge", "huge by tiny", "largest", "rows apart"):
            sizes = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
            assert np.max(np.abs(c - right) / sizes) < 4 * U, name


def test_what_overflows_in_f32_is_infinite(
    tmp_path: Path, device: Device, config: CoopmatF16x3Config
) -> None:
    random = np.random.default_rng(1)
    a = random.uniform(0.5, 1, (M, K)).astype(np.float32) * np.float32(1e30)
    b = random.uniform(0.5, 1, (K, N)).astype(np.float32) * np.float32(1e30)
    b[:, ::2] *= np.float32(1e-30)

    (c,) = multiply(tmp_path, device, config, [(a, b)])

    assert np.all(c[:, 1::2] == np.inf)
    assert np.all(np.isfinite(c[:, ::2]))


def test_inf_and_nan_make_their_row_or_column_not_finite_and_nothing_else(
    tmp_path: Path, device: Device, config: CoopmatF16x3Config
) -> None:
    a, b = pairs()["normal"]
    a[2, 5], a[4, 60], b[11, 3], b[0, 7] = np.inf, np.nan, -np.inf, np.nan
    touched = np.zeros((M, N), bool)
    touched[[2, 4]] = touched[:, [3, 7]] = True

    (c,) = multiply(tmp_path, device, config, [(a, b)])

    assert np.all(np.isnan(c[touched]))
    clean_a, clean_b = (np.where(np.isfinite(x), x, 0).astype(np.float64) for x in (a, b))
    allowed = bound(clean_a, clean_b, config.frag * config.chain)
    assert np.all((np.abs(c - clean_a @ clean_b) <= allowed)[~touched])
