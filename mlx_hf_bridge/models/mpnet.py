"""MPNet (Song et al., arXiv 2004.09297); reference: transformers/models/mpnet/modeling_mpnet.py.

Differs from BERT: RoBERTa's positions, no token types, and one relative position bias that every layer adds to its
attention scores.
"""

from dataclasses import dataclass, field

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.relative_positions import RelativePositionBias
from mlx_hf_bridge.models import bert, roberta

# Constants of modeling_mpnet.py, whatever config.json says.
_PADDING_INDEX = 1
_BUCKETS = 32
_MAX_DISTANCE = 128


@dataclass(frozen=True)
class MPNetConfig(OffsetPositionsConfig):
    """MPNet's key: rows of the relative position table; no token types."""

    type_vocab_size: int = field(default=0, init=False)
    relative_attention_num_buckets: int = _BUCKETS

    @property
    def padding_idx(self) -> int:
        """Position id of padding; the first token has the next one."""
        return _PADDING_INDEX


def encoder(config: MPNetConfig) -> Encoder:
    """Return the encoder."""
    rows, heads = config.relative_attention_num_buckets, config.num_attention_heads
    return Encoder(
        bert.embeddings(config, pad_token_id=config.padding_idx),
        bert.layers(config),
        position_bias=RelativePositionBias(rows, heads, _BUCKETS, _MAX_DISTANCE),
    )


NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.position_embeddings": "embeddings.position",
    "embeddings.LayerNorm": "embeddings.norm",
    "encoder.relative_attention_bias": "position_bias.table",
    "encoder.layer.{i}.attention.attn.q": "layers.{i}.attention.qkv#0",
    "encoder.layer.{i}.attention.attn.k": "layers.{i}.attention.qkv#1",
    "encoder.layer.{i}.attention.attn.v": "layers.{i}.attention.qkv#2",
    "encoder.layer.{i}.attention.attn.o": "layers.{i}.attention.out",
    "encoder.layer.{i}.attention.LayerNorm": "layers.{i}.attention_norm",
    "encoder.layer.{i}.intermediate.dense": "layers.{i}.feed_forward.up",
    "encoder.layer.{i}.output.dense": "layers.{i}.feed_forward.down",
    "encoder.layer.{i}.output.LayerNorm": "layers.{i}.feed_forward_norm",
    "pooler.dense": "pooler.dense",
}

FAMILY = Family(
    model_type="mpnet",
    config=MPNetConfig,
    encoder=encoder,
    names=NAMES,
    prefix="mpnet",
    hf_prefix="MPNet",
    tokenizer="MPNetTokenizer",
    pooler=bert.FAMILY.pooler,
    heads=roberta.HEADS,
    uses_token_type_ids=False,
)
