"""A constructor's arguments, sorted: what they change here, what has no effect, what is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.quantization.recipes import QuantizationLike

_OVERLONG = ("truncate", "error")
# Said by the constructor's own arguments, or of no effect on what MLX computes.
_HUB = ("token", "revision", "cache_dir", "local_files_only", "trust_remote_code")
_MODEL = ("attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors", "torch_dtype", "dtype")
_PROCESSOR = ("padding_side", "use_fast")


@dataclass(frozen=True)
class LoadArguments:
    """How modules are loaded. max_length: of texts, None = as the files say. tokenizer: keys put over its config."""

    quantization_config: QuantizationLike = None
    dtype: Any = "auto"
    max_length: int | None = None
    output_hidden_states: bool | None = None
    num_labels: int | None = None
    overlong: str = "truncate"
    trace: str = "auto"
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


def parse_load_arguments(
    *,
    quantization_config: QuantizationLike,
    dtype: Any,
    overlong: str,
    model_kwargs: Mapping[str, Any] | None,
    processor_kwargs: Mapping[str, Any] | None,
    config_kwargs: Mapping[str, Any] | None,
) -> LoadArguments:
    """The three dicts -> LoadArguments; ArgumentTypeError for a key that would change the answer and is not served."""
    model, processor, config = dict(model_kwargs or {}), dict(processor_kwargs or {}), dict(config_kwargs or {})
    asked = model.get("dtype") or model.get("torch_dtype") or config.pop("dtype", None) or "auto"
    recipe = model.pop("quantization_config", None)
    length, side = processor.pop("model_max_length", None), processor.pop("truncation_side", None)
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise InputError(f"model_max_length={length!r}, expected a whole number of 1 or more.")
    arguments = LoadArguments(
        quantization_config=recipe if quantization_config is None else quantization_config,
        dtype=asked if dtype == "auto" else dtype,
        max_length=length,
        output_hidden_states=config.pop("output_hidden_states", None),
        num_labels=config.pop("num_labels", None),
        overlong=check_overlong(overlong),
        trace=model.pop("trace", "auto"),
        tokenizer={} if side is None else {"truncation_side": side},
    )
    for name, rest, known in (
        ("model_kwargs", model, (*_HUB, *_MODEL)),
        ("processor_kwargs", processor, (*_HUB, *_PROCESSOR)),
        ("config_kwargs", config, _HUB),
    ):
        if unknown := sorted(set(rest) - set(known)):
            raise ArgumentTypeError(f"{name} has {', '.join(unknown)}, which is not served here. Leave it out.")
    return arguments


def check_overlong(overlong: str) -> str:
    """ "truncate" or "error"; InputError for anything else."""
    if overlong not in _OVERLONG:
        raise InputError(f"overlong={overlong!r}, expected 'truncate' or 'error'.")
    return overlong


def check_model_name(name: Any) -> str:
    """A folder or Hub id; ArgumentTypeError for anything else."""
    if not isinstance(name, (str, Path)):
        raise ArgumentTypeError(f"got a {type(name).__name__} for a model, expected a folder or a Hub id as text.")
    return str(name)


def device_list(device: Any) -> list[str] | None:
    """A list of devices, for as many processes; None for one, which MLX chooses itself."""
    if isinstance(device, (list, tuple)):
        return [str(one) for one in device] or None
    return None
