"""BERT (Devlin et al., arXiv 1810.04805); reference: transformers/models/bert/modeling_bert.py.

The encoder that the other families are told apart from.
"""

from collections.abc import Mapping

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
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.embeddings import Embeddings, OwnTable
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer, SelfAttention
from mlx_hf_bridge.layers.feed_forward import FeedForward, activation_for
from mlx_hf_bridge.layers.heads import PooledClassifier, Pooler

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


def post_norm_layer(config: EncoderConfig, attention: SelfAttention | None = None) -> PostNormLayer:
    """One layer of the stack that BERT's kin share, around BERT's attention or another."""
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
    word_scale: float = 1.0,
    own: Mapping[str, OwnTable] | None = None,
) -> Embeddings:
    """BERT's, of another width for those who widen them, with RoBERTa's places for those who give a padding id."""
    return Embeddings(
        config.vocab_size,
        width or config.hidden_size,
        config.max_position_embeddings,
        config.type_vocab_size,
        config.layer_norm_eps if normed else None,
        pad_token_id,
        word_scale,
        own,
    )


def layers(config: EncoderConfig) -> list[PostNormLayer]:
    """A layer for each step."""
    return [post_norm_layer(config) for _ in range(config.num_hidden_layers)]


def encoder(config: EncoderConfig) -> Encoder:
    return Encoder(embeddings(config), layers(config))


_WORDS = {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.LayerNorm": "norm"}
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
        MASKED_LM: masked_lm_head(_WORDS, "cls.predictions", _DECODER),
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
            masked_lm_head(_WORDS, "cls.predictions", _DECODER, output="prediction_logits"),
            "cls.seq_relationship",
            "seq_relationship_logits",
        ),
    },
    # The projection of a Stanford ColBERT, which lies among the encoder's tensors.
    other_heads=("linear",),
)
