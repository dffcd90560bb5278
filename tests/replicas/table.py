"""Read checkpoints.yaml: one replica for each repo, with the settings that it shares with others of its layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from mlx_hf_bridge.models import model_types

FILE = Path(__file__).with_name("checkpoints.yaml")


@dataclass(frozen=True)
class Replica:
    """A repo and how its replica is made.

    Attributes:
        repo: The repo's id on the Hub.
        layout: What is particular about its files, in words.
        entry: What loads it: SentenceTransformer, CrossEncoder, SparseEncoder, MultiVectorEncoder, AutoModel, or
            the task of a pipeline.
        model: The model_type, a key of `SIZES` in build.py.
        head: The end of the name of the class whose weights the file has.
        dimension: The real repo's embedding dimension; 0 for a classifier.
        tokenizer: A key of `KINDS` in vocabularies.py.
        modules: The modules after the Transformer, such as "pooling mean", "dense 16 Tanh" or "normalize"; None for a
            repo without modules.json.
        config: Keys of config.json; those that the config class does not know are written too.
        drop: Keys that config.json lacks.
        prompts: The prompts of config_sentence_transformers.json.
        max_length: max_seq_length in sentence_bert_config.json; 0 for none.
        tokenizer_config: Keys of tokenizer_config.json.
        files: Other files, path -> text or JSON.
        remove: Files that the repo lacks.
        weights: The form of the weights: safetensors, bin, old bin, sharded, float16 or bfloat16.
        rename: Parts of tensor names -> what the repo has instead.
        module_style: The start of the types in modules.json.
        own_code: A key of `FAMILIES` in own_code.py, for architectures that only the authors' code has in torch.
        build: The name of a function in special.py that writes the files instead.
        refused: A regular expression for the error that loading must end in; "" for a model that is computed.
        why: The reason in words, for the table.
        needs: Packages that transformers' tokenizer needs.
        slow: Whether computing the row takes more than a moment, e.g. since it is traced.
    """

    repo: str
    layout: str
    entry: str
    model: str = ""
    head: str = "Model"
    dimension: int = 0
    tokenizer: str = "wordpiece"
    modules: tuple[str, ...] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    max_length: int = 0
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    weights: str = "safetensors"
    rename: Mapping[str, str] = field(default_factory=dict)
    module_style: str = "sentence_transformers.models."
    own_code: str = ""
    build: str = ""
    refused: str = ""
    why: str = ""
    needs: tuple[str, ...] = ()
    slow: bool = False


_MERGED = ("config", "tokenizer_config", "files", "rename")
_KNOWN = {one.name for one in fields(Replica)} | {"repos"}


def replicas() -> list[Replica]:
    """Return every row, in the order of the file."""
    return [
        _replica({**group, "repo": repo}, settings if isinstance(settings, dict) else {"dimension": settings or 0})
        for group in yaml.safe_load(FILE.read_text(encoding="utf-8"))
        for repo, settings in group["repos"].items()
    ]


def _replica(group: dict[str, Any], own: dict[str, Any]) -> Replica:
    if unknown := {*group, *own} - _KNOWN:
        raise ValueError(f"{group['repo']} has {sorted(unknown)} in checkpoints.yaml")
    found = {**group, **own} | {key: {**group.get(key, {}), **own.get(key, {})} for key in _MERGED}
    del found["repos"]
    lists = {key: tuple(value) for key, value in found.items() if isinstance(value, list)}
    return Replica(**{**found, **lists})


_TASKS = {
    "SentenceTransformer": "sentence embeddings",
    "CrossEncoder": "reranking",
    "SparseEncoder": "sparse embeddings",
    "MultiVectorEncoder": "multi-vector embeddings",
    "AutoModel": "hidden states",
}


def listed(row: Replica) -> dict[str, Any]:
    """Return a row of the published table."""
    native = bool(row.own_code) or not row.model or row.model in model_types()
    by_sentence_transformers = row.entry in _TASKS and row.entry != "AutoModel"
    reference = "sentence-transformers" if by_sentence_transformers else "transformers"
    reference = "gliner" if row.entry == "zero-shot-ner" else "NumPy" if row.own_code else reference
    return {
        "repo": row.repo,
        "task": _TASKS.get(row.entry, row.entry),
        "dimension": row.dimension,
        "layout": row.layout,
        "support": "refused" if row.refused else "native" if native else "traced",
        "compared_with": "" if row.refused else reference,
        "why": row.why,
    }
