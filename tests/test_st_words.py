"""Word vectors, bags of words, CNN and LSTM against sentence-transformers."""

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.torch import load_file
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    BoW,
    Pooling,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from st_checkpoints import TOLERANCE, randomized, transformer

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import BackendError, BridgeError, ConfigError, InputError, UnsupportedModelError

VOCABULARY = ["PADDING_TOKEN", "the", "cat", "sat", "New_York", "news", "Dog", "mat", "don't", "film", "good", "is"]
WEIGHTS = {"cat": 2.5, "news": 0.25, "dog": 1.5, "elsewhere": 9.0}
TEXTS = ["The CAT sat, on the (mat)! news", "", "a dog", "Dog Dog dog don't", "nothing known", "film is good film " * 3]


def words(**options: Any) -> WordEmbeddings:
    torch.manual_seed(1)
    tokenizer = WhitespaceTokenizer(VOCABULARY, **{"stop_words": ["the", "mat"], **options})
    return WordEmbeddings(tokenizer, torch.randn(len(VOCABULARY), 8))


MODELS: dict[str, Any] = {
    "mean": lambda folder: [words(), Pooling(8), Normalize()],
    "lower case": lambda folder: [words(do_lower_case=True, stop_words=[]), Pooling(8, ("max", "lasttoken"))],
    "weights": lambda folder: [
        words(),
        WordWeights(VOCABULARY, WEIGHTS, 0.5),
        Pooling(8, ("mean", "mean_sqrt_len_tokens", "weightedmean")),
    ],
    "bag": lambda folder: [BoW(VOCABULARY * 2, WEIGHTS, 0.5), randomized(Dense(len(VOCABULARY), 4))],
    "binary bag": lambda folder: [BoW(VOCABULARY, cumulative_term_frequency=False)],
    "cnn": lambda folder: [words(), randomized(CNN(8, 6, [1, 3, 5])), Pooling(18)],
    "lstm": lambda folder: [words(), randomized(LSTM(8, 5, num_layers=2)), Pooling(10, ("mean", "max"))],
    "one direction": lambda folder: [words(), randomized(LSTM(8, 5, bidirectional=False)), Pooling(5)],
    "cnn of an encoder": lambda folder: [transformer(folder / "encoder"), randomized(CNN(24, 6, [3])), Pooling(6)],
}


def known(name: str) -> list[str]:
    """Return the texts that the reference computes: max pooling has nothing to pool of a text without words."""
    return [text for text in TEXTS if name not in ("lower case", "lstm") or text not in ("", "nothing known", "a dog")]


SLOW = ("lower case", "binary bag", "one direction", "cnn of an encoder")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]
)
def test_models_of_words_embed_as_in_sentence_transformers(name: str, tmp_path: Path) -> None:
    torch_model = sentence_transformers.SentenceTransformer(modules=MODELS[name](tmp_path), device="cpu")
    torch_model.save_pretrained(str(tmp_path / "repo"))
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    texts = known(name)
    # One at a time: the words of a batch's other texts change what a CNN sees beyond the end.
    expected = np.concatenate([torch_model.encode([text]) for text in texts])
    np.testing.assert_allclose(mlx_model.encode(texts), expected, **TOLERANCE)
    expected = torch_model.encode([texts[0]], prompt="good news ")
    np.testing.assert_allclose(mlx_model.encode([texts[0]], prompt="good news "), expected, **TOLERANCE)
    assert mlx_model.get_embedding_dimension() == torch_model.get_embedding_dimension()
    assert mlx_model.max_seq_length == torch_model.max_seq_length
    mlx_model.save_pretrained(tmp_path / "saved")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    expected = np.concatenate([torch_model.encode([text]) for text in texts])
    np.testing.assert_allclose(np.concatenate([again.encode([text]) for text in texts]), expected, **TOLERANCE)
    copies = [copy.deepcopy(mlx_model), pickle.loads(pickle.dumps(mlx_model))]
    for one in (MLXSentenceTransformer(tmp_path / "saved"), *copies):
        np.testing.assert_allclose(one.encode(texts), expected, **TOLERANCE)


def test_a_maximum_length_counts_words(tmp_path: Path) -> None:
    torch_model = sentence_transformers.SentenceTransformer(modules=[words(), Pooling(8)], device="cpu")
    torch_model.save_pretrained(str(tmp_path))
    mlx_model = MLXSentenceTransformer(tmp_path)
    torch_model.max_seq_length = mlx_model.max_seq_length = 2
    np.testing.assert_allclose(mlx_model.encode(TEXTS), torch_model.encode(TEXTS), **TOLERANCE)
    with pytest.raises(BridgeError, match="more than 2 tokens"):
        mlx_model.encode(TEXTS, overlong="error")
    with pytest.raises(InputError, match="WordEmbeddings reads texts, and was given a pair"):
        mlx_model.encode([("a cat", "a dog")])


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    """Older names of classes and keys, a folder of its own, and weights in torch's format."""
    modules = [words(), randomized(CNN(8, 6, [1, 3])), randomized(LSTM(12, 4)), Pooling(8)]
    torch_model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    torch_model.save_pretrained(str(tmp_path))
    folder = tmp_path / "0_WordEmbeddings"
    folder.mkdir()
    for name in ("wordembedding_config.json", "whitespacetokenizer_config.json", "model.safetensors"):
        (tmp_path / name).rename(folder / name)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for path, change in (
        (
            tmp_path / "modules.json",
            (r"sentence_transformers\.sentence_transformer\.modules\.\w+\.", "sentence_transformers.models."),
        ),
        (folder / "wordembedding_config.json", ("sentence_transformer.modules", "models")),
        (tmp_path / "1_CNN" / "cnn_config.json", ("in_embedding", "in_word_embedding")),
        (tmp_path / "2_LSTM" / "lstm_config.json", ('"embedding_dimension', '"word_embedding_dimension')),
    ):
        path.write_text(re.sub(*change, path.read_text()))
    path = tmp_path / "modules.json"
    path.write_text(path.read_text().replace('"path": ""', '"path": "0_WordEmbeddings"'))
    expected = np.concatenate([torch_model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(MLXSentenceTransformer(tmp_path).encode(TEXTS), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("file", "change", "error", "said"),
    [
        ("1_CNN/cnn_config.json", {"kernel_sizes": [2]}, ConfigError, "expected odd sizes"),
        ("1_CNN/cnn_config.json", {"stride_sizes": [1, 2]}, ConfigError, "strides of 1"),
        ("1_CNN/cnn_config.json", {"out_channels": 7}, ConfigError, "convs.0.weight of shape"),
        ("wordembedding_config.json", {"tokenizer_class": "own.Words"}, UnsupportedModelError, "tokenizer own.Words"),
        ("whitespacetokenizer_config.json", {"vocab": 5}, ConfigError, "no lists of words"),
        ("whitespacetokenizer_config.json", {"vocab": ["a"] * 4 + list("abcdefghijklm")}, BridgeError, "has 12 rows"),
        ("whitespacetokenizer_config.json", {"other": 5}, ConfigError, "other keys than WhitespaceTokenizer"),
    ],
)
def test_files_that_do_not_fit_are_said(file: str, change: Any, error: Any, said: str, tmp_path: Path) -> None:
    modules = [words(), randomized(CNN(8, 6, [1, 3])), Pooling(12)]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path))
    path = tmp_path / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=said):
        MLXSentenceTransformer(tmp_path)


def test_phrases_are_joined_as_in_sentence_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nltk is stood in for by a splitter: what is compared is what is done with its words."""
    import sys
    import types

    from sentence_transformers.sentence_transformer.modules.tokenizer import phrase

    split = types.SimpleNamespace(word_tokenize=lambda text, preserve_line: text.replace(",", " ,").split())
    sentence_transformers.SentenceTransformer(modules=[words(), Pooling(8)], device="cpu").save_pretrained(
        str(tmp_path)
    )
    settings = {"vocab": [*VOCABULARY[:11], "new_york_news"], "stop_words": ["is"], "do_lower_case": False}
    (tmp_path / "phrasetokenizer_config.json").write_text(json.dumps(settings))
    path = tmp_path / "wordembedding_config.json"
    path.write_text(path.read_text().replace("whitespace.WhitespaceTokenizer", "phrase.PhraseTokenizer"))
    mlx_model = MLXSentenceTransformer(tmp_path)
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(BackendError, match="pip install nltk"):
        mlx_model.encode("New York")
    monkeypatch.setitem(sys.modules, "nltk", split)
    monkeypatch.setattr(phrase, "is_nltk_available", lambda: True)
    texts = ["New York is good", "the new york news, New York", "(film) new_york"]
    expected = [phrase.PhraseTokenizer(**settings).tokenize(text) for text in texts]
    assert [mlx_model.tokenizer.tokenize(text) for text in texts] == expected
    mlx_model.save_pretrained(tmp_path / "saved")
    assert MLXSentenceTransformer(tmp_path / "saved").tokenizer.tokenize(texts[1]) == expected[1]
