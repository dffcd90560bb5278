"""Checks of the values of config.json that hold for every model_type: types, bounds and labels."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mlx_hf_bridge.errors import ConfigError

# transformers' two default labels (PreTrainedConfig.num_labels); save_pretrained leaves them out of config.json.
DEFAULT_LABELS = {0: "LABEL_0", 1: "LABEL_1"}
# Fields for which 0 is a value and not a mistake; all other integers are 1 or more.
_MAY_BE_ZERO = ("num_hidden_layers", "decoder_layers", "type_vocab_size")
# MLX's shapes and ids have 32 bits.
_MOST = 2**31 - 1
# Fields that count modules, which take memory before any weight is read; real models have 100 layers.
_COUNTS = (
    *("num_hidden_layers", "decoder_layers", "num_hidden_groups", "inner_group_num", "num_feedforward_networks"),
)
_MOST_MODULES = 10_000
# Classes are counted out as labels.
_MOST_LABELS = 2**20
# -1 counts from the end of the table in torch, and is the id of no token.
_MINIMUM_PAD_TOKEN_ID = -1


def check_types(config_class: type[Any], values: Mapping[str, Any]) -> None:
    """Check the types and bounds of a config's values.

    Args:
        config_class: A config class.
        values: Field name -> value, as config.json has it.

    Raises:
        ConfigError: If an int or float field has a value of another type, one that is too small, or one that is not
            finite.
    """
    for spec in fields(config_class):
        value = values.get(spec.name)
        if spec.name not in values or (value is None and spec.type in (int | None, float | None)):
            continue
        minimum = config_class.minimum_values.get(spec.name, 0 if spec.name in _MAY_BE_ZERO else 1)
        minimum = _MINIMUM_PAD_TOKEN_ID if spec.name == "pad_token_id" else minimum
        # type() and not isinstance, because bool is a subclass of int: true is no number of layers.
        most = _MOST_MODULES if spec.name in _COUNTS else _MOST
        wrong_int = spec.type in (int, int | None) and (type(value) is not int or not minimum <= value <= most)
        # Every float here is an epsilon, a rotary base or a factor: with less than 0 or NaN all outputs are NaN.
        wrong_float = spec.type in (float, float | None) and not _is_positive_number(value)
        if wrong_int or wrong_float:
            key = config_class.attribute_map.get(spec.name, spec.name)
            above = type(value) is int and value > most
            integer = f"an integer of {most} or less" if above else f"an integer of {minimum} or more"
            kind = "a number of 0 or more" if wrong_float else integer
            raise ConfigError(f"config.json has {key}={value!r:.80}, expected {kind}. Take the original file.")


def _is_positive_number(value: Any) -> bool:
    # isfinite last: an integer of 400 digits is no float.
    return type(value) in (int, float) and 0 <= value < 1e300 and math.isfinite(value)


def with_labels(values: dict[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with integer keys in id2label, label2id filled in, and `num_labels` of old files honored.

    Args:
        values: Field name -> value.
        raw: The content of config.json.

    Returns:
        The same dict. As in transformers, there are as many classes as labels, whatever their ids.

    Raises:
        ConfigError: If a value is no mapping, or `num_labels` no count.
    """
    if values.get("id2label") is not None:
        values["id2label"] = _with_integer_keys(values["id2label"])
    elif (count := raw.get("num_labels", raw.get("_num_labels"))) is not None:
        if type(count) is not int or not 1 <= count <= _MOST_LABELS:
            raise ConfigError(
                f"config.json has num_labels={count!r:.80}, expected an integer of 1 or more, up to {_MOST_LABELS}."
            )
        values["id2label"] = {number: f"LABEL_{number}" for number in range(count)}
    labels = values.get("id2label", DEFAULT_LABELS)
    # transformers takes null too, as if there were none.
    given = values.get("label2id") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"config.json has label2id={given!r}, expected a mapping of labels to ids.")
    # save_pretrained leaves out label2id together with the default labels.
    values["label2id"] = given or {label: number for number, label in labels.items()}
    return values


def _with_integer_keys(labels: Any) -> dict[int, str]:
    try:
        return {int(number): str(label) for number, label in labels.items()}
    except (AttributeError, ValueError) as error:
        raise ConfigError(f"config.json has id2label={labels!r}, expected a mapping of ids to labels.") from error


def attention_windows(given: Any, layers: int) -> tuple[int, ...]:
    """Return the attention window of each layer, as Longformer and LED have them.

    Args:
        given: The value of `attention_window` in config.json.
        layers: Number of layers.

    Returns:
        Numbers of tokens, half of them on each side.

    Raises:
        ConfigError: If it is neither an even number nor one for each layer.
    """
    windows = tuple(given) if isinstance(given, (list, tuple)) else (given,) * layers
    if len(windows) != layers or not all(type(one) is int and one > 0 and one % 2 == 0 for one in windows):
        raise ConfigError(
            f"config.json has attention_window={given!r:.80}, expected an even number of tokens, or one for each of "
            f"num_hidden_layers={layers}. Take the file of the original checkpoint."
        )
    return windows
