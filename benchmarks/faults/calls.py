"""Calls of every public class and function, each of which always gives the same result."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import mlx_hf_bridge
from benchmarks.faults.checkpoints import tiny_checkpoint
from benchmarks.models import minilm_folder
from mlx_hf_bridge import MLXCrossEncoder, MLXMultiVectorEncoder, MLXSentenceTransformer, MLXSparseEncoder

Call = Callable[[], Any]
TEXTS = [
    "the cat sat on the mat.",
    "a dog",
    "",
    "i love this film, i hate bad news ?",
    "stock market rose today!",
    "cats " * 60,
    "the world",
]
_MANY = [f"{TEXTS[number % 5]} {'good ' * (number % 23)}" for number in range(160)]
_PAIRS = [(TEXTS[0], TEXTS[1]), (TEXTS[3], TEXTS[4]), (TEXTS[1], "")]


def surfaces(folder: Path) -> dict[str, Call]:
    """Load the models, and return calls by name.

    Args:
        folder: Where checkpoints and files are written.

    Returns:
        The calls; each gives the same result every time.
    """
    return {**_encoders(folder), **_classifiers(folder), **_pipelines(folder), **_files(folder), **_threads(folder)}


def _encoders(folder: Path) -> dict[str, Call]:
    prompts = {"query": "question: ", "document": "text: "}
    quantized = MLXSentenceTransformer(str(minilm_folder()), quantization_config="q8", prompts=prompts)
    tiny = MLXSentenceTransformer(str(tiny_checkpoint(folder / "encoder")))
    base = mlx_hf_bridge.MLXAutoModel.from_pretrained(folder / "encoder")
    ids = {
        "input_ids": np.array([[2, 7, 9, 3], [2, 8, 3, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    return {
        "encode minilm": lambda: quantized.encode(TEXTS, batch_size=2),
        "encode query": lambda: quantized.encode_query(TEXTS[0], normalize_embeddings=True),
        "encode many": lambda: tiny.encode(_MANY, batch_size=8),
        "encode whole": lambda: tiny.encode(_MANY, batch_size=256),
        "encode tokens": lambda: [np.array(one) for one in tiny.encode(TEXTS, output_value="token_embeddings")],
        "encode int8": lambda: tiny.encode(_MANY, precision="uint8"),
        "encode binary": lambda: tiny.encode(_MANY, precision="ubinary", truncate_dim=16),
        "encode stream": lambda: np.concatenate(list(tiny.encode_stream(iter(_MANY), chunk_size=50))),
        "encode error": lambda: _error(lambda: tiny.encode([*TEXTS, 7])),
        "similarity": lambda: np.array(quantized.similarity(tiny.encode(TEXTS), tiny.encode(TEXTS[:2]))),
        "base model": lambda: np.array(base(**ids).last_hidden_state[:, 0]),
    }


def _classifiers(folder: Path) -> dict[str, Call]:
    reranker = MLXCrossEncoder(str(tiny_checkpoint(folder / "reranker", "ForSequenceClassification", 1)))
    sparse = MLXSparseEncoder(str(tiny_checkpoint(folder / "masked", "ForMaskedLM")))
    tokens = MLXMultiVectorEncoder(modules=[MLXSentenceTransformer(str(tiny_checkpoint(folder / "encoder")))[0]])
    return {
        "predict": lambda: reranker.predict(_PAIRS),
        "rank": lambda: [(one["corpus_id"], float(one["score"])) for one in reranker.rank(TEXTS[0], TEXTS[1:5])],
        "sparse": lambda: np.array(sparse.encode(TEXTS).to_dense()),
        "multi-vector": lambda: [np.array(one) for one in tokens.encode_document(TEXTS)],
        "maxsim": lambda: np.array(
            tokens.similarity(tokens.encode_query(TEXTS[:2]), tokens.encode_document(TEXTS[:3]))
        ),
    }


def _pipelines(folder: Path) -> dict[str, Call]:
    def made(task: str, head: str) -> Any:
        return mlx_hf_bridge.pipeline(task, model=str(tiny_checkpoint(folder / head, head)))

    classify = made("text-classification", "ForSequenceClassification")
    zero_shot = made("zero-shot-classification", "ForSequenceClassification")
    fill, tag = made("fill-mask", "ForMaskedLM"), made("token-classification", "ForTokenClassification")
    answer, features = made("question-answering", "ForQuestionAnswering"), made("feature-extraction", "Model")
    return {
        "text-classification": lambda: classify(TEXTS[:5], top_k=None),
        "zero-shot": lambda: zero_shot(TEXTS[3], candidate_labels=["sport", "film", "news"]),
        "fill-mask": lambda: fill("the [MASK] sat on the mat ."),
        "token-classification": lambda: tag(TEXTS[:2]),
        "question-answering": lambda: answer(question="who sat ?", context="the cat sat on the mat ."),
        "feature-extraction": lambda: np.array(features(TEXTS[0])),
    }


def _files(folder: Path) -> dict[str, Call]:
    """Return calls that load, convert and save."""
    source = str(tiny_checkpoint(folder / "encoder"))
    kept = MLXSentenceTransformer(source, quantization_config="q4")

    def loaded(recipe: str | None) -> Any:
        return MLXSentenceTransformer(source, quantization_config=recipe).encode(TEXTS)

    def tagged() -> Any:
        return mlx_hf_bridge.pipeline("ner", model=str(folder / "ForTokenClassification"))(TEXTS[0])

    def saved() -> Any:
        kept.save_pretrained(str(folder / "saved"))
        return MLXSentenceTransformer(str(folder / "saved")).encode(TEXTS)

    def converted() -> Any:
        mlx_hf_bridge.convert(source, folder / "out", quantization_config="q8", overwrite=True, show_progress=False)
        return MLXSentenceTransformer(str(folder / "out")).encode(TEXTS)

    def corpus() -> Any:
        path = kept.encode_to_file(_MANY, folder / "vectors.npy", chunk_size=40, show_progress_bar=False)
        return np.load(path)

    return {
        "load": lambda: loaded(None),
        "load q8": lambda: loaded("q8"),
        "load q4": lambda: loaded("q4"),
        "load classifier": lambda: mlx_hf_bridge.pipeline("ner", model=str(folder / "ForTokenClassification"))(
            TEXTS[0]
        ),
        "save": saved,
        "convert": converted,
        "encode to file": corpus,
    }


def _threads(folder: Path) -> dict[str, Call]:
    model = MLXSentenceTransformer(str(tiny_checkpoint(folder / "encoder")), quantization_config="q8")

    def pooled() -> Any:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda number: model.encode(TEXTS[number % 7 :]), range(8)))

    def single() -> Any:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(model.encode(TEXTS)))
        thread.start()
        thread.join()
        return results

    async def gathered() -> Any:
        waiting = [asyncio.to_thread(model.encode, TEXTS[number:]) for number in range(4)]
        cancelled = asyncio.create_task(asyncio.to_thread(model.encode, _MANY))
        await asyncio.sleep(0)
        cancelled.cancel()
        return list(await asyncio.gather(*waiting))

    return {"threads": pooled, "thread": single, "asyncio": lambda: asyncio.run(gathered())}


def _error(call: Call) -> str:
    try:
        call()
    except mlx_hf_bridge.BridgeError as error:
        return str(error)
    return "no error"
