"""Encoders in plain NumPy, in float64, for model types that the installed transformers has no class for.

Written from papers and public descriptions, with arithmetic of their own: nothing of mlx_hf_bridge is used. Weights are
dicts of arrays under the names of the checkpoints.
"""

from collections.abc import Callable, Mapping
from math import erf
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]


def gelu(x: np.ndarray) -> np.ndarray:
    """Return x times the normal distribution's probability of at most x."""
    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def linear(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    product = x @ weights[f"{name}.weight"].astype(np.float64).T
    return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product


def layer_norm(weights: Weights, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    centered = x - x.mean(axis=-1, keepdims=True)
    scaled = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + eps)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def rms_norm(weights: Weights, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weights[f"{name}.weight"]


def rotate(x: np.ndarray, frequencies: np.ndarray, neighbors: bool = False) -> np.ndarray:
    """Turn pairs of coordinates of x (L, H, K) by position times frequency (P,), as complex numbers.

    Pairs are (p, p + P), or (2p, 2p + 1) for `neighbors`.
    """
    turns = np.exp(1j * np.arange(len(x))[:, None, None] * frequencies)
    pairs = x.shape[-1] // 2
    one, two = (x[..., 0::2], x[..., 1::2]) if neighbors else (x[..., :pairs], x[..., pairs:])
    turned = (one + 1j * two) * turns
    result = np.empty_like(x)
    if neighbors:
        result[..., 0::2], result[..., 1::2] = turned.real, turned.imag
    else:
        result[..., :pairs], result[..., pairs:] = turned.real, turned.imag
    return result


def attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return attention of (L, H, K) over all tokens, one head after another, as (L, H * K)."""
    heads = []
    for head in range(queries.shape[1]):
        scores = queries[:, head] @ keys[:, head].T / np.sqrt(queries.shape[-1])
        heads.append(softmax(scores) @ values[:, head])
    return np.concatenate(heads, axis=-1)


def batched(encode: Callable[..., np.ndarray], inputs: Mapping[str, np.ndarray], *given: Any) -> np.ndarray:
    """Encode each text of a right-padded batch by itself and return (B, L, D), 0 at padding."""
    rows = []
    for number, mask in enumerate(inputs["attention_mask"].astype(bool)):
        text = {name: array[number][mask] for name, array in inputs.items() if name != "attention_mask"}
        hidden = encode(text, *given)
        rows.append(np.concatenate([hidden, np.zeros((len(mask) - len(hidden), hidden.shape[1]))]))
    return np.stack(rows)


def random_weights(shapes: Mapping[str, tuple[int, ...]], std: float = 0.3, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.normal(0, std, shape).astype(np.float32) for name, shape in shapes.items()}
