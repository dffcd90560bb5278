"""Qwen2 as an embedder and reranker (Yang et al., arXiv 2407.10671); reference: transformers/models/qwen2.

Differs from Qwen3: biases of queries, keys and values whatever config.json says, no norms of each head's queries and
keys, and a head's width of hidden_size / num_attention_heads.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture import llama
from mlx_hf_bridge.architecture.config import NO_POSITIONS
from mlx_hf_bridge.architecture.llama import GroupedQueryConfig
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.rotary import Rotary
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import qwen3

_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(GroupedQueryConfig):
    """Qwen2's keys, with the defaults of transformers."""

    layer_norm_eps: float = 1e-6
    pad_token_id: int | None = None
    attention_bias: bool = dataclasses.field(default=True, init=False)
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: Sequence[str] | None = None
    is_causal: bool = True

    out_bias: ClassVar[bool | None] = False
    minimum_values: ClassVar = {"max_window_layers": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_sliding_window:  # as in transformers
            object.__setattr__(self, "sliding_window", None)
        kinds = self.layer_types
        if kinds is not None and (len(kinds) < self.num_hidden_layers or not {*kinds} <= {_FULL, _SLIDING}):
            raise ConfigError(
                f"config.json has layer_types={kinds!r}; expected {_FULL} or {_SLIDING} for each of "
                f"{self.num_hidden_layers} layers. Take the original file."
            )
        if _SLIDING in (kinds or ()) and not (self.use_sliding_window and self.sliding_window):
            raise ConfigError(
                f"config.json has layer_types={kinds!r} with use_sliding_window={self.use_sliding_window} and "
                f"sliding_window={self.sliding_window}; expected true and a number of tokens. Take the original file."
            )

    @property
    def max_sequence_length(self) -> int:
        """The longest input that a sliding window, if there is one, sees all of: longer ones are not computed here."""
        window = self.sliding_window if self.use_sliding_window else None
        slides = self.num_hidden_layers > self.max_window_layers
        if self.layer_types is not None:
            slides = _SLIDING in self.layer_types[: self.num_hidden_layers]
        return window if slides and window else NO_POSITIONS


def encoder(config: Qwen2Config) -> Encoder:
    """Return the encoder."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size),
        [llama.layer(config) for _ in range(config.num_hidden_layers)],
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps),
        # Decoders that were turned into bidirectional encoders say so in config.json (masking_utils.py).
        attention_mask=TokenBatch.causal_mask if config.is_causal else TokenBatch.key_mask,
        rotary=Rotary(config.attention_head_dim, config.theta),
    )


FAMILY = dataclasses.replace(
    qwen3.FAMILY,
    model_type="qwen2",
    config=Qwen2Config,
    encoder=encoder,
    names=llama.NAMES,
    hf_prefix="Qwen2",
)
