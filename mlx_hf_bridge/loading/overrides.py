"""Override keys of a model's config, as transformers' config classes do.

Reference: transformers/configuration_utils.py (from_dict, num_labels).
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_json
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError

# Keys of PreTrainedConfig itself, which a config.json omits if they have their defaults.
_GENERAL = (
    *("output_attentions", "output_hidden_states", "return_dict", "problem_type", "id2label", "label2id", "num_labels"),
    *("architectures", "name_or_path", "tie_word_embeddings", "use_cache", "chunk_size_feed_forward", "is_decoder"),
    *("add_cross_attention", "is_encoder_decoder", "bos_token_id", "eos_token_id", "sep_token_id", "pad_token_id"),
    *("finetuning_task", "task_specific_params", "tokenizer_class"),
)
# Read only in training; families name them differently, and files of older versions lack some.
TRAINING_KEYS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "classifier_dropout_prob"),
    *("dropout", "attention_dropout", "hidden_dropout", "activation_dropout", "embedding_dropout", "mlp_dropout"),
    *("seq_classif_dropout", "qa_dropout", "dropout_rate", "summary_last_dropout", "layerdrop", "encoder_layerdrop"),
    *("initializer_range", "initializer_factor", "initializer_cutoff_factor", "gradient_checkpointing"),
)
# Labels change no weights but the width of a head, which is checked when its weights are read.
LABEL_KEYS = ("id2label", "label2id", "problem_type")

ConfigLike = Mapping[str, Any] | str | Path | Any


def load_config(given: ConfigLike) -> dict[str, Any]:
    """Return the content of a config, given as an object of either library, a dict, a config.json or its folder."""
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        return _object(read_json(path / CONFIG_FILE if path.is_dir() else path), str(given))
    if not isinstance(given, Mapping):
        if not callable(getattr(given, "to_dict", None)):
            raise ArgumentTypeError(
                f"config is a {type(given).__name__}, expected a config object, a dict, or the path of a config.json."
            )
        given = given.to_dict()
    return {**given}


def _object(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is not a JSON object. Take the config.json of the original checkpoint.")
    return content


def _is_config_key(name: str, raw: Mapping[str, Any], family: Family) -> bool:
    """Return whether transformers' config class has an attribute of this name, which from_pretrained would set."""
    return name in raw or name in _GENERAL or name in TRAINING_KEYS or name in _spellings(family.config)


def split_overrides(
    overrides: Mapping[str, Any], raw: Mapping[str, Any], family: Family, known_elsewhere: Callable[[str], bool]
) -> tuple[dict[str, Any], list[str]]:
    """Sort config keys into those that apply and those that AutoConfig.from_pretrained ignores.

    Args:
        overrides: Keys and values.
        raw: The content of config.json.
        family: The implementation of the model_type.
        known_elsewhere: Whether transformers' config class has an attribute of this name.

    Returns:
        The keys that apply, with their values, and the names of the others.

    Raises:
        ArgumentTypeError: If transformers' config class has a key that is not implemented here.
    """
    applied = {name: value for name, value in overrides.items() if _is_config_key(name, raw, family)}
    others = sorted(set(overrides) - set(applied))
    if unknown := [name for name in others if known_elsewhere(name)]:
        raise ArgumentTypeError(
            f"config_kwargs has {', '.join(unknown)}, which a {family.model_type!r} model here does not read. "
            "Leave it out."
        )
    return applied, others


def override_config(raw: Mapping[str, Any], overrides: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return the config with `overrides` applied; another num_labels renames the labels, as in transformers.

    Args:
        raw: The content of config.json.
        overrides: Keys and values, under HF's general names or those of the file.
        family: The implementation of the model_type.

    Returns:
        A new dict.

    Raises:
        ArgumentTypeError: If the model's config has no such key.
        ConfigError: If num_labels and id2label contradict each other.
    """
    if unknown := sorted(name for name in overrides if not _is_config_key(name, raw, family)):
        raise ArgumentTypeError(
            f"from_pretrained() got {', '.join(unknown)}, which is neither an argument nor a key of a "
            f"{family.model_type!r} config. Omit it; for quantized weights pass quantization_config."
        )
    spelled, changed = _spellings(family.config), dict(raw)
    # The same number keeps the file's label names.
    if (count := overrides.get("num_labels")) is not None and count != _count(raw.get("id2label")):
        changed |= _numbered_labels(count)
    changed |= {spelled.get(key, key): value for key, value in overrides.items() if key != "num_labels"}
    if count is not None and count != _count(changed.get("id2label")):
        raise ConfigError(
            f"num_labels={count} and id2label={changed['id2label']!r} contradict each other. Give one of them."
        )
    return changed


def _count(labels: Any) -> int:
    """Return the number of labels of an id2label; 2 without one, as in transformers."""
    return len(labels) if isinstance(labels, Mapping) else 2


def _numbered_labels(count: Any) -> dict[str, Any]:
    if type(count) is not int or count < 1:
        raise ConfigError(f"num_labels={count!r}, expected an integer of 1 or more.")
    names = {number: f"LABEL_{number}" for number in range(count)}
    return {"id2label": names, "label2id": {name: number for number, name in names.items()}}


def weight_differences(family: Family, file: Mapping[str, Any], requested: Mapping[str, Any]) -> dict[str, str]:
    """Return the config fields that change the converted weights, with the requested values.

    Labels do not count: they are applied at every load.

    Args:
        family: The implementation of the model_type.
        file: The checkpoint's own config.
        requested: The requested config.

    Returns:
        Field name to value. Empty if the conversion with the file's own config can be used; every field if the file's
        config is missing or invalid.
    """
    wanted = family.config.from_json(requested)
    own = _usable(family, file)
    names = [spec.name for spec in fields(wanted) if spec.name not in LABEL_KEYS]
    found = {name: repr(getattr(wanted, name)) for name in names if own is None or _differs(wanted, own, name)}
    if (dtype := _dtype(requested)) != _dtype(file):
        found["dtype"] = repr(dtype)
    return found


def shrinks_model(family: Family, file: Mapping[str, Any], requested: Mapping[str, Any]) -> bool:
    """Return whether a requested config makes the model smaller, so that tensors of the file belong nowhere.

    Args:
        family: The implementation of the model_type.
        file: The checkpoint's own config.
        requested: The requested config.

    Returns:
        True for fewer layers and other smaller numbers, and if the checkpoint has no valid config of its own.
    """
    wanted, own = family.config.from_json(requested), _usable(family, file)
    pairs = [(getattr(wanted, spec.name), getattr(own, spec.name)) for spec in fields(wanted)] if own else []
    return own is None or any(_is_smaller(one, other) for one, other in pairs)


def _is_smaller(wanted: Any, own: Any) -> bool:
    numbers = type(wanted) is int and type(own) is int
    lists = isinstance(wanted, (list, tuple)) and isinstance(own, (list, tuple))
    return (numbers and wanted < own) or (lists and len(wanted) < len(own))


def _usable(family: Family, file: Mapping[str, Any]) -> EncoderConfig | None:
    try:
        return family.config.from_json(file)
    except ConfigError:
        return None


def _differs(one: EncoderConfig, other: EncoderConfig, name: str) -> bool:
    return repr(getattr(one, name)) != repr(getattr(other, name))


def _dtype(raw: Mapping[str, Any]) -> str | None:
    given = raw.get("dtype", raw.get("torch_dtype"))
    # "torch.float16" and "float16" are the same.
    return None if given is None else str(given).rpartition(".")[2]


def _spellings(config: type[EncoderConfig]) -> dict[str, str]:
    """Return HF's general names of config keys, with the names in the file ("hidden_size": "dim")."""
    return {spec.name: config.attribute_map.get(spec.name, spec.name) for spec in fields(config) if spec.init}
