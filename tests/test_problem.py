"""Problems and devices: what is refused, what keys say, JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given

from gemmtune.device import Device, Fragment
from gemmtune.errors import ProblemError
from gemmtune.problem import Gemm, traffic_of
from strategies import H100, LAVAPIPE, LEAST, MATRICES, gemms


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"m": -1}, "m must be an integer >= 0, not -1"),
        ({"k": 1.5}, "k must be an integer"),
        ({"m": True}, "m must be an integer"),
        ({"a": "f8"}, "dtype of a is 'f8'; supported: f32, f16"),
        ({"acc": "f16"}, "acc=f16 needs a and b in f16"),
        ({"activation": "tanh"}, "supported: none, relu, gelu, silu"),
        ({"batch": 2, "stride_c": 3}, "stride_c is 3; it must be at least 16"),
        ({"stride_a": -4}, "stride_a is -4"),
        ({"math": "tf32"}, "math is 'tf32'; supported: ieee, f16x3"),
        ({"math": "f16x3", "a": "f16"}, "a is f16, b f32 and acc f32: leave math at ieee"),
        ({"beta": float("nan")}, "beta must be a finite number, not nan"),
    ],
)
def test_what_is_no_gemm_is_refused_in_words(fields, words):
    with pytest.raises(ProblemError, match=words):
        Gemm(**({"m": 4, "n": 4, "k": 4} | fields))


@pytest.mark.parametrize("text", ["12", "1x2", "axbxc", "1x2x3x4x5", "", "-1x2x3", "1.5x2x3"])
def test_shape_that_is_not_three_or_four_sizes_is_refused(text):
    with pytest.raises(ProblemError, match="is not MxNxK"):
        Gemm.parse(text)


def test_shape_with_a_fourth_size_is_batched():
    assert Gemm(m=2, n=3, k=4, batch=5) == Gemm.parse(" 2X3x4x5 ")


def test_key_holds_all_that_makes_a_kernel_fit_and_not_the_values_of_alpha_and_beta():
    gemm = Gemm.parse("8x9x10x2", a="f16", b="f16", trans_b=True, bias=True, activation="gelu")

    assert gemm.key == "8x9x10x2:f16,f16,f32,f32:nt:bias,gelu"
    assert dataclasses.replace(gemm, alpha=3.0).key == gemm.key
    assert (
        dataclasses.replace(gemm, beta=0.5).key
        == dataclasses.replace(gemm, beta=2.0).key
        != gemm.key
    )
    assert dataclasses.replace(gemm, stride_b=0).key == gemm.key + ":stride_b=0"
    assert dataclasses.replace(gemm, stride_b=90).key == gemm.key


def test_key_names_the_math_only_where_it_is_not_the_usual():
    gemm = Gemm.parse("8x9x10", beta=1.0)

    assert gemm.key == "8x9x10:f32,f32,f32,f32:nn:beta"
    assert "math" not in gemm.to_json()
    assert dataclasses.replace(gemm, math="f16x3").key == "8x9x10:f32,f32,f32,f32:nn:f16x3,beta"


@given(gemm=gemms())
def test_problems_survive_json(gemm):
    assert gemm == Gemm.from_json(gemm.to_json())


def test_problem_with_an_unknown_field_is_refused():
    with pytest.raises(ProblemError, match="not a problem"):
        Gemm.from_json({"m": 1, "n": 1, "k": 1, "order": "row"})


def test_sizes_count_gaps_between_matrices_of_a_batch():
    gemm = Gemm(m=2, n=3, k=4, batch=3, c="f16", stride_a=0, stride_c=10, bias=True)

    assert gemm.size_bytes("a") == 8 * 4
    assert gemm.size_bytes("b") == 3 * 12 * 4
    assert gemm.size_bytes("c") == (2 * 10 + 6) * 2
    assert gemm.size_bytes("bias") == 3 * 2
    assert gemm.flops == 2 * 2 * 3 * 4 * 3


PROBED = dataclasses.replace(
    MATRICES,
    fragments=(Fragment(size=8, ab="f16", acc="f32", workgroup=(4,), storage=(1, 2)),),
    resident_workgroup_bytes=49152,
)


@pytest.mark.parametrize("device", [LEAST, LAVAPIPE, H100, MATRICES, PROBED])
def test_devices_survive_json(device):
    data = json.loads(json.dumps(device.to_json()))

    assert device == Device.from_json(data)


def test_a_device_that_was_written_down_before_probes_of_loads_is_read():
    data = MATRICES.to_json()
    del data["resident_workgroup_bytes"]
    data["fragments"] = [{"size": 16, "ab": "f16", "acc": "f32"}]

    device = Device.from_json(data)

    assert device.resident_workgroup_bytes == 0
    assert device.fragment(16, "f16", "f32") == Fragment(size=16, ab="f16", acc="f32")
    assert device.fragment(8, "f16", "f32") is None


def test_device_key_is_stable_text_of_adapter_backend_and_driver():
    device = dataclasses.replace(H100, device_id=0x2330, driver="580.159.04")

    assert device.key == "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"
    assert device.hardware_key == "vulkan/10de-2330/nvidia-h100-80gb-hbm3"


@pytest.mark.parametrize(
    "name", ["llvmpipe (LLVM 15.0.6, 256 bits)", "SwiftShader Device", "Microsoft Basic Render"]
)
def test_software_adapters_are_known_by_name(name):
    assert Device(name=name).software
    assert not H100.software


@given(gemms())
def test_traffic_by_kind_is_that_of_the_problem(gemm):
    one = dataclasses.replace(gemm, batch=1)

    assert traffic_of(one.kind, one.m, one.n, one.k) == one.traffic_bytes
