"""Load a replica by its natural entry point, here and in the reference, and return what both compute."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from gliner_entities import CALLS

import mlx_hf_bridge
from replicas import own_code
from replicas.table import Replica

TEXTS = ["the cat sat on the mat.", "a dog", "", "i love this film, Berlin is good today! " * 3]
QUESTIONS = ["is this a film?", "the cat"]
PAIRS = [(question, text) for question in QUESTIONS for text in TEXTS if text]
LABELS = ["sport", "bad news", "film"]
# Largest absolute difference of float32 results; logits of random heads reach 10, of which it is one part in a million.
ABSOLUTE, RELATIVE = 2e-5, 1e-5
_ENTITY = ("start", "end", "label", "score")
GOLDENS = Path(__file__).parent.parent / "goldens" / "gliner_entities.json"
# Tokens, for a model that is called with ids.
LONGEST = 40
Results = dict[str, Any]


def results(folder: Path, row: Replica, name: str = "") -> Results:
    """Return named arrays, and plain values that must be equal, as the model loaded by `name` computes them.

    Without a name they are those of the reference.
    """
    if not name and row.own_code:
        return own_code.expected(folder, row)
    compute = {
        "SentenceTransformer": _sentence_transformer,
        "CrossEncoder": _cross_encoder,
        "SparseEncoder": _sparse_encoder,
        "MultiVectorEncoder": _multi_vector_encoder,
        "AutoModel": _auto_model,
        "zero-shot-ner": _gliner,
    }.get(row.entry, _pipeline)
    return compute(folder, row, name)


def _encoder(folder: Path, kind: str, name: str, **options: Any) -> Any:
    if name:
        return getattr(mlx_hf_bridge, f"MLX{kind}")(name)
    return getattr(sentence_transformers, kind)(str(folder), device="cpu", **options)


def _sentence_transformer(folder: Path, row: Replica, name: str) -> Results:
    # float16 weights are computed with in float32 here, and so they are in the reference.
    halves = row.weights in ("float16", "bfloat16")
    options = {"model_kwargs": {"dtype": torch.float32}} if halves else {}
    model = _encoder(folder, "SentenceTransformer", name, **options)
    found = {"": np.asarray(model.encode(TEXTS))}
    found |= {key: np.asarray(model.encode(TEXTS, prompt_name=key)) for key in list(row.prompts)[:3]}
    if row.own_code:
        return found
    plain = {"dimension": model.get_embedding_dimension(), "max_seq_length": model.max_seq_length}
    return {**found, **plain, "prompts": {k: v for k, v in model.prompts.items() if v}}


def _cross_encoder(folder: Path, row: Replica, name: str) -> Results:
    model = _encoder(folder, "CrossEncoder", name)
    return {"scores": np.asarray(model.predict(PAIRS))}


def _sparse_encoder(folder: Path, row: Replica, name: str) -> Results:
    model = _encoder(folder, "SparseEncoder", name)
    texts = [text for text in TEXTS if text]
    methods = ("encode_document",) if row.own_code else ("encode_query", "encode_document")
    return {method: np.asarray(getattr(model, method)(texts).to_dense()) for method in methods}


def _multi_vector_encoder(folder: Path, row: Replica, name: str) -> Results:
    model = _encoder(folder, "MultiVectorEncoder", name)
    rows = {method: getattr(model, method)(TEXTS[:2]) for method in ("encode_query", "encode_document")}
    return {method: np.concatenate([np.asarray(one) for one in found]) for method, found in rows.items()}


def _auto_model(folder: Path, row: Replica, name: str) -> Results:
    inputs = _inputs(folder, row)
    output = mlx_hf_bridge.MLXAutoModel.from_pretrained(name)(**inputs) if name else _reference_output(folder, inputs)
    found = {}
    if output.get("last_hidden_state") is not None:
        hidden = np.asarray(output["last_hidden_state"], np.float32)
        found["last_hidden_state"] = hidden[inputs["attention_mask"].astype(bool)]
    # The NumPy references have no pooler.
    if output.get("pooler_output") is not None and not row.own_code:
        found["pooler_output"] = np.asarray(output["pooler_output"], np.float32)
    return found


def _inputs(folder: Path, row: Replica) -> dict[str, np.ndarray]:
    # AutoTokenizer would ask whether to run the repo's code.
    kind = transformers.BertTokenizer if row.own_code else transformers.AutoTokenizer
    tokenizer = kind.from_pretrained(folder)
    texts = [text for text in TEXTS if text]
    tokens = tokenizer(texts, truncation=True, max_length=LONGEST, padding=True)
    return {name: np.array(ids) for name, ids in tokens.items()}


def _reference_output(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    config = transformers.AutoConfig.from_pretrained(folder)
    # AutoModel has one class for DPR's three.
    kind = transformers.AutoModel if config.model_type != "dpr" else getattr(transformers, config.architectures[0])
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    encoder = model.get_encoder() if config.model_type in ("t5", "mt5") else model
    with torch.no_grad():
        output = dict(encoder.eval()(**{name: torch.tensor(array) for name, array in inputs.items()}))
    # A pooler that the file lacks is initialized at random there, and left out here.
    return {
        key: one
        for key, one in output.items()
        if not any(key.startswith(k.split(".")[0]) for k in info["missing_keys"])
    }


def _pipeline(folder: Path, row: Replica, name: str) -> Results:
    if row.entry == "question-answering":
        return _question_answering(folder, row, name)
    if name:
        pipe = mlx_hf_bridge.pipeline(row.entry, model=name)
    else:
        pipe = transformers.pipeline(row.entry, model=str(folder), device="cpu")
    texts = [text for text in TEXTS if text]
    if row.entry == "fill-mask":
        return _values(pipe([f"the {pipe.tokenizer.mask_token} sat", f"a {pipe.tokenizer.mask_token}"]))
    if row.entry == "zero-shot-classification":
        return _values(pipe(texts, candidate_labels=LABELS))
    if row.entry == "text-classification":
        return _values(pipe(texts, top_k=None))
    return _values(pipe(texts))


def _question_answering(folder: Path, row: Replica, name: str) -> Results:
    """Return the logits of the head: transformers 5 has no pipeline of the task (see test_question_answering.py)."""
    # The longest text, which has no padding.
    inputs = {name: array[-1:] for name, array in _inputs(folder, row).items()}
    if not name:
        model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
        with torch.no_grad():
            output = model(**{name: torch.tensor(array) for name, array in inputs.items()})
    else:
        answer = mlx_hf_bridge.pipeline(row.entry, model=name)(question=QUESTIONS[0], context=TEXTS[3])
        assert TEXTS[3][answer["start"] : answer["end"]] == answer["answer"]
        output = mlx_hf_bridge.MLXAutoModelForQuestionAnswering.from_pretrained(name)(**inputs)
    return {key: np.asarray(output[key]) for key in ("start_logits", "end_logits")}


def _gliner(folder: Path, row: Replica, name: str) -> Results:
    """Return entities; the reference's were recorded from the gliner package (tests/goldens)."""
    texts, labels, options = CALLS[1]
    if name:
        found = mlx_hf_bridge.MLXGLiNER.from_pretrained(name, show_progress=False).inference(texts, labels, **options)
        return _values([[[one[key] for key in _ENTITY] for one in entities] for entities in found])
    recorded = json.loads(GOLDENS.read_text(encoding="utf-8"))[row.head]["calls"][1]["entities"]
    return _values([[one[: len(_ENTITY)] for one in entities] for entities in recorded])


def _values(output: Any, name: str = "") -> Results:
    """Return nested lists and dicts as named values."""
    if isinstance(output, dict):
        return {k: v for key, one in output.items() for k, v in _values(one, f"{name}.{key}").items()}
    if isinstance(output, (list, tuple)):
        return {k: v for number, one in enumerate(output) for k, v in _values(one, f"{name}.{number}").items()}
    return {name: np.float64(output) if isinstance(output, (float, np.floating)) else output}


def assert_same(actual: Results, expected: Results) -> None:
    """Raise AssertionError where results differ by more than float32 rounding."""
    assert list(actual) == list(expected), (list(actual), list(expected))
    for name, value in expected.items():
        if isinstance(value, (np.ndarray, np.floating)):
            np.testing.assert_allclose(actual[name], value, rtol=RELATIVE, atol=ABSOLUTE, err_msg=name)
        else:
            assert actual[name] == value, (name, actual[name], value)


def outcome(folder: Path, row: Replica, name: str = "") -> tuple[str, str]:
    """Return "same", "refused" or "different", and what there is to say about it.

    Args:
        folder: The replica.
        row: Its row.
        name: What to load; the folder if empty.
    """
    name = name or str(folder)
    if row.refused:
        return _refusal(folder, row, name)
    try:
        assert_same(results(folder, row, name), results(folder, row))
    except Exception as error:
        return "different", f"{type(error).__name__}: {error}"
    return "same", ""


def _refusal(folder: Path, row: Replica, name: str) -> tuple[str, str]:
    try:
        if row.entry == "AutoModel":
            mlx_hf_bridge.MLXAutoModel.from_pretrained(name)
        else:
            results(folder, row, name)
    except mlx_hf_bridge.BridgeError as error:
        message = str(error)
        if re.search(row.refused, message):
            return "refused", message
        return "different", f"the error does not say why: {message}"
    except Exception as error:
        return "different", f"{type(error).__name__}: {error}"
    return "different", "it is computed"
