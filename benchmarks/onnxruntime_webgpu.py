"""How long onnxruntime-webgpu takes for one MatMul: prints JSON with median ns, spread, samples.

    python benchmarks/onnxruntime_webgpu.py 4096x4096x4096 f16

A model of one MatMul and one of many in a row are run in turn; the difference of their times is
that of the MatMuls between, free of transfers and of the host. So m x k must be k x n: square
problems only. Needs the packages onnx and onnxruntime-webgpu; plain onnxruntime has no WebGPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

CHAIN = 17
"""MatMuls of the longer model."""
ROUNDS = 9


def model(size: int, dtype: str, length: int) -> bytes:
    """X W W ... W, ``length`` times."""
    from onnx import TensorProto, helper

    kind = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16}[dtype]
    names = ["x", *(f"y{i}" for i in range(1, length)), "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], "w"], [names[i + 1]], name=f"m{i}")
        for i in range(length)
    ]
    shape = [size, size]
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "w")]
    outputs = [helper.make_tensor_value_info("y", kind, shape)]
    graph = helper.make_graph(nodes, "chain", inputs, outputs)
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


def session(text: bytes) -> Any:
    """On the WebGPU provider and nothing else.

    Raises:
        RuntimeError: this onnxruntime does not have it.
    """
    import onnxruntime

    wanted = "WebGpuExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise RuntimeError(f"onnxruntime {onnxruntime.__version__} has no {wanted}")
    return onnxruntime.InferenceSession(text, providers=[wanted])


def main() -> None:
    import numpy as np

    shape, dtype = sys.argv[1], sys.argv[2]
    m, n, k = (int(part) for part in shape.split("x"))
    if not m == n == k:
        raise SystemExit(f"{shape}: only square problems can be chained")
    rng = np.random.default_rng(1)
    kind = {"f32": np.float32, "f16": np.float16}[dtype]
    x = rng.uniform(-0.5, 0.5, (m, k)).astype(kind)
    # Keeps the values' size from one product to the next.
    w = (rng.uniform(-0.5, 0.5, (k, n)) * np.sqrt(12 / k)).astype(kind)
    short, long = (session(model(m, dtype, length)) for length in (1, CHAIN))
    got = short.run(None, {"x": x, "w": w})[0][:4].astype(np.float64)
    right = x[:4].astype(np.float64) @ w.astype(np.float64)
    error = float(np.abs(got - right).max() / np.abs(right).max())

    def seconds(one: Any) -> float:
        began = time.perf_counter()
        one.run(None, {"x": x, "w": w})
        return time.perf_counter() - began

    for one in (short, long):
        seconds(one)
    times = [(seconds(long) - seconds(short)) / (CHAIN - 1) * 1e9 for _ in range(ROUNDS)]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    spread = (high - low) / median
    print(json.dumps({"ns": median, "spread": spread, "samples": ROUNDS, "error": error}))


if __name__ == "__main__":
    main()
