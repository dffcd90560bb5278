"""Models whose tokenizer transformers has in Python only: the same ids, and so the same vectors, as in Python."""

import copy
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import transformers
from checkpoints import FAMILIES, Row, save_model
from st_checkpoints import TOLERANCE

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import InputError, UnsupportedModelError

BY_TYPE = {row.model_type: row for row in FAMILIES}
LETTERS = "aehlost日本語は東京 .,!?@\n" + "é🙂"
MERGES = "h e 10\nhe l 9\nhel l 8\nhell o</w> 7\nt o</w> 6\n"
PIECES = "hello</w> 5\nto</w> 4\nhe@@ 3\n" + "".join(f"{letter}@@ 2\n{letter}</w> 2\n" for letter in "aehlost.")
JAPANESE = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"日本語は東京aehlost.,!",
    "##本",
    "##語",
    "##京",
    "##a",
    "##o",
]
ROBERTA = {"vocab.txt": PIECES, "bpe.codes": MERGES}
BERT = {"vocab.txt": "\n".join(JAPANESE)}
KINDS: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "phobert": ("roberta", ROBERTA, {"tokenizer_class": "PhobertTokenizer"}),
    "bertweet": ("roberta", ROBERTA, {"tokenizer_class": "BertweetTokenizer", "normalization": True}),
    "japanese words": ("bert", BERT, {"tokenizer_class": "BertJapaneseTokenizer"}),
    "japanese letters": (
        "bert",
        BERT,
        {"tokenizer_class": "BertJapaneseTokenizer", "do_word_tokenize": False, "subword_tokenizer_type": "character"},
    ),
    "bytes": ("t5", {}, {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}),
}


def texts(count: int) -> list[str]:
    source = random.Random(0)
    return ["".join(source.choices(LETTERS, k=source.randrange(30))) for _ in range(count)]


# The others are second kinds of the same.
FIRST = ("bertweet", "japanese words")
PARAMS = [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]


@pytest.fixture(scope="module", params=PARAMS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny encoder with the files of one of KINDS."""
    model_type, files, settings = KINDS[request.param]
    place = tmp_path_factory.mktemp("python")
    row: Row = BY_TYPE[model_type]
    if model_type == "t5":
        config = {**row.config.to_dict(), "vocab_size": 384}
        row = Row("t5", row.classes, type(row.config)(**config), base=row.base)
    save_model(place, row)
    for name, content in files.items():
        (place / name).write_text(content, encoding="utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 20}))
    return place


def test_texts_get_the_ids_and_vectors_of_transformers(folder: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch_model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    mlx_model = MLXSentenceTransformer(folder)
    assert not tokenizer.is_fast
    some = [*texts(200), "hello <mask> [MASK] </s> to", "@user 🙂 http://a.b can't"]
    expected = [tokenizer(text)["input_ids"] for text in some]
    assert [one.ids.tolist() for one in mlx_model.tokenizer.encode(some)] == expected
    pairs = list(zip(some[:20], some[20:40], strict=True))
    cut = [tokenizer(*pair, truncation="longest_first", max_length=9)["input_ids"] for pair in pairs]
    assert [one.ids.tolist() for one in mlx_model.tokenizer.encode(pairs, 9)] == cut
    vectors = torch_model.encode(some[:12])
    np.testing.assert_allclose(mlx_model.encode(some[:12]), vectors, **TOLERANCE)
    np.testing.assert_allclose(
        mlx_model.encode(some[:3], prompt="hello "), torch_model.encode(some[:3], prompt="hello "), **TOLERANCE
    )
    mlx_model.save_pretrained(tmp_path)
    others = [MLXSentenceTransformer(tmp_path), copy.deepcopy(mlx_model), pickle.loads(pickle.dumps(mlx_model))]
    for one in [*others, sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")]:
        np.testing.assert_allclose(one.encode(some[:12]), vectors, **TOLERANCE)


def test_methods_answer_as_those_of_transformers(folder: Path) -> None:
    tokenizer, mine = transformers.AutoTokenizer.from_pretrained(folder), MLXSentenceTransformer(folder).tokenizer
    ids = tokenizer("hello to 日本")["input_ids"]
    assert mine.convert_ids_to_tokens(ids) == tokenizer.convert_ids_to_tokens(ids)
    assert mine.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)
    assert (len(mine), mine.get_vocab()) == (len(tokenizer), tokenizer.get_vocab())
    assert (mine.mask_token, mine.pad_token_id) == (tokenizer.mask_token, tokenizer.pad_token_id)
    assert mine.num_special_tokens_to_add(True) == tokenizer.num_special_tokens_to_add(True)
    with pytest.raises(InputError, match="truncation='only_second' to max_length=5 cannot be done"):
        mine.encode([("hello to hello hello to", "a")], 5, "only_second")


def test_lowercasing_by_sentence_transformers_is_refused(folder: Path, tmp_path: Path) -> None:
    sentence_transformers.SentenceTransformer(str(folder), device="cpu").save_pretrained(str(tmp_path))
    for name in ("vocab.txt", "bpe.codes", "tokenizer_config.json"):
        if (folder / name).is_file():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    with pytest.raises(UnsupportedModelError, match=r"do_lower_case is not applied to a \w+, which is written"):
        MLXSentenceTransformer(tmp_path)
