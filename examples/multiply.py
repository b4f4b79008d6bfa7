"""Multiplies two matrices with NumPy in and out, then a layer whose weights stay on the device.

pip install 'gemmtune[gpu]'
python examples/multiply.py
"""

from __future__ import annotations

import numpy as np

import gemmtune.gpu

rng = np.random.default_rng(1)
x = rng.standard_normal((64, 256)).astype("f4")
weights = rng.standard_normal((128, 256)).astype("f4")  # as models store them: outputs first

y = gemmtune.gpu.matmul(x, weights.T)  # a view: nothing is copied or transposed
wanted = x.astype("f8") @ weights.T
print("matmul: largest error", np.abs(y - wanted).max())

layer = gemmtune.gpu.Matmul(weights.T, bias=np.ones(128, "f4"), activation="relu")
for rows in (1, 7, 64):
    error = np.abs(layer(x[:rows]) - np.maximum(wanted[:rows] + 1.0, 0.0)).max()
    print(f"layer, {rows} rows: largest error", error)
    if error > 1e-3:
        raise SystemExit("the numbers are wrong")
print("kernel:", layer.plan(64).choice.why)
