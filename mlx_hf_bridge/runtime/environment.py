"""The environment variables that the package reads, and the folders that depend on them."""

import os
import re
from pathlib import Path

from mlx_hf_bridge.errors import BackendError, RepositoryError

CACHE_VARIABLE = "MLX_HF_BRIDGE_CACHE"
BLAS_VARIABLE = "MLX_HF_BRIDGE_BLAS"
UNPACK_VARIABLE = "MLX_HF_BRIDGE_UNPACK"
FEW_ROWS_VARIABLE = "MLX_HF_BRIDGE_FEW_ROWS"
STREAMS_VARIABLE = "MLX_HF_BRIDGE_STREAMS"
QUANTIZATION_VARIABLE = "MLX_HF_BRIDGE_QUANTIZATION"
DEVICE_VARIABLE = "MLX_HF_BRIDGE_DEVICE"
COMPILE_VARIABLE = "MLX_HF_BRIDGE_COMPILE"
API_KEY_VARIABLE = "MLX_HF_BRIDGE_API_KEY"
WIDE_HEADS_VARIABLE = "MLX_HF_BRIDGE_WIDE_HEADS"
# For tests alone: make the choices of another backend's device.
ACT_AS_VARIABLE = "MLX_HF_BRIDGE_ACT_AS"
# Read by MLX itself.
TF32_VARIABLE = "MLX_ENABLE_TF32"


def hub_cache() -> Path:
    """Return the Hub's cache folder, as huggingface_hub finds it (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME)."""
    # The order of huggingface_hub.constants, without importing that package for a path.
    if explicit := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(explicit)
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache_home, "huggingface")
    return _expanded(home) / "hub"


def bridge_cache() -> Path:
    """Return the folder of converted models: MLX_HF_BRIDGE_CACHE, or `mlx_hf_bridge` next to the Hub's cache.

    Returns:
        The folder; it need not exist.

    Raises:
        RepositoryError: If "~" in it stands for a home folder that is not known.
    """
    if explicit := os.environ.get(CACHE_VARIABLE):
        return _expanded(explicit)
    return hub_cache().parent / "mlx_hf_bridge"


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RepositoryError(
            f"the cache is at {path!r:.300}, and there is no home folder for that. Set {CACHE_VARIABLE} to a folder "
            "that you may write to."
        ) from error


# What the other variables may be, by regular expressions, with the words of the message; checked at import, so that a
# wrong value is refused on every machine.
_EXPECTED = {
    UNPACK_VARIABLE: (r"\d+|never|keep", "a number of rows, 'never', or 'keep' for float weights that stay in memory"),
    FEW_ROWS_VARIABLE: (r"\d+", "a number of rows, or 0 to keep float weights in memory only once"),
    STREAMS_VARIABLE: (r"0*[1-9]\d*", "a number of 1 or more"),
    DEVICE_VARIABLE: (r"cpu|gpu", "'cpu' or 'gpu'"),
    COMPILE_VARIABLE: (r"0|1", "0 to compile no models, or 1 to compile them on CPUs too"),
    WIDE_HEADS_VARIABLE: (r"0|1", "0 to leave attention heads as wide as they are, or 1"),
    ACT_AS_VARIABLE: (r"cpu|metal|cuda", "'cpu', 'metal' or 'cuda'"),
}


def check_environment() -> None:
    """Raise BackendError if a variable has a value that it cannot have.

    Raises:
        BackendError: With the variable, its value and what is expected.
    """
    for name, (pattern, expected) in _EXPECTED.items():
        value = os.environ.get(name)
        # An empty variable counts as unset, here and below.
        if value and not re.fullmatch(pattern, value, re.ASCII):
            raise BackendError(
                f"{name}={value!r}, expected {expected}. Unset it for the default, which was measured to be fastest."
            )


def blas_choice() -> str | None:
    """Return MLX_HF_BRIDGE_BLAS: path of a BLAS to load before MLX, "none" for MLX's own; None to search for one."""
    return os.environ.get(BLAS_VARIABLE) or None


def quantization_choice() -> str | None:
    """Return MLX_HF_BRIDGE_QUANTIZATION: the recipe of zero-change mode; None for weights as they are."""
    return os.environ.get(QUANTIZATION_VARIABLE) or None


def unpack_choice() -> str | None:
    """Return MLX_HF_BRIDGE_UNPACK: rows from which weights are dequantized for a matmul, "never" or "keep"; or None."""
    return os.environ.get(UNPACK_VARIABLE) or None


def small_batch_rows_choice() -> str | None:
    """Return MLX_HF_BRIDGE_FEW_ROWS: rows up to which a float matmul uses packed weight tiles; None for the default."""
    return os.environ.get(FEW_ROWS_VARIABLE) or None


def streams_choice() -> str | None:
    """Return MLX_HF_BRIDGE_STREAMS: number of batches that run in parallel; None for the default."""
    return os.environ.get(STREAMS_VARIABLE) or None


def device_choice() -> str | None:
    """Return MLX_HF_BRIDGE_DEVICE: "cpu" or "gpu", the device to compute on; None for MLX's default device."""
    return os.environ.get(DEVICE_VARIABLE) or None


def compile_choice() -> bool | None:
    """Return MLX_HF_BRIDGE_COMPILE: whether models are compiled by mx.compile; None for the default of the device."""
    choice = os.environ.get(COMPILE_VARIABLE)
    return choice == "1" if choice else None


def api_key() -> str | None:
    """Return MLX_HF_BRIDGE_API_KEY: what clients of `mlx-hf-bridge serve` must send; None for nothing."""
    return os.environ.get(API_KEY_VARIABLE) or None


def widens_heads() -> bool:
    """Return MLX_HF_BRIDGE_WIDE_HEADS: whether narrow heads are widened where that gives attention a faster kernel."""
    return os.environ.get(WIDE_HEADS_VARIABLE) != "0"


def acting_backend() -> str | None:
    """Return MLX_HF_BRIDGE_ACT_AS: the backend whose choices tests ask for on a device of another; None otherwise."""
    return os.environ.get(ACT_AS_VARIABLE) or None


def keep_float32_exact() -> None:
    """Switch MLX's TF32 off unless the environment says otherwise; must run before MLX's first matmul.

    By default MLX multiplies float32 matrices with 10 bits of mantissa on NVIDIA GPUs since Ampere and on Apple GPUs
    since the M5 (MLX's documentation, "Precision"), which is a thousand times less exact than float32.
    """
    os.environ.setdefault(TF32_VARIABLE, "0")
