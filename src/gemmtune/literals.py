"""Types of text and numbers that have few values. At run time the constants beside their users do.

A lookup does without `typing`, so only type checkers and who looks into annotations import this.
"""

from __future__ import annotations

from typing import Literal

Dtype = Literal["f32", "f16"]
Activation = Literal["none", "relu", "gelu", "silu"]
Math = Literal["ieee", "f16x3"]

Dims = Literal["static", "dynamic"]
"""static: m, n, k are constants of the kernel; dynamic: one kernel for every size."""
Stages = Literal[1, 2]

OrderA = Literal["km", "mk"]
OrderB = Literal["kn", "nk"]
Side = Literal["m", "n"]
Order = Literal["stream_a", "all_first"]
FragmentSource = Literal["workgroup", "storage"]
Hold = Literal["none", "first", "last"]
Corrections = Literal["within", "apart"]

Source = Literal["exact", "near", "device", "default"]
"""exact: measured for this problem on this device. near: on this device for another size.
device: on another device, or with another driver. default: nothing that was measured fits."""
