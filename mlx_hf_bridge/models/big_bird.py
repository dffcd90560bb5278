"""BigBird (Zaheer et al., arXiv 2007.14062); reference: transformers/models/big_bird/modeling_big_bird.py.

Differs from BERT: token embeddings may be scaled, and attention may be sparse. transformers computes full attention
even for `block_sparse` while the blocks of a text would cover it; only this is implemented, longer texts are an error.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    PRE_TRAINING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.architecture.heads import first_token_head
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class BigBirdConfig(EncoderConfig):
    """BigBird's keys: the kind of attention, its blocks, and whether embeddings are scaled."""

    hidden_act: str = "gelu_new"
    attention_type: str = "block_sparse"
    block_size: int = 64
    num_random_blocks: int = 3
    rescale_embeddings: bool = False

    minimum_values: ClassVar = {"num_random_blocks": 0}
    unsupported_values: ClassVar = {**EncoderConfig.unsupported_values, "use_bias": lambda value: value is False}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_type not in ("block_sparse", "original_full"):
            raise ConfigError(
                f"config.json has attention_type={self.attention_type!r}; known are block_sparse and original_full. "
                "Take the file of the original checkpoint."
            )

    @property
    def max_sequence_length(self) -> int:
        """Longest text for which block_sparse is full attention (BigBirdModel.forward, max_tokens_to_attend)."""
        if self.attention_type == "original_full":
            return NO_POSITIONS
        return (5 + 2 * self.num_random_blocks) * self.block_size

    @property
    def max_length(self) -> int:
        """Longest text, in tokens with special tokens: limited by positions and by full attention."""
        return min(self.max_position_embeddings, self.max_sequence_length)


def encoder(config: BigBirdConfig) -> Encoder:
    """Return the encoder: BERT's, with token embeddings scaled by sqrt(D) if the config says so."""
    scale = config.hidden_size**0.5 if config.rescale_embeddings else 1.0
    return Encoder(bert.embeddings(config, token_scale=scale), bert.layers(config))


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
    },
    # BigBirdForQuestionAnswering derives token types from the separator's position, which is not implemented.
    other_heads=("qa_classifier",),
)
