"""Tiny question answering checkpoints that any version of transformers loads, byte-identical on every machine.

Only numpy, tokenizers and safetensors are imported. Random numbers come from numpy's RandomState, whose stream never
changes between versions.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models, normalizers, pre_tokenizers, processors

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WORDS = ["the", "cat", "dog", "sat", "on", "mat", "in", "who", "where", "is", "man", "went", "home", "##s", "##ing"]
DEPTH, WIDTH, INNER, HEADS, PLACES = 2, 32, 48, 4, 64
STD = 0.3
# Factor on the start and end logits, so that some answers are much likelier than others.
SHARPNESS = 6.0


def make_bert(folder: Path) -> None:
    """Save a tiny BERT with a WordPiece tokenizer and token type ids."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *dict.fromkeys([*WORDS, ".", ",", "?", *LETTERS, *(f"##{letter}" for letter in LETTERS)])]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    names["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    _save(folder, "bert", "BertForQuestionAnswering", tokenizer, names, token_types=2, pad_token_id=0)


def make_roberta(folder: Path) -> None:
    """Save a tiny RoBERTa with byte-level BPE, no token type ids, and positions that start at pad_token_id + 1."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*special, "Ġ", ".", ",", "?", "-", *(chr(code) for code in range(ord("A"), ord("Z") + 1)), *LETTERS]
    merges = [("Ġ", "t"), ("h", "e"), ("a", "t"), ("Ġt", "he"), ("i", "n"), ("Ġ", "s"), ("o", "n")]
    tokens += ["".join(pair) for pair in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), special, strict=True))
    names["model_input_names"] = ["input_ids", "attention_mask"]
    _save(folder, "roberta", "RobertaForQuestionAnswering", tokenizer, names, token_types=1, pad_token_id=1)


def _save(
    folder: Path,
    model_type: str,
    architecture: str,
    tokenizer: tokenizers.Tokenizer,
    names: dict[str, Any],
    token_types: int,
    pad_token_id: int,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": PLACES - 4}
    _write(folder / "tokenizer_config.json", settings)
    config = {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "hidden_act": "gelu",
        "max_position_embeddings": PLACES,
        "type_vocab_size": token_types,
        "layer_norm_eps": 1e-5,
        "pad_token_id": pad_token_id,
    }
    _write(folder / "config.json", config)
    save_file(_weights(model_type, config), folder / "model.safetensors", metadata={"format": "pt"})


def _weights(prefix: str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], WIDTH),
        "embeddings.position_embeddings.weight": (PLACES, WIDTH),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
    }
    for layer in range(DEPTH):
        where = f"encoder.layer.{layer}"
        for name, rows, columns in (
            ("attention.self.query", WIDTH, WIDTH),
            ("attention.self.key", WIDTH, WIDTH),
            ("attention.self.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", INNER, WIDTH),
            ("output.dense", WIDTH, INNER),
        ):
            shapes |= {f"{where}.{name}.weight": (rows, columns), f"{where}.{name}.bias": (rows,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{where}.{name}.weight": (WIDTH,), f"{where}.{name}.bias": (WIDTH,)}
    named = {f"{prefix}.{name}": shape for name, shape in shapes.items()}
    named |= {"qa_outputs.weight": (2, WIDTH), "qa_outputs.bias": (2,)}
    random = np.random.RandomState(7)
    weights = {name: (random.standard_normal(shape) * STD).astype(np.float32) for name, shape in named.items()}
    for name in weights:
        if name.endswith("LayerNorm.weight"):
            weights[name] += 1
    weights["qa_outputs.weight"] *= SHARPNESS
    return weights


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


MAKERS = {"bert": make_bert, "roberta": make_roberta}
