"""BERT (Devlin et al., arXiv 1810.04805); reference: transformers/models/bert/modeling_bert.py.

The encoder that the other files are compared with. Builders and name tables of BERT-style layers that several model
types share are here too.
"""

from collections.abc import Mapping

import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
    Head,
)
from mlx_hf_bridge.architecture.heads import (
    POOLED_CHOICE_HEAD,
    POOLED_SEQUENCE_HEAD,
    SPAN_HEAD,
    TOKEN_HEAD,
    masked_lm_head,
    pre_training_head,
)
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.embeddings import Embeddings
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer, SelfAttention
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.heads import PooledClassifier, Pooler
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer

EMBEDDING_NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.position_embeddings": "embeddings.position",
    "embeddings.token_type_embeddings": "embeddings.token_type",
    "embeddings.LayerNorm": "embeddings.norm",
}
LAYER_NAMES = {
    "encoder.layer.{i}.attention.self.query": "layers.{i}.attention.qkv#0",
    "encoder.layer.{i}.attention.self.key": "layers.{i}.attention.qkv#1",
    "encoder.layer.{i}.attention.self.value": "layers.{i}.attention.qkv#2",
    "encoder.layer.{i}.attention.output.dense": "layers.{i}.attention.out",
    "encoder.layer.{i}.attention.output.LayerNorm": "layers.{i}.attention_norm",
    "encoder.layer.{i}.intermediate.dense": "layers.{i}.feed_forward.up",
    "encoder.layer.{i}.output.dense": "layers.{i}.feed_forward.down",
    "encoder.layer.{i}.output.LayerNorm": "layers.{i}.feed_forward_norm",
}
NAMES = {**EMBEDDING_NAMES, **LAYER_NAMES, "pooler.dense": "pooler.dense"}
# Without the norms of the layers: models with norms before the blocks name those each in their own way.
PRE_NORM_NAMES = {hf: path for hf, path in NAMES.items() if not path.endswith("_norm")}


def post_norm_layer(config: EncoderConfig, attention: SelfAttention | None = None) -> PostNormLayer:
    """Return a BERT layer: attention and feed-forward block, each followed by a residual sum and a norm.

    Args:
        config: The model's config.
        attention: The attention module; None = BERT's own.

    Returns:
        The layer.
    """
    if attention is None:
        attention = Attention(config.hidden_size, config.num_attention_heads)
    return PostNormLayer(
        attention,
        FeedForward(config.hidden_size, config.intermediate_size, activation_for(config.hidden_act)),
        config.hidden_size,
        config.layer_norm_eps,
    )


def embeddings(
    config: EncoderConfig,
    width: int | None = None,
    pad_token_id: int | None = None,
    normed: bool = True,
    token_scale: float = 1.0,
    extra: Mapping[str, nn.Module] | None = None,
) -> Embeddings:
    """Return BERT's embeddings: the sum of token, position and token type embeddings, then a norm.

    Args:
        config: The model's config.
        width: Width of the tables; None = `config.hidden_size`.
        pad_token_id: Padding id from which positions are counted as in RoBERTa; None = positions start at 0.
        normed: Whether a norm follows the sum.
        token_scale: Factor of the token embeddings.
        extra: Name -> embedding of an additional input, e.g. ERNIE's task types.

    Returns:
        The embeddings.
    """
    return Embeddings(
        config.vocab_size,
        width or config.hidden_size,
        config.max_position_embeddings,
        config.type_vocab_size,
        config.layer_norm_eps if normed else None,
        pad_token_id,
        token_scale,
        extra,
    )


def layers(config: EncoderConfig) -> list[PostNormLayer]:
    """Return all layers of a BERT encoder."""
    return [post_norm_layer(config) for _ in range(config.num_hidden_layers)]


def layer_norm(config: EncoderConfig) -> LayerNorm:
    """Return a LayerNorm of the hidden states."""
    return LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def pre_norm_layer(config: EncoderConfig) -> PreNormLayer:
    """Return a layer of BERT's blocks with a norm before each block instead of after it."""
    return PreNormLayer(
        Attention(config.hidden_size, config.num_attention_heads),
        layer_norm(config),
        FeedForward(config.hidden_size, config.intermediate_size, activation_for(config.hidden_act)),
        layer_norm(config),
    )


def pre_norm_layers(config: EncoderConfig) -> list[PreNormLayer]:
    """Return all layers of an encoder with a norm before each block."""
    return [pre_norm_layer(config) for _ in range(config.num_hidden_layers)]


def encoder(config: EncoderConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(embeddings(config), layers(config))


_MASKED_LM_NAMES = {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.LayerNorm": "norm"}
_DECODER = "cls.predictions.decoder"

FAMILY = Family(
    model_type="bert",
    config=EncoderConfig,
    encoder=encoder,
    names=NAMES,
    prefix="bert",
    hf_prefix="Bert",
    tokenizer="BertTokenizer",
    pooler=lambda config: Pooler(config.hidden_size),
    heads={
        MASKED_LM: masked_lm_head(_MASKED_LM_NAMES, "cls.predictions", _DECODER),
        SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD,
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: POOLED_CHOICE_HEAD,
        NEXT_SENTENCE: Head(
            build=lambda config: PooledClassifier(config.hidden_size, 2),
            names={"cls.seq_relationship": "out"},
            reads_pooler=True,
        ),
        PRE_TRAINING: pre_training_head(
            masked_lm_head(_MASKED_LM_NAMES, "cls.predictions", _DECODER, output="prediction_logits"),
            "cls.seq_relationship",
            "seq_relationship_logits",
        ),
    },
    # The output projection of the original ColBERT checkpoints, which are saved as a BERT with one more tensor.
    other_heads=("linear",),
)
