"""The dtypes that weights are stored in, however a caller or a config.json names them."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import ConfigError, UnknownDtypeError

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# What torch has as well, so that a name of another kind is not one of a dtype at all.
_OTHERS = ("float", "int", "uint", "complex", "bool", "half", "double", "long", "short")


def parse_dtype(given: Any) -> mx.Dtype | None:
    """ "auto" or None (the checkpoint's own) -> None; a name, an mx, torch or numpy dtype -> MLX's."""
    if given is None or given == "auto":
        return None
    name = _name(given)
    if name not in _DTYPES:
        message = f"dtype={given!r} is not stored here; use 'auto' or one of {', '.join(_DTYPES)}."
        raise ConfigError(message) if name.startswith(_OTHERS) else UnknownDtypeError(message)
    return _DTYPES[name]


def config_dtype(config: Mapping[str, Any]) -> mx.Dtype | None:
    """What config.json says that weights are loaded in; None where it says nothing, or what is not stored here."""
    return _DTYPES.get(_name(config.get("dtype", config.get("torch_dtype"))))


def _name(given: Any) -> str:
    """ "float16" of mx.float16, torch.float16, np.float16 and "float16"."""
    return str(getattr(given, "__name__", given)).rpartition(".")[2]
