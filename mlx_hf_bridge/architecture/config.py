"""config.json, checked: what every family reads of it, and how long a text may be."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.feed_forward import activation_for

# The length limit of models that have no table of positions: their tokenizer's alone counts.
NO_POSITIONS = 2**31 - 1
# Transformers' two default labels (PreTrainedConfig.num_labels); save_pretrained leaves them out of config.json.
_DEFAULT_LABELS = {0: "LABEL_0", 1: "LABEL_1"}
_MAY_BE_ZERO = ("num_hidden_layers", "type_vocab_size", "pad_token_id")


@dataclass(frozen=True)
class EncoderConfig:
    """config.json with HF's own keys; a field without a default must be in the file.

    A subclass maps a field to another key through `attribute_map` and fixes a value, whatever the file says, by a field
    with init=False.

    Attributes:
        attribute_map: Field -> key in config.json, where they differ ({"hidden_size": "dim"} for DistilBERT).
        minimum_values: Field -> the smallest allowed integer, where it is not 1.
        unsupported_values: Key -> a test for values that would change the result and are not implemented.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    hidden_act: str
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    type_vocab_size: int = 2
    tie_word_embeddings: bool = True
    id2label: Mapping[int, str] = field(default_factory=lambda: dict(_DEFAULT_LABELS))
    label2id: Mapping[str, int] = field(default_factory=dict)
    problem_type: str | None = None
    head_dim: int | None = None

    attribute_map: ClassVar[Mapping[str, str]] = {}
    minimum_values: ClassVar[Mapping[str, int]] = {}
    unsupported_values: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "position_embedding_type": lambda value: value not in (None, "absolute"),
        "is_decoder": bool,
        "add_cross_attention": bool,
        "is_encoder_decoder": bool,
    }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """config.json's content -> the config; ConfigError for missing, contradicting or unsupported values."""
        for key, is_refused in cls.unsupported_values.items():
            if key in raw and is_refused(raw[key]):
                raise ConfigError(
                    f"config.json has {key}={raw[key]!r}, which {raw.get('model_type')!r} does not support here; "
                    "the weights would give other vectors than the model's. Use a checkpoint without it."
                )
        values = {}
        for spec in fields(cls):
            key = cls.attribute_map.get(spec.name, spec.name)
            if not spec.init:
                continue
            if key in raw and not (raw[key] is None and spec.default is not MISSING):
                values[spec.name] = raw[key]
            elif spec.default is MISSING and spec.default_factory is MISSING:
                raise ConfigError(
                    f"config.json has no {key!r}, which model_type {raw.get('model_type')!r} needs. "
                    "Take the file of the original checkpoint."
                )
        _check_types(cls, values)
        return cls(**_labels(values, raw))

    def __post_init__(self) -> None:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"config.json has hidden_size={self.hidden_size} and num_attention_heads={self.num_attention_heads}; "
                "the first must be a multiple of the second. Take the file of the original checkpoint."
            )
        activation_for(self.hidden_act)

    @property
    def num_labels(self) -> int:
        return len(self.id2label)

    @property
    def pooler_has_weights(self) -> bool:
        """Whether a checkpoint without the pooler's tensors has no pooler."""
        return True

    @property
    def zero_token_type_ids_matter(self) -> bool:
        """Whether segments that are all 0 give another answer than none."""
        return False

    @property
    def exceeds_float16(self) -> bool:
        """Whether hidden states outgrow float16, so that float16 weights are computed with in float32."""
        return False

    @property
    def max_length(self) -> int:
        """The most tokens of a text that have a position, special tokens included."""
        return self.max_position_embeddings

    @property
    def max_sequence_length(self) -> int:
        """The most tokens of a text that the layers can take, wherever the caller says that they stand."""
        return NO_POSITIONS

    @property
    def extra_input_axes(self) -> Mapping[str, tuple[int, ...]]:
        """The axes that such an argument has behind (B, L), where it has any."""
        return {}

    @property
    def float_extra_inputs(self) -> frozenset[str]:
        """Such arguments as are not whole numbers."""
        return frozenset()

    @property
    def extra_input_sizes(self) -> Mapping[str, int]:
        """Arguments of a call (B, L) that only this family has, and how many values each knows; 0 = all are ignored."""
        return {}

    def default_attention_mask(self, ids: np.ndarray) -> np.ndarray | None:
        """The mask (B, L) of a caller who gives none; None = every token is seen."""
        return None

    def last_position(self, ids: np.ndarray) -> int:
        """The highest position that the rows of ids (B, L) ask for."""
        return int(ids.shape[1]) - 1


@dataclass(frozen=True)
class OffsetPositionsConfig(EncoderConfig):
    """Families whose places start after the padding id's (RoBERTa and its kin), so that fewer are usable."""

    pad_token_id: int | None = 1

    @property
    def padding_idx(self) -> int:
        return 0 if self.pad_token_id is None else self.pad_token_id

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings - self.padding_idx - 1

    def last_position(self, ids: np.ndarray) -> int:
        return self.padding_idx + int((ids != self.padding_idx).sum(axis=1).max())


def _check_types(cls: type[EncoderConfig], values: Mapping[str, Any]) -> None:
    for spec in fields(cls):
        if spec.name not in values:
            continue
        value = values[spec.name]
        minimum = cls.minimum_values.get(spec.name, 0 if spec.name in _MAY_BE_ZERO else 1)
        wrong_int = spec.type in (int, int | None) and (type(value) is not int or value < minimum)
        wrong_float = spec.type is float and type(value) not in (int, float)
        if wrong_int or wrong_float:
            key = cls.attribute_map.get(spec.name, spec.name)
            kind = "a number" if wrong_float else f"a whole number of {minimum} or more"
            raise ConfigError(f"config.json has {key}={value!r}, expected {kind}. Take the original file.")


def _labels(values: dict[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's string keys made integers, label2id filled in, and `num_labels` of old files honoured."""
    if "id2label" in values:
        values["id2label"] = _numbered(values["id2label"])
    elif (count := raw.get("num_labels", raw.get("_num_labels"))) is not None:
        if type(count) is not int or count < 1:
            raise ConfigError(f"config.json has num_labels={count!r}, expected a whole number of 1 or more.")
        values["id2label"] = {number: f"LABEL_{number}" for number in range(count)}
    labels = values.get("id2label", _DEFAULT_LABELS)
    if not isinstance(values.setdefault("label2id", {}), Mapping):
        raise ConfigError(f"config.json has label2id={values['label2id']!r}, expected labels with their ids.")
    values["label2id"] = values["label2id"] or {label: number for number, label in labels.items()}
    return values


def _numbered(labels: Any) -> dict[int, str]:
    try:
        numbered = {int(number): str(label) for number, label in labels.items()}
    except (AttributeError, ValueError) as error:
        raise ConfigError(f"config.json has id2label={labels!r}, expected ids with their labels.") from error
    if sorted(numbered) != list(range(len(numbered))):
        raise ConfigError(f"config.json has id2label with ids {sorted(numbered)}, expected 0 to {len(numbered) - 1}.")
    return numbered
