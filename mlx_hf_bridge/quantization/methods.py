"""The rounding methods, and the calibration texts that some of them read."""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from mlx_hf_bridge.errors import QuantizationError

# auto: the best that the model's size allows without texts of the user (conversion/method_choice.py).
# minmax: mx.quantize's own. least_squares: least squared error of the weights. gptq: least error of the linear layers'
# outputs for the inputs that texts give; data_free: for those of random words of the vocabulary. distill: gptq, then
# scales, biases and norms trained on the float model's outputs.
AUTO = "auto"
METHODS = (AUTO, "minmax", "least_squares", "data_free", "gptq", "distill")
READS_TEXTS = ("gptq", "distill")
RUNS_MODEL = ("data_free", *READS_TEXTS)
MIN_TEXTS = 16
# 16 hexadecimal digits are 64 bits: chance does not make two sets of texts equal.
_DIGEST_LETTERS = 16


def check_method(method: Any, mode: str) -> str:
    """Return the method; raise QuantizationError for one that is unknown, or that the mode has no scales for."""
    if method not in METHODS:
        raise QuantizationError(f"method={method!r} is not known; use one of {', '.join(METHODS)}.")
    if method != "minmax" and mode != "affine":
        raise QuantizationError(
            f"method={method!r} finds affine scales and biases, and mode={mode!r} has none. Use mode='affine', or "
            "method='minmax'."
        )
    return str(method)


def check_texts(texts: Any, method: str) -> tuple[str, ...] | None:
    """Return the user's calibration texts without blank ones; None for the bundled ones.

    Args:
        texts: A list of strings, or None.
        method: The method that is to read them.

    Raises:
        QuantizationError: If it is no list of strings, has too few, or the method reads no texts.
    """
    if texts is None:
        return None
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise QuantizationError(f"calibration_texts is {texts!r:.80}, expected a list of texts.")
    # Blank texts have special tokens only.
    kept = tuple(text for text in texts if text.strip())
    if len(kept) < MIN_TEXTS:
        raise QuantizationError(
            f"calibration_texts has {len(kept)} texts that are not blank, expected {MIN_TEXTS} or more, better some "
            "hundreds like those that the model will see. Leave it out for the bundled ones."
        )
    if method not in READS_TEXTS:
        raise QuantizationError(
            f"calibration_texts were given, and method={method!r} reads none. Use method='gptq' or 'distill', or leave "
            "them out."
        )
    return kept


@cache
def bundled_texts() -> tuple[str, ...]:
    """Return the calibration texts that come with the package: short and long, of many kinds."""
    file = resources.files("mlx_hf_bridge.quantization").joinpath("calibration_texts.txt")
    return tuple(line for line in file.read_text(encoding="utf-8").splitlines() if line)


def text_digest(texts: Sequence[str]) -> str:
    """Return a hash of these texts in this order."""
    # A separator that texts do not contain: ["ab", "c"] and ["a", "bc"] must differ.
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:_DIGEST_LETTERS]
