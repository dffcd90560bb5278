"""One file per model_type; the folder's listing is the support list."""

import importlib
import pkgutil
from typing import Any

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.family import Family


def model_types() -> list[str]:
    """Every model_type with a file here, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def family_for(raw_config: dict[str, Any]) -> Family:
    """config.json's content -> the family of its model_type; UnsupportedModelError names those there are."""
    model_type = raw_config.get("model_type")
    if not isinstance(model_type, str) or model_type.replace("_", "-") not in model_types():
        raise UnsupportedModelError(
            f"config.json has model_type={model_type!r}; supported are {', '.join(model_types())}. "
            "Use a checkpoint of one of these, or transformers on torch for this one."
        )
    module = importlib.import_module(f"{__name__}.{model_type.replace('-', '_')}")
    family: Family = module.FAMILY
    return family
