"""RoBERTa (Liu et al., arXiv 1907.11692); reference: transformers/models/roberta/modeling_roberta.py.

BERT, but places start after the padding id's and skip padding, and the classifier has a product of its own.
"""

import dataclasses

import mlx.core as mx

from mlx_hf_bridge.family import SEQUENCE_CLASSIFICATION, Family, Head, PaddedPositionsConfig
from mlx_hf_bridge.layers.embeddings import Embeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import FirstTokenClassifier
from mlx_hf_bridge.models import bert

CLASSIFIER_NAMES = {"classifier.dense": "dense", "classifier.out_proj": "out"}


def encoder(config: PaddedPositionsConfig) -> Encoder:
    return Encoder(
        Embeddings(
            config.vocab_size,
            config.hidden_size,
            config.max_position_embeddings,
            config.type_vocab_size,
            config.layer_norm_eps,
            pad_token_id=config.first_place,
        ),
        [bert.post_norm_layer(config) for _ in range(config.num_hidden_layers)],
    )


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="roberta",
    config=PaddedPositionsConfig,
    encoder=encoder,
    prefix="roberta",
    hf_class="RobertaModel",
    tokenizer="RobertaTokenizer",
    heads={
        SEQUENCE_CLASSIFICATION: Head(
            build=lambda config: FirstTokenClassifier(config.hidden_size, config.num_labels, mx.tanh),
            names=CLASSIFIER_NAMES,
            hf_class="RobertaForSequenceClassification",
        )
    },
    foreign=("lm_head", "classifier", "qa_outputs"),
)


def renamed(model_type: str, hf_prefix: str, tokenizer: str) -> Family:
    """RoBERTa under another model_type, class prefix and tokenizer."""
    head = FAMILY.heads[SEQUENCE_CLASSIFICATION]
    return dataclasses.replace(
        FAMILY,
        model_type=model_type,
        hf_class=f"{hf_prefix}Model",
        tokenizer=tokenizer,
        heads={SEQUENCE_CLASSIFICATION: dataclasses.replace(head, hf_class=f"{hf_prefix}ForSequenceClassification")},
    )
