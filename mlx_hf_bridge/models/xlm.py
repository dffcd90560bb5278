"""XLM (Lample and Conneau, arXiv 1901.07291); reference: transformers/models/xlm/modeling_xlm.py.

Differs from BERT: other module names, no pooler; token type ids are looked up in the token embedding table; without an
attention mask, padding is found by its id; classifiers are one linear layer of the first token. `langs` adds a language
embedding per token; without it none is added, as in transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
    Head,
)
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.embeddings import ExtraEmbedding, XLMEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import SummaryClassifier
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.transformed_heads import LMHead
from mlx_hf_bridge.models import bert

_INPUT = "langs"


@dataclass(frozen=True, kw_only=True)
class XLMConfig(EncoderConfig):
    """XLM's keys: languages and the summary of classifiers."""

    intermediate_size: int = 0
    type_vocab_size: int = 0
    hidden_act: str = "gelu"
    pad_token_id: int | None = 2
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_proj_to_labels: bool = True
    summary_activation: str | None = None
    n_langs: int = 1
    use_lang_emb: bool = True

    attribute_map: ClassVar = {
        "hidden_size": "emb_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
    }
    unsupported_values: ClassVar = {
        "causal": bool,
        "asm": bool,
        "pre_norm": bool,
        "is_encoder": lambda value: not value,
    }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json, old keys included; what XLM has no keys for is derived."""
        old_keys = {"vocab_size": "n_words", "pad_token_id": "pad_index"}
        raw = {**{new: raw[old] for new, old in old_keys.items() if old in raw}, **raw}
        width = raw.get("emb_dim")
        # XLM has no key for the feed-forward width; the reference fixes it (modeling_xlm.py, hidden_dim).
        derived: dict[str, Any] = {"intermediate_size": 4 * width} if type(width) is int else {}
        derived["hidden_act"] = "gelu" if raw.get("gelu_activation", True) else "relu"
        return super().from_json({**raw, **derived, "type_vocab_size": raw.get("vocab_size")})

    @property
    def languages(self) -> int:
        """Rows of the language table; 0 if there is none."""
        return self.n_langs if self.use_lang_emb and self.n_langs > 1 else 0

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """The languages; a table of 0 rows if the model has no language embeddings."""
        return {_INPUT: ModelInput(self.languages, key="n_langs")}

    @property
    def zero_token_type_ids_matter(self) -> bool:
        """True: token type id 0 adds the embedding of token 0."""
        return True

    def default_attention_mask(self, ids: np.ndarray) -> np.ndarray:
        """Return a mask of the first n positions for n ids that are not padding (get_masks of the reference)."""
        lengths = (ids != self.pad_token_id).sum(axis=1, keepdims=True)
        return np.asarray(np.arange(ids.shape[1])[None] < lengths)


def encoder(config: XLMConfig) -> Encoder:
    """Return the encoder."""
    norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    positions = config.max_position_embeddings
    table = ExtraEmbedding(config.languages, config.hidden_size, _INPUT, default_count=0) if config.languages else None
    embeddings = XLMEmbeddings(config.vocab_size, config.hidden_size, positions, norm, table)
    return Encoder(embeddings, bert.layers(config))


def summary_head(config: XLMConfig, is_choice: bool = False) -> SummaryClassifier:
    """Return XLMSequenceSummary; ConfigError for settings other than the default."""
    if (config.summary_type, config.summary_use_proj, config.summary_proj_to_labels) != ("first", True, True):
        raise ConfigError(
            f"config.json has summary_type={config.summary_type!r}, summary_use_proj={config.summary_use_proj} and "
            f"summary_proj_to_labels={config.summary_proj_to_labels}; supported are 'first', true and true. "
            "Use transformers on torch for this model."
        )
    activation = activation_for(config.summary_activation or "linear")
    return SummaryClassifier(config.hidden_size, config.num_labels, activation, is_choice)


_SUMMARY = {"sequence_summary.summary": "summary"}

FAMILY = Family(
    model_type="xlm",
    config=XLMConfig,
    encoder=encoder,
    names={
        "embeddings": "embeddings.word",
        "position_embeddings": "embeddings.position",
        "lang_embeddings": "embeddings.languages",
        "layer_norm_emb": "embeddings.norm",
        "attentions.{i}.q_lin": "layers.{i}.attention.qkv#0",
        "attentions.{i}.k_lin": "layers.{i}.attention.qkv#1",
        "attentions.{i}.v_lin": "layers.{i}.attention.qkv#2",
        "attentions.{i}.out_lin": "layers.{i}.attention.out",
        "layer_norm1.{i}": "layers.{i}.attention_norm",
        "ffns.{i}.lin1": "layers.{i}.feed_forward.up",
        "ffns.{i}.lin2": "layers.{i}.feed_forward.down",
        "layer_norm2.{i}": "layers.{i}.feed_forward_norm",
    },
    prefix="transformer",
    hf_prefix="XLM",
    tokenizer="XLMTokenizer",
    heads={
        MASKED_LM: Head(
            build=lambda config: LMHead(config.hidden_size, config.vocab_size, config.tie_word_embeddings),
            names={},
            tied={"pred_layer.proj": ""},
            untied={"pred_layer.proj": "decoder"},
        ),
        SEQUENCE_CLASSIFICATION: Head(build=summary_head, names=_SUMMARY),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: Head(
            build=lambda config: summary_head(config, is_choice=True), names={**_SUMMARY, "logits_proj": "out"}
        ),
    },
    # XLMForQuestionAnswering has more layers under this name, for a beam search that is not implemented.
    other_heads=("qa_outputs",),
    ignored_suffixes=("position_ids",),
    unused_modules=lambda config: () if config.languages else ("lang_embeddings",),
    hf_head_suffixes={MASKED_LM: "WithLMHeadModel", QUESTION_ANSWERING: "ForQuestionAnsweringSimple"},
)
