"""Facts of the machine: MLX's device and packages, and memory. None of them names the machine or its user."""

import os
import resource
import sys
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.runtime.device import device_facts
from mlx_hf_bridge.version import installed_version

# The packages that MLX's backends come in.
_BACKENDS = ("mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13")


def machine_facts() -> dict[str, Any]:
    """Return what a report says of the machine, besides what `mlx-hf-bridge doctor` prints.

    Returns:
        "device_info": MLX's facts of the device. "mlx_backends": the installed ones with their versions. "memory_mib":
        the machine's memory, and the largest that this process and MLX's buffers have had so far.
    """
    found = {name: installed_version(name) for name in _BACKENDS}
    return {
        "device_info": device_facts(),
        "mlx_backends": {name: number for name, number in found.items() if number is not None},
        "memory_mib": {name: round(size / 2**20, 1) for name, size in _memory().items()},
    }


def _memory() -> dict[str, int]:
    # In bytes on macOS and in KiB on Linux.
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"machine": machine, "process_peak": process, "mlx_peak": mx.get_peak_memory()}
