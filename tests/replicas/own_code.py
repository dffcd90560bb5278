"""Families that only their authors' code has in torch: replicas, and what the NumPy references compute of them."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import remote_code
import test_alibi_berts
import test_jina_xlm_roberta
import test_neobert
import test_new
import test_nomic
import transformers
from numpy_reference import linear, random_weights
from remote_code import D
from remote_code_repos import write_repo
from weight_files import read_tensors

from replicas import build, compare
from replicas.table import Replica

Tensors = dict[str, np.ndarray]
# Where `compare` truncates texts itself.
_LENGTHS = {"AutoModel": compare.LONGEST}
# Hidden states (L, D) of one text's ids and token types.
Encode = Callable[[Tensors, Mapping[str, Any], np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Family:
    """How replicas of a family are written and computed.

    Attributes:
        config: The content of config.json.
        tensors: Function of that config and a seed that returns the weights under the authors' names.
        encode: The NumPy reference.
        prefix: What the names of the encoder's tensors start with.
        head: Function of the weights, and the hidden states of a text, that returns a pair's score.
    """

    config: Mapping[str, Any]
    tensors: Callable[[Mapping[str, Any], int], Tensors]
    encode: Encode
    prefix: str = ""
    head: Callable[[Tensors, np.ndarray], np.ndarray] | None = None


def _new(weights: Tensors, config: Mapping[str, Any], ids: np.ndarray, types: np.ndarray) -> np.ndarray:
    types = types if config["type_vocab_size"] > 1 else ids * 0
    return test_new.encode({"input_ids": ids, "token_type_ids": types}, weights, dict(config))


def _moe(weights: Tensors, config: Mapping[str, Any], ids: np.ndarray, types: np.ndarray) -> np.ndarray:
    return test_nomic.encode({"input_ids": ids}, weights, dict(config), len(ids))


def _neobert(weights: Tensors, config: Mapping[str, Any], ids: np.ndarray, types: np.ndarray) -> np.ndarray:
    return test_neobert.encode({"input_ids": ids}, weights, dict(config))


def _alibi(kind: str, slopes: list[float] | None = None) -> Encode:
    return lambda weights, config, ids, types: test_alibi_berts.expected(kind, weights, ids, types, slopes)


def _flash(weights: Tensors, config: Mapping[str, Any], ids: np.ndarray, types: np.ndarray) -> np.ndarray:
    return test_jina_xlm_roberta.expected(test_jina_xlm_roberta.merged(weights, None), ids)


def _shapes(found: Mapping[str, tuple[int, ...]]) -> Callable[[Mapping[str, Any], int], Tensors]:
    return lambda config, seed: random_weights(found, seed=seed)


def _reseeded(weights_for: Callable[..., Tensors], *head: Any) -> Callable[[Mapping[str, Any], int], Tensors]:
    def tensors(config: Mapping[str, Any], seed: int) -> Tensors:
        return random_weights(
            {name: array.shape for name, array in weights_for(dict(config), *head).items()}, seed=seed
        )

    return tensors


def _pooled_score(weights: Tensors, hidden: np.ndarray) -> np.ndarray:
    return linear(weights, "classifier", np.tanh(linear(weights, "pooler.dense", hidden[0])))


def _dense_score(weights: Tensors, hidden: np.ndarray) -> np.ndarray:
    return linear(weights, "classifier.out_proj", np.tanh(linear(weights, "classifier.dense", hidden[0])))


_SLOPES = remote_code.paper_slopes(6)
_RERANKER_SLOPES = [*_SLOPES[:4], *(slope / 2 for slope in _SLOPES[4:])]
_ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
_SHAPES = test_alibi_berts.shapes_of
_V3 = test_jina_xlm_roberta
_CLASSIFIER = {"classifier.weight": (1, D), "classifier.bias": (1,)}
FAMILIES = {
    "new": Family(test_new.CONFIG, _reseeded(test_new.weights_for), _new),
    "new_reranker": Family(
        {**test_new.CONFIG, **test_new.MULTILINGUAL, **_ONE_LABEL, "architectures": ["NewForSequenceClassification"]},
        _reseeded(test_new.weights_for, "ForSequenceClassification"),
        _new,
        "new.",
        _pooled_score,
    ),
    "new_sparse": Family(
        {**test_new.CONFIG, "architectures": ["NewForMaskedLM"], "type_vocab_size": 0},
        _reseeded(test_new.weights_for, "ForMaskedLM"),
        _new,
        "new.",
    ),
    "jina_bert": Family(test_alibi_berts.CONFIGS["geglu"], _shapes(_SHAPES("geglu")), _alibi("geglu")),
    "jina_bert_code": Family(test_alibi_berts.CONFIGS["code"], _shapes(_SHAPES("code")), _alibi("code")),
    "jina_reranker": Family(
        {**test_alibi_berts.CONFIGS["geglu"], "auto_map": remote_code.code_of("jinaai/jina-reranker-v1-turbo-en")},
        _shapes(_SHAPES("geglu", "bert.") | _CLASSIFIER),
        _alibi("geglu", _RERANKER_SLOPES),
        "bert.",
        _pooled_score,
    ),
    "mosaic_bert": Family(test_alibi_berts.CONFIGS["mosaic"], _shapes(_SHAPES("mosaic")), _alibi("mosaic")),
    "nomic_moe": Family(test_nomic.CONFIG, _reseeded(test_nomic.weights_for), _moe),
    "neobert": Family(test_neobert.CONFIG, _reseeded(test_neobert.weights_for, "ForMaskedLM"), _neobert, "model."),
    "jina_v3": Family(
        _V3.V3, lambda config, seed: _V3.with_loras(random_weights(_V3.shapes(), seed=seed)), _flash, "roberta."
    ),
    "jina_reranker_v2": Family(
        {
            **{key: value for key, value in _V3.COLBERT.items() if key not in ("model_type", "rotary_emb_base")},
            "position_embedding_type": "absolute",
            "num_labels": 1,
            "auto_map": {"AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig"},
            "architectures": ["XLMRobertaForSequenceClassification"],
        },
        _shapes(
            _V3.shapes()
            | {"roberta.embeddings.position_embeddings.weight": (remote_code.SIZES["max_position_embeddings"], D)}
            | remote_code.dense("classifier.dense", D, D)
            | remote_code.dense("classifier.out_proj", 1, D)
        ),
        _flash,
        "roberta.",
        _dense_score,
    ),
    "jina_colbert": Family(
        {**_V3.COLBERT, "architectures": ["HF_ColBERT"]}, _shapes(_V3.shapes() | {"linear.weight": (8, D)}), _flash
    ),
}


def write(folder: Path, row: Replica) -> None:
    """Write config.json, the weights, and what else the authors' repos of the family have."""
    family = FAMILIES[row.own_code]
    config = {**family.config, **row.config}
    remote_code.save(folder, config, family.tensors(config, build.seed_of(row)))
    if row.own_code == "new_sparse":
        _write_router(folder, row)
    if row.own_code == "jina_v3":
        _write_v3(folder)
    if row.own_code == "jina_colbert":
        markers = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "attend_to_mask_tokens": True}
        build.write_json(folder / "artifact.metadata", {**markers, "query_maxlen": 12, "doc_maxlen": 20, "dim": 8})


def _write_router(folder: Path, row: Replica) -> None:
    """Queries by a table of weights, documents by SPLADE, as in opensearch's repo."""
    build.write_json(
        folder / "modules.json",
        [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}],
    )
    kinds, query, pooling = "sentence_transformers.sparse_encoder.models.", "query_0_Table", "document_1_SpladePooling"
    types = {
        query: f"{kinds}SparseStaticEmbedding.SparseStaticEmbedding",
        "": f"{kinds}MLMTransformer.MLMTransformer",
        pooling: f"{kinds}SpladePooling.SpladePooling",
    }
    routes = {"types": types, "structure": {"query": [query], "document": ["", pooling]}}
    parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    build.write_json(folder / "router_config.json", {**routes, "parameters": parameters})
    build.write_json(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    settings = {"pooling_strategy": "max", "activation_function": "log1p_relu", "word_embedding_dimension": 101}
    build.write_json(folder / pooling / "config.json", settings)
    write_repo(folder / query, {"frozen": False}, random_weights({"weight": (101,)}, seed=build.seed_of(row)))


def _write_v3(folder: Path) -> None:
    types = ["custom_st.Transformer", *(f"sentence_transformers.models.{name}" for name in ("Pooling", "Normalize"))]
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": types[index],
            **({} if index else {"kwargs": ["task"]}),
        }
        for index, path in enumerate(["", "1_Pooling", "2_Normalize"])
    ]
    build.write_json(folder / "modules.json", modules)
    build.write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": D})


def expected(folder: Path, row: Replica) -> dict[str, Any]:
    """Return what the NumPy reference computes, in the form of `compare.results`."""
    if row.entry == "AutoModel":
        texts = [text for text in compare.TEXTS if text]
        return {"last_hidden_state": np.concatenate([hidden for hidden, _ in _hidden(folder, row, texts)])}
    if row.entry == "CrossEncoder":
        family, weights = FAMILIES[row.own_code], _weights(folder, row)
        assert family.head is not None
        logits = np.array([family.head(weights, hidden)[0] for hidden, _ in _hidden(folder, row, compare.PAIRS)])
        return {"scores": 1 / (1 + np.exp(-logits))}
    if row.entry == "SparseEncoder":
        return {"encode_document": _splade(folder, row)}
    if row.entry == "MultiVectorEncoder":
        return _late_interaction(folder, row)
    prompts = {"": "", **dict(list(row.prompts.items())[:3])}
    return {
        name: _embeddings(folder, row, [prompt + text for text in compare.TEXTS]) for name, prompt in prompts.items()
    }


def _splade(folder: Path, row: Replica) -> np.ndarray:
    config, weights = FAMILIES[row.own_code].config, {n: t.numpy() for n, t in read_tensors(folder).items()}
    rows = []
    for text in (text for text in compare.TEXTS if text):
        inputs = dict(transformers.BertTokenizer.from_pretrained(folder)([text], truncation=True))
        inputs = {name: np.array(ids) for name, ids in inputs.items()}
        scores = test_new.scores(inputs, weights, dict(config), "ForMaskedLM")[0]
        rows.append(np.log1p(np.log1p(np.maximum(scores, 0))).max(axis=0))
    return np.array(rows)


def _late_interaction(folder: Path, row: Replica) -> dict[str, np.ndarray]:
    """Return the token vectors of queries, padded with [MASK] to 12 tokens, and of documents of 20 at most."""
    weights, tokenizer = _weights(folder, row), transformers.BertTokenizer.from_pretrained(folder)
    found = {}
    for name, marker, length in (("encode_query", "[unused0]", 12), ("encode_document", "[unused1]", 20)):
        rows = []
        for text in compare.TEXTS[:2]:
            words = tokenizer(text, add_special_tokens=False)["input_ids"][: length - 3]
            ids = tokenizer.convert_tokens_to_ids(["[CLS]", marker, "[SEP]"])
            ids[2:2] = words
            if name == "encode_query":
                ids += [tokenizer.mask_token_id] * (length - len(ids))
            projected = _flash(weights, {}, np.array(ids), np.array(ids)) @ weights["linear.weight"].T
            kept = [
                name == "encode_query" or not _is_punctuation(token) for token in tokenizer.convert_ids_to_tokens(ids)
            ]
            rows.append((projected / np.linalg.norm(projected, axis=1, keepdims=True))[kept])
        found[name] = np.concatenate(rows)
    return found


def _is_punctuation(token: str) -> bool:
    return token in string.punctuation


def _weights(folder: Path, row: Replica) -> Tensors:
    prefix = FAMILIES[row.own_code].prefix
    return {name.removeprefix(prefix): tensor.numpy() for name, tensor in read_tensors(folder).items()}


def _hidden(folder: Path, row: Replica, texts: list[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return hidden states and ids of each text."""
    family, weights = FAMILIES[row.own_code], _weights(folder, row)
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    config = {**family.config, **row.config}
    found = []
    for text in texts:
        tokens = tokenizer([text], truncation=True, max_length=_LENGTHS.get(row.entry))
        ids = np.array(tokens["input_ids"][0])
        types = np.array(tokens.get("token_type_ids", [ids * 0])[0])
        found.append((family.encode(weights, config, ids, types), ids))
    return found


def _embeddings(folder: Path, row: Replica, texts: list[str]) -> np.ndarray:
    rows = []
    modules = row.modules if row.modules is not None else ("pooling mean", "normalize")
    for hidden, _ in _hidden(folder, row, texts):
        vector = hidden
        for number, words in enumerate(modules, start=1):
            if words.startswith("pooling"):
                vector = hidden[0] if "cls" in words else hidden.mean(axis=0)
            elif words.startswith("dense"):
                dense = {name: one.numpy() for name, one in read_tensors(folder / f"{number}_Dense").items()}
                vector = linear(dense, "linear", vector)
            else:
                vector = vector / np.linalg.norm(vector)
        rows.append(vector)
    return np.array(rows)
