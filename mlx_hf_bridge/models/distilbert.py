"""DistilBERT (Sanh et al., arXiv 1910.01108); reference: transformers/models/distilbert/modeling_distilbert.py.

Differs from BERT: no token types, no pooler, other module names, and classifiers with two linear layers and relu.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
)
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD, first_token_head, masked_lm_head
from mlx_hf_bridge.layers.activations import relu
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """BERT's config under DistilBERT's keys, without token types."""

    type_vocab_size: int = field(default=0, init=False)

    attribute_map: ClassVar = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    }


NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.position_embeddings": "embeddings.position",
    "embeddings.LayerNorm": "embeddings.norm",
    "transformer.layer.{i}.attention.q_lin": "layers.{i}.attention.qkv#0",
    "transformer.layer.{i}.attention.k_lin": "layers.{i}.attention.qkv#1",
    "transformer.layer.{i}.attention.v_lin": "layers.{i}.attention.qkv#2",
    "transformer.layer.{i}.attention.out_lin": "layers.{i}.attention.out",
    "transformer.layer.{i}.sa_layer_norm": "layers.{i}.attention_norm",
    "transformer.layer.{i}.ffn.lin1": "layers.{i}.feed_forward.up",
    "transformer.layer.{i}.ffn.lin2": "layers.{i}.feed_forward.down",
    "transformer.layer.{i}.output_layer_norm": "layers.{i}.feed_forward_norm",
}

_CLASSIFIER = {"pre_classifier": "dense", "classifier": "out"}

FAMILY = Family(
    model_type="distilbert",
    config=DistilBertConfig,
    encoder=bert.encoder,
    names=NAMES,
    prefix="distilbert",
    hf_prefix="DistilBert",
    tokenizer="BertTokenizer",
    heads={
        MASKED_LM: masked_lm_head(
            {"vocab_transform": "dense", "vocab_layer_norm": "norm"}, "vocab_projector", "vocab_projector"
        ),
        SEQUENCE_CLASSIFICATION: first_token_head(_CLASSIFIER, relu),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: first_token_head(_CLASSIFIER, relu, classes=1),
    },
    uses_token_type_ids=False,
)
