"""Tests of every argument of encode on the real all-MiniLM-L6-v2 against sentence-transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util.quantization import quantize_embeddings as their_codes

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers.encoding.precision import quantize_embeddings

# Tolerance for float32 sentence embeddings of real models; largest difference seen 4e-7.
ABSOLUTE = 1e-5
PROMPTS = {"query": "query: ", "passage": "passage: ", "news": "The news of the day: "}
SENTENCES = [
    "The committee postponed its decision until the spring.",
    "A man is slicing an onion.",
    "",
    "Oil prices fell for the third day in a row, and analysts expect them to fall further before the year is over.",
    "How do I reset a forgotten password?",
    "naïve café, Zürich 東京 🙂",
]
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"prompt_name": "news"},
    {"prompt": "Somebody said that: "},
    {"prompt": "", "prompt_name": "news"},
    {"batch_size": 1},
    {"batch_size": 1000},
    {"show_progress_bar": True},
    {"show_progress_bar": False},
    {"output_value": "sentence_embedding"},
    {"output_value": "token_embeddings"},
    {"output_value": None},
    {"precision": "float32"},
    {"convert_to_numpy": False},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False, "convert_to_tensor": True},
    {"device": "cpu"},
    {"normalize_embeddings": True},
    {"normalize_embeddings": True, "truncate_dim": 100},
    {"truncate_dim": 64},
    {"truncate_dim": 999},
    {"task": "query"},
    {"processing_kwargs": {"text": {"max_length": 8}}},
    {"processing_kwargs": {"text": {"add_special_tokens": False}}},
]
INPUTS: dict[str, Any] = {
    "list": SENTENCES,
    "truncated": ["word " * 400],
    "single": SENTENCES[0],
    "tuple": tuple(SENTENCES[:3]),
    "array": np.array(SENTENCES[:4]),
    "pairs": [("A man is slicing an onion.", "Somebody cooks."), ("", "x")],
    "dict": {"text": SENTENCES[1]},
    "dicts": [{"text": text} for text in SENTENCES[:3]],
    "dict pair": [{"text": ("one", "two")}],
}


@pytest.fixture(scope="module")
def torch_model(minilm: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm), device="cpu", prompts=PROMPTS)


@pytest.fixture(scope="module")
def mlx_model(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> MLXSentenceTransformer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return MLXSentenceTransformer(minilm, prompts=PROMPTS)


def assert_alike(actual: Any, expected: Any) -> None:
    """Assert values within the tolerance and the structure of the reference: lists, dicts or single arrays."""
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        length = int(expected["attention_mask"].sum())
        for name in ("input_ids", "token_type_ids", "token_embeddings"):
            assert_alike(np.array(actual[name])[:length], expected[name][:length])
        assert_alike(actual["sentence_embedding"], expected["sentence_embedding"])
        assert actual["modality"] == expected["modality"] == "text"
    elif isinstance(expected, list):
        assert isinstance(actual, list)
        for one, other in zip(actual, expected, strict=True):
            assert_alike(one, other)
    else:
        got_array = actual.numpy() if torch.is_tensor(actual) else np.array(actual)
        wanted_array = np.asarray(expected)
        assert got_array.shape == wanted_array.shape
        np.testing.assert_allclose(got_array, wanted_array, rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("inputs", ["list", "single"])
def test_every_argument_of_encode_gives_what_sentence_transformers_gives(
    inputs: str, arguments: dict[str, Any], torch_model: SentenceTransformer, mlx_model: MLXSentenceTransformer
) -> None:
    given = INPUTS[inputs]
    expected, actual = torch_model.encode(given, **arguments), mlx_model.encode(given, **arguments)
    assert_alike(actual, expected)
    if isinstance(expected, np.ndarray) or arguments.get("convert_to_tensor"):
        assert (type(actual), actual.dtype) == (type(expected), expected.dtype)


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_every_kind_of_input_is_read(
    method: str, inputs: str, torch_model: SentenceTransformer, mlx_model: MLXSentenceTransformer
) -> None:
    assert_alike(getattr(mlx_model, method)(INPUTS[inputs]), getattr(torch_model, method)(INPUTS[inputs]))


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantised_precisions_are_byte_equal_on_equal_vectors(
    precision: str, tensor: bool, torch_model: SentenceTransformer, mlx_model: MLXSentenceTransformer, monkeypatch: Any
) -> None:
    """Embeddings that differ in the last bit may be quantized one step apart, so both sides get the same embeddings."""
    vectors = torch_model.encode(SENTENCES)
    monkeypatch.setattr(mlx_model, "_inference", lambda inputs, **_: list(vectors))
    expected = torch_model.encode(SENTENCES, precision=precision, convert_to_tensor=tensor)
    actual = mlx_model.encode(SENTENCES, precision=precision, convert_to_tensor=tensor)
    assert (type(actual), actual.dtype) == (type(expected), expected.dtype)
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected))


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_ranges_and_calibration_vectors_quantise_as_in_sentence_transformers(precision: str) -> None:
    random = np.random.default_rng(0)
    vectors, calibration = random.normal(size=(5, 24)).astype(np.float32), random.normal(size=(150, 24))
    ranges = np.vstack([calibration.min(axis=0), calibration.max(axis=0)])
    for options in ({"ranges": ranges}, {"calibration_embeddings": calibration}):
        expected = their_codes(vectors, precision, **options)
        np.testing.assert_array_equal(quantize_embeddings(vectors, precision, **options), expected)
    listed = [vectors[:2], vectors[2:]]
    for actual, expected in zip(quantize_embeddings(listed, precision), their_codes(listed, precision), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_all_four_similarities_are_those_of_sentence_transformers(
    name: str, torch_model: SentenceTransformer, mlx_model: MLXSentenceTransformer
) -> None:
    torch_model.similarity_fn_name = mlx_model.similarity_fn_name = name
    vectors = torch_model.encode(SENTENCES)
    for first, second in ((vectors, vectors[:3]), (list(vectors), vectors), (vectors[0], vectors[1])):
        np.testing.assert_allclose(
            mlx_model.similarity(first, second), torch_model.similarity(first, second), atol=2e-4
        )
    for first, second in ((vectors, vectors[::-1].copy()), (vectors[0], vectors[1])):
        actual, expected = mlx_model.similarity_pairwise(first, second), torch_model.similarity_pairwise(first, second)
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert torch.is_tensor(mlx_model.similarity(torch.from_numpy(vectors), vectors))
    torch_model.similarity_fn_name = mlx_model.similarity_fn_name = None
    assert mlx_model.similarity_fn_name == torch_model.similarity_fn_name == "cosine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"output_value": "scores"}, "output_value='scores'"),
        ({"precision": "int4"}, "precision='int4'"),
        ({"precision": "int8", "output_value": None}, "output_value=None returns dicts"),
        ({"prompt_name": "absent"}, "prompt_name='absent'"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"strange": 1}, r"has been called with \['strange'\]"),
        ({"processing_kwargs": {"padding": 3}}, "Nest them"),
        ({"processing_kwargs": {"text": {"stride": 3}}}, "stride"),
        ({"processing_kwargs": {"text": {"max_length": 600, "truncation": False}}}, None),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused(
    arguments: dict[str, Any], message: str | None, mlx_model: MLXSentenceTransformer
) -> None:
    with pytest.raises((InputError, ValueError), match=message or "reach position"):
        mlx_model.encode(["word " * 600, "x"], **arguments)
    with pytest.raises(InputError, match="from a single embedding"):
        mlx_model.encode("x", precision="int8")


def test_lengths_prompts_and_dimensions_are_set_at_run_time(
    torch_model: SentenceTransformer, mlx_model: MLXSentenceTransformer
) -> None:
    assert mlx_model.get_embedding_dimension() == torch_model.get_embedding_dimension() == 384
    assert mlx_model.max_seq_length == torch_model.max_seq_length
    before = mlx_model.max_seq_length
    for model in (mlx_model, torch_model):
        model.max_seq_length, model.prompts["news"], model.default_prompt_name = 9, "Changed: ", "news"
    with mlx_model.truncate_embeddings(33), torch_model.truncate_embeddings(33):
        assert_alike(mlx_model.encode(SENTENCES), torch_model.encode(SENTENCES))
        assert mlx_model.get_embedding_dimension() == torch_model.get_embedding_dimension() == 33
    for model in (mlx_model, torch_model):
        model.max_seq_length, model.prompts["news"], model.default_prompt_name = before, PROMPTS["news"], None


def test_preprocess_gives_the_tokens_of_sentence_transformers(
    torch_model: SentenceTransformer, mlx_model: MLXSentenceTransformer
) -> None:
    actual, expected = (
        mlx_model.preprocess(SENTENCES, prompt="query: "),
        torch_model.preprocess(SENTENCES, prompt="query: "),
    )
    assert set(actual) == set(expected)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        np.testing.assert_array_equal(actual[name], expected[name])
    assert (actual["modality"], actual["prompt_length"]) == (expected["modality"], expected["prompt_length"])
