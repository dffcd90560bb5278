"""Rotary positions (Su et al., arXiv 2104.09864): queries and keys are turned by angles that grow with their places.

B texts, L tokens, D hidden, H heads, K width of a head, P pairs of its coordinates (K / 2).
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.linear import Embedding
from mlx_hf_bridge.layers.token_batch import TokenBatch


@dataclass(frozen=True)
class Rotation:
    """x (B, H, L, K) -> the same, turned: by counted places with `periods` (P,), or by `cos` and `sin` (B, 1, L, P).

    The pairs are coordinates P apart; `interleaved`, neighbours.
    """

    periods: mx.array | None = None
    cos: mx.array | None = None
    sin: mx.array | None = None
    interleaved: bool = False

    def __call__(self, x: mx.array) -> mx.array:
        if self.cos is None or self.sin is None:
            return mx.fast.rope(
                x, x.shape[-1], traditional=self.interleaved, base=None, scale=1.0, offset=0, freqs=self.periods
            )
        one, two = (x[..., 0::2], x[..., 1::2]) if self.interleaved else mx.split(x, 2, axis=-1)
        turned = [one * self.cos - two * self.sin, one * self.sin + two * self.cos]
        joined = mx.stack(turned, axis=-1).reshape(x.shape) if self.interleaved else mx.concatenate(turned, axis=-1)
        return joined.astype(x.dtype)


def rotation_for(batch: TokenBatch, periods: mx.array) -> Rotation:
    """The turn of the batch's own places, or of counted ones; angles in float32, as transformers has them."""
    if batch.position_ids is None:
        return Rotation(periods)
    angles = batch.position_ids[:, None, :, None].astype(mx.float32) / periods  # (B, 1, L, P)
    return Rotation(cos=mx.cos(angles), sin=mx.sin(angles))


class Rotary(nn.Module):
    """batch -> a turn for each theta, the slowest pair's period being about 2 pi theta tokens."""

    def __init__(self, head_dim: int, *thetas: float) -> None:
        super().__init__()
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        self._periods = [mx.array(np.float32(theta) ** exponents) for theta in thetas]

    def __call__(self, batch: TokenBatch) -> list[Rotation]:
        return [rotation_for(batch, periods) for periods in self._periods]


class CheckpointRotary(nn.Module):
    """batch -> the turn of frequencies (P,) that the checkpoint holds."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.inv_freq = mx.ones((head_dim // 2,))

    def __call__(self, batch: TokenBatch) -> list[Rotation]:
        return [rotation_for(batch, 1 / self.inv_freq.astype(mx.float32))]


class RotaryTable(nn.Module):
    """batch -> the turn of sines and cosines (places, K) that the checkpoint holds, sines first; pairs are neighbours.

    Places are always counted (RoFormer's class takes none).
    """

    def __init__(self, places: int, head_dim: int) -> None:
        super().__init__()
        self.table = Embedding(places, head_dim)

    def __call__(self, batch: TokenBatch) -> list[Rotation]:
        counted = mx.arange(batch.ids.shape[1], dtype=mx.int32)
        sin, cos = mx.split(self.table(counted)[None, None], 2, axis=-1)  # (1, 1, L, P)
        return [Rotation(cos=cos, sin=sin, interleaved=True)]
