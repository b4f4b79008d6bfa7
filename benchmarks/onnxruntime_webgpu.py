"""How long onnxruntime-webgpu takes for one MatMul: prints JSON with median ns, spread, samples.

    python benchmarks/onnxruntime_webgpu.py 4096x4096x4096 f16 512x1152x896 f32

Without arguments it reads such pairs from its input, one a line, and answers each with a line; it
keeps the model of the last problem, so that asking again costs less.

A and B are constants of the model, already on the device, and are the same in every MatMul, so in
cache where they fit. onnxruntime's own profile has what each kernel took by the GPU's clock, one
after the other, in whole microseconds, of which a model of many MatMuls has the mean. No
optimisation is allowed, which would fold constants and drop what is computed twice; the kernel of
MatMul stays the same.
Needs the packages onnx and onnxruntime-webgpu; plain onnxruntime has no WebGPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLES = 15
WARM_S = 0.3
CHECKED_ROWS = 4
"""Of C; the model gives no more of it, for it has to come back from the device."""
LEAST, MOST = 4, 64
"""MatMuls of the model."""
LONG_FLOPS = 1e11
"""What they should add up to: 5 ms at 20 TFLOP/s."""
BLOCK = 1_000_003
"""Random elements before they come again: making gigabytes of them would take longer."""
LARGEST_BYTES = 1_900_000_000
"""A model is one message of protobuf, which ends at 2 GiB."""
KINDS = {"f32": np.float32, "f16": np.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A product and its operands."""

    a: NDArray[Any]
    b: NDArray[Any]
    length: int


def problem(shape: str, dtype: str) -> Problem:
    """Operands for MxNxK or MxNxKxBATCH."""
    m, n, k, *batch = (int(part) for part in shape.split("x"))
    kind, rng = KINDS[dtype], np.random.default_rng(1)

    def operand(rows: int, columns: int) -> NDArray[Any]:
        size = (*batch, rows, columns)
        block = rng.uniform(-0.5, 0.5, min(BLOCK, int(np.prod(size)))).astype(kind)
        return np.resize(block, size)

    flops = 2 * m * n * k * (batch or [1])[0]
    length = max(LEAST, min(MOST, round(LONG_FLOPS / max(flops, 1))))
    made = Problem(a=operand(m, k), b=operand(k, n), length=length)
    if made.a.nbytes + made.b.nbytes > LARGEST_BYTES:
        raise ValueError(f"{shape} {dtype}: its operands do not fit one ONNX file")
    return made


def model(one: Problem) -> bytes:
    """A B, as often as wanted; the first rows of the last come back."""
    from onnx import TensorProto, helper, numpy_helper

    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[one.a.dtype.name]
    axis, rows = one.a.ndim - 2, min(CHECKED_ROWS, one.a.shape[-2])
    constants = {
        "a": one.a,
        "b": one.b,
        "first": np.array([0], np.int64),
        "last": np.array([rows], np.int64),
        "axis": np.array([axis], np.int64),
    }
    outputs = [f"c{i}" for i in range(one.length)]
    nodes = [helper.make_node("MatMul", ["a", "b"], [name], name=name) for name in outputs]
    cut = [outputs[-1], "first", "last", "axis"]
    nodes.append(helper.make_node("Slice", cut, ["rows"], name="rows"))
    shape = [*one.a.shape[:-2], rows, one.b.shape[-1]]
    graph = helper.make_graph(
        nodes,
        "products",
        [],
        [helper.make_tensor_value_info("rows", kind, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


def session(text: bytes, profiles: Path) -> Any:
    """On the WebGPU provider and nothing else, with a profile.

    Raises:
        RuntimeError: this onnxruntime does not have it.
    """
    import onnxruntime

    wanted = "WebGpuExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise RuntimeError(f"onnxruntime {onnxruntime.__version__} has no {wanted}")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.enable_profiling = True
    options.profile_file_prefix = str(profiles / "profile")
    return onnxruntime.InferenceSession(text, options, providers=[wanted], enable_fallback=0)


@lru_cache(maxsize=1)
def prepared(shape: str, dtype: str) -> tuple[Problem, bytes, NDArray[np.float64]]:
    """Operands, the model, and its result in float64."""
    one = problem(shape, dtype)
    rows = one.a[..., :CHECKED_ROWS, :].astype(np.float64)
    # Column by column, for B in float64 may take gigabytes.
    columns = range(0, one.b.shape[-1], 4096)
    right = np.concatenate(
        [rows @ one.b[..., i : i + 4096].astype(np.float64) for i in columns], axis=-1
    )
    return one, model(one), right


def runs(profile: Path) -> list[float]:
    """Microseconds of all kernels of MatMul in each run, by the GPU's clock."""
    kernels: dict[str, list[float]] = {}
    for event in json.loads(profile.read_text()):
        node, _, kernel = event["name"].partition("&")
        if event["cat"] == "Api" and kernel.startswith("MatMul&"):
            kernels.setdefault(f"{node}&{kernel}", []).append(event["dur"])
    return [sum(each) for each in zip(*kernels.values(), strict=True)]


def measure(shape: str, dtype: str) -> dict[str, Any]:
    """What `main` prints.

    Raises:
        RuntimeError: there is no WebGPU.
        ValueError: the problem is none, or too large, or the GPU has no timestamps.
    """
    one, text, right = prepared(shape, dtype)
    with TemporaryDirectory() as folder:
        opened = session(text, Path(folder))
        got = opened.run(None, {})[0].astype(np.float64)
        until = time.perf_counter() + WARM_S
        while time.perf_counter() < until:
            opened.run(None, {})
        for _ in range(SAMPLES):
            opened.run(None, {})
        found = runs(Path(opened.end_profiling()))[-SAMPLES:]
    if not any(found):
        raise ValueError(f"{shape} {dtype}: onnxruntime's profile has no times of the GPU")
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    error = float(np.abs(got - right).max() / np.abs(right).max())
    ns = median / one.length * 1000
    return {"ns": ns, "spread": (high - low) / median, "samples": SAMPLES, "error": error}


def asked() -> Iterator[list[str]]:
    if sys.argv[1:]:
        yield from ([*pair] for pair in zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    else:
        yield from (line.split() for line in sys.stdin)


def main() -> None:
    for shape, dtype in asked():
        try:
            answer = measure(shape, dtype)
        except Exception as error:  # onnxruntime's own have no base class but this
            answer = {"failure": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
