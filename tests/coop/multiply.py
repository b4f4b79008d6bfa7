"""Multiplies matrices of a test's choice, in a process whose wgpu-native grants matrices.

Usage: python multiply.py FOLDER. It holds job.json (problem, family, config, device), a.npy and
b.npy; c.npy is left there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from gemmtune.device import Device
from gemmtune.executors.local.gpu import Dispatch, Gpu
from gemmtune.executors.local.operands import kernel_bindings
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import grid, pack_params
from gemmtune.problem import Gemm
from gemmtune.render import render


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    gemm, family = Gemm.from_json(job["problem"]), job["family"]
    device = Device.from_json(job["device"])
    kernel = render(family, FAMILIES[family].config.from_json(job["config"]), gemm, device)
    gpu = Gpu()
    has_workspace = kernel.workspace_bytes > 0
    bindings = [
        kernel_bindings(gemm, workspace=has_workspace, only_reads=launch.only_reads)
        for launch in kernel.launches
    ]
    names = [launch.entry_point for launch in kernel.launches]
    pipelines = gpu.pipelines(kernel.wgsl, bindings, names)
    params = gpu.uniform(pack_params(gemm))
    sizes = (gemm.size_bytes("a"), gemm.size_bytes("b"), gemm.size_bytes("c"))
    a, b, c = (gpu.buffer(size) for size in sizes)
    workspace = gpu.buffer(kernel.workspace_bytes) if kernel.workspace_bytes else None
    gpu.write(a, np.load(folder / "a.npy").tobytes())
    gpu.write(b, np.load(folder / "b.npy").tobytes())
    for pipeline, each, launch in zip(pipelines, bindings, kernel.launches, strict=True):
        group = gpu.bind_group(each, (params, a, b, c, None, workspace))
        groups = grid(launch.workgroups, device.limits.workgroups_per_dimension)
        gpu.submit([[Dispatch(pipeline=pipeline, bind_group=group, groups=groups)]])
    found = np.frombuffer(gpu.read(c), np.float32)
    np.save(folder / "c.npy", found.reshape(gemm.batch, gemm.m, gemm.n))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
