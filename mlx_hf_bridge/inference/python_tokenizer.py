"""Tokenizers that transformers has in Python only, behind the methods of tokenizers.Tokenizer that are called here.

Their ids are those of transformers, whose code runs; they are slower, and know no places of tokens in a text.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PythonEncoding:
    """The tokens of one text, as tokenizers.Encoding has them.

    Attributes:
        ids: Token ids.
        type_ids: Token type ids.
        special_tokens_mask: 1 for special tokens, 0 for others.
        overflowing: Whether the text was truncated.
    """

    ids: list[int]
    type_ids: list[int]
    special_tokens_mask: list[int]
    overflowing: bool = False


class PythonBackend:
    """The part of tokenizers.Tokenizer that Tokenizer uses, computed by a tokenizer of transformers.

    Args:
        python: The tokenizer of transformers; one that is not fast.
    """

    truncation = None
    normalizer = None

    def __init__(self, python: Any) -> None:
        self.python = python
        self._truncating: dict[str, Any] = {}

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(self.python.get_vocab())

    def enable_truncation(self, max_length: int, strategy: str = "longest_first", direction: str = "right") -> None:
        """Truncate texts from now on.

        Args:
            max_length: Most tokens of a text, special tokens included.
            strategy: "longest_first", "only_first" or "only_second". Default: "longest_first".
            direction: The side that tokens are removed from, "left" or "right". Default: "right".
        """
        self.python.truncation_side = direction
        self._truncating = {"max_length": max_length, "truncation": strategy}

    def no_truncation(self) -> None:
        """Truncate no texts from now on."""
        self._truncating = {}

    def no_padding(self) -> None:
        """Do nothing: texts are never padded here."""

    def encode(self, sequence: str, pair: str | None = None, add_special_tokens: bool = True) -> PythonEncoding:
        """Tokenize a text or a pair of texts.

        Args:
            sequence: The text.
            pair: The second text. Default: None.
            add_special_tokens: Whether special tokens are added. Default: True.

        Returns:
            The tokens.

        Raises:
            ValueError: If the text cannot be truncated in the way that was asked for.
        """
        found = self._call(sequence, pair, add_special_tokens, truncation=False)
        longest = self._truncating.get("max_length", len(found["input_ids"]))
        overflows = len(found["input_ids"]) > longest
        if overflows:
            found = self._call(sequence, pair, add_special_tokens, **self._truncating)
            if len(found["input_ids"]) > longest:
                raise ValueError("Truncation error: the text that may be truncated is too short")
        special = set(self.python.all_special_ids)
        ids = list(found["input_ids"])
        return PythonEncoding(ids, list(found["token_type_ids"]), [int(one in special) for one in ids], overflows)

    def _call(self, text: str, pair: str | None, add_special_tokens: bool, **truncating: Any) -> Any:
        return self.python(
            text,
            pair,
            add_special_tokens=add_special_tokens,
            return_token_type_ids=True,
            return_attention_mask=False,
            verbose=False,
            **truncating,
        )

    def encode_batch_fast(
        self, texts: Sequence[str | tuple[str, str]], add_special_tokens: bool = True
    ) -> list[PythonEncoding]:
        """Tokenize texts or pairs of texts.

        Args:
            texts: The texts.
            add_special_tokens: Whether special tokens are added. Default: True.

        Returns:
            The tokens of each.
        """
        pairs = [(one, None) if isinstance(one, str) else one for one in texts]
        return [self.encode(text, other, add_special_tokens) for text, other in pairs]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of token ids.

        Args:
            ids: The ids.
            skip_special_tokens: Whether special tokens are left out. Default: True.

        Returns:
            The text.
        """
        return str(self.python.decode(ids, skip_special_tokens=skip_special_tokens))

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token.

        Args:
            token: The token.

        Returns:
            The id; None for a token outside the vocabulary.
        """
        return self._vocabulary.get(token)

    def id_to_token(self, id: int) -> str | None:
        """Return the token of an id.

        Args:
            id: The id.

        Returns:
            The token; None for an id outside the vocabulary.
        """
        return str(self.python.convert_ids_to_tokens(id)) if 0 <= id < self.get_vocab_size() else None

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Return the vocabulary.

        Args:
            with_added_tokens: Whether added tokens are part of it. Default: True.

        Returns:
            Ids by token.
        """
        added = {} if with_added_tokens else self.python.added_tokens_encoder
        return {token: id for token, id in self._vocabulary.items() if token not in added}

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Return the number of tokens.

        Args:
            with_added_tokens: Whether added tokens count. Default: True.

        Returns:
            The number.
        """
        return len(self.python) if with_added_tokens else int(self.python.vocab_size)

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        """Return the added tokens.

        Returns:
            Tokens by id.
        """
        return dict(self.python.added_tokens_decoder)

    def num_special_tokens_to_add(self, is_pair: bool) -> int:
        """Return the number of special tokens that are added to a text.

        Args:
            is_pair: Whether to count those of a pair.

        Returns:
            The number.
        """
        return int(self.python.num_special_tokens_to_add(is_pair))

    def save(self, path: str) -> None:
        """Copy the vocabulary's own files; some classes write them incompletely.

        Args:
            path: The path of a tokenizer.json, next to which they are copied.
        """
        source, target = Path(self.python.name_or_path), Path(path).parent
        for name in self.python.vocab_files_names.values():
            if (source / name).is_file() and source.resolve() != target.resolve():
                shutil.copyfile(source / name, target / name)
