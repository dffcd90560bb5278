"""Every argument of transformers' from_pretrained, and what it does here.

Reference: transformers/modeling_utils.py (PreTrainedModel.from_pretrained), models/auto/auto_factory.py.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.checkpoints.sources import HubOptions
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, QuantizationError
from mlx_hf_bridge.loading.load import Changes
from mlx_hf_bridge.quantization.recipes import QuantizationLike

logger = logging.getLogger(__name__)

# Accepted, and without effect on the result: MLX has one memory, one attention and one loader. Name -> reason.
NO_EFFECT: dict[str, str] = {
    "low_cpu_mem_usage": "tensors are read one at a time",
    "max_memory": "one memory holds the model",
    "offload_folder": "one memory holds the model",
    "offload_buffers": "one memory holds the model",
    "offload_state_dict": "one memory holds the model",
    "disable_mmap": "files are mapped by MLX",
    "weights_only": ".bin files are always read by an unpickler that admits tensors only",
    "tqdm_class": "downloads show tqdm bars",
    "trust_remote_code": "a repo's own code is never run",
    "code_revision": "a repo's own code is never run",
    "adapter_name": "the adapter is merged into the weights, so it needs no name",
    "generation_config": "encoders do not generate",
    "use_kernels": "MLX has its own kernels",
    "kernel_config": "MLX has its own kernels",
    "allow_all_kernels": "MLX has its own kernels",
    "experts_implementation": "no encoder here has experts",
    "fusion_config": "layers are always fused where they can be",
    "mirror": "transformers ignores it too",
    "from_tf": "transformers ignores it too",
    "from_flax": "transformers ignores it too",
    "_fast_init": "transformers ignores it too",
    "_commit_hash": "transformers ignores it too",
    "_from_auto": "set by transformers itself",
    "_from_pipeline": "set by transformers itself",
}
# Refused, since they would change the result or need what MLX does not have. Name -> what to do instead.
REFUSED: dict[str, str] = {
    "gguf_file": "Load the original checkpoint, and pass quantization_config for quantized weights.",
    "state_dict": "Save the tensors as model.safetensors next to a config.json, and give that folder.",
    "key_mapping": "Rename the tensors in the file, and give its folder.",
    "load_in_8bit": "Pass quantization_config='q8'.",
    "load_in_4bit": "Pass quantization_config='q4'.",
    "tp_plan": "The model runs on one device.",
    "tp_size": "The model runs on one device.",
    "device_mesh": "The model runs on one device.",
    "distributed_config": "The model runs on one device.",
}
# Names that MLX's own attention stands for; others that transformers knows give one warning.
_ATTENTIONS = ("eager", "sdpa")
_OTHER_ATTENTIONS = ("flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention")
_MLX_DEVICES = ("auto", "cpu", "mps", "balanced", "balanced_low_0", "sequential")
_ADAPTER_HUB_KEYS = ("revision", "token", "subfolder", "cache_dir", "force_download", "local_files_only")
# The key under which transformers' AutoModel passes on the path of an adapter that it has found.
_ADAPTER_PATH = "_adapter_model_path"
_warned: set[str] = set()

# Decoders that custom code turns into embedding models, without their causal mask (gte-Qwen2, LLM2Vec).
_CAUSAL_TYPES = ("gemma", "gemma2", "llama", "mistral", "phi3", "qwen2", "qwen3")


@dataclass(frozen=True)
class ParsedArguments:
    """The arguments of one call of from_pretrained, sorted by what they decide."""

    options: HubOptions
    quantization_config: QuantizationLike
    dtype: Any
    changes: Changes
    pooler: bool
    output_loading_info: bool


def parse_arguments(
    class_name: str, task: str, positional: tuple[Any, ...], given: Mapping[str, Any]
) -> ParsedArguments:
    """Sort the arguments of from_pretrained that follow the model's name; those that are left are keys of its config.

    Args:
        class_name: The class whose from_pretrained was called, for messages.
        task: The task of that class.
        positional: The arguments given by position.
        given: The arguments given by name.

    Returns:
        The sorted arguments.

    Raises:
        ArgumentTypeError: If an argument is not supported, or not accepted by position.
        ConfigError: If attn_implementation is not a known name.
        QuantizationError: If quantization_config needs another backend, or is given twice.
    """
    rest = {name: value for name, value in given.items() if name not in NO_EFFECT}
    for name in sorted(REFUSED.keys() & rest.keys()):
        # Programs pass such arguments with their neutral values too, which change nothing.
        if rest.pop(name) not in (None, False):
            raise ArgumentTypeError(
                f"{class_name}.from_pretrained() got {name}, which is not supported. {REFUSED[name]}"
            )
    _check_attention(rest.pop("attn_implementation", None))
    _note_device(rest.pop("device_map", None))
    if rest.pop("proxies", None):
        _warn_once("proxies are not passed on: huggingface_hub reads HTTP_PROXY and HTTPS_PROXY. Set those.")
    options = _hub_options(rest)
    adapter = _adapter(rest.pop("adapter_kwargs", None) or {}, options)
    recipe, dtype = _recipe(rest), _dtype(rest)
    pooler = _pooler(class_name, task, positional, rest)
    report, ignore_mismatched_sizes = (
        bool(rest.pop(name, False)) for name in ("output_loading_info", "ignore_mismatched_sizes")
    )
    changes = Changes(rest.pop("config", None), adapter, rest, ignore_mismatched_sizes)
    return ParsedArguments(options, recipe, dtype, changes, pooler, report)


def note_custom_code(name: str, config: Mapping[str, Any], trust_remote_code: Any) -> None:
    """Warn once that a repo's own modeling code is not run, if it has some and trust_remote_code asks for it.

    Args:
        name: The repo or folder.
        config: The content of its config.json.
        trust_remote_code: The argument of the call.
    """
    if trust_remote_code and "auto_map" in config:
        causal = config.get("model_type") in _CAUSAL_TYPES and config.get("is_causal", True)
        _warn_once(
            f"{name} has custom modeling code, which is not run"
            + (
                "; here every token attends to earlier ones only, as in transformers' own class, and such code often "
                "attends in both directions, with other embeddings. Set is_causal to false in config.json for that"
                if causal
                else ""
            )
        )


def _hub_options(rest: dict[str, Any]) -> HubOptions:
    cache_dir, safe = rest.pop("cache_dir", None), rest.pop("use_safetensors", None)
    return HubOptions(
        revision=rest.pop("revision", None),
        token=rest.pop("token", None),
        cache_dir=None if cache_dir is None else str(cache_dir),
        local_files_only=bool(rest.pop("local_files_only", False)),
        force_download=bool(rest.pop("force_download", False)),
        subfolder=rest.pop("subfolder", None) or "",
        variant=rest.pop("variant", None),
        use_safetensors=None if safe is None else bool(safe),
    )


def _adapter(given: Mapping[str, Any], options: HubOptions) -> tuple[str, HubOptions] | None:
    """Return the path and Hub options of the adapter that transformers' AutoModel has found for the model, if any."""
    unknown = sorted(set(given) - {*_ADAPTER_HUB_KEYS, _ADAPTER_PATH})
    if unknown:
        raise ArgumentTypeError(f"adapter_kwargs has {', '.join(unknown)}; known are {', '.join(_ADAPTER_HUB_KEYS)}.")
    if (path := given.get(_ADAPTER_PATH)) is None:
        return None
    own = {key: given[key] for key in _ADAPTER_HUB_KEYS if given.get(key) is not None}
    # The adapter is another repo: the model's revision and subfolder do not apply to it.
    return str(path), replace(options, **{"revision": None, "subfolder": "", **own})


def _recipe(rest: dict[str, Any]) -> QuantizationLike:
    """Return quantization_config, also from its fields by name; transformers' MetalConfig has MLX's own format."""
    given = rest.pop("quantization_config", None)
    fields: dict[str, Any] = {name: rest.pop(name) for name in ("bits", "group_size") if name in rest}
    if given is None:
        return fields or None
    if fields:
        raise QuantizationError(f"got quantization_config={given!r} and {', '.join(fields)}; give one of the two.")
    method = given.get("quant_method") if isinstance(given, Mapping) else getattr(given, "quant_method", None)
    if method is None:
        return cast(QuantizationLike, given)
    name, of = str(getattr(method, "value", method)), dict(given if isinstance(given, Mapping) else vars(given))
    if name != "metal":
        raise QuantizationError(
            f"quantization_config has quant_method={name!r}, which needs its own backend. Pass 'q8', 'q4' or an "
            "MLXQuantizationConfig."
        )
    return {key: of[key] for key in ("bits", "group_size", "modules_to_not_convert") if of.get(key) is not None}


def _dtype(rest: dict[str, Any]) -> Any:
    dtype, old = rest.pop("dtype", None), rest.pop("torch_dtype", None)
    if old is not None:
        _warn_once("torch_dtype is deprecated, as in transformers. Pass dtype instead.")
    return dtype if dtype is not None else (old if old is not None else "auto")


def _pooler(class_name: str, task: str, positional: tuple[Any, ...], rest: dict[str, Any]) -> bool:
    """Return add_pooling_layer, given by name or as the first argument of a transformers encoder's constructor."""
    takes = task == BASE_TASK
    if len(positional) > int(takes) or any(not isinstance(value, bool) for value in positional):
        raise ArgumentTypeError(
            f"{class_name}.from_pretrained() got {positional!r} by position, expected "
            f"{'at most add_pooling_layer' if takes else 'nothing'} after the model's name. Pass arguments by name."
        )
    if not takes and "add_pooling_layer" in rest:
        raise ArgumentTypeError(
            f"{class_name}.from_pretrained() got add_pooling_layer, which a head decides for itself. Omit it."
        )
    return bool(positional[0]) if positional else bool(rest.pop("add_pooling_layer", True))


def _check_attention(given: Any) -> None:
    """Warn once about an attention that MLX does not have; a name that transformers does not know is an error."""
    for name in given.values() if isinstance(given, Mapping) else (given,):
        # transformers' prefix for attention with a paged cache.
        plain = str(name).removeprefix("paged|")
        if name is None or plain in _ATTENTIONS:
            continue
        if plain not in _OTHER_ATTENTIONS and "/" not in plain:
            raise ConfigError(f"attn_implementation={name!r} is not known; use {', '.join(_ATTENTIONS)}, or omit it.")
        _warn_once(f"attn_implementation={name!r} is not used: MLX computes attention itself, with the same result.")


def _note_device(given: Any) -> None:
    names = [str(name) for name in (given.values() if isinstance(given, Mapping) else [given])]
    if given is not None and (others := [name for name in names if name not in _MLX_DEVICES]):
        _warn_once(f"device_map={others[0]!r} is not used: MLX runs on this machine's own device.")


def _warn_once(message: str) -> None:
    # Once for each process, as transformers' warning_once does.
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)
