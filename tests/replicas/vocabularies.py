"""Tokenizers of the kinds that repos have, over a small vocabulary, written by transformers' own classes."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import transformers
from checkpoints import WORDS
from tokenizers import models, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [*LETTERS, *(f"##{letter}" for letter in LETTERS), "##s", "##ing"]
CORPUS = [" ".join(WORDS), "The Cat SAT in Berlin", "Café Où est naïve"] * 40
# Larger than any of the vocabularies.
SIZE = 400


def _write(folder: Path, name: str, lines: list[str]) -> None:
    (folder / name).write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")


def wordpiece(folder: Path, special: list[str] = SPECIAL, kind: str = "Bert", **options: Any) -> None:
    _write(folder, "vocab.txt", [*special, *WORDS, *PIECES, "Berlin", "The", "é"])
    getattr(transformers, f"{kind}Tokenizer")(str(folder / "vocab.txt"), **options).save_pretrained(folder)
    if not (folder / "vocab.txt").is_file():
        _write(folder, "vocab.txt", [*special, *WORDS, *PIECES, "Berlin", "The", "é"])


def mpnet(folder: Path) -> None:
    wordpiece(folder, ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"], "MPNet")


def _byte_level(folder: Path, special: list[str]) -> None:
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(CORPUS, vocab_size=330, min_frequency=1, special_tokens=special)
    trained.save_model(str(folder))


def roberta(folder: Path, kind: str = "Roberta", **options: Any) -> None:
    _byte_level(folder, ROBERTA_SPECIAL)
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    getattr(transformers, f"{kind}Tokenizer")(*files, **options).save_pretrained(folder)


def deberta(folder: Path) -> None:
    _byte_level(folder, ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"])
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "gpt2"}')


def _sentence_piece(folder: Path, file: str, **options: Any) -> Path:
    corpus = folder / "corpus"
    corpus.write_text("\n".join(CORPUS), encoding="utf-8")
    options = {"vocab_size": 90, "model_type": "unigram", "hard_vocab_limit": False, "minloglevel": 2, **options}
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(folder / "spm"), **options)
    (folder / "spm.model").rename(folder / file)
    for name in ("corpus", "spm.vocab"):
        (folder / name).unlink(missing_ok=True)
    return folder / file


def _saved_by_class(kind: str, file: str, settings: dict[str, Any], **options: Any) -> Callable[[Path], None]:
    """Return a function that saves tokenizer.json as transformers reads it from a SentencePiece model."""

    def write(folder: Path) -> None:
        _sentence_piece(folder, file, **options)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = getattr(transformers, f"{kind}Tokenizer").from_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return write


def _sentence_piece_only(file: str, settings: dict[str, Any], **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        _sentence_piece(folder, file, **options)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    return write


DEBERTA_PIECES: dict[str, Any] = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
DEBERTA_PIECES |= {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
ALBERT_PIECES: dict[str, Any] = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "pad_piece": "<pad>"}
ALBERT_PIECES |= {"control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]"]}
T5_PIECES: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def _decoder_backend(eos: str, extra: list[str], closing: str = "") -> tokenizers.Tokenizer:
    """Return a byte-level tokenizer of a decoder, with `closing` after every text."""
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t"), ("Ġ", "the"), ("Ġ", "cat"), ("y", "e"), ("ye", "s")]
    merges.append(("n", "o"))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(left + right for left, right in merges)]
    backend = tokenizers.Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens([eos, *extra])
    if closing:
        number = backend.token_to_id(closing)
        pair = f"$A {closing} $B:1 {closing}:1"
        backend.post_processor = processors.TemplateProcessing(f"$A {closing}", pair, [(closing, number)])
    return backend


def qwen(folder: Path, closing: str = "") -> None:
    backend = _decoder_backend("<|endoftext|>", ["<|im_start|>", "<|im_end|>"], closing)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "Qwen2Tokenizer"}))


def byte_level(folder: Path, bos: str = "[CLS]", eos: str = "[SEP]", declared: str = "PreTrainedTokenizerFast") -> None:
    """ModernBERT's and its like: a byte-level tokenizer.json with BERT's special tokens."""
    backend = _decoder_backend("[UNK]", [bos, eos, "[PAD]", "[MASK]"])
    ends = [(bos, backend.token_to_id(bos)), (eos, backend.token_to_id(eos))]
    backend.post_processor = processors.TemplateProcessing(f"{bos} $A {eos}", f"{bos} $A {eos} $B:1 {eos}:1", ends)
    names = {"cls_token": bos, "sep_token": eos, "pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **names
    )
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": declared}))


def unigram(folder: Path, declared: str = "LlamaTokenizer") -> None:
    """Write a tokenizer.json that the class which tokenizer_config.json names would not rebuild."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", *LETTERS, "▁"]
    backend = tokenizers.Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    ends = [("<s>", 1), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", ends)
    backend.save(str(folder / "tokenizer.json"))
    names = {
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
    }
    names |= {"cls_token": "<s>", "sep_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": declared, **names}))


def metaspace(folder: Path, declared: str, names: dict[str, str], closing: str = "") -> None:
    """Write the BPE of Gemma and Llama: "▁" for blanks, bytes for what is not known."""
    special = list(dict.fromkeys(names.values()))
    merges = [("t", "h"), ("th", "e"), ("c", "a"), ("ca", "t"), ("▁", "cat")]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS, "▁", *(a + b for a, b in merges)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    backend.add_special_tokens(special)
    bos = names["bos_token"]
    ends = [(word, vocabulary[word]) for word in (bos, closing) if word]
    backend.post_processor = processors.TemplateProcessing(
        f"{bos} $A {closing}".strip(), f"{bos} $A {closing} {bos}:1 $B:1 {closing}:1".strip(), ends
    )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": declared, **names}))


GEMMA = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>", "mask_token": "<mask>"}
LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def clip(folder: Path) -> None:
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "th", "the</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    transformers.CLIPTokenizer(*files, model_max_length=40).save_pretrained(folder)


def esm(folder: Path) -> None:
    _write(folder, "vocab.txt", ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<mask>"])
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer", "model_max_length": 40}')


def letters(folder: Path) -> None:
    """ProtBERT's vocabulary: one capital letter for each amino acid."""
    _write(folder, "vocab.txt", [*SPECIAL, *"LAGVERSTIDPKQNFYMHCWXUBZO"])
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')


def python_written(files: dict[str, str], settings: dict[str, Any]) -> Callable[[Path], None]:
    """Return a function that writes the files of a tokenizer that transformers has in Python only."""

    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    return write


JAPANESE = {"vocab.txt": "\n".join([*SPECIAL, *"日本語は東京大学猫", *LETTERS, "##語", "##京", *PIECES]) + "\n"}
_PIECES = "".join(f"{letter}@@ 2\n{letter} 2\n" for letter in LETTERS)
BPE_CODES = {"vocab.txt": f"the 9\ncat 8\nca@@ 7\n{_PIECES}", "bpe.codes": "c a 9\nca t</w> 8\nt h 7\nth e</w> 6\n"}
_XLM = ["<s>", "</s>", "<pad>", "<unk>", "<special0>", "<special1>", *LETTERS, *(f"{one}</w>" for one in LETTERS)]
XLM = {"vocab.json": json.dumps({word: i for i, word in enumerate([*_XLM, "ca", "cat</w>"])})}
XLM |= {"merges.txt": "c a 9\nca t</w> 8\n"}

XLMR: dict[str, Any] = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 40}
MECAB = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab", "do_lower_case": False}
UNIDIC = {"mecab_kwargs": {"mecab_dic": "unidic_lite"}}
KINDS: dict[str, Callable[[Path], None]] = {
    "wordpiece": wordpiece,
    "cased wordpiece": functools.partial(wordpiece, do_lower_case=False),
    "distilbert": functools.partial(wordpiece, kind="DistilBert"),
    "electra": functools.partial(wordpiece, kind="Electra"),
    "mpnet": mpnet,
    "roberta": roberta,
    "longformer": functools.partial(roberta, kind="Longformer"),
    "deberta": deberta,
    "xlm-roberta": _saved_by_class("XLMRoberta", "sentencepiece.bpe.model", XLMR),
    "xlm-roberta file": _sentence_piece_only("sentencepiece.bpe.model", {}),
    "camembert": _saved_by_class("Camembert", "sentencepiece.bpe.model", {"tokenizer_class": "CamembertTokenizer"}),
    "deberta-v2": _saved_by_class(
        "DebertaV2", "spm.model", {"tokenizer_class": "DebertaV2Tokenizer"}, **DEBERTA_PIECES
    ),
    "deberta-v2 file": _sentence_piece_only(
        "spm.model", {"do_lower_case": False, "vocab_type": "spm"}, **DEBERTA_PIECES
    ),
    "albert": _saved_by_class("Albert", "spiece.model", {"tokenizer_class": "AlbertTokenizer"}, **ALBERT_PIECES),
    "albert file": _sentence_piece_only("spiece.model", {"do_lower_case": True}, **ALBERT_PIECES),
    "t5": _saved_by_class("T5", "spiece.model", {"tokenizer_class": "T5Tokenizer", "extra_ids": 10}, **T5_PIECES),
    "qwen": qwen,
    "qwen with an end": functools.partial(qwen, closing="<|endoftext|>"),
    "byte-level": byte_level,
    "eurobert": functools.partial(byte_level, bos="<|begin_of_text|>", eos="<|end_of_text|>"),
    "unigram as Llama": unigram,
    "gemma": functools.partial(metaspace, declared="GemmaTokenizer", names=GEMMA, closing="<eos>"),
    "llama": functools.partial(metaspace, declared="LlamaTokenizer", names=LLAMA, closing="</s>"),
    "clip": clip,
    "esm": esm,
    "letters": letters,
    "japanese words": python_written(JAPANESE, MECAB),
    "japanese words, unidic": python_written(JAPANESE, {**MECAB, **UNIDIC}),
    "japanese letters": python_written(JAPANESE, {**MECAB, **UNIDIC, "subword_tokenizer_type": "character"}),
    "phobert": python_written(BPE_CODES, {"tokenizer_class": "PhobertTokenizer"}),
    "bertweet": python_written(BPE_CODES, {"tokenizer_class": "BertweetTokenizer", "normalization": True}),
    "flaubert": python_written(XLM, {"tokenizer_class": "FlaubertTokenizer", "do_lower_case": False}),
    "xlm": python_written(XLM, {"tokenizer_class": "XLMTokenizer"}),
    "bytes": python_written({}, {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}),
    "none": lambda folder: None,
}


@functools.cache
def files_of(kind: str) -> dict[str, bytes]:
    """Return the files of a tokenizer, name -> content."""
    with tempfile.TemporaryDirectory() as scratch:
        KINDS[kind](Path(scratch))
        return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}
