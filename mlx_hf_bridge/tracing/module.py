"""transformers' torch module of a folder, for one task: the encoder alone where there is more. Imports torch."""

import importlib
from pathlib import Path
from typing import Any

import torch
import transformers

from mlx_hf_bridge.architecture.family import BASE_TASK, HF_SUFFIXES
from mlx_hf_bridge.errors import UnsupportedModelError, WeightsError
from mlx_hf_bridge.tracing.export import suppress_output

# Classes that are encoders by themselves, whatever AutoModel makes of their config.
_ENCODERS = ("EncoderModel", "TextModel", "TextModelWithProjection", "TextEncoder", "Encoder")
_SHOWN = 8


def load_module(folder: Path, task: str) -> tuple[Any, bool]:
    """The module in eval mode, float32, and whether its pooler's weights are missing.

    UnsupportedModelError where transformers has no class for it, WeightsError where it lacks trained weights.
    """
    with suppress_output():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            found = _class_for(config, task)
            loaded, told = found.from_pretrained(
                folder, config=config, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
        except (ValueError, KeyError, AttributeError, TypeError, ImportError, OSError, RuntimeError) as error:
            raise UnsupportedModelError(
                f"transformers {transformers.__version__} cannot load {folder} for {task!r}, which tracing starts from "
                f"({type(error).__name__}: {str(error)[:300]}). Check the folder, or upgrade transformers."
            ) from error
    module = _encoder_of(loaded) if task == BASE_TASK else loaded
    parts = {id(tensor) for tensor in module.parameters()}
    named = dict(loaded.named_parameters())
    missing = [name for name in sorted(told["missing_keys"]) if id(named.get(name)) in parts]
    lost_pooler = task == BASE_TASK and any("pooler" in name.split(".") for name in missing)
    if other := [name for name in missing if not (lost_pooler and "pooler" in name.split("."))]:
        raise WeightsError(
            f"{folder} lacks {len(other)} tensors that {type(module).__name__} needs: {', '.join(other[:_SHOWN])}. "
            "Give "
            "a checkpoint that has them; a new head would answer at random."
        )
    return module.eval(), lost_pooler


def _class_for(config: Any, task: str) -> Any:
    """The class that the checkpoint was saved from where that is an encoder, else that of the Auto class."""
    named = (getattr(config, "architectures", None) or [""])[0]
    file = type(config).__module__.replace(".configuration_", ".modeling_")
    if task == BASE_TASK and named.endswith(_ENCODERS) and ".modeling_" in file:
        own = getattr(importlib.import_module(file), named, None)
        if own is not None:
            return own
    return getattr(transformers, "AutoModel" + HF_SUFFIXES[task].removeprefix("Model"))


def _encoder_of(module: Any) -> Any:
    """Of an encoder with a decoder the encoder, of a pair of towers the one for text."""
    if getattr(module.config, "is_encoder_decoder", False):
        return module.get_encoder()
    towers = getattr(module.config, "text_config", None) is not None and hasattr(module, "text_model")
    return module.text_model if towers else module
