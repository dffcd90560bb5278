"""Tokenizer classes that tokenizer.json cannot express, in whole or in part: transformers' ids, or one clear error."""

import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import sentencepiece
import transformers
from checkpoints import FAMILIES, save_model

from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer, pipeline
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, Source
from mlx_hf_bridge.conversion import tokenizer_files
from mlx_hf_bridge.conversion.tokenizer_files import load_tokenizer, write_tokenizer
from mlx_hf_bridge.errors import BackendError, UnsupportedModelError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.models import family_for

CORPUS = ["the cat sat on the mat", "a dog and a cat", "hello world 123", "le chat est beau", "日本語は東京"] * 30
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdehlost日本語は東京.,!", "##本", "##o", "the", "日本"]
NUMBERS = json.dumps({word: number * 7 % 40 for number, word in enumerate(WORDS)})
LETTERS = "aehlost日本語は東京 .,!?@\n\t\x1f\u00a0\u3000\u200b" + "é🙂ｱÀİß\u0301①ﬁ"
AMINO = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWC", "<mask>"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Train a small SentencePiece model."""
    prefix = tmp_path_factory.mktemp("pieces") / "unigram"
    options = {"model_type": "unigram", "unk_id": 2, "bos_id": 0, "eos_id": 1, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(prefix), vocab_size=60, minloglevel=5, **options
    )
    return prefix.with_suffix(".model").read_bytes()


def with_words(pieces: bytes) -> str:
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    names = ["<s>", "<pad>", "</s>", "<unk>", *map(processor.id_to_piece, range(3, processor.get_piece_size()))]
    return json.dumps({name: number for number, name in enumerate(names)})


# Of each class the model type, its files (None for the SentencePiece model, "words" for its words) and settings.
CLASSES: dict[str, tuple[str, dict[str, str | None], dict[str, Any]]] = {
    "BartphoTokenizer": ("bert", {"sentencepiece.bpe.model": None, "dict.txt": "▁the 1\n▁a 1\ns 1\n"}, {}),
    "BertGenerationTokenizer": ("bert-generation", {"spiece.model": None}, {}),
    "M2M100Tokenizer": ("bert", {"sentencepiece.bpe.model": None, "vocab.json": "words"}, {}),
    "MarianTokenizer": (
        "bert",
        {"source.spm": None, "target.spm": None, "vocab.json": "words"},
        {"source_lang": "en", "target_lang": "fr"},
    ),
    "ProphetNetTokenizer": ("bert", {"prophetnet.tokenizer": "\n".join(WORDS)}, {}),
    "RoFormerTokenizer": ("roformer", {"vocab.txt": "\n".join(WORDS)}, {}),
    "EsmTokenizer": ("esm", {"vocab.txt": "\n".join(AMINO)}, {}),
}


class Pairs(ModuleType):
    """Stands for rjieba: words of two characters."""

    @staticmethod
    def tokenize(text: str, hmm: bool) -> list[tuple[str, int, int]]:
        return [(text[at : at + 2], at, min(at + 2, len(text))) for at in range(0, len(text), 2)]


def write(folder: Path, name: str, pieces: bytes) -> Checkpoint:
    """Write the files of a class."""
    model_type, files, settings = CLASSES[name]
    for file, content in files.items():
        text = with_words(pieces) if content == "words" else content
        (folder / file).write_bytes(pieces if text is None else text.encode())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **settings}))
    config = {"model_type": model_type}
    (folder / "config.json").write_text(json.dumps(config))
    return Checkpoint(Source("x", folder, None, {}, HubOptions()), folder, folder, config, None)


def converted(checkpoint: Checkpoint, folder: Path) -> Tokenizer:
    """Convert a tokenizer, and load it from the converted folder."""
    family = family_for(checkpoint.config)
    folder.mkdir()
    write_tokenizer(checkpoint, family, folder)
    return load_tokenizer(folder, family, checkpoint.config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSES)
def test_ids_are_those_of_the_class(name: str, pieces: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", Pairs("rjieba"))
    (tmp_path / "repo").mkdir()
    mine = converted(write(tmp_path / "repo", name, pieces), tmp_path / "converted")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "repo")
    source = random.Random(0)
    texts = ["", "the cat <unk>", "日本語 [MASK]", *("".join(source.choices(LETTERS, k=20)) for _ in range(60))]
    assert [one.ids.tolist() for one in mine.encode(texts)] == [reference(text)["input_ids"] for text in texts]
    mine.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", family_for({"model_type": CLASSES[name][0]}), {})
    assert [one.ids.tolist() for one in again.encode(texts)] == [one.ids.tolist() for one in mine.encode(texts)]


def test_every_file_of_such_classes_is_copied() -> None:
    known = {*tokenizer_files._VOCABULARIES, *tokenizer_files._COMPANIONS}
    for name in (*CLASSES, "BertJapaneseTokenizer", "PhobertTokenizer", "XLMTokenizer", "MyT5Tokenizer"):
        assert set(getattr(transformers, name).vocab_files_names.values()) <= known


def test_a_tokenizer_with_further_inputs_is_refused_where_texts_come(tmp_path: Path) -> None:
    """RoCBert's gives shapes and pronunciations; without them the vectors would be others."""
    row = next(row for row in FAMILIES if row.model_type == "roc_bert")
    save_model(tmp_path, row)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    for name in ("word_shape.json", "word_pronunciation.json"):
        (tmp_path / name).write_text(NUMBERS)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RoCBertTokenizer"}')
    for load in (MLXSentenceTransformer, lambda folder: pipeline("feature-extraction", str(folder))):
        with pytest.raises(UnsupportedModelError, match=r"gives the model input_shape_ids, input_pronunciation_ids"):
            load(tmp_path)
    assert np.array(MLXAutoModel.from_pretrained(tmp_path)([[5, 6]]).last_hidden_state).shape[:2] == (1, 2)


def test_a_missing_word_splitter_is_named_with_its_extra(
    pieces: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    (tmp_path / "repo").mkdir()
    checkpoint = write(tmp_path / "repo", "RoFormerTokenizer", pieces)
    with pytest.raises(BackendError, match=r"rjieba.*mlx-hf-bridge\[chinese\]"):
        converted(checkpoint, tmp_path / "converted")
