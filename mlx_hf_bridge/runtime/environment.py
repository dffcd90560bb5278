"""The environment variables that the package reads, and the places on disk that follow from them."""

import os
from pathlib import Path

CACHE_VARIABLE = "MLX_HF_BRIDGE_CACHE"
BLAS_VARIABLE = "MLX_HF_BRIDGE_BLAS"
UNPACK_VARIABLE = "MLX_HF_BRIDGE_UNPACK"
FEW_ROWS_VARIABLE = "MLX_HF_BRIDGE_FEW_ROWS"
STREAMS_VARIABLE = "MLX_HF_BRIDGE_STREAMS"
QUANTIZATION_VARIABLE = "MLX_HF_BRIDGE_QUANTIZATION"


def hub_cache() -> Path:
    """The Hub's own cache folder, as huggingface_hub finds it (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME)."""
    if explicit := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(explicit).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache_home, "huggingface")
    return Path(home).expanduser() / "hub"


def bridge_cache() -> Path:
    """Where converted models lie: MLX_HF_BRIDGE_CACHE, else `mlx_hf_bridge` beside the Hub's cache."""
    if explicit := os.environ.get(CACHE_VARIABLE):
        return Path(explicit).expanduser()
    return hub_cache().parent / "mlx_hf_bridge"


def blas_choice() -> str | None:
    """MLX_HF_BRIDGE_BLAS: the path of a BLAS library to load before MLX, "none" for MLX's own, None to search."""
    return os.environ.get(BLAS_VARIABLE) or None


def quantization_choice() -> str | None:
    """MLX_HF_BRIDGE_QUANTIZATION: the recipe of zero-change mode, None for the weights as they are."""
    return os.environ.get(QUANTIZATION_VARIABLE) or None


def unpack_choice() -> str | None:
    """MLX_HF_BRIDGE_UNPACK: rows from which packed weights are unpacked for a product, or "never", or "keep"."""
    return os.environ.get(UNPACK_VARIABLE) or None


def small_batch_rows_choice() -> str | None:
    """MLX_HF_BRIDGE_FEW_ROWS: rows up to which a float product takes a second copy of its weights, in blocks."""
    return os.environ.get(FEW_ROWS_VARIABLE) or None


def streams_choice() -> str | None:
    """MLX_HF_BRIDGE_STREAMS: how many batches are computed side by side."""
    return os.environ.get(STREAMS_VARIABLE) or None
