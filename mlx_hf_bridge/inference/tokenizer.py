"""Tokenization by the tokenizers library: reads tokenizer.json without transformers, and reports truncated texts.

Padding settings inside tokenizer.json are dropped: they are those of the session that saved it. Truncation settings are
kept for the modules that use them, and written back.

Axes: L tokens.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from mlx_hf_bridge.errors import ConfigError, InputError, RepositoryError, TokenRangeError, UnsupportedModelError
from mlx_hf_bridge.inference.charsmap import check_character_maps
from mlx_hf_bridge.inference.python_tokenizer import PythonBackend, PythonEncoding
from mlx_hf_bridge.inference.template_files import CHAT_TEMPLATE, parse_templates, write_templates
from mlx_hf_bridge.inference.tokenizer_methods import TokenizerMethods
from mlx_hf_bridge.runtime.executor import hold
from mlx_hf_bridge.runtime.file_errors import panics_as_exceptions

Text = str | tuple[str, str]

# transformers writes a huge number for "no limit" (VERY_LARGE_INTEGER).
NO_LIMIT = 1_000_000
TOKEN_TYPE_IDS = "token_type_ids"
# transformers has never given this class's models token type ids, although they have a table for them.
WITHOUT_TOKEN_TYPES = "BigBirdTokenizer"
# What to say of a tokenizer that keeps them back: transformers 5 does so for ALBERT, RemBERT, Splinter and a few more.
LOST_TOKEN_TYPES = (
    "%s tells the texts of a pair apart by token_type_ids, and its tokenizer gives it none, as in transformers 5: both "
    "are read as one text. If the model was trained with them, %s."
)
# An Encoding of tokenizers takes many times the memory of its ids, so texts are encoded some at a time.
_TEXTS_PER_CALL = 128
# The truncation of a tokenizer whose truncation is being changed.
_BEING_SET = (-1, "")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text or text pair.

    Args:
        ids: Token ids, (L,), int32.
        token_type_ids: Token type ids, (L,), int32; None if the tokenizer gives the model none.
        truncated: Whether the text had more tokens.
    """

    ids: np.ndarray
    token_type_ids: np.ndarray | None
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> tuple[bytes | None, ...]:
        """A key that is equal for sequences with equal ids and token type ids, whose outputs are equal too."""
        return self.ids.tobytes(), None if self.token_type_ids is None else self.token_type_ids.tobytes()


class Tokenizer(TokenizerMethods):
    """A tokenizer: tokenizer.json, with the settings of tokenizer_config.json for padding, length and token types.

    Args:
        backend: The tokenizers.Tokenizer of tokenizer.json; its padding is dropped, its truncation moved to
            `saved_truncation`. A PythonBackend for a tokenizer that is written in Python.
        config: Content of tokenizer_config.json.

    Attributes:
        chat_template: The Jinja source of the chat template, or several by name; None without one.
    """

    def __init__(self, backend: tokenizers.Tokenizer | PythonBackend, config: dict[str, Any]) -> None:
        self.backend = backend
        self.config = {key: value for key, value in config.items() if key != CHAT_TEMPLATE}
        self.chat_template = parse_templates(config.get(CHAT_TEMPLATE))
        # Truncation is a setting of the backend, so setting it and encoding must not be interleaved.
        self._lock = threading.Lock()
        self._limit: tuple[int, str] | None = None
        # The file's own truncation settings; only static embeddings truncate by them.
        self.saved_truncation: dict[str, Any] | None = backend.truncation
        # tokenizer.json may ask for padding to a fixed length; batches here are padded to their longest text.
        backend.no_padding()
        backend.no_truncation()
        limit = config.get("model_max_length")
        self.model_max_length = int(limit) if limit and limit < NO_LIMIT else None
        # As transformers: the side in tokenizer.json, where tokenizer_config.json names none.
        self.truncation_side = config.get("truncation_side") or (self.saved_truncation or {}).get("direction", "right")
        self.pad_token_id = self.special_id("pad_token") or 0  # any id will do, since padding is masked
        # transformers passes token type ids to a model only if its tokenizer lists them.
        self.returns_token_type_ids = TOKEN_TYPE_IDS in (config.get("model_input_names") or [TOKEN_TYPE_IDS])

    @classmethod
    def from_folder(cls, folder: Path, config: dict[str, Any]) -> "Tokenizer":
        """Load the tokenizer of a model folder.

        Args:
            folder: Folder with tokenizer.json.
            config: Content of tokenizer_config.json.

        Returns:
            The tokenizer.

        Raises:
            RepositoryError: If tokenizer.json is missing or cannot be read.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise RepositoryError(
                f"{folder} has no tokenizer.json, so texts cannot be tokenized. Copy the tokenizer files of the "
                "original checkpoint next to its weights and convert again, or pass token ids."
            )
        try:
            check_character_maps(path)
            with panics_as_exceptions():
                backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the bare class is what tokenizers raises
            raise RepositoryError(
                f"{path} is not a tokenizer that tokenizers {tokenizers.__version__} reads ({error}). "
                "Take the file of the original checkpoint, or upgrade tokenizers."
            ) from error
        return cls(backend, config)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as from_folder and transformers read them.

        Args:
            folder: An existing folder.
        """
        with hold(self._lock):
            # The file's own truncation, and not the limit of the last call.
            self._truncate(None, "longest_first")
            if self.saved_truncation:
                self.backend.enable_truncation(**self.saved_truncation)
            self.backend.save(str(folder / "tokenizer.json"))
            self.backend.no_truncation()
        if config := self._current_config():
            text = json.dumps(config, indent=2, ensure_ascii=False)
            (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        write_templates(self.chat_template, folder)

    def _current_config(self) -> dict[str, Any]:
        """Return the content of tokenizer_config.json with what has changed since it was read."""
        limit = self.config.get("model_max_length")
        kept = self.model_max_length is None and (limit is None or limit >= NO_LIMIT)
        now = {} if kept else {"model_max_length": self.model_max_length or int(1e30)}
        if self.truncation_side != self.config.get("truncation_side", "right"):
            now["truncation_side"] = self.truncation_side
        return {**self.config, **now}

    def encode(
        self,
        texts: Sequence[Text],
        max_length: int | None = None,
        strategy: str = "longest_first",
        add_special_tokens: bool = True,
    ) -> list[Tokens]:
        """Tokenize texts or text pairs.

        Args:
            texts: Strings, or pairs of strings.
            max_length: Most tokens of a text, special tokens included; None for no truncation.
            strategy: Truncation strategy of tokenizers: "longest_first", "only_first" or "only_second".
            add_special_tokens: Whether to add special tokens such as [CLS].

        Returns:
            The tokens of each text.

        Raises:
            InputError: If a text is not valid Unicode, or the strategy cannot reach `max_length`.
        """
        if add_special_tokens:
            self._check_room(texts, max_length)
        try:
            with hold(self._lock), panics_as_exceptions():
                self._truncate(max_length, strategy)
                return [
                    self._tokens(one)
                    for start in range(0, len(texts), _TEXTS_PER_CALL)
                    # The fast variant leaves out offsets, which nothing here reads.
                    for one in self.backend.encode_batch_fast(
                        list(texts[start : start + _TEXTS_PER_CALL]), add_special_tokens=add_special_tokens
                    )
                ]
        # What tokenizers raises for lone surrogates too, which Python strings can hold and UTF-8 cannot.
        except TypeError as error:
            raise InputError(describe_bad_text(texts)) from error
        except Exception as error:  # the bare class is what tokenizers raises
            if "Truncation error" not in str(error):
                _refuse_file(error)
                raise
            raise InputError(
                f"truncation={strategy!r} to max_length={max_length} cannot be done: {error}. "
                "Pass truncation=True, which truncates the longer text of a pair."
            ) from error

    def encode_words(
        self, texts: Sequence[Sequence[str]], max_length: int | None = None
    ) -> list[tuple[Tokens, list[int | None]]]:
        """Tokenize texts that are already split into words, as transformers does with `is_split_into_words=True`.

        Args:
            texts: The words of each text.
            max_length: Most tokens of a text, special tokens included; None for no truncation.

        Returns:
            For each text its tokens, without token type ids, and the index of the word that each token belongs to; None
            for special tokens.

        Raises:
            UnsupportedModelError: If the tokenizer is written in Python, and does not know the words of its tokens.
            InputError: If a word is not valid Unicode.
        """
        if isinstance(self.backend, PythonBackend):
            raise UnsupportedModelError(
                f"{self.config.get('tokenizer_class')} is written in Python and does not tell which word a token "
                "belongs to. Take a model whose tokenizer has a tokenizer.json."
            )
        try:
            with hold(self._lock), panics_as_exceptions():
                self._truncate(max_length, "longest_first")
                encoded = self.backend.encode_batch([list(words) for words in texts], is_pretokenized=True)
        except TypeError as error:
            raise InputError(describe_bad_text([" ".join(words) for words in texts])) from error
        except Exception as error:  # the bare class is what tokenizers raises
            _refuse_file(error)
            raise
        return [(replace(self._tokens(one), token_type_ids=None), one.word_ids) for one in encoded]

    def add_special_tokens(self, tokens: Sequence[str]) -> None:
        """Add tokens that are never split to the vocabulary; those that it has keep their ids.

        Args:
            tokens: The tokens.
        """
        with hold(self._lock):
            self.backend.add_special_tokens(list(tokens))

    def encoding(self, text: str, add_special_tokens: bool = True) -> tokenizers.Encoding | PythonEncoding:
        """Tokenize one text without truncation, with the positions of its tokens.

        Args:
            text: The text.
            add_special_tokens: Whether to add special tokens such as [CLS]. Default: True.

        Returns:
            An Encoding of tokenizers; one that is written in Python has no positions.

        Raises:
            InputError: If the text is not valid Unicode.
        """
        try:
            with hold(self._lock), _tokenizer_errors():
                self._truncate(None, "longest_first")
                found: tokenizers.Encoding | PythonEncoding = self.backend.encode(
                    text, add_special_tokens=add_special_tokens
                )
                return found
        except TypeError as error:
            raise InputError(describe_bad_text([text])) from error

    def count_prompt_tokens(
        self,
        text: str,
        max_length: int | None = None,
        strategy: str = "longest_first",
        add_special_tokens: bool = True,
    ) -> int:
        """Return the number of tokens of a prompt, with special tokens in front but without one at the end.

        Args:
            text: The prompt.
            max_length: Most tokens of a text, as in `encode`: the reference truncates the prompt too.
            strategy: Truncation strategy, as in `encode`.
            add_special_tokens: Whether texts get special tokens, as in `encode`.

        Returns:
            Number of tokens.
        """
        with hold(self._lock), _tokenizer_errors():
            self._truncate(max_length, strategy)
            special = self.backend.encode(text, add_special_tokens=add_special_tokens).special_tokens_mask
        # As sentence-transformers counts: the end token follows the text, not the prompt.
        return len(special) - (1 if special and special[-1] else 0)

    def special_id(self, name: str) -> int | None:
        """Return the id of a special token.

        Args:
            name: Its key in tokenizer_config.json, such as "mask_token".

        Returns:
            The id, or None if the tokenizer has no such token.

        Raises:
            ConfigError: If tokenizer_config.json has something else than a text there.
        """
        token = self.config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None and not isinstance(content, str):
            raise ConfigError(f"tokenizer_config.json has {name}={token!r}, expected a text. Take the original file.")
        return self.backend.token_to_id(content) if content else None

    @property
    def loses_token_type_ids(self) -> bool:
        """Whether the tokenizer marks the second text of a pair, and the model is not given these token type ids."""
        if self.returns_token_type_ids or self.config.get("tokenizer_class") == WITHOUT_TOKEN_TYPES:
            return False
        with hold(self._lock), _tokenizer_errors():
            self._truncate(None, "longest_first")
            return max(self.backend.encode("a", "b").type_ids, default=0) > 0

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Return the ids of tokens.

        Args:
            tokens: One token, or several.

        Returns:
            One id, or a list. A token outside the vocabulary has the unknown token's id, or None if there is none.
        """
        if isinstance(tokens, str):
            found = self.backend.token_to_id(tokens)
            return self.special_id("unk_token") if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """Return the tokens of ids.

        Args:
            ids: One id, or several.

        Returns:
            One token, or a list; None for an id outside the vocabulary.
        """
        if isinstance(ids, (int, np.integer)):
            return self.backend.id_to_token(int(ids))
        return [self.convert_ids_to_tokens(one) for one in ids]

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but the lock, which copies and other processes cannot have."""
        with hold(self._lock):
            self._truncate(None, "longest_first")
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return the number of special tokens that are added to a text.

        Args:
            pair: Whether to count those of a text pair.

        Returns:
            Number of tokens.
        """
        return int(self.backend.num_special_tokens_to_add(pair))

    def _check_room(self, texts: Sequence[Text], max_length: int | None) -> None:
        """Raise an error if special tokens alone exceed the limit: tokenizers would then not truncate at all."""
        special = self.num_special_tokens_to_add(pair=any(not isinstance(text, str) for text in texts))
        if max_length is not None and max_length < special:
            raise InputError(
                f"max_length={max_length} is less than the {special} special tokens of a text. Pass a larger one."
            )

    def _tokens(self, one: tokenizers.Encoding | PythonEncoding) -> Tokens:
        try:
            ids = np.array(one.ids, np.int32)
            token_type_ids = np.array(one.type_ids, np.int32) if self.returns_token_type_ids else None
        except OverflowError as error:  # tokenizer.json may name any id below 2**32
            raise TokenRangeError(
                f"the tokenizer gives the ids {one.ids!r:.200}, and no table has 2**31 rows. Check that the tokenizer "
                "belongs to the model."
            ) from error
        # `overflowing` holds the truncated rest; the counts alone cannot tell a text that fits exactly.
        return Tokens(ids, token_type_ids, bool(one.overflowing))

    def _truncate(self, max_length: int | None, strategy: str) -> None:
        wanted = None if max_length is None else (max_length, strategy)
        if wanted == self._limit:
            return
        # Of no call, in case that this one is interrupted in between.
        self._limit = _BEING_SET
        if wanted is None:
            self.backend.no_truncation()
        else:
            self.backend.enable_truncation(wanted[0], strategy=strategy, direction=self.truncation_side)
        self._limit = wanted


@contextmanager
def _tokenizer_errors() -> Iterator[None]:
    """Turn what tokenizers raises for a tokenizer.json that cannot tokenize into a ConfigError."""
    try:
        with panics_as_exceptions():
            yield
    except Exception as error:
        _refuse_file(error)
        raise


def _refuse_file(error: Exception) -> None:
    # The bare class is what tokenizers raises; a RuntimeError is its panic.
    if type(error) in (Exception, RuntimeError):
        raise ConfigError(
            f"tokenizer.json cannot tokenize the texts ({error!s:.200}). Take the file of the original checkpoint."
        ) from error


def describe_bad_text(texts: Sequence[Any]) -> str:
    """Return an error message for the first text that is no string, or has half of a surrogate pair.

    Args:
        texts: Texts or pairs of texts, as they were given to tokenizers.

    Returns:
        What is wrong, and what to do.
    """
    for index, text in enumerate(texts):
        try:
            for part in (text,) if isinstance(text, str) else text:
                part.encode("utf-8")
        except (UnicodeEncodeError, AttributeError) as error:
            return (
                f"text {index} is {text!r:.80}, which is not a text in Unicode ({error}). Decode it with "
                "errors='replace', or remove it."
            )
    return "tokenizers does not accept the texts, expected strings or pairs of strings. Check their types."
