"""Wrap an MLX model as an instance of the transformers class that its callers expect.

    model = facade(MLXAutoModel.from_pretrained(name, quantization_config="q8"))
    isinstance(model, transformers.BertModel)  # True, and model(input_ids) is computed by MLX

The facade is an instance of a subclass of the transformers class, with that class's name, module, repr, signature of
`forward` and output classes, for programs that were written for torch: transformers' pipelines, sentence-transformers'
modules, torch containers.

- It holds no weights. Its parameters have the names, shapes and dtype of the torch model's, and become the torch
  model's when their values are read or written; `.half()` and `.to(dtype)` change the dtype of the outputs, never what
  MLX computes with. `device` is always the CPU,
  whose memory MLX shares; moving is accepted. Outputs are on the device of the caller's ids, without a copy on the CPU.
- `.eval()`, `.compile()`, `.requires_grad_()`, `num_parameters()`, copies (which share the MLX model), pickles and
  spawned workers (which read the converted folder again) work, and `save_pretrained` writes the weights.
- Anything else (training mode, gradients, hooks, submodules, values of parameters, state_dict, arguments of `forward`
  that MLX does not support) calls `fall_back(reason)`, which returns the torch model; from then on the object *is* that
  model, including its class. Without `fall_back` it raises UnservedUseError.

Importing this package imports torch and transformers.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from mlx_hf_bridge.checkpoints.repo_files import PACKING_KEYS
from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.facade.construction import build_facade
from mlx_hf_bridge.facade.fallback import Bridge, fall_back_to_torch
from mlx_hf_bridge.facade.model import Facade, torch_dtype
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.runtime.boundary import guarded

__all__ = ["Facade", "facade", "fall_back_to_torch"]


@guarded
def facade(
    model: MLXPreTrainedModel,
    config: PretrainedConfig | None = None,
    hf_class: type[PreTrainedModel] | None = None,
    *,
    dtype: torch.dtype | None = None,
    fall_back: Callable[[str], PreTrainedModel] | None = None,
    on_call: Callable[[float], None] | None = None,
) -> PreTrainedModel:
    """Wrap a loaded MLX model as an instance of its transformers class, in evaluation mode.

    Args:
        model: A model from MLXAutoModel...from_pretrained.
        config: The object to use as `.config`; None reads the converted folder's config.json.
        hf_class: The transformers class; None is the class of the model's family and task.
        dtype: The dtype of the outputs; None is the dtype that the weights are stored in.
        fall_back: Called at most once, with the reason as text, to load the same model on torch. It must be picklable
            if the facade is to be pickled. None means that such uses raise UnservedUseError.
        on_call: Called after every forward pass with its duration in seconds.

    Returns:
        The facade, an instance of `hf_class`.

    Raises:
        UnsupportedModelError: If transformers has no class for the model type.

    Example:
        ```python
        import torch
        from mlx_hf_bridge import MLXAutoModel
        from mlx_hf_bridge.facade import facade

        model = facade(MLXAutoModel.from_pretrained("google-bert/bert-base-uncased"))
        model(input_ids=torch.tensor([[101, 7592, 102]])).last_hidden_state  # a torch tensor (1, 3, 768)
        ```
    """
    loaded = model.loaded
    if hf_class is None and not loaded.family.in_transformers:
        raise UnsupportedModelError(
            f"transformers has no class for model_type {loaded.family.model_type!r}, and a facade is an instance of "
            "one. Call the MLX model itself."
        )
    hf_class = hf_class or getattr(transformers, loaded.family.hf_class_name(loaded.task))
    bridge = Bridge(model, dtype or torch_dtype(model.dtype), fall_back, on_call)
    wrapped: PreTrainedModel = build_facade(hf_class, bridge, config or _stored_config(model, hf_class))
    return wrapped


def _stored_config(model: MLXPreTrainedModel, hf_class: type[Any]) -> PretrainedConfig:
    config: PretrainedConfig = hf_class.config_class.from_pretrained(model.folder)
    for key in PACKING_KEYS:
        # transformers would otherwise set up its own quantizer for these keys.
        if hasattr(config, key):
            delattr(config, key)
    config.name_or_path = model.name_or_path
    return config
