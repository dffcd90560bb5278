"""A pytest plugin that makes the choices of a GPU on a CPU: python -m pytest -p as_gpu (scripts/test-as-gpu).

The package asks runtime/device.py for everything that depends on the device, and MLX_HF_BRIDGE_ACT_AS=metal makes it
answer as on a Mac: half precision is computed in, quantized matmuls are used for any number of rows, functions and
traced graphs are compiled. Sines and cosines have the errors of Metal's fast functions. What stays untested are the
GPU's own kernels.
"""

import os

os.environ["MLX_HF_BRIDGE_ACT_AS"] = "metal"

from gpu_arithmetic import accumulate_in_float32, make_sines_inexact

accumulate_in_float32()
make_sines_inexact()
