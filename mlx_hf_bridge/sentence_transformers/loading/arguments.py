"""Constructor arguments: the ones that the four classes share, and what the dicts of further options may hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers.modules.base import Module

_OVERLONG = ("truncate", "error")
# Accepted and ignored: the constructor has its own argument for them, or they have no effect on MLX.
_HUB_OPTIONS = ("token", "revision", "cache_dir", "local_files_only", "trust_remote_code")
_MODEL_OPTIONS = ("attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors", "torch_dtype", "dtype")
_PROCESSOR_OPTIONS = ("padding_side", "use_fast")


class ConstructorOptions(TypedDict, total=False):
    """Keyword arguments that the constructors of the four classes share; MLXBaseModel describes them."""

    modules: Sequence[Module] | None
    device: str | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    cache_folder: str | Path | None
    trust_remote_code: bool
    revision: str | None
    local_files_only: bool
    token: bool | str | None
    model_kwargs: Mapping[str, Any] | None
    processor_kwargs: Mapping[str, Any] | None
    config_kwargs: Mapping[str, Any] | None
    model_card_data: Any
    backend: str
    quantization_config: QuantizationLike
    dtype: Any
    overlong: str


@dataclass(frozen=True)
class LoadArguments:
    """How modules are loaded, from the arguments of a constructor.

    Args:
        quantization_config: How to quantize the weights.
        dtype: The dtype of weights that are not quantized, or "auto".
        max_length: The most tokens of a text; None for the saved number.
        output_hidden_states: Overrides config.json; None leaves it.
        num_labels: The number of labels that is expected; None for any.
        overlong: "truncate" or "error".
        trace: When to run the graph of transformers' own module: "auto", "never" or "always".
        tokenizer: Options that override tokenizer_config.json.
    """

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
    """Read a constructor's arguments and dicts of options.

    Args:
        quantization_config: Takes precedence over that of model_kwargs.
        dtype: Takes precedence over that of model_kwargs and config_kwargs, unless it is "auto".
        overlong: "truncate" or "error".
        model_kwargs: Options of the encoder by name.
        processor_kwargs: Options of the tokenizer by name.
        config_kwargs: Changes to config.json by name.

    Returns:
        How to load the modules.

    Raises:
        ArgumentTypeError: If an option is not known, since ignoring it could change the result.
        InputError: If `model_max_length` or `overlong` has an unsupported value.
    """
    model, processor, config = dict(model_kwargs or {}), dict(processor_kwargs or {}), dict(config_kwargs or {})
    requested = model.get("dtype") or model.get("torch_dtype") or config.pop("dtype", None) or "auto"
    recipe = model.pop("quantization_config", None)
    length, side = processor.pop("model_max_length", None), processor.pop("truncation_side", None)
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise InputError(f"model_max_length={length!r}, expected an integer of 1 or more.")
    arguments = LoadArguments(
        quantization_config=recipe if quantization_config is None else quantization_config,
        dtype=requested if dtype == "auto" else dtype,
        max_length=length,
        output_hidden_states=config.pop("output_hidden_states", None),
        num_labels=config.pop("num_labels", None),
        overlong=check_overlong(overlong),
        trace=model.pop("trace", "auto"),
        tokenizer={} if side is None else {"truncation_side": side},
    )
    # What is left was read by nobody: an option that may change results must not be ignored silently.
    for name, rest, known in (
        ("model_kwargs", model, (*_HUB_OPTIONS, *_MODEL_OPTIONS)),
        ("processor_kwargs", processor, (*_HUB_OPTIONS, *_PROCESSOR_OPTIONS)),
        ("config_kwargs", config, _HUB_OPTIONS),
    ):
        if unknown := sorted(set(rest) - set(known)):
            raise ArgumentTypeError(f"{name} has {', '.join(unknown)}, which is not supported here. Leave it out.")
    return arguments


def check_overlong(overlong: str) -> str:
    """Return the overlong argument once it is checked.

    Args:
        overlong: "truncate" or "error".

    Returns:
        The argument.

    Raises:
        InputError: If it is anything else.
    """
    if overlong not in _OVERLONG:
        raise InputError(f"overlong={overlong!r}, expected 'truncate' or 'error'.")
    return overlong


def check_model_name(name: Any) -> str:
    """Return a model's name as text.

    Args:
        name: A folder or a model id, as str or Path.

    Returns:
        The name as str.

    Raises:
        ArgumentTypeError: If it is of another type.
    """
    if not isinstance(name, (str, Path)):
        raise ArgumentTypeError(
            f"got a {type(name).__name__} as model_name_or_path, expected a folder or a model id of the Hub."
        )
    return str(name)


def device_list(device: Any) -> list[str] | None:
    """Return the devices that worker processes are to be started for.

    Args:
        device: The device argument of encode or predict.

    Returns:
        A list with at least one device; None for anything but a list or tuple, which is computed in this process.
    """
    if isinstance(device, (list, tuple)):
        return [str(one) for one in device] or None
    return None
