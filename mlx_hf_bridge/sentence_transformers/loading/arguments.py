"""Constructor arguments: the ones that the four classes share, and what the dicts of further options may hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from mlx_hf_bridge.checkpoints.sources import HubOptions
from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.inference.plain_values import plain_scalar
from mlx_hf_bridge.loading.overrides import TRAINING_KEYS
from mlx_hf_bridge.pretrained.arguments import NO_EFFECT, REFUSED
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers.modules.base import Module

_OVERLONG = ("truncate", "error")
# transformers' arguments about the Hub, which each of the three dicts may have.
_HUB = ("token", "cache_dir", "local_files_only", "force_download")
_PLACE = ("revision", "subfolder")
# Accepted and ignored: they have no effect on what MLX computes. Besides those of MLXAutoModel.from_pretrained.
_CODE = ("trust_remote_code", "code_revision")
_MODEL_OPTIONS = ("attn_implementation", "device_map", *NO_EFFECT)
_PROCESSOR_OPTIONS = ("padding_side", "use_fast", "clean_up_tokenization_spaces")
# Overrides of tokenizer_config.json; the loader changes the tokenizer by them.
_TOKENIZER_KEYS = ("truncation_side", "do_lower_case", "chat_template")
_KINDS = ("model_kwargs", "processor_kwargs", "config_kwargs")
_KINDS_BEFORE = {"model_args": "model_kwargs", "tokenizer_args": "processor_kwargs", "config_args": "config_kwargs"}


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
        pooler: Whether the encoder's pooler may be loaded.
        tokenizer: Options that override tokenizer_config.json.
        config: Other keys that override those of config.json.
        trust_remote_code: Whether code of the repository was asked for, which is never run.
        default_task: The task of calls that name none, for a model with a LoRA for each; None for none.
        given: What the constructor was given, for `over`.
    """

    quantization_config: QuantizationLike = None
    dtype: Any = "auto"
    max_length: int | None = None
    output_hidden_states: bool | None = None
    num_labels: int | None = None
    overlong: str = "truncate"
    trace: str = "auto"
    pooler: bool = True
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    default_task: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def over(self, saved: Mapping[str, Any]) -> "LoadArguments":
        """Return these arguments with those that a file holds where the constructor was given none.

        Args:
            saved: The content of sentence_bert_config.json, with model_kwargs and the like, or their older names.

        Returns:
            New arguments; these if the file holds none.
        """
        saved = {_KINDS_BEFORE.get(key, key): value for key, value in saved.items()}
        dicts = {}
        for kind in _KINDS:
            # The Hub options of a file are never used, and it cannot ask for code.
            own = {key: value for key, value in (saved.get(kind) or {}).items() if key not in (*_HUB, *_PLACE, *_CODE)}
            dicts[kind] = {**own, **(self.given.get(kind) or {})}
        if not any(saved.get(kind) for kind in _KINDS):
            return self
        return parse_load_arguments(**{**self.given, **dicts})


def parse_load_arguments(
    *,
    quantization_config: QuantizationLike,
    dtype: Any,
    overlong: str,
    model_kwargs: Mapping[str, Any] | None,
    processor_kwargs: Mapping[str, Any] | None,
    config_kwargs: Mapping[str, Any] | None,
    trust_remote_code: bool = False,
) -> LoadArguments:
    """Read a constructor's arguments and dicts of options.

    Args:
        quantization_config: Takes precedence over that of model_kwargs.
        dtype: Takes precedence over that of model_kwargs and config_kwargs, unless it is "auto".
        overlong: "truncate" or "error".
        model_kwargs: Options of the encoder by name.
        processor_kwargs: Options of the tokenizer by name.
        config_kwargs: Changes to config.json by name.
        trust_remote_code: Whether code of the repository was asked for. Default: False.

    Returns:
        How to load the modules.

    Raises:
        ArgumentTypeError: If an option is not known, since ignoring it could change the result.
        InputError: If `model_max_length` or `overlong` has an unsupported value.
    """
    given = {
        "quantization_config": quantization_config,
        "dtype": dtype,
        "overlong": overlong,
        "trust_remote_code": trust_remote_code,
        "model_kwargs": model_kwargs,
        "processor_kwargs": processor_kwargs,
        "config_kwargs": config_kwargs,
    }
    model, processor, config = (_without_hub_options(kind, given[kind]) for kind in _KINDS)
    old = model.pop("torch_dtype", None) or config.pop("torch_dtype", None)
    requested = model.pop("dtype", None) or config.pop("dtype", None) or old or "auto"
    recipe, length = model.pop("quantization_config", None), processor.pop("model_max_length", None)
    length = plain_scalar(length)
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise InputError(f"model_max_length={length!r}, expected an integer of 1 or more.")
    asked = trust_remote_code or any((given[kind] or {}).get("trust_remote_code") for kind in _KINDS)
    arguments = LoadArguments(
        quantization_config=recipe if quantization_config is None else quantization_config,
        dtype=requested if dtype == "auto" else dtype,
        max_length=length,
        output_hidden_states=config.pop("output_hidden_states", None),
        num_labels=config.pop("num_labels", None),
        overlong=check_overlong(overlong),
        trace=model.pop("trace", "auto"),
        pooler=bool(model.pop("add_pooling_layer", True)),
        tokenizer={key: processor.pop(key) for key in _TOKENIZER_KEYS if key in processor},
        config={key: value for key, value in config.items() if key not in TRAINING_KEYS},
        trust_remote_code=bool(asked),
        default_task=model.pop("default_task", None),
        given=given,
    )
    # What is left was read by nobody: an option that may change results must not be ignored silently.
    _refuse("model_kwargs", model, _MODEL_OPTIONS)
    _refuse("processor_kwargs", processor, _PROCESSOR_OPTIONS)
    return arguments


def _without_hub_options(kind: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ArgumentTypeError(f"{kind} is a {type(given).__name__}, expected a dict of options by name, or None.")
    rest = {key: value for key, value in (given or {}).items() if key not in (*_HUB, *_PLACE, *_CODE)}
    if kind == "model_kwargs":
        return {key: value for key, value in rest.items() if key not in ("use_safetensors", "variant")}
    return rest


def _refuse(kind: str, rest: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in sorted(set(rest) - set(known)):
        # Programs pass such options with their neutral values too, which change nothing.
        if name in (*REFUSED, "ignore_mismatched_sizes", "output_loading_info") and not rest[name]:
            continue
        advice = REFUSED.get(name, "Leave it out.") if kind == "model_kwargs" else "Leave it out."
        raise ArgumentTypeError(f"{kind} has {name}, which is not supported here. {advice}")


def hub_options(own: HubOptions, arguments: LoadArguments, is_folder: bool) -> HubOptions:
    """Return the Hub options of a constructor, with those that its dicts of options name.

    Args:
        own: Those of the constructor's own arguments, which take precedence.
        arguments: The constructor's arguments.
        is_folder: Whether the model is a folder, which has no revisions.

    Returns:
        The options for all files of the model.

    Raises:
        ArgumentTypeError: If a dict names another revision or subfolder than the constructor.
    """
    dicts = {kind: arguments.given[kind] or {} for kind in _KINDS}
    for kind, options in dicts.items():
        revision, subfolder = options.get("revision"), options.get("subfolder")
        if revision not in (None, own.revision, own.revision or "main") and not is_folder:
            raise ArgumentTypeError(
                f"{kind} has revision={revision!r}, which would mix files of two revisions. Pass revision={revision!r} "
                "to the constructor, which then applies to all files."
            )
        if subfolder:
            raise ArgumentTypeError(
                f"{kind} has subfolder={subfolder!r}, which is not supported here. Give the path of that folder as "
                "model_name_or_path, or load it with MLXAutoModel."
            )

    def named(key: str) -> Any:
        return next((options[key] for options in dicts.values() if options.get(key) is not None), None)

    cache, safe = named("cache_dir"), dicts["model_kwargs"].get("use_safetensors")
    return replace(
        own,
        token=named("token") if own.token is None else own.token,
        cache_dir=str(cache) if own.cache_dir is None and cache is not None else own.cache_dir,
        local_files_only=own.local_files_only or bool(named("local_files_only")),
        force_download=bool(named("force_download")),
        variant=dicts["model_kwargs"].get("variant"),
        use_safetensors=None if safe is None else bool(safe),
    )


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
