"""The dtypes that weights can be stored in, and the names that callers and config.json give them."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import ConfigError, UnknownDtypeError

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# Further names that torch has for them.
_TORCH_NAMES = {"half": "float16", "float": "float32"}
# Other dtypes of torch begin with these; any other name is not a dtype at all.
_OTHERS = ("float", "int", "uint", "complex", "bool", "half", "double", "long", "short")


def parse_dtype(given: Any) -> mx.Dtype | None:
    """Return the MLX dtype of a name or of an mx, torch or numpy dtype; None for "auto" or None.

    A dict of dtypes by submodel, as transformers takes one, has the encoder's under "".
    """
    if isinstance(given, Mapping):
        # float32 is torch's default dtype, which transformers takes for a dict without "".
        given = given.get("", mx.float32)
    if given is None or given == "auto":
        return None
    name = _name(given)
    name = _TORCH_NAMES.get(name, name)
    if name not in _DTYPES:
        message = f"dtype={given!r} is not supported; use 'auto' or one of {', '.join(_DTYPES)}."
        raise ConfigError(message) if name.startswith(_OTHERS) else UnknownDtypeError(message)
    return _DTYPES[name]


def config_dtype(config: Mapping[str, Any]) -> mx.Dtype | None:
    """Return the dtype that config.json asks for; None if it names none, or one that weights are not stored in."""
    return _DTYPES.get(_name(config.get("dtype", config.get("torch_dtype"))))


def _name(given: Any) -> str:
    """ "float16" of mx.float16, torch.float16, np.float16 and "float16"."""
    # By name, so that torch need not be imported to recognize its dtypes.
    return str(getattr(given, "__name__", given)).rpartition(".")[2]
