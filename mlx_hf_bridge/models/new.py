"""GTE as its authors' code saves it (Zhang et al., arXiv 2407.19669), model_type "new" of Alibaba-NLP/new-impl.

Used by gte-base-en-v1.5, gte-multilingual-base and its reranker, stella_en_400M_v5 and others. transformers has no
class for this model_type; tests/test_new.py compares with an independent implementation in NumPy.

Differs from GTE: other names of tensors and keys, other defaults, norms that may be RMS norms, the activation of
config.json in the masked-LM head, and heads for question answering and multiple choice.
"""

from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
)
from mlx_hf_bridge.architecture.heads import (
    POOLED_CHOICE_HEAD,
    POOLED_SEQUENCE_HEAD,
    SPAN_HEAD,
    TOKEN_HEAD,
    masked_lm_head,
)
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.norm import LayerNorm, RMSNorm
from mlx_hf_bridge.models import bert, gte, nomic_bert
from mlx_hf_bridge.models.gte import GteConfig


@dataclass(frozen=True, kw_only=True)
class NewConfig(GteConfig):
    """Config with the defaults of the authors' code.

    Attributes:
        layer_norm_type: "layer_norm" or "rms_norm": the norms of the layers.
    """

    layer_norm_type: str = "layer_norm"

    default_theta: ClassVar = 10_000.0
    rope_types: ClassVar = ("default", "ntk")
    unsupported_values: ClassVar = {
        **GteConfig.unsupported_values,
        "position_embedding_type": lambda value: value not in (None, "rope"),
        "layer_norm_type": lambda value: value not in (None, "layer_norm", "rms_norm"),
    }

    @property
    def reads_token_type_ids(self) -> bool:
        """Whether token type ids are looked up; the authors' code takes all of them for 0 if there is one type."""
        return self.type_vocab_size > 1


def encoder(config: NewConfig) -> Encoder:
    """Return the encoder."""
    norm = RMSNorm if config.layer_norm_type == "rms_norm" else LayerNorm
    layers = [gte.layer(config, norm) for _ in range(config.num_hidden_layers)]
    return Encoder(nomic_bert.embeddings(config), layers, rotary=gte.rotary(config))


_NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.token_type_embeddings": "embeddings.token_type",
    "embeddings.LayerNorm": "embeddings.norm",
    # Of files with pack_qkv false; the usual packed layer is below.
    "encoder.layer.{i}.attention.q_proj": "layers.{i}.attention.qkv#0",
    "encoder.layer.{i}.attention.k_proj": "layers.{i}.attention.qkv#1",
    "encoder.layer.{i}.attention.v_proj": "layers.{i}.attention.qkv#2",
    "encoder.layer.{i}.attention.o_proj": "layers.{i}.attention.out",
    "encoder.layer.{i}.attn_ln": "layers.{i}.attention_norm",
    "encoder.layer.{i}.mlp.up_gate_proj": "layers.{i}.feed_forward.gate_up",
    "encoder.layer.{i}.mlp.down_proj": "layers.{i}.feed_forward.down",
    "encoder.layer.{i}.mlp_ln": "layers.{i}.feed_forward_norm",
    "pooler.dense": "pooler.dense",
}

FAMILY = Family(
    model_type="new",
    config=NewConfig,
    encoder=encoder,
    names=_NAMES,
    prefix="new",
    hf_prefix="New",
    tokenizer="PreTrainedTokenizerFast",
    pooler=bert.FAMILY.pooler,
    heads={
        MASKED_LM: masked_lm_head(
            {"lm_head.dense": "dense", "lm_head.norm": "norm"}, "lm_head.decoder", "lm_head.decoder"
        ),
        SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD,
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: POOLED_CHOICE_HEAD,
    },
    alternate_names={"encoder.layer.{i}.attention.qkv_proj": "layers.{i}.attention.qkv"},
    base_model_has_pooler=False,
    in_transformers=False,
)
