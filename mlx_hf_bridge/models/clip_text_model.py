"""CLIP's text encoder (Radford et al., arXiv 2103.00020); reference: transformers/models/clip/modeling_clip.py.

Differs from BERT: causal attention, norms before each block and after the last layer, no norm after the embeddings, and
the text embedding is the hidden state of the end-of-text token.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Family, Head
from mlx_hf_bridge.layers.embeddings import TokenPositionEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import EOSPooler, PooledProjection
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import bert


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(EncoderConfig):
    """CLIP's keys: the end-of-text token and the direction of attention; no token types."""

    type_vocab_size: int = field(default=0, init=False)
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    is_causal: bool = True
    # Read by CLIPTextModelWithProjection.
    projection_dim: int = 512
    architectures: list[str] | None = None

    @property
    def pooler_has_weights(self) -> bool:
        """Return False: the pooler only selects the end token's hidden state."""
        return False


def projection(config: CLIPTextConfig) -> Head | None:
    """Return the projection of the pooled output, for files of CLIPTextModelWithProjection; None for others."""
    if (config.architectures or [""])[0] != "CLIPTextModelWithProjection":
        return None
    return Head(
        build=lambda config: PooledProjection(config.hidden_size, config.projection_dim),
        names={"text_projection": "out"},
        reads_pooler=True,
    )


def encoder(config: CLIPTextConfig) -> Encoder:
    """Return the encoder, which is causal unless config.json has is_causal=false (masking_utils.py)."""
    return pre_norm_encoder(config, TokenBatch.causal_mask if config.is_causal else TokenBatch.key_mask)


def pre_norm_encoder(config: EncoderConfig, attention_mask: Callable[[TokenBatch], mx.array | None]) -> Encoder:
    """Return the encoder of CLIP and SigLIP.

    Args:
        config: The model's config.
        attention_mask: Function of the batch that returns the attention mask.

    Returns:
        The encoder, whose last norm applies to the output but not to the recorded hidden states.
    """
    return Encoder(
        TokenPositionEmbeddings(config.vocab_size, config.hidden_size, config.max_position_embeddings),
        bert.pre_norm_layers(config),
        final_norm=bert.layer_norm(config),
        # transformers records hidden states before final_layer_norm, which only last_hidden_state passes.
        norm_last_hidden_state=False,
        attention_mask=attention_mask,
    )


NAMES = {
    "embeddings.token_embedding": "embeddings.word",
    "embeddings.position_embedding": "embeddings.position",
    "encoder.layers.{i}.self_attn.q_proj": "layers.{i}.attention.qkv#0",
    "encoder.layers.{i}.self_attn.k_proj": "layers.{i}.attention.qkv#1",
    "encoder.layers.{i}.self_attn.v_proj": "layers.{i}.attention.qkv#2",
    "encoder.layers.{i}.self_attn.out_proj": "layers.{i}.attention.out",
    "encoder.layers.{i}.layer_norm1": "layers.{i}.attention_norm",
    "encoder.layers.{i}.mlp.fc1": "layers.{i}.feed_forward.up",
    "encoder.layers.{i}.mlp.fc2": "layers.{i}.feed_forward.down",
    "encoder.layers.{i}.layer_norm2": "layers.{i}.feed_forward_norm",
    "final_layer_norm": "final_norm",
}

FAMILY = Family(
    model_type="clip_text_model",
    config=CLIPTextConfig,
    encoder=encoder,
    names=NAMES,
    prefix="text_model",
    hf_prefix="CLIPText",
    tokenizer="CLIPTokenizer",
    heads={},
    pooler=lambda config: EOSPooler(config.eos_token_id),
    base_head=projection,
    other_heads=("text_projection",),
    # Of whole CLIP models, whose text side alone is computed.
    ignored_prefixes=("vision_model", "visual_projection"),
    ignored_suffixes=("embeddings.position_ids", "embeddings.token_type_ids", "logit_scale"),
    uses_token_type_ids=False,
    accepts_inputs_embeds=False,
)
