"""RoCBert (Su et al., ACL 2022); reference: transformers/models/roc_bert/modeling_roc_bert.py.

Differs from BERT: embeddings of each Chinese character's shape (`input_shape_ids`) and pronunciation
(`input_pronunciation_ids`) are concatenated with the token's and projected, or averaged with the sum of the others.
"""

import dataclasses
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import bert

_SHAPES, _PRONUNCIATIONS = "input_shape_ids", "input_pronunciation_ids"


@dataclass(frozen=True)
class RoCBertConfig(EncoderConfig):
    """BERT's config with RoCBert's keys: the tables of shapes and pronunciations, and how they are combined."""

    enable_shape: bool = True
    enable_pronunciation: bool = True
    concat_input: bool = True
    shape_vocab_size: int = 24858
    shape_embed_dim: int = 512
    pronunciation_vocab_size: int = 910
    pronunciation_embed_dim: int = 768

    @property
    def tables(self) -> dict[str, tuple[int, int]]:
        """Rows and width of the tables that are read, by the name of their input."""
        sizes = {}
        if self.enable_shape:
            sizes[_SHAPES] = (self.shape_vocab_size, self.shape_embed_dim)
        if self.enable_pronunciation:
            sizes[_PRONUNCIATIONS] = (self.pronunciation_vocab_size, self.pronunciation_embed_dim)
        return sizes

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """The ids of shapes and pronunciations; transformers accepts and ignores any where they are not enabled."""
        keys = {_SHAPES: "shape_vocab_size", _PRONUNCIATIONS: "pronunciation_vocab_size"}
        return {name: ModelInput(self.tables.get(name, (0, 0))[0], key=key) for name, key in keys.items()}


class RoCBertEmbeddings(nn.Module):
    """BERT's embeddings with those of shapes and pronunciations.

    Takes a TokenBatch and returns (B, L, D).

    Args:
        config: The model's config.
    """

    def __init__(self, config: RoCBertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word = Embedding(config.vocab_size, width)
        self.position = Embedding(config.max_position_embeddings, width)
        self.token_type = Embedding(config.type_vocab_size, width)
        self.norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.own = {name: Embedding(rows, columns) for name, (rows, columns) in config.tables.items()}
        if config.concat_input:
            self.projection = Linear(width + sum(columns for _, columns in config.tables.values()), width)

    def __call__(self, batch: TokenBatch) -> mx.array:
        if "projection" in self:
            tokens = batch.embed(self.word)
            # Without ids, the row of id 0.
            missing = mx.zeros_like(batch.ids)
            own = [table(batch.extra_inputs.get(name, missing)) for name, table in self.own.items()]
            summed = self._sum(self.projection(mx.concatenate([tokens, *own], axis=-1)), batch)
            normed: mx.array = self.norm(summed)
            return normed
        parts = [self.norm(self._sum(batch.embed(self.word), batch))]
        # Without ids, nothing takes part in the average.
        parts += [table(batch.extra_inputs[name]) for name, table in self.own.items() if name in batch.extra_inputs]
        first, *others = parts
        return sum(others, start=first) / len(parts)

    def _sum(self, tokens: mx.array, batch: TokenBatch) -> mx.array:
        types = mx.zeros((1, 1), mx.int32) if batch.token_type_ids is None else batch.token_type_ids
        summed: mx.array = tokens + self.token_type(types) + self.position(batch.positions())
        return summed


def encoder(config: RoCBertConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(RoCBertEmbeddings(config), bert.layers(config))


def unused_modules(config: RoCBertConfig) -> tuple[str, ...]:
    """Return the tables that transformers builds and this config does not read."""
    unread = {
        "embeddings.shape_embed": not config.enable_shape,
        "embeddings.pronunciation_embed": not config.enable_pronunciation,
    }
    return tuple(name for name, is_unread in unread.items() if is_unread)


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="roc_bert",
    config=RoCBertConfig,
    encoder=encoder,
    names={
        **bert.NAMES,
        "embeddings.shape_embed": f"embeddings.own.{_SHAPES}",
        "embeddings.pronunciation_embed": f"embeddings.own.{_PRONUNCIATIONS}",
        "embeddings.map_inputs_layer": "embeddings.projection",
    },
    prefix="roc_bert",
    hf_prefix="RoCBert",
    tokenizer="RoCBertTokenizer",
    heads={
        task: bert.FAMILY.heads[task]
        for task in (
            MASKED_LM,
            SEQUENCE_CLASSIFICATION,
            TOKEN_CLASSIFICATION,
            QUESTION_ANSWERING,
            MULTIPLE_CHOICE,
        )
    },
    unused_modules=unused_modules,
)
