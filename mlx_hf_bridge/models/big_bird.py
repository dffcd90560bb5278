"""BigBird (Zaheer et al., arXiv 2007.14062); reference: transformers/models/big_bird/modeling_big_bird.py.

Differs from BERT: token embeddings may be scaled, and attention may be sparse. transformers computes full attention
even for `block_sparse` while the blocks of a text would cover it.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Head,
)
from mlx_hf_bridge.architecture.heads import first_token_head
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.block_sparse import BlockSparseAttention
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.layers.transformed_heads import QuestionSpanClassifier, question_mask
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class BigBirdConfig(EncoderConfig):
    """BigBird's keys: the kind of attention, its blocks, and whether embeddings are scaled."""

    hidden_act: str = "gelu_new"
    attention_type: str = "block_sparse"
    block_size: int = 64
    num_random_blocks: int = 3
    rescale_embeddings: bool = False
    sep_token_id: int = 66

    minimum_values: ClassVar = {"num_random_blocks": 0, "sep_token_id": 0}
    unsupported_values: ClassVar = {**EncoderConfig.unsupported_values, "use_bias": lambda value: value is False}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_type not in ("block_sparse", "original_full"):
            raise ConfigError(
                f"config.json has attention_type={self.attention_type!r}; known are block_sparse and original_full. "
                "Take the file of the original checkpoint."
            )

    @property
    def independent_length(self) -> int:
        """Longest text with full attention (BigBirdModel.forward, max_tokens_to_attend).

        In a longer batch the last block, which all tokens see, depends on the padding.
        """
        if self.attention_type == "original_full":
            return NO_POSITIONS
        return (5 + 2 * self.num_random_blocks) * self.block_size


def attention(config: BigBirdConfig) -> BlockSparseAttention:
    """Return the attention of one layer."""
    return BlockSparseAttention(
        config.hidden_size,
        config.num_attention_heads,
        config.block_size,
        config.num_random_blocks,
        longest_full=config.independent_length,
    )


def encoder(config: BigBirdConfig) -> Encoder:
    """Return the encoder: BERT's, with token embeddings scaled by sqrt(D) if the config says so."""
    scale = config.hidden_size**0.5 if config.rescale_embeddings else 1.0
    layers = [bert.post_norm_layer(config, attention(config)) for _ in range(config.num_hidden_layers)]
    return Encoder(bert.embeddings(config, token_scale=scale), layers)


def span_head(config: BigBirdConfig) -> QuestionSpanClassifier:
    """Return the question answering head."""
    block = FeedForward(config.hidden_size, config.intermediate_size, activation_for(config.hidden_act))
    return QuestionSpanClassifier(block, bert.layer_norm(config), config.hidden_size, config.sep_token_id)


def with_question_types(config: BigBirdConfig, batch: TokenBatch) -> TokenBatch:
    """Return the batch with token type 0 for the question and 1 for what follows, where the caller gave no types."""
    if batch.token_type_ids is not None or batch.inputs_embeds is not None:
        return batch
    types = 1 - question_mask(batch.ids, config.sep_token_id).astype(mx.int32)
    return dataclasses.replace(batch, token_type_ids=types)


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="big_bird",
    config=BigBirdConfig,
    encoder=encoder,
    names={**bert.EMBEDDING_NAMES, **bert.LAYER_NAMES, "pooler": "pooler.dense"},
    hf_prefix="BigBird",
    tokenizer="BigBirdTokenizer",
    heads={
        **{task: bert.FAMILY.heads[task] for task in (MASKED_LM, TOKEN_CLASSIFICATION, MULTIPLE_CHOICE, PRE_TRAINING)},
        SEQUENCE_CLASSIFICATION: first_token_head(),
        QUESTION_ANSWERING: Head(
            build=span_head,
            names={
                "qa_classifier.intermediate.dense": "block.up",
                "qa_classifier.output.dense": "block.down",
                "qa_classifier.output.LayerNorm": "norm",
                "qa_classifier.qa_outputs": "out",
            },
            prepare_batch=with_question_types,
        ),
    },
)
