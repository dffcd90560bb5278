"""The tokenizer class that AutoTokenizer would choose for a folder.

Reference: transformers/models/auto/tokenization_auto.py, AutoTokenizer.from_pretrained. That file is not imported,
since it imports torch where torch is installed; tests/test_tokenizer_class.py compares these rules and lists with it.
"""

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, read_json
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.models import family_for, is_native

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
# transformers' class that reads tokenizer.json as it stands; TokenizersBackend is its name in transformers 5.
AS_IT_STANDS = "PreTrainedTokenizerFast"
_GENERIC = ("TokenizersBackend", "PythonBackend", "PreTrainedTokenizer", AS_IT_STANDS)

# Model types whose repos declare wrong classes: the class that transformers has for the type is taken instead.
INCORRECTLY_DECLARED = frozenset(
    [
        "arctic",
        "chatlm",
        "ernie4_5",
        "ernie4_5_moe",
        "fuyu",
        "h2ovl_chat",
        "hyperclovax",
        "hyperclovax_vlm",
        "hyperclovax_vision_v2",
        "internlm2",
        "internlm3",
        "iquestcoder",
        "jamba",
        "llava",
        "llava_next",
        "minicpm3",
        "minicpmv",
        "minimax_m2",
        "modernbert",
        "modernbert-decoder",
        "molmo",
        "molmo2",
        "nemotron",
        "nvfp4",
        "opencua",
        "openvla",
        "paddleocr_vl",
        "phi3",
        "phi3_v",
        "phimoe",
        "qwen2",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
        "qwen4_exp",
        "step3_vl",
        "vipllava",
        "cohere_asr",
        "camembertv2-base",
        "siglip2",
        "smolvlm",
    ]
)
# Native model types for which transformers has no class: without a declared one, tokenizer.json is read as it stands.
UNREGISTERED = frozenset(
    [
        "align_text_model",
        "chinese_clip_text_model",
        "clap_text_model",
        "clip_text_model",
        "clipseg_text_model",
        "eurobert",
        "flava_text_model",
        "longt5",
        "metaclip_2_text_model",
        "siglip2_text_model",
        "siglip_text_model",
    ]
)
# Repos whose tokenizer.json is read as it stands, whatever they declare.
REPOS_AS_THEY_STAND = (
    "deepseek-ai/deepseek-r1-distill-llama-*",
    "deepseek-ai/deepseek-coder-*",
    "allenai/dolma2-tokenizer",
    "google/umt5-small",
    "naver-clova-ix/donut-*",
    "salesforce/blip2-opt-*",
    "salesforce/blip2-flan-t5-*",
    "salesforce/instructblip-flan-t5-*",
    "stepfun-ai/step-3.7-*",
)


_SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """Return the content of tokenizer_config.json, {} if there is none; ConfigError if a value has a wrong type."""
    path = folder / TOKENIZER_CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a JSON object. Take the file of the original checkpoint.")
    special_tokens: list[tuple[str, Any, str]] = [(f"{name}_token", (str, dict), "a text") for name in _SPECIAL_TOKENS]
    for key, kinds, expected in (
        *special_tokens,
        ("tokenizer_class", str, "the name of a class"),
        ("model_max_length", (int, float), "a number of tokens"),
        ("truncation_side", str, "'left' or 'right'"),
        ("model_input_names", list, "a list of names"),
    ):
        value = config.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ConfigError(f"{path} has {key}={value!r}, expected {expected}. Take the original file.")
    return config


def tokenizer_class_name(checkpoint: Checkpoint, family: Family) -> str:
    """Return the name of the class that AutoTokenizer would choose.

    Args:
        checkpoint: The files.
        family: The family of the model that the tokenizer is for; used where config.json has no known model_type.

    Returns:
        A name without "Fast" (transformers 5 has one class for both), or `AS_IT_STANDS`.
    """
    config, settings = checkpoint.config, tokenizer_config(checkpoint.model_folder)
    family = family_for(config) if is_native(config) else family
    # A traced family has no class where transformers has none.
    registered = None if family.model_type in UNREGISTERED else family.tokenizer or None
    declared = _declared(settings.get("tokenizer_class") or config.get("tokenizer_class"))
    # A repo with a tokenizer of its own code is exempt from the rules about what it declares.
    has_code = _has_code(settings.get("auto_map"))
    is_incorrect = not INCORRECTLY_DECLARED.isdisjoint(
        name for name in (config.get("model_type"), config.get("model_name")) if isinstance(name, str)
    )
    if not has_code and (_is_listed(checkpoint) or (not is_incorrect and _is_byte_level_llama(checkpoint, declared))):
        return AS_IT_STANDS
    if not declared:
        return _undeclared(checkpoint, family, registered)
    if has_code or registered in (None, declared):
        return declared
    # A class that transformers has for the type gives way to a declared one; the generic class does not.
    return registered if is_incorrect or registered == AS_IT_STANDS else declared


def _undeclared(checkpoint: Checkpoint, family: Family, registered: str | None) -> str:
    if registered is None and (checkpoint.model_folder / TOKENIZER_FILE).is_file():
        return AS_IT_STANDS
    # Without tokenizer.json AutoTokenizer fails for an unregistered type; the family's class reads the vocabulary.
    return family.tokenizer or AS_IT_STANDS


def _declared(name: Any) -> str | None:
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"config.json has tokenizer_class={name!r}, expected the name of a class. Omit it.")
    if not name:
        return None
    return AS_IT_STANDS if name in _GENERIC else name.removesuffix("Fast")


def _has_code(auto_map: Any) -> bool:
    return isinstance(auto_map, list) or (isinstance(auto_map, Mapping) and auto_map.get("AutoTokenizer") is not None)


def _is_listed(checkpoint: Checkpoint) -> bool:
    return any(fnmatch.fnmatch(checkpoint.source.name.lower(), pattern) for pattern in REPOS_AS_THEY_STAND)


def _is_byte_level_llama(checkpoint: Checkpoint, declared: str | None) -> bool:
    """Whether LlamaTokenizer is declared for a byte-level tokenizer.json, which that class would rebuild wrongly."""
    path = checkpoint.model_folder / TOKENIZER_FILE
    return declared == "LlamaTokenizer" and path.is_file() and '"ByteLevel"' in path.read_text(encoding="utf-8")
