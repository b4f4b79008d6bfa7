#!/usr/bin/env bash
# See that there is an adapter to run kernels on; where there is none, install Mesa's software Vulkan.
# Usage: ensure-vulkan.sh PYTHON   (an interpreter that can import wgpu)
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1

adapters() {
    # What wgpu itself sees is what counts. OpenGL is left out: its compute shaders lack too much.
    "$python" - 2>/dev/null <<'PYTHON'
import sys

import wgpu

infos = [adapter.info for adapter in wgpu.gpu.enumerate_adapters_sync()]
usable = [info["device"] for info in infos if info["backend_type"] in ("Vulkan", "Metal", "D3D12")]
print(", ".join(usable))
sys.exit(not usable)
PYTHON
}

if ! adapters >/dev/null; then
    scripts/apt-install.sh mesa-vulkan-drivers "no Vulkan adapter is here"
fi
if ! found=$(adapters); then
    echo "gemmtune: still no Vulkan adapter: is a graphics driver with Vulkan installed?" >&2
    exit 1
fi
echo "gemmtune: adapters: $found"
