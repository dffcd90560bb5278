"""Tiny GLiNER models in the layout of the gliner package, byte-identical on every machine.

Only numpy, tokenizers and safetensors are imported. Random numbers come from numpy's RandomState, whose stream never
changes between versions.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, normalizers, pre_tokenizers, processors

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WORDS = ["ada", "lovelace", "lived", "in", "london", "paris", "person", "city", "##er", "##son", "the", "of", "é", "日"]
MARKS = [".", ",", "?", "-", "_", "'", "(", ")", *(str(digit) for digit in range(10))]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ADDED = ["[FLERT]", "<<ENT>>", "<<SEP>>"]
WIDTH, INNER, HEADS, LAYERS, BUCKETS, PLACES = 32, 48, 4, 2, 8, 96
STD = 0.3
SHRINKING = 0.15

DEBERTA = {
    "model_type": "deberta-v2",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": PLACES,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": BUCKETS,
    "relative_attention": True,
    "share_att_key": True,
    "type_vocab_size": 0,
    "pad_token_id": 0,
}
BERT = {
    "model_type": "bert",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 3,
    "num_hidden_layers": 1,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": PLACES,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}

MODERNBERT = {
    "model_type": "modernbert",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 3,
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "max_position_embeddings": 256,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}

# What gliner_config.json has besides "encoder_config".
MODELS: dict[str, dict[str, Any]] = {
    "span": {"span_mode": "markerV0", "hidden_size": 20},
    "marker": {"span_mode": "marker", "hidden_size": WIDTH, "has_rnn": False, "num_rnn_layers": 0, "max_width": 3},
    "markerV1": {"span_mode": "markerV1", "hidden_size": 20, "subtoken_pooling": "max", "num_rnn_layers": 2},
    "markerV2": {"span_mode": "markerV2", "hidden_size": 20, "subtoken_pooling": "mean"},
    "token": {"span_mode": "token_level", "hidden_size": 20, "subtoken_pooling": "last"},
    "explicit": {"span_mode": "markerV0", "hidden_size": 20, "embed_ent_token": False, "explicit": True},
    "modernbert": {"span_mode": "markerV0", "hidden_size": 20, "num_rnn_layers": 0, "encoder_config": MODERNBERT},
    "bi-span": {"span_mode": "markerV0", "hidden_size": WIDTH, "labels_encoder": "tiny/bert"},
    "bi-token": {"span_mode": "token_level", "hidden_size": 24, "labels_encoder": "tiny/bert", "num_rnn_layers": 0},
    "poly": {
        "span_mode": "markerV0",
        "hidden_size": 20,
        "labels_encoder": "tiny/bert",
        "post_fusion_schema": "l2l-l2t-t2t-t2l",
        "num_post_fusion_layers": 2,
        "num_rnn_layers": 0,
    },
}


class Weights:
    """Random tensors by name."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.RandomState(seed)
        self.tensors: dict[str, np.ndarray] = {}

    def add(self, name: str, *shape: int, std: float = STD, mean: float = 0) -> None:
        self.tensors[name] = (self._random.standard_normal(shape) * std + mean).astype(np.float32)

    def linear(self, name: str, inputs: int, outputs: int) -> None:
        self.add(f"{name}.weight", outputs, inputs, std=1.5 / np.sqrt(inputs))
        self.add(f"{name}.bias", outputs)

    def norm(self, name: str, size: int) -> None:
        self.add(f"{name}.weight", size, mean=1)
        self.add(f"{name}.bias", size)

    def projection(self, name: str, inputs: int, hidden: int, outputs: int) -> None:
        self.linear(f"{name}.0", inputs, hidden)
        self.linear(f"{name}.3", hidden, outputs)

    def lstm(self, name: str, size: int, layers: int) -> None:
        half = size // 2
        for layer in range(layers):
            for suffix in (f"l{layer}", f"l{layer}_reverse"):
                self.add(f"{name}.weight_ih_{suffix}", 4 * half, size)
                self.add(f"{name}.weight_hh_{suffix}", 4 * half, half)
                self.add(f"{name}.bias_ih_{suffix}", 4 * half)
                self.add(f"{name}.bias_hh_{suffix}", 4 * half)

    def deberta(self, prefix: str, rows: int) -> None:
        self.add(f"{prefix}.embeddings.word_embeddings.weight", rows, WIDTH, std=1)
        self.norm(f"{prefix}.embeddings.LayerNorm", WIDTH)
        for number in range(LAYERS):
            layer = f"{prefix}.encoder.layer.{number}"
            for part in ("query_proj", "key_proj", "value_proj"):
                self.linear(f"{layer}.attention.self.{part}", WIDTH, WIDTH)
            self._rest_of_layer(layer, WIDTH, INNER)
        self.add(f"{prefix}.encoder.rel_embeddings.weight", 2 * BUCKETS, WIDTH, std=1)
        self.norm(f"{prefix}.encoder.LayerNorm", WIDTH)

    def modernbert(self, prefix: str, rows: int) -> None:
        self.add(f"{prefix}.embeddings.tok_embeddings.weight", rows, WIDTH, std=1)
        self.add(f"{prefix}.embeddings.norm.weight", WIDTH, mean=1)
        for number in range(3):
            layer = f"{prefix}.layers.{number}"
            for name, outputs, inputs in (
                ("attn.Wqkv", 3 * WIDTH, WIDTH),
                ("attn.Wo", WIDTH, WIDTH),
                ("mlp.Wi", 2 * INNER, WIDTH),
                ("mlp.Wo", WIDTH, INNER),
            ):
                self.add(f"{layer}.{name}.weight", outputs, inputs, std=0.8 / np.sqrt(inputs))
            for name in ("attn_norm", "mlp_norm") if number else ("mlp_norm",):
                self.add(f"{layer}.{name}.weight", WIDTH, mean=1)
        self.add(f"{prefix}.final_norm.weight", WIDTH, mean=1)

    def bert(self, prefix: str, rows: int) -> None:
        size = BERT["hidden_size"]
        assert isinstance(size, int)
        self.add(f"{prefix}.embeddings.word_embeddings.weight", rows, size, std=1)
        self.add(f"{prefix}.embeddings.position_embeddings.weight", PLACES, size)
        self.add(f"{prefix}.embeddings.token_type_embeddings.weight", 2, size)
        self.norm(f"{prefix}.embeddings.LayerNorm", size)
        layer = f"{prefix}.encoder.layer.0"
        for part in ("query", "key", "value"):
            self.linear(f"{layer}.attention.self.{part}", size, size)
        self._rest_of_layer(layer, size, 40)
        self.linear(f"{prefix}.pooler.dense", size, size)

    def _rest_of_layer(self, layer: str, size: int, inner: int) -> None:
        self.linear(f"{layer}.attention.output.dense", size, size)
        self.norm(f"{layer}.attention.output.LayerNorm", size)
        self.linear(f"{layer}.intermediate.dense", size, inner)
        self.linear(f"{layer}.output.dense", inner, size)
        self.norm(f"{layer}.output.LayerNorm", size)

    def head(self, config: Mapping[str, Any]) -> None:
        size, mode = config["hidden_size"], config["span_mode"]
        if size != WIDTH:
            self.linear("token_rep_layer.projection", WIDTH, size)
        if config.get("num_rnn_layers", 1):
            self.lstm("rnn.lstm", size, config.get("num_rnn_layers", 1))
        if mode == "token_level":
            self.linear("scorer.proj_token", size, 2 * size)
            self.linear("scorer.proj_label", size, 2 * size)
            self.projection("scorer.out_mlp", 3 * size, 4 * size, 3)
        else:
            self.markers("span_rep_layer.span_rep_layer", size, mode)
            self.projection("prompt_rep_layer", size, 4 * size, size)
            # So that scores are neither 0 nor 1.
            for leaf in ("weight", "bias"):
                self.tensors[f"prompt_rep_layer.3.{leaf}"] *= np.float32(SHRINKING)

    def markers(self, name: str, size: int, mode: str) -> None:
        further = {"markerV1": ("project_first",), "markerV2": ("project_context",)}.get(mode, ())
        for part in ("project_start", "project_end", *further):
            self.projection(f"{name}.{part}", size, (2 if mode == "marker" else 4) * size, size)
        if mode == "marker":
            self.linear(f"{name}.out_project", 2 * size, size)
        else:
            self.projection(f"{name}.out_project", (2 + len(further)) * size, 4 * size, size)

    def fuser(self, size: int, steps: list[str], layers: int) -> None:
        for layer in range(layers):
            for index, step in enumerate(steps):
                name, is_self = f"cross_fuser.layers.{layer}.{index}", step[0] == step[-1]
                for part in ("query_layer", "key_layer", "value_layer"):
                    self.linear(f"{name}.{'self' if is_self else 'cross'}_attn.{part}", size, size)
                for part in ("q_proj", "k_proj", "v_proj") if is_self else ("v_proj",):
                    self.linear(f"{name}.{part}", size, size)
                self.norm(f"{name}.pre_norm", size)
                self.norm(f"{name}.post_norm", size)


def make_tokenizer(folder: Path, added: tuple[str, ...] = ()) -> int:
    """Save a WordPiece tokenizer; return the number of its tokens."""
    tokens = [*SPECIAL, *dict.fromkeys([*WORDS, *MARKS, *LETTERS, *(f"##{letter}" for letter in LETTERS)])]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens([*SPECIAL, *added])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1000}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokens) + len(added)


def make(folder: Path, name: str, save: Callable[[dict[str, np.ndarray], Path], None] | None = None) -> Path:
    """Save one of MODELS.

    Args:
        folder: The folder to write to.
        name: A key of MODELS.
        save: Writes the tensors to a folder; default: model.safetensors.
    """
    given = dict(MODELS[name])
    explicit, is_bi = given.pop("explicit", False), "labels_encoder" in given
    rows = make_tokenizer(folder, tuple(ADDED) if explicit else ())
    # gliner adds its tokens while it loads.
    rows += 0 if explicit or is_bi else len(ADDED)
    config = {"model_name": "tiny/deberta", "max_width": 5, "max_len": 24, "dropout": 0.4, **given}
    encoder = given.get("encoder_config", DEBERTA)
    config["encoder_config"] = {**encoder, "vocab_size": rows}
    if explicit:
        config |= {"class_token_index": rows - 2, "vocab_size": rows}
    weights = Weights(sum(map(ord, name)))
    add_encoder = weights.modernbert if encoder is MODERNBERT else weights.deberta
    add_encoder("token_rep_layer.bert_layer.model", rows)
    weights.head(config)
    if is_bi:
        rows = make_tokenizer(folder / "labels_tokenizer")
        config["labels_encoder_config"] = {**BERT, "vocab_size": rows}
        weights.bert("token_rep_layer.labels_encoder.model", rows)
        if config["hidden_size"] != BERT["hidden_size"]:
            weights.linear("token_rep_layer.labels_projection", 24, config["hidden_size"])
    if schema := config.get("post_fusion_schema"):
        weights.fuser(config["hidden_size"], schema.split("-"), config["num_post_fusion_layers"])
    (folder / "gliner_config.json").write_text(json.dumps(config))
    if save is None:
        save_file(weights.tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        save(weights.tensors, folder)
    return folder
