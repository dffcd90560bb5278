"""CANINE (Clark et al., arXiv 2103.06874); reference: transformers/models/canine/modeling_canine.py.

Differs from BERT: tokens are characters, embedded by hashes of their code points; the layers of BERT work on groups of
four characters, between a layer with local attention and one with full attention over characters. Groups at a text's
end contain padding, so padding changes the outputs, as it does in transformers.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.characters import (
    PRIMES,
    CharacterEncoder,
    ChunkedAttention,
    Downsampling,
    HashEmbedding,
    Upsampling,
)
from mlx_hf_bridge.layers.embeddings import Embeddings
from mlx_hf_bridge.models import bert

# Unicode's code points.
_CODE_POINTS = 0x110000


@dataclass(frozen=True)
class CanineConfig(EncoderConfig):
    """CANINE's keys: hashes, groups of characters, and chunks of local attention."""

    vocab_size: int = field(default=_CODE_POINTS, init=False)
    tie_word_embeddings: bool = field(default=False, init=False)
    downsampling_rate: int = 4
    upsampling_kernel_size: int = 4
    num_hash_functions: int = 8
    num_hash_buckets: int = 16384
    local_transformer_stride: int = 128

    unsupported_values: ClassVar = {}

    @property
    def max_length(self) -> int:
        """Longest text, in characters: the position table has as many rows as those of the hashes."""
        return min(self.max_position_embeddings, self.num_hash_buckets)

    @property
    def max_sequence_length(self) -> int:
        """Longest input that has positions."""
        return self.max_length

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_hash_functions > len(PRIMES) or self.hidden_size % self.num_hash_functions:
            raise ConfigError(
                f"config.json has num_hash_functions={self.num_hash_functions} and hidden_size={self.hidden_size}, "
                f"expected {len(PRIMES)} functions at most, and a multiple of them. Take the file of the original "
                "checkpoint."
            )


def embeddings(config: CanineConfig) -> Embeddings:
    """Return the embeddings; the position table has as many rows as those of the hashes."""
    return Embeddings(
        HashEmbedding(config.num_hash_functions, config.num_hash_buckets, config.hidden_size),
        config.hidden_size,
        config.num_hash_buckets,
        config.type_vocab_size,
        config.layer_norm_eps,
    )


def encoder(config: CanineConfig) -> CharacterEncoder:
    """Return the encoder."""
    width, rate, eps = config.hidden_size, config.downsampling_rate, config.layer_norm_eps
    activation = activation_for(config.hidden_act)
    local = ChunkedAttention(width, config.num_attention_heads, config.local_transformer_stride)
    return CharacterEncoder(
        embeddings(config),
        bert.post_norm_layer(config, local),
        Downsampling(width, rate, activation, eps),
        bert.layers(config),
        Upsampling(width, rate, config.upsampling_kernel_size, activation, eps),
        bert.post_norm_layer(config),
    )


_CHARACTERS = "char_embeddings"
NAMES = {
    **{f"{_CHARACTERS}.HashBucketCodepointEmbedder_{n}": f"embeddings.word.table_{n}" for n in range(len(PRIMES))},
    f"{_CHARACTERS}.char_position_embeddings": "embeddings.position",
    f"{_CHARACTERS}.token_type_embeddings": "embeddings.token_type",
    f"{_CHARACTERS}.LayerNorm": "embeddings.norm",
    **{f"initial_char_{hf}": path.replace("layers", "first") for hf, path in bert.LAYER_NAMES.items()},
    "chars_to_molecules.conv": "downsampling.conv",
    "chars_to_molecules.LayerNorm": "downsampling.norm",
    **bert.LAYER_NAMES,
    "projection.conv": "upsampling.conv",
    "projection.LayerNorm": "upsampling.norm",
    **{f"final_char_{hf}": path.replace("layers", "last") for hf, path in bert.LAYER_NAMES.items()},
    "pooler.dense": "pooler.dense",
}

FAMILY = dataclasses.replace(
    bert.FAMILY,
    length_dependent=True,
    model_type="canine",
    config=CanineConfig,
    encoder=encoder,
    names=NAMES,
    prefix="canine",
    hf_prefix="Canine",
    tokenizer="CanineTokenizer",
    heads={
        task: bert.FAMILY.heads[task]
        for task in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, MULTIPLE_CHOICE)
    },
    ignored_suffixes=("char_embeddings.position_ids",),
    other_heads=("cls",),
)
