"""Shader modules, with or without the shader compiler's own checks."""

from __future__ import annotations

from typing import Any

import wgpu
from wgpu.backends import wgpu_native
from wgpu.backends.wgpu_native import _api


def create_module(device: Any, wgsl: str, *, unchecked: bool) -> Any:
    """A shader module of a wgpu device.

    Args:
        device: the wgpu device.
        wgsl: source.
        unchecked: see `Kernel.unchecked`.
    """
    if not unchecked:
        return device.create_shader_module(code=wgsl)
    # wgpu-py 0.32 does not wrap this one; what follows is its create_shader_module otherwise.
    ffi = wgpu_native.ffi
    source = _api.new_struct_p("WGPUShaderSourceWGSL *", code=_api.to_c_string_view(wgsl))
    source[0].chain.next = ffi.NULL
    source[0].chain.sType = wgpu_native.lib.WGPUSType_ShaderSourceWGSL
    descriptor = _api.new_struct_p(
        "WGPUShaderModuleDescriptor *",
        label=_api.to_c_string_view(""),
        nextInChain=ffi.cast("WGPUChainedStruct *", source),
    )
    # Through libf, which raises what the library reports meanwhile. 0: none of its checks.
    create = _api.libf.wgpuDeviceCreateShaderModuleTrusted
    handle = create(device._internal, descriptor, 0)
    if handle == ffi.NULL:
        raise wgpu.GPUError("the shader module was not created")
    return _api.GPUShaderModule("", handle, device)
