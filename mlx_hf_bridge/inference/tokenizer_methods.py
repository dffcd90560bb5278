"""The methods of transformers' tokenizers that programs call on a model's tokenizer: a call, decode, the vocabulary."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.runtime.atomic_folder import replacing_files
from mlx_hf_bridge.runtime.boundary import PublicAPI

_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_ROOM = {"longest": None, True: None, "max_length": "max_length"}


class TokenizerMethods(PublicAPI):
    """Methods of transformers' tokenizers; a Tokenizer gives them its backend and settings.

    Attributes:
        padding_side: Always "right".
    """

    backend: Any
    config: dict[str, Any]
    pad_token_id: int
    returns_token_type_ids: bool
    padding_side = "right"

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool = True,
    ) -> dict[str, Any]:
        """Tokenize texts, as calling a tokenizer of transformers does.

        Args:
            text: A text, or a list of texts or of pairs of texts.
            text_pair: The second text, or a list of them. Default: None.
            add_special_tokens: Whether special tokens are added. Default: True.
            padding: True or "longest" pads to the longest text, "max_length" to `max_length`. Default: False.
            truncation: True or a strategy of tokenizers truncates to `max_length`, else to the model's. Default: False.
            max_length: The most tokens of a text. Default: None.
            return_tensors: "np" or "pt" for arrays of that library. Default: None, lists.
            return_token_type_ids: Whether to return them. Default: None, if the tokenizer has them.
            return_attention_mask: Whether to return the mask. Default: True.

        Returns:
            "input_ids", "token_type_ids" and "attention_mask" by name: of one text a list (L,), of several a list of
            lists, or arrays (B, L).

        Raises:
            InputError: If texts are of other types, or arrays are asked for of texts of different lengths.
        """
        is_single = isinstance(text, str)
        texts = [text] if is_single else list(text)
        if text_pair is not None:
            pairs = [text_pair] if isinstance(text_pair, str) else list(text_pair)
            texts = list(zip(texts, pairs, strict=True))
        limit = (max_length or getattr(self, "model_max_length", None)) if truncation not in (False, None) else None
        strategy = truncation if isinstance(truncation, str) else "longest_first"
        encode: Any = self.encode
        found = encode(
            [one if isinstance(one, str) else tuple(one) for one in texts], limit, strategy, add_special_tokens
        )
        rows = {"input_ids": [one.ids.tolist() for one in found]}
        if self.returns_token_type_ids if return_token_type_ids is None else return_token_type_ids:
            rows["token_type_ids"] = [
                [0] * len(one) if one.token_type_ids is None else one.token_type_ids.tolist() for one in found
            ]
        rows["attention_mask"] = [[1] * len(one) for one in found]
        if padding not in (False, None, "do_not_pad"):
            self._pad(rows, padding, max_length)
        if not return_attention_mask:
            del rows["attention_mask"]
        if return_tensors is None:
            return {name: values[0] if is_single else values for name, values in rows.items()}
        return {name: _as_array(values, return_tensors) for name, values in rows.items()}

    def _pad(self, rows: dict[str, list[list[int]]], padding: Any, max_length: int | None) -> None:
        if padding not in _ROOM or (padding == "max_length" and max_length is None):
            raise InputError(
                f"padding={padding!r}, max_length={max_length!r}; use True, or 'max_length' with a length."
            )
        longest = max((len(row) for row in rows["input_ids"]), default=0)
        width = max_length if padding == "max_length" and max_length else longest
        for name, values in rows.items():
            fill = self.pad_token_id if name == "input_ids" else 0
            rows[name] = [row + [fill] * (width - len(row)) for row in values]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Return the tokens of a text.

        Args:
            text: The text.
            pair: A second text. Default: None.
            add_special_tokens: Whether special tokens are added. Default: False.

        Returns:
            The tokens as texts.
        """
        ids = self(text, pair, add_special_tokens=add_special_tokens)["input_ids"]
        return [str(self.backend.id_to_token(one)) for one in ids]

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids.

        Args:
            token_ids: One id, or a sequence or array of ids.
            skip_special_tokens: Whether special tokens are left out. Default: False.

        Returns:
            The text.
        """
        ids = np.atleast_1d(np.asarray(token_ids)).tolist()
        return str(self.backend.decode(ids, skip_special_tokens=skip_special_tokens))

    def batch_decode(self, sequences: Sequence[Any], skip_special_tokens: bool = False) -> list[str]:
        """Return the texts of several sequences of token ids.

        Args:
            sequences: The sequences.
            skip_special_tokens: Whether special tokens are left out. Default: False.

        Returns:
            The texts.
        """
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Write the tokenizer's files into a folder, all of them or none.

        Args:
            save_directory: The folder; created if needed.

        Returns:
            The paths of the files.

        Raises:
            RepositoryError: If the folder cannot be written.
        """
        save: Any = self.save
        with replacing_files(Path(save_directory)) as new:
            save(new)
            names = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
        return tuple(str(Path(save_directory) / name) for name in names)

    @property
    def vocab_size(self) -> int:
        """The number of tokens, without added ones; `len()` counts those too."""
        return int(self.backend.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        return int(self.backend.get_vocab_size())

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Return the vocabulary.

        Returns:
            Ids by token, added ones included.
        """
        return dict(self.backend.get_vocab())

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens that tokenizer_config.json names, such as [CLS]."""
        names = [getattr(self, f"{name}_token") for name in _SPECIAL]
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens by name, such as "eos_token"; those that the tokenizer does not have are left out."""
        named = {f"{name}_token": getattr(self, f"{name}_token") for name in _SPECIAL}
        return {name: token for name, token in named.items() if token is not None}

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        ids = [self.backend.token_to_id(token) for token in self.all_special_tokens]
        return [one for one in ids if one is not None]

    def __getattr__(self, name: str) -> Any:
        """Return cls_token, cls_token_id and the like; None for a token that the tokenizer does not have."""
        kind, _, rest = name.partition("_")
        if kind not in _SPECIAL or rest not in ("token", "token_id"):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}. For all methods of transformers use "
                "transformers.AutoTokenizer.from_pretrained(model.folder)."
            )
        token = self.config.get(f"{kind}_token")
        content = token.get("content") if isinstance(token, dict) else token
        return content if rest == "token" or content is None else self.backend.token_to_id(content)


def _as_array(values: list[list[int]], library: str) -> Any:
    if len({len(row) for row in values}) > 1:
        raise InputError(f"return_tensors={library!r} needs texts of one length. Pass padding=True.")
    array = np.array(values, np.int64)
    if library == "np":
        return array
    if library != "pt":
        raise ArgumentTypeError(f"return_tensors={library!r}, expected 'np', 'pt' or None.")
    import torch

    return torch.from_numpy(array)
