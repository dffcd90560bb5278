"""The checked form of config.json that every model is built from."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from mlx_hf_bridge.architecture.config_checks import DEFAULT_LABELS, check_types, with_labels
from mlx_hf_bridge.architecture.config_defaults import default_values
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.architecture.unsupported import remote_code_note
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.runtime.file_errors import config_errors

# The length limit of models without a position embedding table, so that only the tokenizer's limit applies.
NO_POSITIONS = 2**31 - 1
# model_type of classes of transformers that add the least number to masked scores; the others mask them as booleans.
_EAGER_TYPES = frozenset({
    "align_text_model", "big_bird", "canine", "clap_text_model", "convbert", "flava_text_model", "funnel", "ibert",
    "layoutlm", "luke", "markuplm", "megatron-bert", "mpnet", "mt5", "mvp", "rembert", "roformer", "splinter",
    "squeezebert", "t5", "tapas",
    "umt5",
})  # fmt: skip


@dataclass(frozen=True)
class EncoderConfig:
    """The values of config.json that a model is built from, under transformers' names.

    Keys that the file lacks have transformers' defaults of the model type (`default_values`), or else the field's; a
    field that has neither must be in the file. A subclass adds the keys of its model type; a field with `init=False`
    has one fixed value, which the file cannot change (DistilBERT: `type_vocab_size` 0).

    Attributes:
        model_type: The key that selects the file in mlx_hf_bridge/models/, e.g. "bert".
        vocab_size: Rows of the token embedding table.
        hidden_size: Width D of the hidden states.
        num_hidden_layers: Number of encoder layers; 0 is allowed.
        num_attention_heads: Attention heads of each layer; divides `hidden_size` unless `head_dim` is given.
        intermediate_size: Width of the feed-forward blocks.
        max_position_embeddings: Rows of the position table, or the length a rotary model was trained to.
        hidden_act: Activation of the feed-forward blocks, e.g. "gelu".
        layer_norm_eps: Added to the variance in norms.
        pad_token_id: Token id of padding; None where the model has none.
        type_vocab_size: Rows of the token type table; 0 where the model has none.
        tie_word_embeddings: Whether masked-LM heads reuse the token embedding table.
        id2label: Label names by class index.
        label2id: Class indices by label name.
        problem_type: "regression", "single_label_classification" or "multi_label_classification"; None = not given.
        head_dim: Width of an attention head where it is not `hidden_size / num_attention_heads`; for models that
            read it.
        attribute_map: Class variable, field -> key in config.json where they differ ({"hidden_size": "dim"} for
            DistilBERT), as in transformers' PreTrainedConfig.
        reads_head_dim: Class variable, whether the model has heads of width `head_dim`; others ignore the key.
        minimum_values: Class variable, field -> the smallest integer that is allowed, where it is not 1.
        unsupported_values: Class variable, key -> a test that is true for values that would change the outputs and are
            not implemented; such a config.json ends in a ConfigError.
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
    id2label: Mapping[int, str] = field(default_factory=lambda: dict(DEFAULT_LABELS))
    label2id: Mapping[str, int] = field(default_factory=dict)
    problem_type: str | None = None
    head_dim: int | None = None

    attribute_map: ClassVar[Mapping[str, str]] = {}
    reads_head_dim: ClassVar[bool] = False
    minimum_values: ClassVar[Mapping[str, int]] = {}
    unsupported_values: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "position_embedding_type": lambda value: value not in (None, "absolute"),
        "is_decoder": bool,
        "add_cross_attention": bool,
        "is_encoder_decoder": bool,
    }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json.

        Args:
            raw: The content of config.json, as `json.load` returns it. Keys that no field names are not read.

        Returns:
            An instance of this class.

        Raises:
            ConfigError: If a required key is missing, or a value has the wrong type, contradicts another or is
                unsupported.
        """
        with config_errors("config.json"):
            return cls._from_json(raw)

    @classmethod
    def _from_json(cls, raw: Mapping[str, Any]) -> Self:
        for key, is_unsupported in cls.unsupported_values.items():
            if key in raw and is_unsupported(raw[key]):
                remedy = (
                    "Use transformers on torch with trust_remote_code=True for this one."
                    if raw.get("auto_map")
                    else "Use a checkpoint without it, or transformers on torch for this one."
                )
                raise ConfigError(
                    f"config.json has {key}={raw[key]!r}, which {raw.get('model_type')!r} does not support here; "
                    f"the outputs would differ from the original model's. {remote_code_note(raw)}{remedy}"
                )
        values, defaults = {}, default_values(str(raw.get("model_type")))
        for spec in fields(cls):
            key = cls.attribute_map.get(spec.name, spec.name)
            if not spec.init:
                continue
            # transformers writes null for keys that were never set; that means the default.
            has_default = spec.default is not MISSING or spec.default_factory is not MISSING
            if key in raw and not (raw[key] is None and has_default):
                values[spec.name] = raw[key]
            elif key not in raw and spec.name in defaults:
                values[spec.name] = defaults[spec.name]
            elif not has_default:
                raise ConfigError(
                    f"config.json has no {key!r}, which model_type {raw.get('model_type')!r} needs. "
                    "Take the file of the original checkpoint."
                )
        check_types(cls, values)
        return cls(**with_labels(values, raw))

    def __post_init__(self) -> None:
        divides = self.head_dim is None or not self.reads_head_dim
        if divides and self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"config.json has hidden_size={self.hidden_size} and num_attention_heads={self.num_attention_heads}; "
                "the first must be a multiple of the second. Take the file of the original checkpoint."
            )
        # Raises for unknown names, now rather than when the model is built.
        activation_for(self.hidden_act)

    @property
    def num_labels(self) -> int:
        """Number of classes of a classification head."""
        return len(self.id2label)

    @property
    def num_stored_layers(self) -> int:
        """Number of layers that have tensors of their own; fewer than `num_hidden_layers` where layers share them."""
        return self.num_hidden_layers

    @property
    def pooler_has_weights(self) -> bool:
        """Whether the pooler has parameters, so that a checkpoint without them has no pooler.

        False for CLIP, whose pooler only selects the end token's hidden state and is therefore always there.
        """
        return True

    @property
    def zero_token_type_ids_matter(self) -> bool:
        """Whether token_type_ids that are all 0 change the output compared with None, as they do in XLM."""
        return False

    @property
    def exceeds_float16(self) -> bool:
        """Whether hidden states can exceed float16's range; such models run in float32 on float16 weights."""
        return False

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table of `max_position_embeddings` rows.

        False for rotary and relative positions: such a model computes texts of any length, and
        `max_position_embeddings` is only the length that it was trained to.
        """
        return True

    @property
    def position_rows(self) -> int:
        """How many values `position_ids` may have: the rows of the position table, or `NO_POSITIONS` without one."""
        return self.max_position_embeddings if self.has_position_table else NO_POSITIONS

    @property
    def max_length(self) -> int:
        """Longest text, in tokens with special tokens, that has positions; `NO_POSITIONS` without a position table."""
        return self.max_position_embeddings if self.has_position_table else NO_POSITIONS

    @property
    def max_sequence_length(self) -> int:
        """Longest input that the layers can compute even if `position_ids` are given; longer ones are an error.

        Qwen 2, for example, is implemented only up to the length where its window covers the whole text.
        """
        return NO_POSITIONS

    @property
    def has_eager_attention(self) -> bool:
        """Whether a text that is all padding attends to all of it alike in transformers, instead of to nothing.

        That is so where masked scores are lowered by the least number; torch's fused attention gives 0.
        """
        return self.model_type in _EAGER_TYPES

    @property
    def in_transformers(self) -> bool:
        """Whether transformers' class computes it; False for variants of a model type that only remote code has."""
        return True

    @property
    def reads_token_type_ids(self) -> bool:
        """Whether token type ids are looked up; without a table, any are accepted and ignored."""
        return self.type_vocab_size > 0

    @property
    def independent_length(self) -> int:
        """Longest batch, in tokens, in which padding changes no text's outputs; a longer one holds one length only."""
        return NO_POSITIONS

    @property
    def extra_inputs(self) -> Mapping[str, ModelInput]:
        """Arguments that only this model type has, by their names in transformers: ERNIE's "task_type_ids".

        A "token_type_ids" here has other axes than (B, L), as TAPAS' seven columns.
        """
        return {}

    def default_attention_mask(self, ids: np.ndarray) -> np.ndarray | None:
        """Return the attention mask to use when the caller passes none.

        Args:
            ids: Token ids of shape (B, L).

        Returns:
            A bool mask of shape (B, L), or None if every token is attended to (most models).
        """
        return None

    def last_position(self, ids: np.ndarray) -> int:
        """Return the highest position id that the model looks up for a batch.

        Args:
            ids: Token ids of shape (B, L).

        Returns:
            The position id, to be checked against `max_position_embeddings`; 0 for models without a position table.
        """
        # From the width and not the mask: BERT's positions count padding too.
        return int(ids.shape[1]) - 1 if self.has_position_table else 0


@dataclass(frozen=True)
class OffsetPositionsConfig(EncoderConfig):
    """Config of models whose position ids start at the padding id + 1, as in RoBERTa.

    The first `padding_idx + 1` rows of their position table are never used by tokens, so `max_length` is smaller than
    `max_position_embeddings`: 512 of 514 for a padding id of 1.
    """

    pad_token_id: int | None = 1

    @property
    def padding_idx(self) -> int:
        """Position id of padding; the first token has the next one."""
        return 0 if self.pad_token_id is None else self.pad_token_id

    @property
    def max_length(self) -> int:
        """Longest text in tokens, special tokens included: the positions behind the padding's."""
        return self.max_position_embeddings - self.padding_idx - 1 if self.has_position_table else NO_POSITIONS

    def last_position(self, ids: np.ndarray) -> int:
        """Return the highest position id of a batch; padding does not advance it.

        Args:
            ids: Token ids of shape (B, L).

        Returns:
            The padding id plus the number of real tokens in the longest text; 0 without a position table.
        """
        if not self.has_position_table:
            return 0
        return self.padding_idx + int((ids != self.padding_idx).sum(axis=1).max())
