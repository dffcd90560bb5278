"""MobileBERT (Sun et al., arXiv 2004.02984); reference: transformers/models/mobilebert/modeling_mobilebert.py.

Differs from BERT: layers work at a narrower width than the hidden states (bottleneck) and have several feed-forward
blocks; token embeddings are concatenated with their neighbors'; norms may be only a scale and a bias. Hidden states of
the released weights reach 1e7, beyond float16.
"""

from dataclasses import dataclass, replace

import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import MASKED_LM, PRE_TRAINING, Family, Head
from mlx_hf_bridge.architecture.heads import pre_training_head
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.bottleneck import (
    Bottleneck,
    BottleneckAttention,
    BottleneckLayer,
    FirstTokenPooler,
    LinearNorm,
    NoNorm,
    SplitMaskedLMHead,
    TrigramEmbeddings,
)
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.heads import Pooler
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.models import bert

_NORMS = ("no_norm", "layer_norm")
# torch's default: the reference passes no layer_norm_eps to the embeddings' norm and to each layer's last one.
_TORCH_EPS = 1e-5


@dataclass(frozen=True)
class MobileBertConfig(EncoderConfig):
    """MobileBERT's keys: bottlenecks, feed-forward blocks, embeddings and the kind of norm."""

    embedding_size: int = 128
    trigram_input: bool = True
    use_bottleneck: bool = True
    intra_bottleneck_size: int = 128
    use_bottleneck_attention: bool = False
    key_query_shared_bottleneck: bool = True
    num_feedforward_networks: int = 4
    normalization_type: str = "no_norm"
    classifier_activation: bool = True
    true_hidden_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalization_type not in _NORMS:
            raise ConfigError(
                f"config.json has normalization_type={self.normalization_type!r}; known are {', '.join(_NORMS)}. "
                "Take the file of the original checkpoint."
            )
        same = self.query_key_width == self.narrow == (self.true_hidden_size or self.narrow)
        if not same or self.narrow % self.num_attention_heads:
            raise ConfigError(
                f"config.json has intra_bottleneck_size={self.intra_bottleneck_size}, hidden_size={self.hidden_size}, "
                f"num_attention_heads={self.num_attention_heads} and true_hidden_size={self.true_hidden_size}, "
                f"expected layers of width {self.narrow}, a multiple of the heads and as wide as queries and keys. "
                "Take the file of the original checkpoint."
            )

    @property
    def num_stored_layers(self) -> int:
        """Number of parts that have tensors of their own: every feed-forward block of every layer does."""
        return self.num_hidden_layers * self.num_feedforward_networks

    @property
    def narrow(self) -> int:
        """Width at which the layers work."""
        return self.intra_bottleneck_size if self.use_bottleneck else self.hidden_size

    @property
    def query_key_width(self) -> int:
        """Width of the input that queries and keys are computed from."""
        narrows = self.use_bottleneck_attention or self.key_query_shared_bottleneck
        return self.narrow if narrows else self.hidden_size

    @property
    def projects_embeddings(self) -> bool:
        """Whether a linear layer maps the token embeddings to the hidden size."""
        return self.trigram_input or self.embedding_size != self.hidden_size

    @property
    def pooler_has_weights(self) -> bool:
        """Whether the pooler has a linear layer; without one it selects the first token."""
        return self.classifier_activation

    @property
    def exceeds_float16(self) -> bool:
        """Whether hidden states can exceed float16's range, as they do without real norms."""
        return self.normalization_type == "no_norm"


def norm(config: MobileBertConfig, width: int, eps: float | None = None) -> nn.Module:
    """Return a norm, or the scale and bias that stand for it if `normalization_type` is no_norm."""
    if config.normalization_type == "no_norm":
        return NoNorm(width)
    return LayerNorm(width, eps=config.layer_norm_eps if eps is None else eps)


def embeddings(config: MobileBertConfig) -> TrigramEmbeddings:
    """Return the embeddings."""
    # trigram_input: each embedding is concatenated with those of the tokens before and after it.
    size, width = config.hidden_size, config.embedding_size * (3 if config.trigram_input else 1)
    return TrigramEmbeddings(
        Embedding(config.vocab_size, config.embedding_size),
        Embedding(config.max_position_embeddings, size),
        Embedding(config.type_vocab_size, size),
        Linear(width, size) if config.projects_embeddings else None,
        norm(config, size, _TORCH_EPS),
        config.trigram_input,
    )


def bottleneck(config: MobileBertConfig) -> Bottleneck:
    """Return the linear layers that narrow a layer's input."""

    def narrowing() -> LinearNorm:
        return LinearNorm(Linear(config.hidden_size, config.narrow), norm(config, config.narrow))

    scores_apart = config.key_query_shared_bottleneck and not config.use_bottleneck_attention
    return Bottleneck(narrowing(), narrowing() if scores_apart else None, config.use_bottleneck_attention)


def layer(config: MobileBertConfig) -> BottleneckLayer:
    """Return one layer."""
    size, narrow = config.hidden_size, config.narrow
    activation = activation_for(config.hidden_act)
    eps = [config.layer_norm_eps] * (config.num_feedforward_networks - 1) + [_TORCH_EPS]
    return BottleneckLayer(
        BottleneckAttention(narrow, narrow if config.use_bottleneck_attention else size, config.num_attention_heads),
        LinearNorm(Linear(narrow, narrow), norm(config, narrow)),
        [
            LinearNorm(FeedForward(narrow, config.intermediate_size, activation), norm(config, narrow, block_eps))
            for block_eps in eps
        ],
        bottleneck(config) if config.use_bottleneck else None,
        LinearNorm(Linear(narrow, size), norm(config, size)) if config.use_bottleneck else None,
    )


def encoder(config: MobileBertConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(embeddings(config), [layer(config) for _ in range(config.num_hidden_layers)])


_LAYER = "encoder.layer.{i}"
NAMES = {
    **bert.EMBEDDING_NAMES,
    "embeddings.embedding_transformation": "embeddings.widening",
    f"{_LAYER}.bottleneck.input.dense": "layers.{i}.bottleneck.input.dense",
    f"{_LAYER}.bottleneck.input.LayerNorm": "layers.{i}.bottleneck.input.norm",
    f"{_LAYER}.bottleneck.attention.dense": "layers.{i}.bottleneck.attention.dense",
    f"{_LAYER}.bottleneck.attention.LayerNorm": "layers.{i}.bottleneck.attention.norm",
    f"{_LAYER}.attention.self.query": "layers.{i}.attention.query_key#0",
    f"{_LAYER}.attention.self.key": "layers.{i}.attention.query_key#1",
    f"{_LAYER}.attention.self.value": "layers.{i}.attention.value",
    f"{_LAYER}.attention.output.dense": "layers.{i}.attention_out.dense",
    f"{_LAYER}.attention.output.LayerNorm": "layers.{i}.attention_out.norm",
    f"{_LAYER}.ffn.{{j}}.intermediate.dense": "layers.{i}.blocks.{j}.dense.up",
    f"{_LAYER}.ffn.{{j}}.output.dense": "layers.{i}.blocks.{j}.dense.down",
    f"{_LAYER}.ffn.{{j}}.output.LayerNorm": "layers.{i}.blocks.{j}.norm",
    f"{_LAYER}.intermediate.dense": "layers.{i}.last_block.dense.up",
    f"{_LAYER}.output.dense": "layers.{i}.last_block.dense.down",
    f"{_LAYER}.output.LayerNorm": "layers.{i}.last_block.norm",
    f"{_LAYER}.output.bottleneck.dense": "layers.{i}.widening.dense",
    f"{_LAYER}.output.bottleneck.LayerNorm": "layers.{i}.widening.norm",
    "pooler.dense": "pooler.dense",
}


def unused_modules(config: MobileBertConfig) -> tuple[str, ...]:
    """Return the modules that every checkpoint has and this config does not read."""
    projection = () if config.projects_embeddings else ("embeddings.embedding_transformation",)
    query_key = tuple(f"{_LAYER}.bottleneck.attention.{part}" for part in ("dense", "LayerNorm"))
    pooler = () if config.classifier_activation else ("pooler.dense",)
    return (*projection, *(query_key if config.use_bottleneck_attention else ()), *pooler)


def _masked_lm(output: str) -> Head:
    def build(config: MobileBertConfig) -> SplitMaskedLMHead:
        size = config.hidden_size
        return SplitMaskedLMHead(
            Linear(size, size),
            LayerNorm(size, eps=config.layer_norm_eps),
            activation_for(config.hidden_act),
            config.embedding_size,
            config.vocab_size,
            config.tie_word_embeddings,
            output,
        )

    head = bert.FAMILY.heads[MASKED_LM]
    return replace(head, build=build, names={**head.names, "cls.predictions.dense": "rest"})


FAMILY = Family(
    length_dependent=True,
    model_type="mobilebert",
    config=MobileBertConfig,
    encoder=encoder,
    names=NAMES,
    prefix="mobilebert",
    hf_prefix="MobileBert",
    tokenizer="MobileBertTokenizer",
    pooler=lambda config: Pooler(config.hidden_size) if config.classifier_activation else FirstTokenPooler(),
    heads={
        **bert.FAMILY.heads,
        MASKED_LM: _masked_lm("logits"),
        PRE_TRAINING: pre_training_head(
            _masked_lm("prediction_logits"), "cls.seq_relationship", "seq_relationship_logits"
        ),
    },
    unused_modules=unused_modules,
)
