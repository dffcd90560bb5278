"""A caller's attention mask, checked and turned into what a TokenBatch holds.

Reference: transformers/masking_utils.py. Most of its models take any nonzero number of a (B, L) mask for "token", and
use a mask with 4 axes as it is: booleans as flags, floats as numbers that are added to the scores.

Axes: B texts, L tokens, H heads.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.layers.global_attention import GLOBAL_ATTENTION_MASK
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pretrained.arrays import to_array
from mlx_hf_bridge.tracing.model import TracedModel

# Model types whose code in transformers computes with the mask's numbers: it takes only 0 and 1, of shape (B, L).
COMPUTES_WITH_MASK = frozenset(
    ("canine", "deberta", "deberta-v2", "esm", "flaubert", "funnel", "layoutlm", "led", "longformer", "longt5", "xlm")
)
# Model types that transformers computes without torch's fused attention, so that every mask is added to the scores: a
# boolean one would add 1, and a row without tokens sees all keys alike. Fused attention returns zeros for such rows.
_BERT_KIN = ("align_text_model", "big_bird", "convbert", "flava_text_model", "layoutlm", "megatron-bert", "rembert")
_OTHERS = ("clap_text_model", "flaubert", "ibert", "luke", "mpnet", "roformer", "splinter", "squeezebert", "xlm")
ADDS_MASK = frozenset((*_BERT_KIN, *_OTHERS, "canine", "markuplm", "mt5", "mvp", "tapas", "t5", "t5gemma", "umt5"))
# Model types in which a row without tokens needs no care: padded positions are computed from zeros.
_ZEROES_PADDING = ("deberta", "deberta-v2", "led", "longformer")


@dataclass(frozen=True)
class CheckedMask:
    """An attention mask in the form that the model takes.

    Attributes:
        flags: True for tokens, (B, L), bool; None if the caller's mask has 4 axes.
        bias: What is added to the scores, (1 or B, 1 or H, 1 or L, L), float32; None where `flags` say all.
        is_global: True for tokens that the mask gives global attention, (B, L); None if there are none.
    """

    flags: np.ndarray | None = None
    bias: mx.array | None = None
    is_global: np.ndarray | None = None


def check_attention_mask(array: np.ndarray, shape: tuple[int, ...], loaded: LoadedModel) -> CheckedMask:
    """Check an attention mask against the ids and the model.

    Args:
        array: The caller's mask.
        shape: The shape of the ids, (B, L).
        loaded: The model.

    Returns:
        The mask.

    Raises:
        InputError: If its shape or values are not what the model takes.
    """
    if array.ndim == len(shape) + 2:
        return CheckedMask(bias=mx.array(_bias(array, shape, loaded)))
    if array.ndim == len(shape) + 1:
        raise InputError(
            f"attention_mask has the shape {array.shape}, expected {shape}, or 4 axes (texts, 1 or heads, tokens, "
            "tokens). For a mask of every pair of tokens, insert an axis: attention_mask[:, None]."
        )
    if array.shape not in (shape, (1, *shape[1:])):
        raise InputError(f"attention_mask has the shape {array.shape}, expected that of input_ids, {shape}.")
    array = np.broadcast_to(array, shape)
    _check_values(array, loaded)
    flags = array.astype(bool)
    marks = GLOBAL_ATTENTION_MASK in loaded.config.extra_inputs and bool((array > 1).any())
    return CheckedMask(flags, _bias_of_empty_rows(flags, loaded), array > 1 if marks else None)


def mask_numbers(given: Any) -> np.ndarray:
    """Convert an attention mask to numpy.

    Args:
        given: An array of any library, or nested lists.

    Returns:
        An array of numbers or booleans, of any shape.

    Raises:
        InputError: If nested lists have rows of different lengths.
        ArgumentTypeError: If it does not consist of numbers.
    """
    array = to_array("attention_mask", given)
    if array.dtype.kind not in "biuf":
        raise ArgumentTypeError(
            f"attention_mask has the dtype {array.dtype}, expected numbers or booleans. Pass 1 for tokens and 0 for "
            "padding."
        )
    return array


def _check_values(array: np.ndarray, loaded: LoadedModel) -> None:
    """Raise InputError for values that the model would compute with, other than 0, 1 and Longformer's 2."""
    allowed = (0, 1, 2) if GLOBAL_ATTENTION_MASK in loaded.config.extra_inputs else (0, 1)
    computes = loaded.family.model_type in COMPUTES_WITH_MASK or isinstance(loaded.model, TracedModel)
    if array.dtype != bool and computes and not np.isin(array, allowed).all():
        raise InputError(
            f"attention_mask has values from {array.min()} to {array.max()}, expected {allowed}: 1 for tokens and 0 "
            f"for padding. {loaded.family.model_type!r} would compute with other values."
        )
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError("attention_mask contains NaN, expected 1 for tokens and 0 for padding.")


def _bias(array: np.ndarray, shape: tuple[int, ...], loaded: LoadedModel) -> np.ndarray:
    """Return a mask with 4 axes as numbers to add; where flags forbid a key, -inf."""
    model_type, length = loaded.family.model_type, shape[-1]
    heads = getattr(loaded.config, "num_attention_heads", 1)
    allowed = ((1, shape[0]), (1, heads), (1, length), (length,))
    if any(size not in sizes for size, sizes in zip(array.shape, allowed, strict=True)):
        raise InputError(
            f"attention_mask has the shape {array.shape}, expected (texts or 1, heads or 1, tokens or 1, tokens), here "
            f"({shape[0]}, {heads}, {length}, {length}) at most."
        )
    if model_type in COMPUTES_WITH_MASK or isinstance(loaded.model, TracedModel):
        raise InputError(
            f"attention_mask has 4 axes, and {model_type!r} takes only (texts, tokens), also in transformers. Pass 1 "
            "for tokens and 0 for padding."
        )
    if array.dtype == bool and model_type not in ADDS_MASK:
        return np.where(array, np.float32(0), np.float32(-np.inf))
    if array.dtype.kind != "f":
        raise InputError(
            f"attention_mask has 4 axes and the dtype {array.dtype}, and {model_type!r} adds it to the scores. Pass "
            "floats: 0.0 for visible keys, and numpy.finfo(numpy.float32).min for others."
        )
    return array.astype(np.float32)


def _bias_of_empty_rows(flags: np.ndarray, loaded: LoadedModel) -> mx.array | None:
    """Return a bias for a batch in which a text has no token at all; None for any other batch."""
    if isinstance(loaded.model, TracedModel) or flags.any(axis=1).all():
        return None
    if loaded.family.model_type in _ZEROES_PADDING:
        return None
    hidden = np.finfo(np.float32).min if loaded.family.model_type in ADDS_MASK else -np.inf
    return mx.array(np.where(flags, np.float32(0), np.float32(hidden))[:, None, None])
