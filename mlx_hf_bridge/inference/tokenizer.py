"""Texts become token ids, with every loss of tokens counted; tokenizer.json alone is read, without transformers.

Padding and truncation that a tokenizer.json carries are reset: they belong to whoever saved it.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from mlx_hf_bridge.errors import InputError, RepositoryError

Text = str | tuple[str, str]

# transformers writes a huge number for "no limit" (VERY_LARGE_INTEGER).
NO_LIMIT = 1_000_000
_SEGMENTS = "token_type_ids"
# What tokenizers tells of texts takes many times the memory of their ids, so it is asked of some at a time.
_TEXTS_AT_ONCE = 128


@dataclass(frozen=True)
class Tokens:
    """One text or pair: ids (L,) and segments (L,) int32, None where the model is given none; `cut`: some were lost."""

    ids: np.ndarray
    token_type_ids: np.ndarray | None
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> tuple[bytes | None, ...]:
        """Equal for rows that have equal answers."""
        return self.ids.tobytes(), None if self.token_type_ids is None else self.token_type_ids.tobytes()


class Tokenizer:
    """tokenizer.json with what tokenizer_config.json says of padding, length and segments."""

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
        self.backend = backend
        self.config = config
        self._lock = threading.Lock()
        self._limit: tuple[int, str] | None = None
        # The length that whoever saved the file cut at; only static embeddings go by it.
        self.saved_max_length = backend.truncation["max_length"] if backend.truncation else None
        backend.no_padding()
        backend.no_truncation()
        limit = config.get("model_max_length")
        self.model_max_length = int(limit) if limit and limit < NO_LIMIT else None
        self.truncation_side = config.get("truncation_side", "right")
        self.pad_token_id = self.special_id("pad_token") or 0  # any id serves, since padding is masked
        # transformers gives a model the segments only where its tokenizer class lists them.
        self.returns_token_type_ids = _SEGMENTS in (config.get("model_input_names") or [_SEGMENTS])

    @classmethod
    def from_folder(cls, folder: Path, config: dict[str, Any]) -> "Tokenizer":
        """RepositoryError for a folder without a readable tokenizer.json."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise RepositoryError(
                f"{folder} has no tokenizer.json, so texts cannot be read. Copy the tokenizer files of the original "
                "checkpoint beside its weights and convert again, or pass token ids."
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the bare class is what tokenizers raises
            raise RepositoryError(
                f"{path} is not a tokenizer that tokenizers {tokenizers.__version__} reads ({error}). "
                "Take the file of the original checkpoint, or upgrade tokenizers."
            ) from error
        return cls(backend, config)

    def save(self, folder: Path) -> None:
        """tokenizer.json and tokenizer_config.json, as from_folder and transformers read them."""
        with self._lock:
            self._truncate(None, "longest_first")
            self.backend.save(str(folder / "tokenizer.json"))
        if self.config:
            text = json.dumps(self.config, indent=2, ensure_ascii=False)
            (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def encode(
        self,
        texts: Sequence[Text],
        max_length: int | None = None,
        strategy: str = "longest_first",
        add_special_tokens: bool = True,
    ) -> list[Tokens]:
        """Texts or pairs -> tokens, cut to `max_length` (None = never) by tokenizers' strategy.

        InputError for what is no text in Unicode, and where the strategy cannot reach the length.
        """
        if add_special_tokens:
            self._check_room(texts, max_length)
        try:
            with self._lock:
                self._truncate(max_length, strategy)
                return [
                    self._tokens(one)
                    for start in range(0, len(texts), _TEXTS_AT_ONCE)
                    for one in self.backend.encode_batch_fast(
                        list(texts[start : start + _TEXTS_AT_ONCE]), add_special_tokens=add_special_tokens
                    )
                ]
        except TypeError as error:
            raise InputError(_not_unicode(texts)) from error
        except Exception as error:  # the bare class is what tokenizers raises
            if "Truncation error" not in str(error):
                raise
            raise InputError(
                f"truncation={strategy!r} to max_length={max_length} cannot be done: {error}. "
                "Pass truncation=True, which cuts the longer of text and pair."
            ) from error

    def count_prompt_tokens(self, text: str) -> int:
        """Tokens of a text, uncut, with the special ones before it and without one after it."""
        with self._lock:
            self._truncate(None, "longest_first")
            special = self.backend.encode(text).special_tokens_mask
        return len(special) - (1 if special and special[-1] else 0)

    def special_id(self, name: str) -> int | None:
        """The id of tokenizer_config.json's "mask_token", "unk_token", ...; None where there is none."""
        token = self.config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        return self.backend.token_to_id(content) if content else None

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """A token or several -> their ids; of a token that is not in the vocabulary the unknown one's, or None."""
        if isinstance(tokens, str):
            found = self.backend.token_to_id(tokens)
            return self.special_id("unk_token") if found is None else found
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> Any:
        """An id or several -> their tokens, None for an id outside the vocabulary."""
        if isinstance(ids, (int, np.integer)):
            return self.backend.id_to_token(int(ids))
        return [self.convert_ids_to_tokens(one) for one in ids]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes make a lock of their own."""
        return Tokenizer, (self.backend, {**self.config, "model_max_length": self.model_max_length})

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens are put around a text or pair."""
        return int(self.backend.num_special_tokens_to_add(pair))

    def _check_room(self, texts: Sequence[Text], max_length: int | None) -> None:
        """tokenizers does not cut at all where the special tokens alone are more than the limit."""
        special = self.num_special_tokens_to_add(pair=any(not isinstance(text, str) for text in texts))
        if max_length is not None and max_length < special:
            raise InputError(
                f"max_length={max_length} is less than the {special} special tokens of a text. Allow for more."
            )

    def _tokens(self, one: tokenizers.Encoding) -> Tokens:
        token_type_ids = np.array(one.type_ids, np.int32) if self.returns_token_type_ids else None
        return Tokens(np.array(one.ids, np.int32), token_type_ids, bool(one.overflowing))

    def _truncate(self, max_length: int | None, strategy: str) -> None:
        wanted = None if max_length is None else (max_length, strategy)
        if wanted == self._limit:
            return
        if wanted is None:
            self.backend.no_truncation()
        else:
            self.backend.enable_truncation(wanted[0], strategy=strategy, direction=self.truncation_side)
        self._limit = wanted


def _not_unicode(texts: Sequence[Text]) -> str:
    """What is wrong with the first text that holds half of a surrogate pair, or is no text at all."""
    for index, text in enumerate(texts):
        try:
            for part in (text,) if isinstance(text, str) else text:
                part.encode("utf-8")
        except (UnicodeEncodeError, AttributeError) as error:
            return (
                f"text {index} is {text!r:.80}, which is not a text in Unicode ({error}). Decode it with "
                "errors='replace', or leave it out."
            )
    return "the texts are not what tokenizers takes, expected strings or pairs of strings. Check their types."
