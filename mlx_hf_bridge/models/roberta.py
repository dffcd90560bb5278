"""RoBERTa (Liu et al., arXiv 1907.11692); reference: transformers/models/roberta/modeling_roberta.py.

Differs from BERT: position ids start at the padding id + 1 and skip padding, and the classifier has two linear layers.
"""

import dataclasses

import mlx.core as mx

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.architecture.heads import POOLED_CHOICE_HEAD, SPAN_HEAD, TOKEN_HEAD, first_token_head, masked_lm_head
from mlx_hf_bridge.layers.activations import gelu
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert

# The masked-LM head's activation is gelu whatever config.json says (RobertaLMHead).
HEADS = {
    MASKED_LM: masked_lm_head(
        {"lm_head.dense": "dense", "lm_head.layer_norm": "norm"}, "lm_head", "lm_head.decoder", activation=gelu
    ),
    SEQUENCE_CLASSIFICATION: first_token_head(activation=mx.tanh),
    TOKEN_CLASSIFICATION: TOKEN_HEAD,
    QUESTION_ANSWERING: SPAN_HEAD,
    MULTIPLE_CHOICE: POOLED_CHOICE_HEAD,
}


def encoder(config: OffsetPositionsConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(bert.embeddings(config, pad_token_id=config.padding_idx), bert.layers(config))


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="roberta",
    config=OffsetPositionsConfig,
    encoder=encoder,
    prefix="roberta",
    hf_prefix="Roberta",
    tokenizer="RobertaTokenizer",
    heads=HEADS,
)
