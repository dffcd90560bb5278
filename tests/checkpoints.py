"""Tiny checkpoints of every supported architecture, saved by transformers, and the table that tests iterate over."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import mlx_hf_bridge
from mlx_hf_bridge.architecture.family import HF_SUFFIXES

# No value equals transformers' default, so that ignoring a key changes the outputs.
SHARED: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 44,
    "layer_norm_eps": 1e-5,
}
WITH_TOKEN_TYPES = {**SHARED, "type_vocab_size": 3}
# d_kv is larger than d_model / num_heads, and distances reach the logarithmic buckets.
T5: dict[str, Any] = {
    "vocab_size": 101,
    "d_model": 24,
    "d_kv": 7,
    "d_ff": 40,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 10,
    "relative_attention_max_distance": 12,
    "layer_norm_epsilon": 1e-5,
    "num_decoder_layers": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 4,
}
WORDS = [
    "the", "cat", "dog", "sat", "on", "mat", "a", "stock", "market", "rose", "today", "is", "this", "example", "about",
    "sport", "news", "good", "bad", "film", "i", "love", "hate", "##s", "##ing", "un", ".", ",", "!", "?", "world",
]  # fmt: skip
STD = 0.3


def newer_config(name: str, **keys: Any) -> Any:
    """Return a config of a class that transformers 5.0 lacks, or None where it is lacking."""
    config_class = getattr(transformers, name, None)
    return config_class and config_class(**keys)


@dataclass(frozen=True)
class Row:
    """A small config of a model_type that covers every branch, and how its tests differ from others.

    `classes` is the prefix of its transformers classes, `base` the suffix of the bare encoder's class.
    """

    model_type: str
    classes: str
    config: Any
    pad_token_id: int = 0
    # Number of token type ids that inputs use; 0 = the model has none.
    token_types: int = 0
    base: str = "Model"
    # Whether a position embedding table limits the length.
    has_position_table: bool = True
    # Whether token_type_ids are accepted but ignored.
    ignores_token_types: bool = False
    accepts_inputs_embeds: bool = True
    # Whether hidden states can exceed float16's range, so that float16 weights are computed with in float32.
    exceeds_float16: bool = False
    # Whether padding changes the outputs of real tokens, in transformers too.
    length_dependent: bool = False
    # Whether padded queries attend to nothing, or to everything uniformly, in transformers. Outputs at padded positions
    # are then not comparable, nor is a head that reads the first position of left-padded texts.
    ignores_padding_outputs: bool = False
    # Tolerance relative to the largest compared value, for models without norms whose values reach 1e4 to 1e7.
    relative: float = 0.0
    # Whether half precision is inaccurate in transformers too: unscaled attention scores (T5), or values without norms.
    inaccurate_in_half: bool = False
    # Substrings of the names of additional weights that are never quantized, such as those of heads.
    never_quantized: tuple[str, ...] = ()
    # Substrings of the names of tensors that conversion drops because text does not need them.
    not_converted: tuple[str, ...] = ()
    # Class suffixes that differ from those of other models: usual suffix -> actual one.
    named: Mapping[str, str] = field(default_factory=dict)
    # A token id that heads or the pooler search for; every text contains it three times.
    separator_id: int | None = None
    # Config values for quantization tests, which need sizes that are multiples of the group size.
    wide: Mapping[str, Any] = field(default_factory=lambda: {"hidden_size": 128, "intermediate_size": 256})


# transformers class of an unsupported head -> reason.
UNSUPPORTED_HEADS = {
    "SplinterForPreTraining": "has one output per question of a text, whose number varies",
    "RoCBertForPreTraining": "compares a text with altered copies of it, which a call gives",
    "TapasForQuestionAnswering": "selects cells of a table, for which tests/test_tapas.py has inputs",
}
AS_QWEN3: dict[str, Any] = {
    **{key: value for key, value in SHARED.items() if key != "layer_norm_eps"},
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
AS_QWEN2: dict[str, Any] = {**{key: AS_QWEN3[key] for key in AS_QWEN3 if key != "head_dim"}, "pad_token_id": 4}
QWEN3_TESTS: dict[str, Any] = {
    "pad_token_id": 4,
    "has_position_table": False,
    "wide": {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32},
    "never_quantized": ("score.",),
}
T5GEMMA: dict[str, Any] = {
    **AS_QWEN3,
    "pad_token_id": 4,
    "sliding_window": 3,
    "query_pre_attn_scalar": 11,
    "hidden_activation": "gelu_pytorch_tanh",
    "attn_logit_softcapping": 0.7,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
}
# How the rows of T5 and its variants differ from the others.
AS_T5: dict[str, Any] = {
    "base": "EncoderModel",
    "separator_id": 3,
    "has_position_table": False,
    "inaccurate_in_half": True,
    "wide": {"d_model": 128, "d_ff": 256, "d_kv": 32},
}
# XLM and FlauBERT have other keys, token type ids from the vocabulary, and heads under other names.
XLM: dict[str, Any] = {
    "vocab_size": 101,
    "emb_dim": 24,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": 44,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
AS_XLM: dict[str, Any] = {
    "pad_token_id": 1,
    "token_types": 101,
    "ignores_padding_outputs": True,
    "never_quantized": ("lang_embeddings", "sequence_summary"),
    "named": {"ForMaskedLM": "WithLMHeadModel", "ForQuestionAnswering": "ForQuestionAnsweringSimple"},
    "wide": {"emb_dim": 128},
}
AS_DEBERTA: dict[str, Any] = {
    "wide": {"hidden_size": 128, "intermediate_size": 256, "pooler_hidden_size": 128},
    "ignores_padding_outputs": True,
}
# Rotary models have no position table; their default special ids lie outside the tiny vocabulary.
ROTARY: dict[str, Any] = {key: value for key, value in SHARED.items() if key != "layer_norm_eps"}
SPECIAL = {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
# Their config.json has head_dim in addition to hidden_size.
WIDE_HEADS = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
MODERN: dict[str, Any] = {**ROTARY, **SPECIAL, "norm_eps": 1e-3}
# float32 tolerance for models without norms; largest difference seen 8e-6.
NO_NORM = 5e-5
MOBILE: dict[str, Any] = {
    **WITH_TOKEN_TYPES,
    "embedding_size": 16,
    "intra_bottleneck_size": 12,
    "num_feedforward_networks": 3,
    "hidden_act": "gelu",
}
FUNNEL: dict[str, Any] = {
    "vocab_size": 101,
    "block_sizes": [2, 1, 2],
    "d_model": 24,
    "n_head": 4,
    "d_head": 7,
    "d_inner": 40,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-5,
}
AS_FUNNEL: dict[str, Any] = {
    "token_types": 3,
    "length_dependent": True,
    "has_position_table": False,
    "never_quantized": ("r_kernel", "seg_embed"),
    "wide": {"d_model": 128, "d_inner": 256, "d_head": 32},
}
NARROW_64 = {"hidden_size": 128, "intermediate_size": 256, "intra_bottleneck_size": 64, "embedding_size": 64}
AS_MOBILE: dict[str, Any] = {
    "length_dependent": True,
    "wide": {**NARROW_64, "true_hidden_size": 64},
}

# The decoder has other sizes than the encoder.
BART: dict[str, Any] = {
    "vocab_size": 101,
    "d_model": 24,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 44,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 4,
    "forced_eos_token_id": 3,
    "bos_token_id": 2,
}
AS_BART: dict[str, Any] = {
    "separator_id": 3,
    "accepts_inputs_embeds": False,
    "never_quantized": ("classification_head",),
    "wide": {"d_model": 128, "encoder_ffn_dim": 256, "decoder_ffn_dim": 192, "decoder_attention_heads": 2},
}

LONGT5 = {
    "local_radius": 2,
    "global_block_size": 3,
    "encoder_attention_type": "transient-global",
    "feed_forward_proj": "gated-gelu",
}
AS_LONGT5 = {**AS_T5, "separator_id": None}

FAMILIES = [
    Row("bert", "Bert", transformers.BertConfig(**WITH_TOKEN_TYPES, hidden_act="gelu_new"), token_types=3),
    Row("bert", "Bert", transformers.BertConfig(**WITH_TOKEN_TYPES, hidden_act="relu"), token_types=3),
    Row("roberta", "Roberta", transformers.RobertaConfig(**WITH_TOKEN_TYPES, pad_token_id=2), 2, 3),
    Row("xlm-roberta", "XLMRoberta", transformers.XLMRobertaConfig(**WITH_TOKEN_TYPES, pad_token_id=1), 1, 3),
    Row("camembert", "Camembert", transformers.CamembertConfig(**WITH_TOKEN_TYPES, pad_token_id=1), 1, 3),
    Row(
        "distilbert",
        "DistilBert",
        transformers.DistilBertConfig(
            vocab_size=101, dim=24, n_layers=3, n_heads=4, hidden_dim=40, max_position_embeddings=44, activation="relu"
        ),
        wide={"dim": 128, "hidden_dim": 256},
    ),
    Row("mpnet", "MPNet", transformers.MPNetConfig(**SHARED), 1),
    Row("electra", "Electra", transformers.ElectraConfig(**WITH_TOKEN_TYPES, embedding_size=16), token_types=3),
    Row("electra", "Electra", transformers.ElectraConfig(**WITH_TOKEN_TYPES, embedding_size=24), token_types=3),
    Row(
        "albert",
        "Albert",
        transformers.AlbertConfig(
            **WITH_TOKEN_TYPES, embedding_size=16, num_hidden_groups=3, inner_group_num=2, hidden_act="gelu_new"
        ),
        token_types=3,
    ),
    Row("t5", "T5", transformers.T5Config(**T5, feed_forward_proj="relu"), **AS_T5),
    Row("t5", "T5", transformers.T5Config(**T5, feed_forward_proj="gated-silu"), **AS_T5),
    Row("mt5", "MT5", transformers.MT5Config(**T5), **AS_T5),
    Row("umt5", "UMT5", transformers.UMT5Config(**T5), **AS_T5),
    Row("longt5", "LongT5", transformers.LongT5Config(**T5, **LONGT5), **AS_LONGT5),
    Row("longt5", "LongT5", transformers.LongT5Config(**T5, local_radius=4, feed_forward_proj="relu"), **AS_LONGT5),
    Row(
        "clip_text_model",
        "CLIPText",
        transformers.CLIPTextConfig(**SHARED, hidden_act="quick_gelu", eos_token_id=7, pad_token_id=1),
        pad_token_id=1,
        accepts_inputs_embeds=False,
        separator_id=7,
    ),
    Row(
        "clip_text_model",
        "CLIPText",
        transformers.CLIPTextConfig(**SHARED, eos_token_id=2),
        accepts_inputs_embeds=False,
    ),
    Row(
        "siglip_text_model",
        "SiglipText",
        transformers.SiglipTextConfig(**SHARED, projection_size=10, pad_token_id=1),
        pad_token_id=1,
        accepts_inputs_embeds=False,
        never_quantized=("head.",),
    ),
    Row(
        "siglip2_text_model",
        "Siglip2Text",
        transformers.Siglip2TextConfig(**SHARED),
        accepts_inputs_embeds=False,
        never_quantized=("head.",),
    ),
    Row(
        "fnet",
        "FNet",
        transformers.FNetConfig(**{**WITH_TOKEN_TYPES, "num_attention_heads": 1}, hidden_act="gelu", pad_token_id=3),
        pad_token_id=3,
        token_types=3,
        length_dependent=True,
    ),
    Row(
        "led",
        "LED",
        transformers.LEDConfig(
            **{key: value for key, value in BART.items() if key != "max_position_embeddings"},
            max_encoder_position_embeddings=50,
            max_decoder_position_embeddings=44,
            attention_window=[4, 8, 4],
            activation_function="relu",
        ),
        **{**AS_BART, "never_quantized": ()},
    ),
    Row(
        "funnel",
        "Funnel",
        transformers.FunnelConfig(**FUNNEL, num_decoder_layers=1, attention_type="factorized"),
        **AS_FUNNEL,
    ),
    Row("funnel", "Funnel", transformers.FunnelConfig(**FUNNEL), **AS_FUNNEL),
    Row(
        "funnel",
        "Funnel",
        transformers.FunnelConfig(
            **FUNNEL,
            block_repeats=[1, 2, 1],
            pooling_type="max",
            truncate_seq=False,
            pool_q_only=False,
        ),
        **AS_FUNNEL,
    ),
    Row(
        "funnel",
        "Funnel",
        transformers.FunnelConfig(**FUNNEL, attention_type="factorized", separate_cls=False),
        **AS_FUNNEL,
    ),
    Row(
        "canine",
        "Canine",
        transformers.CanineConfig(
            # Not a key of the config: for the tests' ids.
            vocab_size=101,
            hidden_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=44,
            type_vocab_size=3,
            layer_norm_eps=1e-5,
            hidden_act="relu",
            downsampling_rate=2,
            upsampling_kernel_size=5,
            num_hash_functions=4,
            num_hash_buckets=50,
            local_transformer_stride=8,
        ),
        token_types=3,
        length_dependent=True,
        never_quantized=("HashBucket", ".conv."),
    ),
    Row(
        "convbert",
        "ConvBert",
        transformers.ConvBertConfig(
            **WITH_TOKEN_TYPES, embedding_size=16, conv_kernel_size=5, num_groups=2, head_ratio=2, hidden_act="gelu_new"
        ),
        pad_token_id=1,
        token_types=3,
        length_dependent=True,
        never_quantized=("intermediate.dense", *(f"{layer}.output.dense" for layer in range(3))),
    ),
    Row("qwen3", "Qwen3", transformers.Qwen3Config(**AS_QWEN3, attention_bias=True, pad_token_id=4), **QWEN3_TESTS),
    Row(
        "qwen2",
        "Qwen2",
        transformers.Qwen2Config(**AS_QWEN2, tie_word_embeddings=True, rope_parameters={"rope_theta": 700.0}),
        **{**QWEN3_TESTS, "wide": {"hidden_size": 128, "intermediate_size": 256}},
    ),
    Row(
        "gemma3_text",
        "Gemma3Text",
        transformers.Gemma3TextConfig(
            **AS_QWEN3,
            use_bidirectional_attention=True,
            pad_token_id=4,
            sliding_window=6,
            query_pre_attn_scalar=11,
            hidden_activation="gelu_pytorch_tanh",
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
            },
        ),
        **QWEN3_TESTS,
    ),
    Row(
        "convbert",
        "ConvBert",
        transformers.ConvBertConfig(
            **WITH_TOKEN_TYPES,
            embedding_size=24,
            conv_kernel_size=3,
            head_ratio=9,
            summary_type="first",
            summary_use_proj=True,
            summary_activation="gelu",
        ),
        pad_token_id=1,
        token_types=3,
        length_dependent=True,
    ),
    Row(
        "deberta",
        "Deberta",
        transformers.DebertaConfig(
            **SHARED,
            relative_attention=True,
            max_relative_positions=6,
            pos_att_type="c2p|p2c",
            position_biased_input=False,
            pooler_hidden_act="tanh",
        ),
        ignores_token_types=True,
        has_position_table=False,
        **AS_DEBERTA,
    ),
    Row(
        "deberta",
        "Deberta",
        transformers.DebertaConfig(
            **WITH_TOKEN_TYPES,
            relative_attention=True,
            pos_att_type=["p2c", "p2p"],
            talking_head=True,
            hidden_act="relu",
            legacy=False,
        ),
        token_types=3,
        **AS_DEBERTA,
    ),
    Row(
        "deberta",
        "Deberta",
        transformers.DebertaConfig(**WITH_TOKEN_TYPES, pos_att_type=["c2p"], embedding_size=16),
        token_types=3,
        **AS_DEBERTA,
    ),
    Row(
        "deberta-v2",
        "DebertaV2",
        transformers.DebertaV2Config(
            **SHARED,
            relative_attention=True,
            max_relative_positions=12,
            position_buckets=6,
            pos_att_type=["p2c", "c2p"],
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
            pooler_hidden_act="relu",
            legacy=False,
        ),
        ignores_token_types=True,
        has_position_table=False,
        **AS_DEBERTA,
    ),
    Row(
        "deberta-v2",
        "DebertaV2",
        transformers.DebertaV2Config(
            **WITH_TOKEN_TYPES,
            relative_attention=True,
            max_relative_positions=7,
            pos_att_type="c2p|p2c",
            conv_kernel_size=5,
            conv_groups=2,
            conv_act="gelu",
            embedding_size=16,
        ),
        token_types=3,
        **AS_DEBERTA,
    ),
    Row(
        "deberta-v2",
        "DebertaV2",
        transformers.DebertaV2Config(
            **SHARED, relative_attention=True, pos_att_type=["p2c"], position_buckets=4, conv_kernel_size=3
        ),
        ignores_token_types=True,
        **AS_DEBERTA,
    ),
    Row(
        "deberta-v2",
        "DebertaV2",
        transformers.DebertaV2Config(**SHARED, relative_attention=True, pos_att_type=["c2p"], share_att_key=True),
        ignores_token_types=True,
        **AS_DEBERTA,
    ),
    Row(
        "deberta-v2",
        "DebertaV2",
        transformers.DebertaV2Config(**SHARED, pos_att_type=["c2p"]),
        ignores_token_types=True,
        **AS_DEBERTA,
    ),
    Row(
        "modernbert",
        "ModernBert",
        transformers.ModernBertConfig(
            **MODERN,
            local_attention=6,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 50.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 7.0},
            },
            hidden_activation="gelu_new",
            classifier_pooling="mean",
            decoder_bias=False,
        ),
        3,
        has_position_table=False,
        ignores_padding_outputs=True,
        never_quantized=("head.dense",),
    ),
    Row(
        "modernbert",
        "ModernBert",
        transformers.ModernBertConfig(
            **MODERN,
            local_attention=5,
            global_attn_every_n_layers=2,
            norm_bias=True,
            attention_bias=True,
            mlp_bias=True,
            classifier_bias=True,
            classifier_activation="relu",
        ),
        3,
        has_position_table=False,
        ignores_padding_outputs=True,
        never_quantized=("head.dense",),
    ),
    Row(
        "mobilebert",
        "MobileBert",
        transformers.MobileBertConfig(**MOBILE),
        token_types=3,
        inaccurate_in_half=True,
        exceeds_float16=True,
        relative=NO_NORM,
        **AS_MOBILE,
    ),
    Row(
        "mobilebert",
        "MobileBert",
        transformers.MobileBertConfig(
            **MOBILE,
            normalization_type="layer_norm",
            use_bottleneck_attention=True,
            key_query_shared_bottleneck=False,
            classifier_activation=False,
        ),
        token_types=3,
        **AS_MOBILE,
    ),
    Row(
        "mobilebert",
        "MobileBert",
        transformers.MobileBertConfig(
            **{**MOBILE, "trigram_input": False, "normalization_type": "layer_norm", "use_bottleneck": False}
        ),
        token_types=3,
        wide={**NARROW_64, "true_hidden_size": 128},
    ),
    Row(
        "nomic_bert",
        "NomicBert",
        newer_config("NomicBertConfig", **WITH_TOKEN_TYPES, rope_theta=50.0, hidden_act="gelu_new"),
        token_types=3,
        has_position_table=False,
        never_quantized=("emb_ln",),
        wide=WIDE_HEADS,
    ),
    Row(
        "jina_embeddings_v3",
        "JinaEmbeddingsV3",
        newer_config("JinaEmbeddingsV3Config", **WITH_TOKEN_TYPES, rope_theta=50.0, hidden_act="relu", pad_token_id=2),
        2,
        3,
        has_position_table=False,
        never_quantized=("emb_ln",),
    ),
    Row(
        "gte",
        "Gte",
        newer_config("GteConfig", **WITH_TOKEN_TYPES, rope_theta=50.0),
        1,
        3,
        has_position_table=False,
        never_quantized=("attn_ln", "mlp_ln"),
    ),
    Row(
        "gte",
        "Gte",
        newer_config("GteConfig", **SHARED, type_vocab_size=0, rope_theta=50.0, hidden_act="relu"),
        1,
        has_position_table=False,
        ignores_token_types=True,
        never_quantized=("attn_ln", "mlp_ln"),
    ),
    Row(
        "eurobert",
        "EuroBert",
        newer_config(
            "EuroBertConfig",
            **ROTARY,
            **SPECIAL,
            rms_norm_eps=1e-3,
            num_key_value_heads=2,
            head_dim=10,
            rope_theta=50.0,
            hidden_act="gelu_new",
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
        ),
        3,
        has_position_table=False,
        never_quantized=("dense.weight",),
        wide=WIDE_HEADS,
    ),
    Row(
        "eurobert",
        "EuroBert",
        newer_config(
            "EuroBertConfig", **ROTARY, **SPECIAL, rms_norm_eps=1e-3, rope_theta=50.0, classifier_pooling="mean"
        ),
        3,
        has_position_table=False,
        never_quantized=("dense.weight",),
        wide=WIDE_HEADS,
    ),
    Row(
        "eurobert",
        "EuroBert",
        newer_config("EuroBertConfig", **ROTARY, **SPECIAL, rope_theta=50.0, classifier_pooling="bos"),
        3,
        has_position_table=False,
        never_quantized=("dense.weight",),
        wide=WIDE_HEADS,
    ),
    Row(
        "roformer",
        "RoFormer",
        transformers.RoFormerConfig(**WITH_TOKEN_TYPES, embedding_size=16, rotary_value=True, hidden_act="relu"),
        token_types=3,
    ),
    Row("roformer", "RoFormer", transformers.RoFormerConfig(**WITH_TOKEN_TYPES), token_types=3),
    Row("data2vec-text", "Data2VecText", transformers.Data2VecTextConfig(**WITH_TOKEN_TYPES, pad_token_id=1), 1, 3),
    Row("ernie", "Ernie", transformers.ErnieConfig(**WITH_TOKEN_TYPES, hidden_act="relu"), token_types=3),
    Row(
        "ernie",
        "Ernie",
        transformers.ErnieConfig(**WITH_TOKEN_TYPES, use_task_id=True, task_type_vocab_size=5),
        token_types=3,
        never_quantized=("task_type",),
    ),
    Row(
        "megatron-bert",
        "MegatronBert",
        transformers.MegatronBertConfig(**WITH_TOKEN_TYPES),
        token_types=3,
        never_quantized=(".ln.",),
    ),
    Row(
        "xlm-roberta-xl",
        "XLMRobertaXL",
        transformers.XLMRobertaXLConfig(**WITH_TOKEN_TYPES, pad_token_id=2, hidden_act="gelu_new"),
        2,
        3,
    ),
    Row(
        "roberta-prelayernorm",
        "RobertaPreLayerNorm",
        transformers.RobertaPreLayerNormConfig(**WITH_TOKEN_TYPES, pad_token_id=1),
        1,
        3,
    ),
    Row(
        "rembert",
        "RemBert",
        transformers.RemBertConfig(
            **WITH_TOKEN_TYPES,
            input_embedding_size=16,
            output_embedding_size=20,
            hidden_act="relu",
            bos_token_id=2,
            eos_token_id=3,
        ),
        token_types=3,
        wide={"hidden_size": 128, "intermediate_size": 256, "input_embedding_size": 128},
    ),
    Row("bert-generation", "BertGeneration", transformers.BertGenerationConfig(**SHARED), base="Encoder"),
    Row(
        "roc_bert",
        "RoCBert",
        transformers.RoCBertConfig(
            **WITH_TOKEN_TYPES,
            shape_vocab_size=9,
            shape_embed_dim=6,
            pronunciation_vocab_size=8,
            pronunciation_embed_dim=10,
        ),
        token_types=3,
        never_quantized=("shape_embed", "pronunciation_embed"),
        wide={"hidden_size": 128, "intermediate_size": 256, "shape_embed_dim": 64, "pronunciation_embed_dim": 64},
    ),
    Row(
        "markuplm",
        "MarkupLM",
        transformers.MarkupLMConfig(
            **WITH_TOKEN_TYPES,
            pad_token_id=1,
            max_depth=3,
            xpath_unit_hidden_size=6,
            max_xpath_tag_unit_embeddings=9,
            max_xpath_subs_unit_embeddings=8,
            tag_pad_id=7,
            subs_pad_id=5,
        ),
        pad_token_id=1,
        token_types=3,
        never_quantized=("xpath_tag_sub", "xpath_subs_sub", "xpath_unitseq2_embeddings"),
        wide={"hidden_size": 128, "intermediate_size": 256, "xpath_unit_hidden_size": 64},
    ),
    Row(
        "tapas",
        "Tapas",
        transformers.TapasConfig(**SHARED, type_vocab_sizes=[3, 9, 8, 2, 5, 6, 4]),
        has_position_table=False,
        ignores_token_types=True,
    ),
    Row(
        "xmod",
        "Xmod",
        transformers.XmodConfig(
            **WITH_TOKEN_TYPES, languages=["en_XX", "de_DE"], default_language="de_DE", adapter_layer_norm=True
        ),
        pad_token_id=1,
        token_types=3,
    ),
    Row(
        "xmod",
        "Xmod",
        transformers.XmodConfig(
            **WITH_TOKEN_TYPES,
            languages=["en_XX"],
            default_language="en_XX",
            pre_norm=True,
            adapter_reuse_layer_norm=False,
            ln_before_adapter=False,
            adapter_reduction_factor=3,
        ),
        pad_token_id=1,
        token_types=3,
        wide={"hidden_size": 128, "intermediate_size": 256, "adapter_reduction_factor": 2},
    ),
    Row(
        "layoutlm",
        "LayoutLM",
        transformers.LayoutLMConfig(**WITH_TOKEN_TYPES, max_2d_position_embeddings=7),
        token_types=3,
    ),
    Row(
        "esm",
        "Esm",
        transformers.EsmConfig(
            **SHARED,
            pad_token_id=1,
            mask_token_id=9,
            position_embedding_type="rotary",
            rope_theta=50.0,
            token_dropout=True,
            emb_layer_norm_before=True,
        ),
        1,
        has_position_table=False,
        never_quantized=("contact_head", "inv_freq"),
    ),
    Row(
        "esm",
        "Esm",
        transformers.EsmConfig(**SHARED, pad_token_id=2, mask_token_id=9),
        2,
        never_quantized=("contact_head",),
    ),
    Row("splinter", "Splinter", transformers.SplinterConfig(**WITH_TOKEN_TYPES, question_token_id=50), token_types=3),
    Row(
        "big_bird",
        "BigBird",
        transformers.BigBirdConfig(
            **WITH_TOKEN_TYPES,
            attention_type="original_full",
            rescale_embeddings=True,
            hidden_act="relu",
            sep_token_id=7,
        ),
        token_types=3,
        separator_id=7,
        never_quantized=("qa_classifier.",),
    ),
    Row(
        "luke",
        "Luke",
        transformers.LukeConfig(**WITH_TOKEN_TYPES, pad_token_id=1, entity_vocab_size=9, entity_emb_size=8),
        1,
        3,
        not_converted=("entity_predictions",),
        never_quantized=("entity_embeddings",),
    ),
    Row(
        "squeezebert",
        "SqueezeBert",
        transformers.SqueezeBertConfig(
            **WITH_TOKEN_TYPES,
            embedding_size=24,
            q_groups=2,
            k_groups=4,
            v_groups=1,
            post_attention_groups=2,
            intermediate_groups=1,
            output_groups=8,
            hidden_act="gelu_new",
        ),
        token_types=3,
        never_quantized=("attention", "conv1d"),
    ),
    Row("xlm", "XLM", transformers.XLMConfig(**XLM, n_langs=4, sinusoidal_embeddings=True), **AS_XLM),
    Row("xlm", "XLM", transformers.XLMConfig(**XLM, gelu_activation=False, summary_activation="tanh"), **AS_XLM),
    Row("flaubert", "Flaubert", transformers.FlaubertConfig(**XLM, n_langs=4), **AS_XLM),
    Row(
        "ibert",
        "IBert",
        transformers.IBertConfig(**WITH_TOKEN_TYPES, pad_token_id=1),
        1,
        3,
        not_converted=("_integer", "scaling_factor", ".x_min", ".x_max", ".shift"),
    ),
    Row(
        "chinese_clip_text_model",
        "ChineseCLIPText",
        transformers.ChineseCLIPTextConfig(**WITH_TOKEN_TYPES, hidden_act="gelu_new"),
        token_types=3,
    ),
    *(
        Row(
            f"{name}_text_model",
            f"{classes}Text",
            getattr(transformers, f"{classes}TextConfig")(**SHARED, hidden_act=act, eos_token_id=7, pad_token_id=1),
            pad_token_id=1,
            accepts_inputs_embeds=False,
            separator_id=7,
        )
        for name, classes, act in (
            ("metaclip_2", "MetaClip2", "relu"),
            ("clipseg", "CLIPSeg", "quick_gelu"),
        )
    ),
    Row(
        "clap_text_model",
        "ClapText",
        transformers.ClapTextConfig(**WITH_TOKEN_TYPES, pad_token_id=2),
        2,
        3,
        not_converted=("position_ids", "token_type_ids"),
    ),
    Row(
        "align_text_model",
        "AlignText",
        transformers.AlignTextConfig(**WITH_TOKEN_TYPES, hidden_act="relu"),
        token_types=3,
    ),
    Row(
        "flava_text_model",
        "FlavaText",
        transformers.FlavaTextConfig(**WITH_TOKEN_TYPES, hidden_act="relu"),
        token_types=3,
        accepts_inputs_embeds=False,
    ),
    Row(
        "t5gemma",
        "T5Gemma",
        transformers.T5GemmaConfig(
            encoder=T5GEMMA, decoder=T5GEMMA, is_encoder_decoder=False, vocab_size=101, pad_token_id=4
        ),
        base="EncoderModel",
        **{**QWEN3_TESTS, "wide": {key: {**T5GEMMA, **QWEN3_TESTS["wide"]} for key in ("encoder", "decoder")}},
    ),
    Row(
        "longformer",
        "Longformer",
        transformers.LongformerConfig(**WITH_TOKEN_TYPES, pad_token_id=2, sep_token_id=4, attention_window=[4, 8, 4]),
        2,
        3,
        separator_id=4,
    ),
    Row("bart", "Bart", transformers.BartConfig(**BART, activation_function="relu"), **AS_BART),
    Row("bart", "Bart", transformers.BartConfig(**BART, scale_embedding=True), **AS_BART),
    Row("mbart", "MBart", transformers.MBartConfig(**BART, scale_embedding=True), **AS_BART),
    Row("plbart", "PLBart", transformers.PLBartConfig(**BART), **AS_BART),
    Row("mvp", "Mvp", transformers.MvpConfig(**BART, activation_function="silu"), **AS_BART),
]

# Types that the installed transformers does not have yet cannot be compared with it.
FAMILIES = [row for row in FAMILIES if row.config is not None]


# One config of each family, for what does not depend on a family's options.
FIRST_ROWS = list({row.model_type: row for row in reversed(FAMILIES)}.values())[::-1]


def row_name(row: Row) -> str:
    """Return a test id: the model_type and the index of the row in FAMILIES."""
    return f"{row.model_type}-{FAMILIES.index(row)}"


def heads_of(row: Row) -> list[str]:
    """Return the suffixes of the supported transformers classes, "Model" for the bare encoder."""
    suffixes = [suffix for suffix in HF_SUFFIXES.values() if suffix != "Model"]
    names = {suffix: row.classes + row.named.get(suffix, suffix) for suffix in suffixes}
    return [
        "Model",
        *(head for head, name in names.items() if hasattr(transformers, name) and name not in UNSUPPORTED_HEADS),
    ]


_OTHER_STACKS = ("funnel", "t5", "mt5", "umt5")


def plainest_head(row: Row) -> tuple[str, str]:
    """Return a head with few weights and the name of its output, or the bare encoder if the model has no heads."""
    for head in ("ForSequenceClassification", "ForTokenClassification"):
        # Funnel's sequence classifier lacks the decoder that the bare model has, and those of T5 have one in addition.
        if head in heads_of(row) and (row.model_type not in _OTHER_STACKS or head != "ForSequenceClassification"):
            return head, "logits"
    return "Model", "last_hidden_state"


def torch_class(row: Row, head: str) -> Any:
    """Return transformers' class of a head."""
    return getattr(transformers, row.classes + (row.base if head == "Model" else row.named.get(head, head)))


def mlx_class(head: str) -> Any:
    """Return the MLXAutoModel class for the suffix of a transformers class."""
    return getattr(mlx_hf_bridge, "MLXAutoModel" + head.removeprefix("Model"))


def make_model(row: Row, head: str = "Model", labels: int = 3, seed: int = 0) -> Any:
    """Return a transformers model with random parameters: norms of ones and biases of zeros would hide mix-ups."""
    names = {number: f"class {number}" for number in range(labels)}
    changed = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    config = type(row.config).from_dict({**row.config.to_dict(), **changed})
    torch.manual_seed(seed)
    model = torch_class(row, head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, STD)
    return model


def ragged_inputs(row: Row, lengths: tuple[int, ...] = (17, 9, 4), seed: int = 0) -> dict[str, np.ndarray]:
    """Return right-padded ids, the mask and, if the model has them, random token type ids."""
    random = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    ids = random.integers(5, row.config.vocab_size, shape)
    mask = (np.arange(shape[1])[None] < np.array(lengths)[:, None]).astype(np.int64)
    inputs = {"input_ids": np.where(mask == 1, ids, row.pad_token_id), "attention_mask": mask}
    if row.separator_id is not None:
        inputs["input_ids"][:, 1:4] = row.separator_id
    if row.token_types:
        inputs["token_type_ids"] = random.integers(0, row.token_types, shape) * mask
    return inputs


@dataclass(frozen=True)
class Saved:
    """A model shared by tests, the files that save_pretrained wrote, and the state of the model at that time."""

    row: Row
    model: Any
    state: Any
    files: Mapping[str, bytes]


_SAVED: dict[Any, Saved] = {}
_TOKENIZERS: dict[int, Mapping[str, bytes]] = {}


def _state(model: Any) -> Any:
    """Return what a test may have changed: tensors, in place or replaced, training mode and config."""
    tensors = [*model.parameters(), *model.buffers()]
    marks = [(id(t), t.data_ptr(), t._version, t.dtype, t.requires_grad, t.grad is None) for t in tensors]
    return marks, model.training, model.config._attn_implementation, model.config.to_dict()


def _files_of(write: Callable[[Path], Any]) -> dict[str, bytes]:
    """Return the files that `write` puts into a folder, name -> content."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def save_model(folder: Path, row: Row, head: str = "Model", labels: int = 3, seed: int = 0) -> Any:
    """Write what `make_model(...).save_pretrained(folder)` writes, and return the transformers model.

    Each model is built once per process and reused as long as no test has changed it; the files are new every time.
    """
    key = (id(row.config), row.classes, row.base, head, labels, seed)
    saved = _SAVED.get(key)
    if saved is None or _state(saved.model) != saved.state:
        model = make_model(row, head, labels, seed)
        files = _files_of(model.save_pretrained)
        saved = _SAVED[key] = Saved(row, model, _state(model), files)
    _write_files(folder, saved.files)
    return saved.model


def make_wordpiece(folder: Path, pad_token_id: int = 0) -> None:
    """Save a BERT tokenizer of 101 ids, as many as the tiny models have, with the padding token at `pad_token_id`."""
    if pad_token_id not in _TOKENIZERS:
        _TOKENIZERS[pad_token_id] = _files_of(lambda scratch: _save_wordpiece(scratch, pad_token_id))
    _write_files(folder, _TOKENIZERS[pad_token_id])


def _save_wordpiece(folder: Path, pad_token_id: int) -> None:
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(pad_token_id, "[PAD]")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*special, *dict.fromkeys([*WORDS, *letters, *(f"##{letter}" for letter in letters)])]
    vocabulary += [f"[unused{number}]" for number in range(101 - len(vocabulary))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary[:101]) + "\n", encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=44).save_pretrained(folder)


def make_checkpoint(folder: Path, row: Row | None = None, head: str = "Model", labels: int = 3, seed: int = 0) -> Any:
    """Save a tiny model with a tokenizer into `folder` and return the transformers model."""
    row = row or FAMILIES[0]
    model = save_model(folder, row, head, labels, seed)
    make_wordpiece(folder, row.pad_token_id)
    return model
