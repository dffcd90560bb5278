"""The tokenizer of a converted folder produces the ids of transformers' AutoTokenizer on the source."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
import transformers
from checkpoints import FAMILIES, WORDS, make_checkpoint, make_wordpiece, save_model

from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer, pipeline
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion import tokenizer_files
from mlx_hf_bridge.conversion.tokenizer_class import tokenizer_config
from mlx_hf_bridge.errors import (
    BackendError,
    BridgeError,
    ConfigError,
    InputError,
    RepositoryError,
)
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer

TEXTS: list[Text] = [
    "the cat sat on the mat.",
    "",
    "   ",
    " leading and trailing ",
    "two\n\nlines\tand a tab",
    "Café NAÏVE Über ÅNGSTRÖM",
    "e\u0301 combined, \u00e9 precomposed",
    "中文字 and 日本語",
    "🙂👍🏽 emoji 👩‍👩‍👧",
    "[MASK] </s> <mask> special",
    "unbelievable!?",
    "a" * 130,
    "x\u0000y\ufffd\u200bz",
    "the\u00a0cat\u3000sat",
    "ﬁnal ½ № Ⅷ",
    ("the cat", "sat on the mat"),
    ("the cat", ""),
    ("", ""),
    ("Où est", "中文 🙂"),
]
BY_TYPE = {row.model_type: row for row in FAMILIES}


def write_vocabulary(folder: Path) -> None:
    make_wordpiece(folder)
    vocabulary = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")


def vocab_txt_only(folder: Path) -> None:
    write_vocabulary(folder)


def vocab_txt_cased(folder: Path) -> None:
    write_vocabulary(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}')


def vocab_txt_without_chinese_splitting(folder: Path) -> None:
    write_vocabulary(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenize_chinese_chars": false, "strip_accents": false}')


def tokenizer_json_only(folder: Path) -> None:
    make_wordpiece(folder)
    for path in folder.iterdir():
        if path.name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
            path.unlink()


def as_saved(folder: Path) -> None:
    make_wordpiece(folder)


def mpnet_vocab(folder: Path) -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", *WORDS, *"abcdefghijklmnopqrstuvwxyz", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(["[UNK]", *words]) + "\n")


def bpe(folder: Path) -> None:
    """Write only RoBERTa's vocab.json and merges.txt, trained on WORDS."""
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([" ".join(WORDS)] * 50, vocab_size=330, min_frequency=1, special_tokens=special)
    trained.save_model(str(folder))


def sentence_piece(file: str, **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        corpus = folder / "corpus"
        corpus.write_text("\n".join([" ".join(WORDS), "Café Où est naïve 中文字", "The Cat SAT"] * 40))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=str(folder / "trained"),
            vocab_size=90,
            model_type="unigram",
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
        corpus.unlink()
        (folder / "trained.vocab").unlink()
        (folder / "trained.model").rename(folder / file)

    return write


def deberta_bpe(folder: Path) -> None:
    """Write DeBERTa's vocab.json and merges.txt with its tokenizer_config.json."""
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    trained.train_from_iterator([" ".join(WORDS)] * 50, vocab_size=330, min_frequency=1, special_tokens=special)
    trained.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "gpt2"}')


def deberta_v3(folder: Path) -> None:
    """Write spm.model with the tokenizer_config.json of microsoft/deberta-v3-base."""
    sentence_piece("spm.model", **DEBERTA_PIECES)(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')


ALBERT_PIECES = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]"]}
ALBERT_PIECES |= {"user_defined_symbols": ["[MASK]"], "pad_piece": "<pad>"}
# [MASK] is not in the SentencePiece vocabulary, as in the files on the Hub.
DEBERTA_PIECES = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
DEBERTA_PIECES |= {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}

FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "bert, as saved": ("bert", as_saved),
    "bert, tokenizer.json": ("bert", tokenizer_json_only),
    "bert, vocab.txt": ("bert", vocab_txt_only),
    "bert, vocab.txt cased": ("bert", vocab_txt_cased),
    "bert, vocab.txt without splitting": ("bert", vocab_txt_without_chinese_splitting),
    "distilbert, vocab.txt": ("distilbert", vocab_txt_only),
    "electra, vocab.txt": ("electra", vocab_txt_only),
    "mpnet, vocab.txt": ("mpnet", mpnet_vocab),
    "roberta, vocab.json and merges.txt": ("roberta", bpe),
    "xlm-roberta, SentencePiece": ("xlm-roberta", sentence_piece("sentencepiece.bpe.model")),
    "camembert, SentencePiece": ("camembert", sentence_piece("sentencepiece.bpe.model")),
    "mobilebert, vocab.txt": ("mobilebert", vocab_txt_only),
    "deberta, vocab.json and merges.txt": ("deberta", deberta_bpe),
    "deberta-v2, SentencePiece": ("deberta-v2", sentence_piece("spm.model", **DEBERTA_PIECES)),
    "deberta-v2, SentencePiece as on the Hub": ("deberta-v2", deberta_v3),
    "albert, SentencePiece": ("albert", sentence_piece("spiece.model", **ALBERT_PIECES)),
}


def make_source(folder: Path, model_type: str, write: Callable[[Path], None]) -> None:
    save_model(folder, BY_TYPE[model_type])
    write(folder)


def convert(folder: Path) -> tuple[Path, Tokenizer]:
    converted = MLXAutoModel.from_pretrained(folder).folder
    return converted, Tokenizer.from_folder(converted, tokenizer_config(converted))


def assert_same_ids(mlx_model: Tokenizer, torch_model: Any) -> None:
    for text, tokens in zip(TEXTS, mlx_model.encode(TEXTS), strict=True):
        # Passed as a list, since transformers treats an empty second text outside a list as missing.
        expected = torch_model([text])
        assert tokens.ids.tolist() == expected["input_ids"][0], text
        if "token_type_ids" in expected:
            assert tokens.token_type_ids.tolist() == expected["token_type_ids"][0], text
    assert mlx_model.pad_token_id == torch_model.pad_token_id


@pytest.mark.parametrize("files", FILES)
def test_ids_are_those_of_auto_tokenizer(files: str, tmp_path: Path) -> None:
    make_source(tmp_path, *FILES[files])
    torch_model = transformers.AutoTokenizer.from_pretrained(tmp_path)
    converted, mlx_model = convert(tmp_path)
    assert (converted / "tokenizer.json").is_file()
    assert_same_ids(mlx_model, torch_model)
    assert_same_ids(mlx_model, transformers.AutoTokenizer.from_pretrained(converted))


DECLARED = [
    ("bert", "BertTokenizerFast"),
    ("bert", "RobertaTokenizer"),
    ("bert", "RobertaTokenizerFast"),
    ("bert", "MPNetTokenizer"),
    ("bert", "PreTrainedTokenizerFast"),
    ("bert", "TokenizersBackend"),
    ("bert", "PreTrainedTokenizer"),
    ("bert", "NoSuchTokenizer"),
    ("bert", "NoSuchTokenizerFast"),
    ("distilbert", "DistilBertTokenizer"),
    ("distilbert", "DistilBertTokenizerFast"),
    ("electra", "ElectraTokenizerFast"),
    ("mpnet", "BertTokenizer"),
    ("roberta", "BertTokenizer"),
    ("xlm-roberta", "BertTokenizerFast"),
    ("xlm-roberta", "PreTrainedTokenizerFast"),
    ("albert", "PreTrainedTokenizerFast"),
    ("camembert", "PreTrainedTokenizerFast"),
]


@pytest.mark.parametrize("where", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize(("model_type", "declared"), DECLARED)
def test_a_declared_class_is_taken_as_auto_tokenizer_takes_it(
    model_type: str, declared: str, where: str, tmp_path: Path
) -> None:
    """Use a tokenizer.json that no class would rebuild: no lowercasing, accents kept, a different template."""
    make_source(tmp_path, model_type, as_saved)
    odd = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    odd.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    odd.post_processor = tokenizers.processors.TemplateProcessing("[SEP] $A [SEP]", special_tokens=[("[SEP]", 3)])
    odd.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    path = tmp_path / where
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": declared}))
    try:
        torch_model = transformers.AutoTokenizer.from_pretrained(tmp_path)
    except (AttributeError, TypeError, ValueError) as error:
        pytest.skip(f"transformers cannot read it either: {error}")
    _, mlx_model = convert(tmp_path)
    texts = [text for text in TEXTS if isinstance(text, str)]
    assert [one.ids.tolist() for one in mlx_model.encode(texts)] == [torch_model(text)["input_ids"] for text in texts]


def test_stored_padding_and_truncation_are_reset(tmp_path: Path) -> None:
    """Padding configured in tokenizer.json would change ragged batches."""
    make_checkpoint(tmp_path)
    stored = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    stored.enable_padding(length=40)
    stored.enable_truncation(max_length=5)
    stored.save(str(tmp_path / "tokenizer.json"))
    converted, mlx_model = convert(tmp_path)
    assert_same_ids(mlx_model, transformers.AutoTokenizer.from_pretrained(tmp_path))
    assert len({len(one) for one in mlx_model.encode(["the cat", "the cat sat on the mat today"])}) == 2
    for key in ("padding", "truncation"):
        content = json.loads((converted / "tokenizer.json").read_text())
        content[key] = json.loads((tmp_path / "tokenizer.json").read_text())[key]
        (converted / "tokenizer.json").write_text(json.dumps(content))
    assert_same_ids(
        Tokenizer.from_folder(converted, tokenizer_config(converted)),
        transformers.AutoTokenizer.from_pretrained(tmp_path),
    )


def test_many_texts_are_those_of_each_and_a_broken_one_is_named(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    _, mlx_model = convert(tmp_path)
    texts = ["the cat sat. " * (number % 7) for number in range(300)]
    assert [one.ids.tolist() for one in mlx_model.encode(texts)] == [
        mlx_model.encode([one])[0].ids.tolist() for one in texts
    ]
    with pytest.raises(InputError, match=r"text 257 is .* not a text in Unicode"):
        mlx_model.encode([*texts[:257], "half \ud800 a pair", *texts])


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_cuts_as_transformers_does(strategy: str, side: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation_side": side}))
    torch_model = transformers.AutoTokenizer.from_pretrained(tmp_path)
    _, mlx_model = convert(tmp_path)
    pair = ("the cat sat on the mat.", "the dog sat on the cat. the stock market rose")
    [tokens] = mlx_model.encode([pair], max_length=16, strategy=strategy)
    expected = torch_model(*pair, max_length=16, truncation=strategy)
    assert tokens.ids.tolist() == expected["input_ids"]
    assert tokens.token_type_ids.tolist() == expected["token_type_ids"]
    assert tokens.truncated
    assert not mlx_model.encode([pair])[0].truncated
    assert not mlx_model.encode([pair], max_length=len(torch_model(*pair)["input_ids"]))[0].truncated


def test_a_folder_without_tokenizer_converts_and_encoding_says_what_is_missing(tmp_path: Path) -> None:
    save_model(tmp_path, FAMILIES[0])
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert mlx_model(np.array([[5, 6]])).last_hidden_state.shape == (1, 2, 24)
    with pytest.raises(
        RepositoryError, match=r"has no tokenizer\.json, so texts cannot be tokenized\. Copy the tokenizer"
    ):
        Tokenizer.from_folder(mlx_model.folder, {})


@pytest.mark.parametrize("content", ["", "{}", "[1, 2", '{"model": {"type": "Nonesuch"}}'])
def test_a_broken_tokenizer_json_is_a_clear_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(
        RepositoryError, match=r"tokenizer\.json is not a tokenizer that .* Take the file of the original"
    ):
        Tokenizer.from_folder(tmp_path, {})
    save_model(tmp_path, FAMILIES[0])
    # Ids need no tokenizer.
    model = MLXAutoModel.from_pretrained(tmp_path)
    assert model([[5, 6]]).last_hidden_state.shape == (1, 2, 24)
    for use in (lambda: pipeline("feature-extraction", model=model), lambda: MLXSentenceTransformer(str(tmp_path))):
        with pytest.raises(BridgeError, match=r"has no tokenizer that BertTokenizer can read|is not JSON|is empty"):
            use()


def test_the_class_of_a_plain_folder_is_the_familys(tmp_path: Path) -> None:
    save_model(tmp_path, BY_TYPE["albert"])
    assert read_checkpoint(locate(tmp_path, HubOptions())).config.get("tokenizer_class") is None
    assert {row.model_type for row in FAMILIES} == set(BY_TYPE)


@pytest.fixture(scope="module")
def bertweet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a RoBERTa classifier with the files of a tokenizer that transformers has in Python only."""
    folder = tmp_path_factory.mktemp("bertweet")
    save_model(folder, BY_TYPE["roberta"], "ForSequenceClassification")
    (folder / "vocab.txt").write_text("hello</w> 5\nworld</w> 4\nhe@@ 3\n")
    (folder / "bpe.codes").write_text("h e 10\nhe l 9\nhel l 8\nhell o</w> 7\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertweetTokenizer"}))
    return folder


@pytest.mark.parametrize("given", [True, False], ids=["a given tokenizer", "its own tokenizer"])
def test_a_pipeline_uses_a_tokenizer_written_in_python(bertweet: Path, given: bool) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bertweet)
    assert not tokenizer.is_fast
    [expected] = transformers.pipeline("text-classification", str(bertweet), tokenizer=tokenizer, device="cpu")(
        "hello he"
    )
    found = pipeline("text-classification", str(bertweet), tokenizer if given else None)(["hello he", "world"])[0]
    assert found == {"label": expected["label"], "score": pytest.approx(expected["score"], abs=2e-5)}


def test_entities_have_no_places_with_a_tokenizer_written_in_python(bertweet: Path, tmp_path: Path) -> None:
    for name in ("vocab.txt", "bpe.codes", "tokenizer_config.json"):
        shutil.copyfile(bertweet / name, tmp_path / name)
    save_model(tmp_path, BY_TYPE["roberta"], "ForTokenClassification")
    task = "token-classification"
    found, expected = (make(task, str(tmp_path))("hello he") for make in (pipeline, transformers.pipeline))
    assert [{**one, "score": None} for one in found] == [{**one, "score": None} for one in expected]
    np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in expected], atol=2e-5)


def test_weights_convert_without_a_tokenizer_written_in_python(bertweet: Path, tmp_path: Path) -> None:
    ids = [[0, 4, 5, 2]]
    expected = transformers.AutoModel.from_pretrained(bertweet)(torch.tensor(ids)).last_hidden_state.detach()
    model = MLXAutoModel.from_pretrained(bertweet)
    np.testing.assert_allclose(np.array(model(ids).last_hidden_state), expected, atol=2e-5)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "bpe.codes").is_file()


def test_a_tokenizer_class_that_cannot_be_imported_is_named_when_texts_come(tmp_path: Path) -> None:
    """Japanese tokenizers import a morphological analyzer, which is not installed here."""
    make_checkpoint(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"})
    )
    assert MLXAutoModel.from_pretrained(tmp_path)([[5]]).last_hidden_state.shape == (1, 1, 24)
    with pytest.raises(BackendError, match=r"of class BertJapaneseTokenizer, .* fugashi.*\[japanese\]"):
        MLXSentenceTransformer(str(tmp_path))


@pytest.mark.parametrize("settings", [[], {"tokenizer_class": 5}], ids=str)
def test_bad_settings_are_an_error_where_texts_come(settings: Any, tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert MLXAutoModel.from_pretrained(tmp_path)([[5]]).last_hidden_state.shape == (1, 1, 24)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json .*Take the"):
        MLXSentenceTransformer(str(tmp_path))


def test_sentencepiece_is_named_where_its_file_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_source(tmp_path, "deberta-v2", sentence_piece("spm.model", **DEBERTA_PIECES))
    with monkeypatch.context() as absent:
        absent.setattr(tokenizer_files, "_is_installed", lambda name: name != "sentencepiece")
        absent.setattr(transformers.DebertaV2Tokenizer, "from_pretrained", fail)
        assert MLXAutoModel.from_pretrained(tmp_path)([[5]]).last_hidden_state.shape == (1, 1, 24)
        with pytest.raises(BackendError, match=r"not installed: sentencepiece\. Run `pip install sentencepiece"):
            MLXSentenceTransformer(str(tmp_path))
    # Installed since: the conversion of then serves.
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path)("the cat").input_ids
    assert MLXSentenceTransformer(str(tmp_path)).tokenizer.encode(["the cat"])[0].ids.tolist() == expected


def fail(*args: Any, **options: Any) -> None:
    raise ValueError("`tiktoken` is required to read a `tiktoken` file.")
