"""Results at the edges: nothing to pool, numbers that are not finite, arrays of three axes."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import make_checkpoint
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util.quantization import quantize_embeddings as reference_quantize
from st_checkpoints import TEXTS, TOLERANCE, transformer

from mlx_hf_bridge import MLXCrossEncoder, MLXMultiVectorEncoder, MLXSentenceTransformer, MLXSparseEncoder, pipeline
from mlx_hf_bridge.errors import NonFiniteError
from mlx_hf_bridge.inference.finite import check_finite
from mlx_hf_bridge.inference.pooling import POOLING_MODES
from mlx_hf_bridge.sentence_transformers.encoding.precision import quantize_embeddings
from mlx_hf_bridge.sentence_transformers.modules.vectors import Dense


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    modules = [transformer(folder / "source"), Pooling(24, include_prompt=False)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "repo"))
    return folder / "repo"


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_prompt_that_leaves_no_token_to_pool(mode: str, repo: Path) -> None:
    """The prompt is truncated like the texts, so that the end token is left; without one, max pooling has only -inf."""
    torch_model, mlx_model = SentenceTransformer(str(repo), device="cpu"), MLXSentenceTransformer(repo)
    torch_model[1].pooling_mode = mlx_model[1].pooling_mode = mode
    torch_model.max_seq_length = mlx_model.max_seq_length = 6
    prompt = "the cat sat on the mat . a dog "
    expected = torch_model.encode(TEXTS[:2], prompt=prompt)
    np.testing.assert_allclose(mlx_model.encode(TEXTS[:2], prompt=prompt), expected, **TOLERANCE)
    plain = {"text": {"add_special_tokens": False}}
    actual = mlx_model.encode(TEXTS[:2], prompt=prompt, processing_kwargs=plain)
    expected = torch_model.encode(TEXTS[:2], prompt=prompt, processing_kwargs=plain)
    np.testing.assert_allclose(actual, expected, **TOLERANCE)
    torch_model[0].processing_kwargs = mlx_model[0].processing_kwargs = plain
    torch_model[0]._prompt_length_mapping.clear()
    expected = torch_model.encode(TEXTS[:2], prompt=prompt)
    if mode == "max":
        assert np.isinf(expected).all()
        with pytest.raises(NonFiniteError, match=r"for text 0\..*its prompt fills max_seq_length"):
            mlx_model.encode(TEXTS[:2], prompt=prompt)
    else:
        np.testing.assert_allclose(mlx_model.encode(TEXTS[:2], prompt=prompt), expected, **TOLERANCE)


def test_a_text_without_tokens_gets_the_same_in_any_batch(repo: Path) -> None:
    """sentence-transformers gives zeros too, unless the batch holds no other text."""
    torch_model, mlx_model = SentenceTransformer(str(repo), device="cpu"), MLXSentenceTransformer(repo)
    options: dict[str, Any] = {"processing_kwargs": {"text": {"add_special_tokens": False}}}
    expected = torch_model.encode(["a dog", ""], **options)
    for batch_size in (32, 1):
        actual = mlx_model.encode(["a dog", ""], batch_size=batch_size, **options)
        np.testing.assert_allclose(actual, expected, **TOLERANCE)
    np.testing.assert_array_equal(mlx_model.encode([""], **options), np.zeros((1, 24), np.float32))


def test_numbers_that_are_not_finite_are_named_with_their_text(repo: Path) -> None:
    mlx_model = MLXSentenceTransformer(repo)
    broken = mlx_model[0].loaded.model.encoder.embeddings.word
    token = mlx_model.tokenizer.convert_tokens_to_ids("dog")
    broken.weight[token] = mx.nan
    assert np.isfinite(mlx_model.encode(["the cat"])).all()
    for value in ("sentence_embedding", "token_embeddings", None):
        with pytest.raises(
            NonFiniteError, match=r"repo computed NaN or infinity for text 1\. Load it with dtype='float32'"
        ):
            mlx_model.encode(["the cat", "a dog"], output_value=value)


@pytest.mark.parametrize("kind", [MLXCrossEncoder, MLXSparseEncoder, MLXMultiVectorEncoder])
def test_every_class_looks_at_its_results(kind: Any, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, None, "ForMaskedLM" if kind is MLXSparseEncoder else "ForSequenceClassification", 1)
    if kind is MLXMultiVectorEncoder:
        first = MLXSentenceTransformer(tmp_path)[0]
        dense = Dense(mx.full((4, 24), mx.inf), activation="Identity", module_input_name="token_embeddings")
        model: Any = MLXMultiVectorEncoder(modules=[first, dense])
    else:
        model = kind(tmp_path)
        weight = model[0].loaded.model.encoder.embeddings.word.weight
        weight[model.tokenizer.convert_tokens_to_ids("dog")] = mx.nan
    with pytest.raises(NonFiniteError, match="NaN or infinity for text"):
        if kind is MLXCrossEncoder:
            model.predict([("the cat", "a dog")])
        else:
            model.encode(["a dog"])


def test_a_pipeline_names_the_text(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, None, "ForSequenceClassification", 2)
    classify = pipeline("text-classification", model=tmp_path)
    weight = classify.model.loaded.model.encoder.embeddings.word.weight
    weight[classify.tokenizer.convert_tokens_to_ids("dog")] = mx.nan
    with pytest.raises(NonFiniteError, match="NaN or infinity for text 1"):
        classify(["the cat", "a dog"])


@pytest.mark.parametrize(
    ("rows", "index"),
    [
        (np.array([[1.0], [np.nan], [np.inf]]), 1),
        ([np.ones((2, 3)), np.ones((0, 3)), np.array([[-np.inf]])], 2),
        ([([0], np.array([np.nan]), 5)], 0),
        (
            [
                {"token_embeddings": np.array([np.nan]), "scores": np.ones(1)},
                {"sentence_embedding": np.array([np.nan])},
            ],
            1,
        ),
    ],
)
def test_the_check_reads_every_form_of_results(rows: Any, index: int) -> None:
    with pytest.raises(NonFiniteError, match=f"for text {index}"):
        check_finite(rows, "model")
    assert check_finite(rows[:index], "model") is not None
    codes = np.zeros((2, 2), np.int8)
    assert check_finite(codes, "model") is codes


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_embeddings_of_three_axes_are_quantized(precision: Any) -> None:
    embeddings = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)
    expected = reference_quantize(embeddings, precision)
    np.testing.assert_array_equal(quantize_embeddings(embeddings, precision), expected)
