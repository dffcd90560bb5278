"""ALBERT (Lan et al., arXiv 1909.11942); reference: transformers/models/albert/modeling_albert.py.

Differs from BERT: all layers share the parameters of one group of layers (or of a few groups), and the embeddings are
narrower than the hidden states, with a linear layer between.
"""

from dataclasses import dataclass

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
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
from mlx_hf_bridge.layers.encoder import Encoder, LayerGroup
from mlx_hf_bridge.layers.heads import Pooler
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.models import bert


@dataclass(frozen=True, kw_only=True)
class AlbertConfig(EncoderConfig):
    """ALBERT's keys: width of the embeddings, number of parameter groups, and layers per group."""

    embedding_size: int
    num_hidden_groups: int = 1
    inner_group_num: int = 1

    @property
    def num_stored_layers(self) -> int:
        """Number of layers that have tensors of their own: those of the groups."""
        return self.num_hidden_groups * self.inner_group_num


def group_of_layer(config: AlbertConfig) -> list[int]:
    """Return the index of the group whose parameters each layer uses."""
    layers_per_group = config.num_hidden_layers / config.num_hidden_groups
    return [int(layer / layers_per_group) for layer in range(config.num_hidden_layers)]


def layer_group(config: AlbertConfig) -> LayerGroup:
    """Return one group: `inner_group_num` layers that run one after the other."""
    return LayerGroup([bert.post_norm_layer(config) for _ in range(config.inner_group_num)])


def encoder(config: AlbertConfig) -> Encoder:
    """Return the encoder: narrow embeddings, a projection, and the groups in the order of the layers."""
    return Encoder(
        bert.embeddings(config, config.embedding_size),
        [layer_group(config) for _ in range(config.num_hidden_groups)],
        # Unlike in ELECTRA, this layer is there even if the widths are equal.
        projection=Linear(config.embedding_size, config.hidden_size),
        layer_order=group_of_layer(config),
    )


_LAYER = "encoder.albert_layer_groups.{i}.albert_layers.{j}"
NAMES = {
    **bert.EMBEDDING_NAMES,
    "encoder.embedding_hidden_mapping_in": "projection",
    f"{_LAYER}.attention.query": "layers.{i}.layers.{j}.attention.qkv#0",
    f"{_LAYER}.attention.key": "layers.{i}.layers.{j}.attention.qkv#1",
    f"{_LAYER}.attention.value": "layers.{i}.layers.{j}.attention.qkv#2",
    f"{_LAYER}.attention.dense": "layers.{i}.layers.{j}.attention.out",
    f"{_LAYER}.attention.LayerNorm": "layers.{i}.layers.{j}.attention_norm",
    f"{_LAYER}.ffn": "layers.{i}.layers.{j}.feed_forward.up",
    f"{_LAYER}.ffn_output": "layers.{i}.layers.{j}.feed_forward.down",
    f"{_LAYER}.full_layer_layer_norm": "layers.{i}.layers.{j}.feed_forward_norm",
    "pooler": "pooler.dense",
}


def _masked_lm(output: str) -> Head:
    return masked_lm_head(
        {"predictions.dense": "dense", "predictions.LayerNorm": "norm"},
        "predictions",
        "predictions.decoder",
        width=lambda config: config.embedding_size,
        output=output,
    )


FAMILY = Family(
    model_type="albert",
    config=AlbertConfig,
    encoder=encoder,
    names=NAMES,
    prefix="albert",
    hf_prefix="Albert",
    tokenizer="AlbertTokenizer",
    pooler=lambda config: Pooler(config.hidden_size),
    heads={
        MASKED_LM: _masked_lm("logits"),
        SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD,
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: POOLED_CHOICE_HEAD,
        PRE_TRAINING: pre_training_head(
            _masked_lm("prediction_logits"),
            "sop_classifier.classifier",
            "sop_logits",
            classes=lambda config: config.num_labels,
        ),
    },
)
