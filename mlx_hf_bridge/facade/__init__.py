"""An MLX model behind the transformers class that its callers expect.

    served = facade(MLXAutoModel.from_pretrained(name, quantization_config="q8"))
    isinstance(served, transformers.BertModel)  # and served(input_ids) is computed by MLX

The result is an instance of a subclass of the family's own transformers class, with that class's name, module, repr,
signature of `forward` and output classes, for programs that were written for torch: transformers' pipelines,
sentence-transformers' modules, torch containers.

- It holds no weights. Its one parameter has no elements (its `numel()` is the model's) and carries `dtype`; `_apply`,
  `.half()` and `.to(dtype)` change the dtype of its answers, never what MLX computes with. `device` is always the CPU,
  whose memory MLX shares, and moving is accepted; answers come on the device of the caller's ids, without a copy where
  that is the CPU.
- `.eval()`, `.compile()`, `.requires_grad_()`, `num_parameters()`, copies (which share the MLX model), pickles and
  spawned workers (which read the converted folder again) work, and `save_pretrained` writes the weights.
- Anything else (training mode, gradients, hooks, submodules, parameters, state_dict, arguments of `forward` that MLX
  does not serve) calls `fall_back(reason)`, which returns the torch model; from then on the object *is* that model, its
  class included. Without `fall_back` it is an UnservedUseError that says so.

Importing this package imports torch and transformers.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from mlx_hf_bridge.checkpoints.repo_files import PACKING_KEYS
from mlx_hf_bridge.facade.construction import build_facade
from mlx_hf_bridge.facade.fallback import Bridge, fall_back_to_torch
from mlx_hf_bridge.facade.model import Facade, torch_dtype
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel

__all__ = ["Facade", "facade", "fall_back_to_torch"]


def facade(
    model: MLXPreTrainedModel,
    config: PretrainedConfig | None = None,
    hf_class: type[PreTrainedModel] | None = None,
    *,
    dtype: torch.dtype | None = None,
    fall_back: Callable[[str], PreTrainedModel] | None = None,
    on_call: Callable[[float], None] | None = None,
) -> PreTrainedModel:
    """A loaded MLX model -> an instance of its transformers class, in evaluation mode.

    config: what `.config` is to be, as it is given; None = read from the converted folder. hf_class: None = the
    family's class for the task. dtype: of the answers; None = the dtype that the weights are stored in.
    fall_back: reason -> the same model on torch, called at most once; must pickle if the facade is to. called: told
    the seconds of every call.
    """
    loaded = model.loaded
    hf_class = hf_class or getattr(transformers, loaded.family.hf_class_name(loaded.task))
    bridge = Bridge(model, dtype or torch_dtype(model.dtype), fall_back, on_call)
    served: PreTrainedModel = build_facade(hf_class, bridge, config or _stored_config(model, hf_class))
    return served


def _stored_config(model: MLXPreTrainedModel, hf_class: type[Any]) -> PretrainedConfig:
    config: PretrainedConfig = hf_class.config_class.from_pretrained(model.folder)
    for key in PACKING_KEYS:
        if hasattr(config, key):
            delattr(config, key)
    config.name_or_path = model.name_or_path
    return config
