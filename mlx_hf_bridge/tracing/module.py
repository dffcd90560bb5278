"""Load transformers' torch module of a checkpoint for one task, or the encoder of a larger one. Imports torch."""

import importlib
from pathlib import Path
from typing import Any

import torch
import transformers

from mlx_hf_bridge.architecture.family import BASE_TASK, CLASS_SUFFIXES
from mlx_hf_bridge.errors import UnsupportedModelError, WeightsError
from mlx_hf_bridge.tracing.export import suppress_output

# Suffixes of classes that are encoders, even where AutoModel loads a larger model for their config.
_ENCODERS = ("EncoderModel", "TextModel", "TextModelWithProjection", "TextEncoder", "Encoder")
# How many missing names an error lists.
_SHOWN = 8


def load_module(folder: Path, task: str) -> tuple[Any, bool]:
    """Load the module to trace.

    Args:
        folder: The checkpoint.
        task: The task whose class is loaded.

    Returns:
        The module in eval mode, float32, and whether the weights of its pooler are missing.

    Raises:
        UnsupportedModelError: If transformers cannot load the checkpoint for the task.
        WeightsError: If the checkpoint lacks weights other than the pooler's.
    """
    with suppress_output():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            found = _class_for(config, task)
            loaded, info = found.from_pretrained(
                folder, config=config, dtype=torch.float32, output_loading_info=True, local_files_only=True
            )
        # What transformers raises for a broken config, a missing file, or a package that it lacks.
        except (ValueError, KeyError, AttributeError, TypeError, ImportError, OSError, RuntimeError) as error:
            raise UnsupportedModelError(
                f"transformers {transformers.__version__} cannot load {folder} for {task!r}, as tracing needs "
                f"({type(error).__name__}: {str(error)[:300]}). Check the folder, or upgrade transformers."
            ) from error
    module = _encoder_of(loaded) if task == BASE_TASK else loaded
    parts = {id(tensor) for tensor in module.parameters()}
    named = dict(loaded.named_parameters())
    # By the tensors' identity: names differ between a whole model and its encoder.
    missing = [name for name in sorted(info["missing_keys"]) if id(named.get(name)) in parts]
    # Like a native model: a pooler without weights is dropped, a head without weights is an error.
    lost_pooler = task == BASE_TASK and any("pooler" in name.split(".") for name in missing)
    if other := [name for name in missing if not (lost_pooler and "pooler" in name.split("."))]:
        raise WeightsError(
            f"{folder} lacks {len(other)} tensors that {type(module).__name__} needs: {', '.join(other[:_SHOWN])}. "
            "Give "
            "a checkpoint that has them; a new head would have random weights."
        )
    return module.eval(), lost_pooler


def _class_for(config: Any, task: str) -> Any:
    """Return the class that the checkpoint was saved from if that is an encoder, else that of the Auto class."""
    class_name = (getattr(config, "architectures", None) or [""])[0]
    file = type(config).__module__.replace(".configuration_", ".modeling_")
    # AutoModel would load the whole encoder-decoder or both towers for the same config.
    if task == BASE_TASK and class_name.endswith(_ENCODERS) and ".modeling_" in file:
        own = getattr(importlib.import_module(file), class_name, None)
        if own is not None:
            return own
    return getattr(transformers, "AutoModel" + CLASS_SUFFIXES[task].removeprefix("Model"))


def _encoder_of(module: Any) -> Any:
    """Return the encoder of an encoder-decoder, or the text tower of a two-tower model."""
    if getattr(module.config, "is_encoder_decoder", False):
        return module.get_encoder()
    towers = getattr(module.config, "text_config", None) is not None and hasattr(module, "text_model")
    return module.text_model if towers else module
