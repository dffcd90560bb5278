"""The values that transformers uses for keys that config.json lacks.

Reference: the defaults of the classes in transformers/models/*/configuration_*.py; tests/test_config_keys.py compares.
Keys are field names of `EncoderConfig`; values that equal the field's own default are not repeated.
"""

from collections.abc import Mapping
from typing import Any

_SHARED: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_T5 = {"hidden_size": 512, "head_dim": 64}
_MT5 = {**_T5, "vocab_size": 250112, "num_hidden_layers": 8, "num_attention_heads": 6, "intermediate_size": 1024}
_BART = {
    "vocab_size": 50265, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096,
    "max_position_embeddings": 1024, "decoder_layers": 12, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096,
}  # fmt: skip
_CLIP = {
    "vocab_size": 49408, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu", "pad_token_id": 1,
}  # fmt: skip
_QWEN = {
    "vocab_size": 151936, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "intermediate_size": 22016, "max_position_embeddings": 32768, "hidden_act": "silu", "num_key_value_heads": 32,
}  # fmt: skip
_SIGLIP = {"vocab_size": 32000, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh", "pad_token_id": 1}
_GEMMA = {
    "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "intermediate_size": 9216,
    "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
_XLM = {"vocab_size": 30145, "hidden_size": 2048, "num_attention_heads": 16}

# model_type -> what differs from _SHARED.
_OWN: Mapping[str, Mapping[str, Any]] = {
    "albert": {
        "vocab_size": 30000, "hidden_size": 4096, "num_attention_heads": 64, "intermediate_size": 16384,
        "hidden_act": "gelu_new", "embedding_size": 128,
    },
    "bart": _BART,
    "bert-generation": {**_LARGE, "vocab_size": 50358},
    "big_bird": {"vocab_size": 50358, "max_position_embeddings": 4096, "hidden_act": "gelu_new"},
    "canine": {"max_position_embeddings": 16384, "type_vocab_size": 16},
    "clap_text_model": {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1},
    "clip_text_model": _CLIP,
    "clipseg_text_model": _CLIP,
    "convbert": {"pad_token_id": 1, "embedding_size": 768},
    "deberta": {"vocab_size": 50265},
    "deberta-v2": {
        "vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24,
        "intermediate_size": 6144,
    },
    "distilbert": {"num_hidden_layers": 6},
    "electra": {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "embedding_size": 128},
    "esm": {"max_position_embeddings": 1026, "pad_token_id": None},
    "eurobert": {
        "vocab_size": 128256, "max_position_embeddings": 8192, "hidden_act": "silu", "pad_token_id": 128001,
    },
    "flaubert": _XLM,
    "fnet": {"vocab_size": 32000, "hidden_act": "gelu_new", "pad_token_id": 3, "type_vocab_size": 4},
    "funnel": {"hidden_act": "gelu_new", "head_dim": 64},
    "gemma3_text": {**_GEMMA, "vocab_size": 262208, "max_position_embeddings": 131072},
    "gte": {"vocab_size": 250048, "max_position_embeddings": 8192, "pad_token_id": 1, "type_vocab_size": 1},
    "jina_embeddings_v3": {
        **_LARGE, "vocab_size": 250002, "max_position_embeddings": 8194, "layer_norm_eps": 1e-5, "pad_token_id": 1,
        "type_vocab_size": 1,
    },
    "layoutlm": {"max_2d_position_embeddings": 1024},
    "led": {**_BART, "attention_window": 512, "pad_token_id": 1},
    "longt5": {**_T5, "vocab_size": 32128, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048},
    "longformer": {"attention_window": 512},
    "luke": {"vocab_size": 50267},
    "mbart": _BART,
    "megatron-bert": {**_LARGE, "vocab_size": 29056},
    "metaclip_2_text_model": _CLIP,
    "mobilebert": {
        "hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 4, "intermediate_size": 512,
        "hidden_act": "relu",
    },
    "modernbert": {
        "vocab_size": 50368, "num_hidden_layers": 22, "intermediate_size": 1152, "max_position_embeddings": 8192,
        "pad_token_id": 50283,
    },
    "mpnet": {"vocab_size": 30527},
    "mt5": _MT5,
    "mvp": {**_BART, "vocab_size": 50267},
    "neobert": {"num_hidden_layers": 28, "max_position_embeddings": 1024},
    "new": {"vocab_size": 30528, "max_position_embeddings": 2048, "pad_token_id": None, "type_vocab_size": 1},
    "nomic_bert": {"vocab_size": 30528, "max_position_embeddings": 2048, "hidden_act": "silu"},
    "plbart": {
        "vocab_size": 50005, "num_hidden_layers": 6, "max_position_embeddings": 1024, "decoder_layers": 6,
        "decoder_attention_heads": 12, "decoder_ffn_dim": 3072,
    },
    "qwen2": _QWEN,
    "qwen3": _QWEN,
    "rembert": {
        "vocab_size": 250300, "hidden_size": 1152, "num_hidden_layers": 32, "num_attention_heads": 18,
        "intermediate_size": 4608, "embedding_size": 256, "output_embedding_size": 1664,
    },
    "roberta": {"vocab_size": 50265},
    "roberta-prelayernorm": {"vocab_size": 50265},
    "roformer": {"vocab_size": 50000, "max_position_embeddings": 1536},
    "siglip2_text_model": _SIGLIP,
    "siglip_text_model": _SIGLIP,
    "t5": {**_T5, "vocab_size": 32128, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048},
    "t5gemma": {**_GEMMA, "vocab_size": 256000, "max_position_embeddings": 8192},
    "umt5": _MT5,
    "tapas": {"max_position_embeddings": 1024},
    "xlm": _XLM,
    "xlm-roberta-xl": {
        "vocab_size": 250880, "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
        "intermediate_size": 10240, "max_position_embeddings": 514, "layer_norm_eps": 1e-5, "type_vocab_size": 1,
    },
}  # fmt: skip
# Keys that have no default in transformers either.
_NEEDED = {"esm": ("vocab_size",)}


def default_values(model_type: str) -> dict[str, Any]:
    """Return transformers' defaults of a model_type.

    Args:
        model_type: The key of config.json.

    Returns:
        Field name -> value. Fields that have the same default in every family are not in it.
    """
    values = {**_SHARED, **_OWN.get(model_type, {})}
    return {name: value for name, value in values.items() if name not in _NEEDED.get(model_type, ())}
