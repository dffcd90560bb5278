"""How codes, scales and biases are found: from the weights alone, or with the help of calibration texts."""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from mlx_hf_bridge.errors import QuantizationError

# minmax: mx.quantize's own. least_squares: least squared error of the weights. gptq: of the products, for the inputs
# that texts give; data_free: for those of random words of the model's vocabulary. distill: gptq, then scales, biases
# and norms taught by the float model's answers.
METHODS = ("minmax", "least_squares", "data_free", "gptq", "distill")
READS_TEXTS = ("gptq", "distill")
RUNS_MODEL = ("data_free", *READS_TEXTS)
MIN_TEXTS = 16
_DIGEST_LETTERS = 16


def check_method(method: Any, mode: str) -> str:
    """QuantizationError for a method that is not known, or that the mode has no scales and biases for."""
    if method not in METHODS:
        raise QuantizationError(f"method={method!r} is not known; use one of {', '.join(METHODS)}.")
    if method != "minmax" and mode != "affine":
        raise QuantizationError(
            f"method={method!r} finds affine scales and biases, and mode={mode!r} has none. Use mode='affine', or "
            "method='minmax'."
        )
    return str(method)


def check_texts(texts: Any, method: str) -> tuple[str, ...] | None:
    """The user's calibration texts; None for the bundled ones. QuantizationError for what is not a list of texts."""
    if texts is None:
        return None
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise QuantizationError(f"calibration_texts is {texts!r:.80}, expected a list of texts.")
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
    """Neutral texts, short and long, of many kinds, that come with the package."""
    file = resources.files("mlx_hf_bridge.quantization").joinpath("calibration_texts.txt")
    return tuple(line for line in file.read_text(encoding="utf-8").splitlines() if line)


def text_digest(texts: Sequence[str]) -> str:
    """A name for these texts in this order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:_DIGEST_LETTERS]
