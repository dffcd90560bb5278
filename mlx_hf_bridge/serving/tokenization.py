"""Tokens of texts and texts of tokens, for clients that count or cut by themselves."""

from collections.abc import Sequence
from typing import Any

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.pipelines.tokenizer import tokenizer_lock
from mlx_hf_bridge.runtime.executor import hold
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.serving.tasks.classification import Classifier
from mlx_hf_bridge.serving.tasks.entities import EntityFinder


def tokenize(model: Any, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[dict[str, Any]]]:
    """Tokenize texts, without truncation.

    Args:
        model: What a server computes with.
        texts: The texts.
        add_special_tokens: Whether special tokens are added. Default: True.

    Returns:
        For each text its tokens: "id", "text", "special", and "start" and "stop" in the text, None for special ones.

    Raises:
        InputError: If the tokenizer does not give positions, or a text is not valid Unicode.
    """
    return [[_token(text, *one) for one in _encode(model, text, add_special_tokens)] for text in texts]


def decode(model: Any, ids: Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
    """Return the texts of token ids.

    Args:
        model: What a server computes with.
        ids: Token ids of several texts.
        skip_special_tokens: Whether special tokens are left out. Default: True.

    Returns:
        The texts.

    Raises:
        InputError: If an id is not in the vocabulary.
    """
    tokenizer = _tokenizer_of(model)
    backend = getattr(tokenizer, "backend_tokenizer", None) or tokenizer.backend
    size = backend.get_vocab_size()
    if any(not 0 <= one < size for row in ids for one in row):
        raise InputError(f"ids has a value outside of 0 to {size - 1}, the vocabulary of the model.")
    return [backend.decode(list(row), skip_special_tokens=skip_special_tokens) for row in ids]


def _tokenizer_of(model: Any) -> Any:
    if isinstance(model, MLXBaseModel):
        return model.tokenizer
    if isinstance(model, EntityFinder):
        return model.model.loaded.text.tokenizer
    return (model.labels if isinstance(model, Classifier) else model).tokenizer.tokenizer


def _encode(model: Any, text: str, special: bool) -> list[tuple[int, str, bool, tuple[int, int]]]:
    tokenizer = _tokenizer_of(model)
    if isinstance(model, (MLXBaseModel, EntityFinder)):
        encoding = tokenizer.encoding(text, special)
    else:
        with hold(tokenizer_lock):
            encodings = tokenizer(text, add_special_tokens=special).encodings
        encoding = encodings[0] if encodings else None
    if not hasattr(encoding, "offsets"):
        raise InputError("the tokenizer of this model does not say where tokens are in a text.")
    columns = (encoding.ids, encoding.tokens, map(bool, encoding.special_tokens_mask), encoding.offsets)
    return list(zip(*columns, strict=True))


def _token(text: str, number: int, token: str, special: bool, span: tuple[int, int]) -> dict[str, Any]:
    if special:
        return {"id": number, "text": token, "special": True, "start": None, "stop": None}
    return {"id": number, "text": text[slice(*span)], "special": False, "start": span[0], "stop": span[1]}
