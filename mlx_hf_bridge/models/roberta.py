"""RoBERTa (Liu et al., arXiv 1907.11692); reference: transformers/models/roberta/modeling_roberta.py.

BERT, but places start after the padding id's and skip padding, and the classifier has a product of its own.
"""

import dataclasses

import mlx.core as mx

from mlx_hf_bridge.architecture.config import PaddedPositionsConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.architecture.heads import POOLED_CHOICE, SPANS, TOKENS, first_token_head, word_head
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import gelu
from mlx_hf_bridge.models import bert

CLASSIFIER_NAMES = {"classifier.dense": "dense", "classifier.out_proj": "out"}
# The word head's activation is gelu whatever config.json says (RobertaLMHead).
HEADS = {
    MASKED_LM: word_head(
        {"lm_head.dense": "dense", "lm_head.layer_norm": "norm"}, "lm_head", "lm_head.decoder", activation=gelu
    ),
    SEQUENCE_CLASSIFICATION: first_token_head(CLASSIFIER_NAMES, mx.tanh),
    TOKEN_CLASSIFICATION: TOKENS,
    QUESTION_ANSWERING: SPANS,
    MULTIPLE_CHOICE: POOLED_CHOICE,
}


def encoder(config: PaddedPositionsConfig) -> Encoder:
    return Encoder(bert.embeddings(config, pad_token_id=config.first_place), bert.layers(config))


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="roberta",
    config=PaddedPositionsConfig,
    encoder=encoder,
    prefix="roberta",
    hf_prefix="Roberta",
    tokenizer="RobertaTokenizer",
    heads=HEADS,
)
