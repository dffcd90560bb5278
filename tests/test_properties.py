"""Any text and any argument, by hypothesis: a result of the right shape that equals one by one, or one clear error."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import FAMILIES, make_checkpoint

from mlx_hf_bridge import MLXCrossEncoder, MLXSentenceTransformer, pipeline
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.inference.tokenizer import Tokenizer

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

# Examples of each test. Nothing is kept between runs, and all runs of the suite try the same ones.
_EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "12"))
hypothesis.settings.register_profile(
    "suite", max_examples=_EXAMPLES, deadline=None, database=None, derandomize="PROPERTY_EXAMPLES" not in os.environ
)
hypothesis.settings.load_profile("suite")

pytestmark = pytest.mark.filterwarnings("ignore")

# Letters of every kind, half surrogate pairs, which no encoding has, and words of the vocabulary.
LETTERS = st.characters(codec=None, exclude_categories=())
WORDS = st.sampled_from(
    ["the", "cat", " ", "[MASK]", "[SEP]", "##s", "\n", "\x00", "e\u0301", "\u4e2d", "\U0001f600", "\ufeff"]
)
TEXT = st.one_of(
    st.text(LETTERS, max_size=12),
    st.lists(WORDS, max_size=8).map("".join),
    st.tuples(WORDS, st.integers(0, 3000)).map(lambda pair: pair[0] * pair[1]),
)
TEXTS = st.lists(TEXT, min_size=1, max_size=4)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.sampled_from([np.int8(1), np.float32("nan"), np.bool_(True)]),
)
PLAIN = st.one_of(
    st.none(),
    NUMBERS,
    TEXT,
    st.binary(max_size=4),
    st.sampled_from([np.str_("cat"), np.array(["a", "b"]), object(), Ellipsis]),
)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert") / "model"
    make_checkpoint(path, FAMILIES[0], "ForSequenceClassification", 3)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def encoder(folder: Path, cache: None) -> MLXSentenceTransformer:
    return MLXSentenceTransformer(folder)


@pytest.fixture(scope="module")
def scorer(folder: Path, cache: None) -> MLXCrossEncoder:
    return MLXCrossEncoder(folder)


@pytest.fixture(scope="module")
def classify(folder: Path, cache: None) -> Any:
    return pipeline("text-classification", folder)


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def answer(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or None if it is refused with an error of this package."""
    try:
        return call()
    except BridgeError as error:
        assert 10 < len(str(error)) < 2000
        return None


@hypothesis.given(texts=TEXTS)
def test_texts_are_encoded_together_as_one_by_one(encoder: MLXSentenceTransformer, texts: list[str]) -> None:
    found = answer(lambda: encoder.encode(texts))
    assert (found is None) == (not all(map(is_unicode, texts)))
    if found is not None:
        assert found.shape == (len(texts), 24)
        for row, text in zip(found, texts, strict=True):
            np.testing.assert_allclose(row, encoder.encode(text), rtol=0, atol=1e-5)


@hypothesis.given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_pairs_are_scored_together_as_one_by_one(scorer: MLXCrossEncoder, pairs: list[tuple[str, str]]) -> None:
    found = answer(lambda: scorer.predict(pairs))
    assert (found is None) == (not all(is_unicode(text) for pair in pairs for text in pair))
    if found is not None:
        assert found.shape == (len(pairs), 3)
        for row, pair in zip(found, pairs, strict=True):
            np.testing.assert_allclose(row, scorer.predict(pair), rtol=0, atol=1e-5)


@hypothesis.given(texts=TEXTS)
def test_texts_are_classified_together_as_one_by_one(classify: Any, texts: list[str]) -> None:
    found = answer(lambda: classify(texts, top_k=None))
    assert (found is None) == (not all(map(is_unicode, texts)))
    for labels, text in zip(found or (), texts, strict=found is not None):
        alone = classify(text, top_k=None)
        assert [label["label"] for label in labels] == [label["label"] for label in alone]
        np.testing.assert_allclose([one["score"] for one in labels], [one["score"] for one in alone], rtol=0, atol=1e-5)


@hypothesis.given(given=ANYTHING)
def test_anything_that_is_no_text_is_encoded_or_refused(encoder: MLXSentenceTransformer, given: Any) -> None:
    found = answer(lambda: encoder.encode(given))
    assert found is None or found.shape[-1] == 24 or found.size == 0


@hypothesis.given(given=ANYTHING)
def test_anything_that_is_no_pair_is_scored_or_refused(scorer: MLXCrossEncoder, given: Any) -> None:
    found = answer(lambda: scorer.predict(given))
    assert found is None or np.asarray(found).shape[-1:] in ((3,), (0,))


@hypothesis.given(given=ANYTHING)
def test_anything_that_is_no_text_is_classified_or_refused(classify: Any, given: Any) -> None:
    found = answer(lambda: classify(given))
    assert found is None or isinstance(found, list)


ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": NUMBERS,
        "prompt": st.one_of(TEXT, ANYTHING),
        "prompt_name": ANYTHING,
        "truncate_dim": NUMBERS,
        "normalize_embeddings": ANYTHING,
        "precision": st.one_of(st.sampled_from(["float32", "int8", "ubinary"]), ANYTHING),
        "output_value": st.one_of(st.sampled_from(["sentence_embedding", "token_embeddings", None]), ANYTHING),
        "convert_to_numpy": st.booleans(),
        "convert_to_tensor": st.booleans(),
        "show_progress_bar": st.sampled_from([None, False]),
        "task": ANYTHING,
        "no_such_argument": ANYTHING,
    },
)


@hypothesis.given(arguments=ARGUMENTS)
def test_arguments_are_taken_or_refused(encoder: MLXSentenceTransformer, arguments: dict[str, Any]) -> None:
    found = answer(lambda: encoder.encode(["the cat", "", "a dog sat"], **arguments))
    assert found is None or len(found) == 3


@hypothesis.given(
    texts=TEXTS,
    length=st.one_of(st.none(), st.integers(-3, 50)),
    strategy=st.sampled_from(["longest_first", "only_first", "only_second"]),
    special=st.booleans(),
)
def test_texts_are_tokenized_together_as_one_by_one(
    encoder: MLXSentenceTransformer, texts: list[str], length: int | None, strategy: str, special: bool
) -> None:
    tokenizer: Tokenizer = encoder.tokenizer
    found = answer(lambda: tokenizer.encode(texts, length, strategy, special))
    for tokens, text in zip(found or (), texts, strict=found is not None):
        assert length is None or len(tokens) <= length
        np.testing.assert_array_equal(tokens.ids, tokenizer.encode([text], length, strategy, special)[0].ids)


@hypothesis.given(queries=st.lists(st.lists(NUMBERS, max_size=4), max_size=3), given=ANYTHING)
def test_similarity_of_anything_is_a_matrix_or_refused(
    encoder: MLXSentenceTransformer, queries: Any, given: Any
) -> None:
    for pair in ((queries, queries), (given, queries)):
        found = answer(lambda pair=pair: encoder.similarity(*pair))
        assert found is None or len(found.shape) == 2
