"""Write a replica's files: a model of transformers with random weights, then what is particular about the repo."""

import functools
import json
import zlib
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from replicas import own_code, special
from replicas.table import Replica
from replicas.vocabularies import SIZE, files_of

STD = 0.2
WIDTH = 32
BERT: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
}
ROTARY: dict[str, Any] = {**BERT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED: dict[str, Any] = {**ROTARY, "num_key_value_heads": 2}
T5: dict[str, Any] = {"vocab_size": SIZE, "d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
XLM: dict[str, Any] = {
    "vocab_size": SIZE,
    "emb_dim": WIDTH,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 160,
}
BART: dict[str, Any] = {
    "vocab_size": SIZE,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "max_position_embeddings": 160,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
DEBERTA_V2 = {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
DEBERTA_V2 |= {"pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0}
# model_type -> the config's sizes, and what the type's checkpoints always have. Others have BERT's sizes.
SIZES: dict[str, dict[str, Any]] = {
    "albert": {**BERT, "embedding_size": 16},
    "bart": BART,
    "deberta": {**BERT, "relative_attention": True, "pos_att_type": "c2p|p2c", "position_biased_input": False},
    "deberta-v2": {**BERT, **DEBERTA_V2},
    "distilbert": {
        "vocab_size": SIZE,
        "dim": WIDTH,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 160,
    },
    "electra": {**BERT, "embedding_size": 16},
    "esm": {
        **BERT,
        "vocab_size": 33,
        "pad_token_id": 1,
        "mask_token_id": 29,
        "position_embedding_type": "rotary",
        "token_dropout": True,
    },
    "eurobert": GROUPED,
    "flaubert": XLM,
    "gemma3_text": {**GROUPED, "head_dim": 8, "sliding_window": 16, "use_bidirectional_attention": True},
    "gte": {**BERT, "pad_token_id": 0},
    "llama": GROUPED,
    "longformer": {**BERT, "pad_token_id": 1, "attention_window": [8, 8], "max_position_embeddings": 168},
    "mistral": {**GROUPED, "sliding_window": None},
    "mobilebert": {**BERT, "embedding_size": 16, "intra_bottleneck_size": 16},
    "modernbert": {**ROTARY, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 16},
    "mpnet": {**BERT, "pad_token_id": 1},
    "mt5": T5,
    "nomic_bert": {**BERT, "pad_token_id": 0},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "rembert": {**BERT, "input_embedding_size": 16, "output_embedding_size": 20},
    "roformer": {**BERT, "embedding_size": 16},
    "squeezebert": {**BERT, "embedding_size": WIDTH},
    "t5": T5,
    "xlm": XLM,
    "xlnet": {"vocab_size": SIZE, "d_model": WIDTH, "n_layer": 2, "n_head": 4, "d_inner": 48},
}
_ROBERTAS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text", "ibert")
SIZES |= {name: {**BERT, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} for name in (*_ROBERTAS, "luke")}
SIZES["luke"] |= {"entity_vocab_size": 9, "entity_emb_size": 8}


def build(folder: Path, row: Replica) -> None:
    """Write the files of a row into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if row.tokenizer:
        for name, content in files_of(row.tokenizer).items():
            (folder / name).write_bytes(content)
    if row.build:
        getattr(special, row.build)(folder, row)
    elif row.own_code:
        own_code.write(folder, row)
    else:
        write_model(folder, row)
    _write_settings(folder, row)
    for name in row.remove:
        (folder / name).unlink()


def seed_of(row: Replica) -> int:
    """Return a seed for the repo's weights, the same in every run."""
    return zlib.crc32(row.repo.encode())


@functools.cache
def _class_names(model: str) -> tuple[Any, str]:
    config = transformers.CONFIG_MAPPING[model]
    return config, config.__name__.removesuffix("Config")


def make_model(row: Replica) -> Any:
    """Return transformers' model with random parameters."""
    kind, name = _class_names(row.model)
    config = kind(**{**SIZES.get(row.model, BERT), **row.config})
    torch.manual_seed(seed_of(row))
    model = getattr(transformers, name + row.head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, STD)
    return model


def write_model(folder: Path, row: Replica) -> None:
    """Write config.json and the weights, in the form that the row says."""
    model = make_model(row)
    if row.weights in ("float16", "bfloat16"):
        model = model.to(getattr(torch, row.weights))
    shard = "20KB" if row.weights == "sharded" else "5GB"
    model.save_pretrained(folder, max_shard_size=shard)
    if row.rename:
        tensors = load_file(folder / "model.safetensors")
        save_file({_renamed(name, row): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    if row.weights in ("bin", "old bin"):
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        new = row.weights == "bin"
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)


def _renamed(name: str, row: Replica) -> str:
    for part, other in row.rename.items():
        name = other + name if not part else name.replace(part, other)
    return name


def _write_settings(folder: Path, row: Replica) -> None:
    if (row.config or row.drop) and (path := folder / "config.json").is_file():
        config = {**json.loads(path.read_text()), **row.config}
        write_json(path, {key: value for key, value in config.items() if key not in row.drop})
    if row.tokenizer_config:
        path = folder / "tokenizer_config.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        write_json(path, {**found, **row.tokenizer_config})
    if row.modules is not None:
        _write_modules(folder, row)
    if row.prompts:
        write_json(
            folder / "config_sentence_transformers.json", {"prompts": row.prompts, "similarity_fn_name": "cosine"}
        )
    if row.max_length:
        settings = {"max_seq_length": row.max_length, "do_lower_case": False}
        write_json(folder / "sentence_bert_config.json", settings)
    for name, content in row.files.items():
        if isinstance(content, str):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        else:
            write_json(folder / name, content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_modules(folder: Path, row: Replica) -> None:
    """Write modules.json and the folders of the modules, in the layout of sentence-transformers 2 to 4."""
    config = json.loads((folder / "config.json").read_text())
    width = next(config[key] for key in ("hidden_size", "d_model", "dim", "n_embd", "emb_dim") if key in config)
    entries = [("", "Transformer")]
    for number, words in enumerate(row.modules or (), start=1):
        kind, *details = words.split()
        name = {"pooling": "Pooling", "dense": "Dense", "normalize": "Normalize", "splade": "SpladePooling"}[kind]
        where = folder / f"{number}_{name}"
        entries.append((where.name, name))
        if kind == "pooling":
            write_json(where / "config.json", _pooling(width, details))
        elif kind == "dense":
            width = _write_dense(where, row, number, width, details)
        elif kind == "splade":
            settings = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": None}
            write_json(where / "config.json", settings)
    style = row.module_style
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": style + kind}
        for index, (path, kind) in enumerate(entries)
    ]
    write_json(folder / "modules.json", modules)


def _pooling(width: int, details: list[str]) -> dict[str, Any]:
    keys = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    mode = {"cls": "cls_token", "last": "lasttoken"}.get(details[0], f"{details[0]}_tokens")
    modes = {f"pooling_mode_{key}": key == mode for key in keys}
    return {"word_embedding_dimension": width, **modes, "include_prompt": "without-prompt" not in details}


def _write_dense(where: Path, row: Replica, number: int, width: int, details: list[str]) -> int:
    """Write "dense OUT ACTIVATION [no-bias]" and return OUT."""
    out, activation, bias = int(details[0]), details[1], "no-bias" not in details
    kind = "linear.Identity" if activation == "Identity" else f"activation.{activation}"
    settings = {"in_features": width, "out_features": out, "bias": bias}
    write_json(where / "config.json", {**settings, "activation_function": f"torch.nn.modules.{kind}"})
    generator = torch.Generator().manual_seed(seed_of(row) + number)
    tensors = {"linear.weight": torch.randn(out, width, generator=generator) * STD}
    if bias:
        tensors["linear.bias"] = torch.randn(out, generator=generator) * STD
    if row.weights.endswith("bin"):
        torch.save(tensors, where / "pytorch_model.bin")
    else:
        save_file(tensors, where / "model.safetensors")
    return out
