"""A checkpoint converted to a folder: planned from headers, quantized, written, and cached."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_hf_bridge.conversion.api import ConversionResult as ConversionResult
    from mlx_hf_bridge.conversion.api import convert as convert


def __getattr__(name: str) -> Any:
    # On first use: loading a model needs parts of this package, but not the API.
    if name in ("ConversionResult", "convert"):
        from mlx_hf_bridge.conversion import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
