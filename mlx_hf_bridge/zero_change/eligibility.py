"""Check which calls of from_pretrained MLX supports, and parse their arguments.

Reference: transformers/modeling_utils.py, PreTrainedModel.from_pretrained.
"""

import copy
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from transformers import PreTrainedConfig

from mlx_hf_bridge.architecture.family import BASE_TASK, CAUSAL_LM
from mlx_hf_bridge.checkpoints.sources import HubOptions
from mlx_hf_bridge.errors import UnservedUseError
from mlx_hf_bridge.facade.model import torch_dtype
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.models import family_for

_HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
# Arguments without effect on the result.
_NO_EFFECT = (
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
    "disable_mmap",
    "low_cpu_mem_usage",
    "tqdm_class",
    "trust_remote_code",
    "weights_only",
)
# Arguments of from_pretrained that need torch, unless they have one of these values.
_TORCH_ONLY: dict[str, tuple[Any, ...]] = {
    "adapter_name": ("default",),
    "device_mesh": (),
    "distributed_config": (),
    "experts_implementation": (),
    "fusion_config": (),
    "generation_config": (),
    "gguf_file": (),
    "ignore_mismatched_sizes": (False,),
    "kernel_config": (),
    "key_mapping": (),
    "max_memory": (),
    "offload_buffers": (False,),
    "offload_folder": (),
    "output_loading_info": (False,),
    "proxies": (),
    "quantization_config": (),
    "state_dict": (),
    "tp_plan": (),
    "tp_size": (),
    "use_kernels": (False,),
    "use_safetensors": (True,),
    "variant": (),
}
# Config keys that only the caller reads, or that matter only in training; the facade has the caller's config.
_CALLER_KEYS = {
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_ATTENTION = (None, "eager", "sdpa")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class LoadRequest:
    """The arguments of a call of from_pretrained that MLX supports.

    Attributes:
        task: The task of the transformers class.
        config: The config that transformers would use.
        hub: Which files to use.
        dtype: The dtype that was asked for; None is the checkpoint's own.
        pooler: Whether to load the pooler.
    """

    task: str
    config: PreTrainedConfig
    hub: HubOptions
    dtype: torch.dtype | None
    pooler: bool

    def output_dtype(self, loaded: LoadedModel) -> torch.dtype:
        """Return the dtype that the torch model would have, and set it in the config as transformers does."""
        # A quantized folder keeps float16 scales, which says nothing about the checkpoint.
        stored = torch.float32 if loaded.recipe else torch_dtype(loaded.dtype)
        chosen: Any = self.dtype or self.config.dtype or stored
        chosen = getattr(torch, chosen) if isinstance(chosen, str) else chosen
        self.config.dtype = chosen
        result: torch.dtype = chosen
        return result


def check_eligibility(hf_class: Any, name: Any, model_args: tuple[Any, ...], options: dict[str, Any]) -> LoadRequest:
    """Parse a call of from_pretrained, or raise an error if MLX does not support it.

    Args:
        hf_class: The transformers class that it was called on.
        name: The Hub id or folder.
        model_args: Further arguments by position.
        options: Arguments by name.

    Returns:
        The request.

    Raises:
        UnservedUseError: If the call needs torch; the message is the reason, as the middle of a sentence.
        UnsupportedModelError: If the model_type is not implemented.
    """
    task = _task(hf_class)
    if model_args or name is None:
        _refuse("it was given arguments of its constructor" if model_args else "it has no checkpoint")
    rest = {key: value for key, value in options.items() if key not in _NO_EFFECT}
    _refuse_torch_only(rest)
    hub = {key: rest.pop(key) for key in _HUB if key in rest}
    dtype = _dtype(rest.pop("dtype", None), rest.pop("torch_dtype", None))
    config, rest = _config(hf_class, name, hub, rest)
    pooler = rest.pop("add_pooling_layer", True)
    if rest:
        _refuse(f"it was given {', '.join(sorted(rest))}")
    # Read again, without the caller's changes, to compare with.
    _refuse_changed(config, hf_class.config_class.from_pretrained(name, **hub), task)
    if hub.get("cache_dir") is not None:
        hub["cache_dir"] = str(hub["cache_dir"])
    return LoadRequest(task, config, HubOptions(**hub), dtype, pooler)


def check_family(hf_class: Any, loaded: LoadedModel) -> None:
    """Raise UnservedUseError if the checkpoint is of another class: torch follows the class, MLX the checkpoint."""
    if (found := loaded.family.hf_class_name(loaded.task)) != hf_class.__name__:
        _refuse(f"its checkpoint is of {found}")


def _task(hf_class: Any) -> str:
    """Return the task of a transformers class that MLX implements."""
    config_class = hf_class.config_class
    # A subclass of the user may compute anything in its forward.
    if not hf_class.__module__.startswith("transformers.models.") or config_class is None:
        _refuse(f"{hf_class.__name__} is not a class of transformers")
    family = family_for({"model_type": config_class.model_type})
    # Causal language models generate, which is left to torch.
    tasks = {family.hf_class_name(task): task for task in (BASE_TASK, *family.heads) if task != CAUSAL_LM}
    if hf_class.__name__ not in tasks:
        _refuse(f"MLX has no {hf_class.__name__}, of its family {', '.join(sorted(tasks))}")
    return tasks[hf_class.__name__]


def _refuse_torch_only(rest: dict[str, Any]) -> None:
    """Remove the arguments of from_pretrained itself, and refuse those that MLX does not support."""
    for key, harmless in _TORCH_ONLY.items():
        value = rest.pop(key, None)
        if value is not None and value not in harmless:
            _refuse(f"it was given {key}")
    if (rest.pop("adapter_kwargs", None) or {}).get("_adapter_model_path"):
        _refuse("it has a PEFT adapter")
    if isinstance(rest.pop("device_map", None), dict):
        _refuse("it was given a device_map by modules")


def _config(hf_class: Any, name: Any, hub: dict[str, Any], rest: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the config that transformers would use, and the arguments that are left for the constructor."""
    config = rest.pop("config", None)
    if not isinstance(config, PreTrainedConfig):
        where = name if config is None else config
        config, rest = hf_class.config_class.from_pretrained(where, return_unused_kwargs=True, **hub, **rest)
    else:
        # A copy, as transformers makes one: the caller's object must not change.
        config = copy.deepcopy(config)
    if "attn_implementation" in rest:
        config._attn_implementation = rest.pop("attn_implementation")
    config.name_or_path = str(name)
    return config, rest


def _refuse_changed(config: Any, stored: Any, task: str) -> None:
    """Refuse a config that differs from the checkpoint's where that changes the result."""
    if type(config) is not type(stored):
        _refuse(f"its config is a {type(config).__name__}")
    if config._attn_implementation not in _ATTENTION:
        _refuse(f"it was given attn_implementation={config._attn_implementation!r}")
    given, kept = config.to_dict(), stored.to_dict()
    keys = {key for key in {*given, *kept} if given.get(key) != kept.get(key)} - _CALLER_KEYS
    if task != BASE_TASK and config.num_labels != stored.num_labels:
        keys.add("num_labels")
    if keys := {key for key in keys if not key.startswith("_")}:
        _refuse(f"its config was changed: {', '.join(f'{key}={getattr(config, key, None)!r}' for key in sorted(keys))}")


def _dtype(*given: Any) -> torch.dtype | None:
    """Return dtype, or else torch_dtype; None means the checkpoint's own."""
    chosen = next((dtype for dtype in given if dtype is not None), None)
    if chosen is None or chosen == "auto":
        return None
    dtype = getattr(torch, chosen, None) if isinstance(chosen, str) else chosen
    if dtype not in _DTYPES:
        _refuse(f"it was given dtype={chosen!r}")
    result: torch.dtype = dtype
    return result


def _refuse(reason: str) -> NoReturn:
    raise UnservedUseError(reason)
