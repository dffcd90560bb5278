"""The tokenizers of word vectors: texts are split at whitespace, or into phrases, and looked up word by word.

Reference: sentence_transformers/sentence_transformer/modules/tokenizer.
"""

import importlib
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.errors import BackendError, ConfigError, UnsupportedModelError


class WhitespaceTokenizer:
    """Splits texts at whitespace; a word outside the vocabulary is tried without punctuation, then in lower case.

    Args:
        vocab: The words, in the order of their ids.
        stop_words: Words that are left out. Default: none.
        do_lower_case: Whether texts are lower-cased first. Default: False.
    """

    file: ClassVar[str] = "whitespacetokenizer_config.json"
    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.tokenizer.whitespace"

    def __init__(self, vocab: Iterable[str] = (), stop_words: Iterable[str] = (), do_lower_case: bool = False) -> None:
        self.vocab, self.stop_words, self.do_lower_case = list(vocab), set(stop_words), do_lower_case
        self.word2idx = {word: index for index, word in enumerate(self.vocab)}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the tokenizer from the folder of its module.

        Args:
            folder: The folder, with the tokenizer's own file.

        Returns:
            The tokenizer.

        Raises:
            ConfigError: If the file does not hold lists of words and settings of the class.
        """
        path = folder / cls.file
        config = read_json(path)
        # Where stop_words are absent, sentence-transformers takes its own list, which can differ between versions.
        words = [config.get("vocab", []), config.get("stop_words")] if isinstance(config, dict) else [None]
        if not all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in words):
            raise ConfigError(f"{path} has no lists of words, vocab and stop_words. Take the original file.")
        try:
            return cls(**config)
        except TypeError as error:
            raise ConfigError(
                f"{path} has other keys than {cls.__name__} ({error}). Take the original file."
            ) from error

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text's words; words that are not known, and stop words, are left out.

        Args:
            text: The text.

        Returns:
            The ids.
        """
        words = (text.lower() if self.do_lower_case else text).split()
        return self._look_up(words, (_as_it_is, _without_punctuation, str.lower))

    def _look_up(self, words: Iterable[str], forms: Sequence[Any]) -> list[int]:
        """Return the ids of words in the first known form, each made of the one before it."""
        found = []
        for word in words:
            form = word
            for change in forms:
                form = change(form)
                if form in self.stop_words:
                    break
                if form in self.word2idx:
                    found.append(self.word2idx[form])
                    break
        return found

    def get_vocab(self) -> list[str]:
        """Return the words, in the order of their ids.

        Returns:
            The vocabulary.
        """
        return self.vocab

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of the tokenizer's file.

        Returns:
            vocab, stop_words and do_lower_case.
        """
        words = {"vocab": list(self.word2idx), "stop_words": sorted(self.stop_words)}
        return {**words, "do_lower_case": self.do_lower_case}

    def save(self, folder: Path) -> None:
        """Write the tokenizer's file, as sentence-transformers reads it.

        Args:
            folder: An existing folder.
        """
        write_json(folder / self.file, self.get_config_dict(), indent=None)


class PhraseTokenizer(WhitespaceTokenizer):
    """Splits texts into words with nltk, and joins those that are a phrase of the vocabulary, such as New_York.

    Args:
        vocab: The words and phrases, in the order of their ids.
        stop_words: Words that are left out. Default: none.
        do_lower_case: Only saved, as in sentence-transformers. Default: False.
        ngram_separator: What joins the words of a phrase. Default: "_".
        max_ngram_length: The most words of a phrase. Default: 5.
    """

    file: ClassVar[str] = "phrasetokenizer_config.json"
    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.tokenizer.phrase"

    def __init__(
        self,
        vocab: Iterable[str] = (),
        stop_words: Iterable[str] = (),
        do_lower_case: bool = False,
        ngram_separator: str | None = "_",
        max_ngram_length: int = 5,
    ) -> None:
        super().__init__(vocab, stop_words, do_lower_case)
        self.ngram_separator, self.max_ngram_length = ngram_separator, max_ngram_length
        self._phrases = {word for word in self.vocab if 1 < self._length(word) <= max_ngram_length}
        self._lengths = sorted({self._length(word) for word in self._phrases}, reverse=True)

    def _length(self, word: str) -> int:
        """Return the number of words of a phrase; 1 for a word, and for one with an empty part."""
        mark = self.ngram_separator
        return 1 if not mark or mark + mark in word else word.count(mark) + 1

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text's words and phrases.

        Args:
            text: The text.

        Returns:
            The ids.

        Raises:
            BackendError: If nltk is not installed.
        """
        words = _nltk().word_tokenize(text, preserve_line=True)
        for length in self._lengths:
            index = 0
            while index <= len(words) - length:
                phrase = str(self.ngram_separator).join(words[index : index + length])
                known = next((form for form in (phrase, phrase.lower()) if form in self._phrases), None)
                if known is not None:
                    words[index : index + length] = [known]
                index += 1
        return self._look_up(words, (_as_it_is, str.lower, _without_punctuation))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of the tokenizer's file.

        Returns:
            vocab, stop_words, do_lower_case, ngram_separator and max_ngram_length.
        """
        own = {"ngram_separator": self.ngram_separator, "max_ngram_length": self.max_ngram_length}
        return {**super().get_config_dict(), **own}


def read_word_tokenizer(class_name: Any, folder: Path) -> WhitespaceTokenizer:
    """Read the tokenizer of a module of word vectors.

    Args:
        class_name: sentence-transformers' dotted name of its class.
        folder: The module's folder.

    Returns:
        The tokenizer.

    Raises:
        UnsupportedModelError: If the class is another one.
    """
    known = {one.__name__: one for one in (WhitespaceTokenizer, PhraseTokenizer)}
    package, _, name = str(class_name).rpartition(".")
    if not package.startswith("sentence_transformers") or name not in known:
        raise UnsupportedModelError(
            f"{folder} has the tokenizer {class_name}; known are {', '.join(known)}. "
            "Use sentence-transformers with torch for this model."
        )
    return known[name].read(folder)


def _nltk() -> Any:
    try:
        return importlib.import_module("nltk")
    except ImportError as error:
        raise BackendError("a PhraseTokenizer splits texts with nltk. Run `pip install nltk`.") from error


def _as_it_is(word: str) -> str:
    return word


def _without_punctuation(word: str) -> str:
    return word.strip(string.punctuation)
