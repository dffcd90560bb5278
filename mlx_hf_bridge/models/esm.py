"""ESM, protein models (Lin et al., Science 379:1123); reference: transformers/models/esm/modeling_esm.py.

Unlike BERT: norms come first and one follows the last layer; positions are rotary, with frequencies that the checkpoint
holds (ESM-2), or RoBERTa's; masked tokens have no vector of their own, and the others are scaled up for it.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Family, Head
from mlx_hf_bridge.architecture.heads import TOKEN_HEAD, first_token_head
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import FeedForward, gelu
from mlx_hf_bridge.layers.linear import Embedding
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.rotary import LoadedRotary
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.layers.transformed_heads import PreparedHead, Transform, WordScores
from mlx_hf_bridge.models import bert, roberta

# The share of tokens that was masked in training (EsmEmbeddings.forward).
_MASKED_IN_TRAINING = 0.15 * 0.8
# Of tokens that are not masked: below that of one in the longest text, and words divided by it fit into float16.
_LEAST_SHARE = 2.0**-11


@dataclass(frozen=True, kw_only=True)
class EsmConfig(OffsetPositionsConfig):
    hidden_act: str = field(default="gelu", init=False)
    type_vocab_size: int = field(default=0, init=False)
    mask_token_id: int | None = None
    position_embedding_type: str = "absolute"
    emb_layer_norm_before: bool = False
    token_dropout: bool = False

    unsupported_values: ClassVar = {
        **OffsetPositionsConfig.unsupported_values,
        "position_embedding_type": lambda value: value not in (None, "absolute", "rotary"),
        "is_folding_model": bool,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token_dropout and self.mask_token_id is None:
            raise ConfigError("config.json has token_dropout and no mask_token_id. Take the original file.")

    @property
    def is_rotary(self) -> bool:
        return self.position_embedding_type == "rotary"

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings if self.is_rotary else super().max_length

    def last_position(self, ids: np.ndarray) -> int:
        return 0 if self.is_rotary else super().last_position(ids)


class EsmEmbeddings(nn.Module):
    """batch -> (B, L, D), 0 where padding is; vectors in the place of ids are taken as they are."""

    def __init__(self, config: EsmConfig) -> None:
        super().__init__()
        self.word = Embedding(config.vocab_size, config.hidden_size)
        if not config.is_rotary:
            self.position = Embedding(config.max_position_embeddings, config.hidden_size)
        if config.emb_layer_norm_before:
            self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pad_token_id = config.padding_idx
        self.mask_token_id = config.mask_token_id if config.token_dropout else None

    def __call__(self, batch: TokenBatch) -> mx.array:
        if batch.inputs_embeds is not None:
            return batch.inputs_embeds
        words = self.word(batch.ids)  # (B, L, D)
        if self.mask_token_id is not None:
            words = words * self._shares(batch, self.mask_token_id).astype(words.dtype)
        if "position" in self:
            words = words + self.position(batch.positions_after(self.pad_token_id))
        if "norm" in self:
            words = self.norm(words)
        return words if batch.mask is None else words * batch.token_mask(words.dtype)

    def _shares(self, batch: TokenBatch, mask_token_id: int) -> mx.array:
        """(B, L, 1): 0 for masked tokens, for others what makes up for them."""
        masked = (batch.ids == mask_token_id)[:, :, None]
        count = mx.maximum(batch.token_mask(mx.float32).sum(axis=1, keepdims=True), 1)
        left = mx.maximum(1 - masked.sum(axis=1, keepdims=True) / count, _LEAST_SHARE)
        return mx.where(masked, 0.0, (1 - _MASKED_IN_TRAINING) / left)


def layer(config: EsmConfig) -> PreNormLayer:
    width, eps = config.hidden_size, config.layer_norm_eps
    attention = (RotaryAttention if config.is_rotary else Attention)(width, config.num_attention_heads)
    feed_forward = FeedForward(width, config.intermediate_size, gelu)
    return PreNormLayer(attention, LayerNorm(width, eps=eps), feed_forward, LayerNorm(width, eps=eps))


def encoder(config: EsmConfig) -> Encoder:
    return Encoder(
        EsmEmbeddings(config),
        [layer(config) for _ in range(config.num_hidden_layers)],
        final_norm=LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
        rotary=LoadedRotary(config.hidden_size // config.num_attention_heads) if config.is_rotary else None,
    )


def words(config: EsmConfig) -> PreparedHead:
    """EsmLMHead, whose bias is beside a table of its own too."""
    norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    scores = WordScores(config.hidden_size, config.vocab_size, config.tie_word_embeddings, beside=True)
    return PreparedHead(Transform(config.hidden_size, gelu, norm), scores)


# Old files repeat the frequencies in every layer; transformers 5.23 itself writes a star in the number's place.
_OLD_ROTARY = "encoder.layer.{i}.attention.self.rotary_embeddings"
NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.position_embeddings": "embeddings.position",
    "embeddings.layer_norm": "embeddings.norm",
    **{hf: ours for hf, ours in bert.LAYER_NAMES.items() if "_norm" not in ours},
    "encoder.layer.{i}.attention.LayerNorm": "layers.{i}.attention_norm",
    "encoder.layer.{i}.LayerNorm": "layers.{i}.feed_forward_norm",
    "encoder.emb_layer_norm_after": "final_norm",
    "rotary_embeddings": "rotary",
    "pooler.dense": "pooler.dense",
}


def unused_modules(config: EsmConfig) -> tuple[str, ...]:
    """Return modules that files have and no output needs: the contact head, and the other kind of positions."""
    positions = ("embeddings.position_embeddings",) if config.is_rotary else ()
    return ("contact_head.regression", _OLD_ROTARY, *positions)


FAMILY = Family(
    model_type="esm",
    config=EsmConfig,
    encoder=encoder,
    names=NAMES,
    prefix="esm",
    hf_prefix="Esm",
    tokenizer="EsmTokenizer",
    pooler=bert.FAMILY.pooler,
    heads={
        MASKED_LM: Head(
            build=words,
            names={"lm_head.dense": "transform.dense", "lm_head.layer_norm": "transform.norm", "lm_head": "head"},
            untied={"lm_head.decoder": "head.decoder"},
        ),
        SEQUENCE_CLASSIFICATION: first_token_head(roberta.CLASSIFIER_NAMES, mx.tanh),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
    },
    unused_modules=unused_modules,
    uses_token_type_ids=False,
    alternate_names={_OLD_ROTARY.replace("{i}", layer): "rotary_embeddings" for layer in "0*"},
)
