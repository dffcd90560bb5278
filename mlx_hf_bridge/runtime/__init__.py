"""The machine that this process runs on: environment variables, BLAS, device, numeric choices and the executor."""

from mlx_hf_bridge.runtime.interrupts import watch

# In the package's first import, above that of MLX: Ctrl-C may come at any time.
watch()
