"""RemBERT (Chung et al., arXiv 2010.12821); reference: transformers/models/rembert/modeling_rembert.py.

Differs from BERT: embeddings are narrower than the hidden states, with a linear layer between, and the masked-LM head
has a decoder of another width.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.architecture.heads import (
    POOLED_CHOICE_HEAD,
    POOLED_SEQUENCE_HEAD,
    SPAN_HEAD,
    TOKEN_HEAD,
    masked_lm_head,
)
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.models import bert


@dataclass(frozen=True, kw_only=True)
class RemBertConfig(EncoderConfig):
    """RemBERT's keys: widths of the input and output embeddings, which are never tied."""

    embedding_size: int
    output_embedding_size: int
    tie_word_embeddings: bool = field(default=False, init=False)

    attribute_map: ClassVar = {"embedding_size": "input_embedding_size"}


def encoder(config: RemBertConfig) -> Encoder:
    """Return the encoder."""
    width = config.embedding_size
    projection = Linear(width, config.hidden_size)
    return Encoder(bert.embeddings(config, width), bert.layers(config), projection=projection)


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="rembert",
    config=RemBertConfig,
    encoder=encoder,
    names={**bert.NAMES, "encoder.embedding_hidden_mapping_in": "projection"},
    prefix="rembert",
    hf_prefix="RemBert",
    tokenizer="RemBertTokenizer",
    heads={
        MASKED_LM: masked_lm_head(
            {"cls.predictions.dense": "dense", "cls.predictions.LayerNorm": "norm"},
            "cls.predictions",
            "cls.predictions.decoder",
            width=lambda config: config.output_embedding_size,
        ),
        SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD,
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: POOLED_CHOICE_HEAD,
    },
)
