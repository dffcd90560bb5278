"""Converts results to numpy, torch or MLX, and splits batches into one result for each text.

B texts, L tokens, D hidden size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.modules.base import TOKEN_EMBEDDINGS, Features


def require_torch(argument: str) -> Any:
    """Return the torch package.

    Args:
        argument: The argument that needs torch, for the error message.

    Returns:
        The module torch.

    Raises:
        BackendError: If torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendError(
            f"{argument} returns torch tensors, but torch is not installed. pip install torch, or leave it out."
        ) from error
    return torch


def stack_rows(rows: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return rows of one width as an array.

    Args:
        rows: Arrays of one shape, or an array of all of them, which is returned as it is.

    Returns:
        The rows, stacked on a new first axis.
    """
    return rows if isinstance(rows, np.ndarray) else np.stack(rows)


def convert_embeddings(rows: Sequence[np.ndarray] | np.ndarray, convert_to_numpy: bool, convert_to_tensor: bool) -> Any:
    """Return rows of one width in the format that encode or predict was asked for.

    Args:
        rows: Arrays of one shape, or an array of all of them.
        convert_to_numpy: Return a numpy array.
        convert_to_tensor: Return a torch tensor; takes precedence.

    Returns:
        An array or a tensor of all rows, or a list of MLX arrays without either format.
    """
    if convert_to_tensor:
        torch = require_torch("convert_to_tensor=True")
        return torch.from_numpy(stack_rows(rows)) if len(rows) else torch.tensor([])
    if convert_to_numpy:
        return stack_rows(rows) if len(rows) else np.array([])
    return [mx.array(row) for row in rows]


def to_mlx(value: Any) -> Any:
    """Return numpy arrays as MLX arrays, also inside of lists and dicts.

    Args:
        value: An array, a list or a dict; anything else is returned as it is.

    Returns:
        The same structure with MLX arrays.
    """
    if isinstance(value, np.ndarray):
        return mx.array(value)
    if isinstance(value, Mapping):
        return {name: to_mlx(inner) for name, inner in value.items()}
    return [to_mlx(inner) for inner in value] if isinstance(value, list) else value


def to_numpy(value: Any) -> np.ndarray:
    """Return an array of any library as a numpy array.

    Args:
        value: A numpy, MLX or torch array, or nested lists of numbers.

    Returns:
        A numpy array; float tensors of torch become float32.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # .float(), since numpy has no bfloat16.
        return np.asarray(value.float().numpy() if value.is_floating_point() else value.numpy())
    return np.asarray(value)


def tokens_and_mask(features: Features) -> tuple[mx.array, mx.array]:
    """Return the token embeddings of a batch, and its mask.

    Args:
        features: The features of a batch, after all modules.

    Returns:
        Token embeddings (B, L, D) in float32, and the mask (B, L), True for the tokens that count.
    """
    return features[TOKEN_EMBEDDINGS].astype(mx.float32), features.mask


def trim_padding(result: tuple[mx.array, mx.array]) -> list[np.ndarray]:
    """Return each text's token embeddings up to the last token that counts.

    Args:
        result: Token embeddings (B, L, D), and their mask (B, L).

    Returns:
        B arrays (tokens, D); of a text without any token that counts the first token.
    """
    tokens, mask = np.array(result[0]), np.array(result[1])
    # The last True, found from the right; a text without tokens keeps one row, as in sentence-transformers.
    ends = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 1)
    # Copies, so that one kept row does not keep the whole batch in memory.
    return [row[:end].copy() for row, end in zip(tokens, ends, strict=True)]


def select_unmasked(result: tuple[mx.array, mx.array]) -> list[np.ndarray]:
    """Return each text's embeddings of the tokens that count.

    Args:
        result: Token embeddings (B, L, D), and their mask (B, L).

    Returns:
        B arrays (tokens, D).
    """
    tokens, mask = np.array(result[0]), np.array(result[1])
    return [row[seen] for row, seen in zip(tokens, mask, strict=True)]


def all_outputs(features: Features) -> dict[str, mx.array]:
    """Return all arrays of a batch by the names that sentence-transformers gives them.

    Args:
        features: The features of a batch.

    Returns:
        "input_ids" and "attention_mask" (B, L), "token_type_ids" (B, L) if the tokenizer has them, and the outputs of
        the modules, such as "token_embeddings" (B, L, D), in float32.
    """
    batch = features.batch
    named = {"input_ids": batch.ids, "attention_mask": features.mask.astype(mx.int32)}
    if features.has_token_type_ids:
        named["token_type_ids"] = mx.zeros_like(batch.ids) if batch.token_type_ids is None else batch.token_type_ids
    arrays = {name: array.astype(mx.float32) for name, array in features.arrays.items()}
    return named | arrays


def split_outputs(result: Mapping[str, mx.array]) -> list[dict[str, Any]]:
    """Split a dict of arrays into one dict for each text.

    Args:
        result: Arrays with a row for each text, by name.

    Returns:
        B dicts of numpy arrays, each also with "modality".
    """
    arrays = {name: np.array(array) for name, array in result.items()}
    count = len(next(iter(arrays.values())))
    return [{name: array[row].copy() for name, array in arrays.items()} | {"modality": "text"} for row in range(count)]


def features_to_numpy(make: Callable[[], Features]) -> dict[str, Any]:
    """Return the features of a batch in numpy, by the names that transformers gives them.

    Args:
        make: A function that builds the features; it runs where MLX computes.

    Returns:
        Arrays by name, with "modality", and with "prompt_length" if there is a prompt.
    """
    lengths: list[int] = []

    def work() -> dict[str, Any]:
        features = make()
        # Through a list, because what `run` returns here are the arrays.
        lengths.append(features.prompt_length)
        return all_outputs(features)

    arrays: dict[str, Any] = {name: np.array(array) for name, array in run(work).items()}
    return arrays | {"modality": "text"} | ({"prompt_length": lengths[0]} if lengths[0] else {})
