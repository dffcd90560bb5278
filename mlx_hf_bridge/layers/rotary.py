"""Rotary position embeddings: queries and keys are rotated by angles that grow with their positions.

Source: Su et al., "RoFormer", arXiv 2104.09864.

Axes: B texts, L tokens, H heads, K head width, P pairs of coordinates that are rotated together (K / 2).
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.linear import Embedding
from mlx_hf_bridge.layers.token_batch import TokenBatch


@dataclass(frozen=True)
class Rotation:
    """A rotation of queries or keys, by consecutive positions or by given cosines and sines.

    Takes x (B, H, L, K) and returns it rotated, in the same shape and dtype.

    Args:
        periods: Period of each pair, (P,): rotate by positions 0, 1, 2, ...; None if `cos` and `sin` are given.
        cos: Cosines of the angles, (1 or B, 1, L, P).
        sin: Sines of the angles, (1 or B, 1, L, P).
        interleaved: Whether a pair is two neighboring coordinates (2p, 2p + 1) instead of (p, p + P).
    """

    periods: mx.array | None = None
    cos: mx.array | None = None
    sin: mx.array | None = None
    interleaved: bool = False

    def __call__(self, x: mx.array) -> mx.array:
        if self.cos is None or self.sin is None:
            # One kernel for the usual case, positions 0, 1, ...; `freqs` are periods, the reciprocals of transformers'
            # inv_freq.
            return mx.fast.rope(
                x, x.shape[-1], traditional=self.interleaved, base=None, scale=1.0, offset=0, freqs=self.periods
            )
        one, two = (x[..., 0::2], x[..., 1::2]) if self.interleaved else mx.split(x, 2, axis=-1)
        rotated = [one * self.cos - two * self.sin, one * self.sin + two * self.cos]
        whole = mx.stack(rotated, axis=-1).reshape(x.shape) if self.interleaved else mx.concatenate(rotated, axis=-1)
        return whole.astype(x.dtype)


def rotation_for(batch: TokenBatch, periods: mx.array, interleaved: bool = False) -> Rotation:
    """Return the rotation for a batch's positions.

    Args:
        batch: The batch; its `position_ids` are used if there are any.
        periods: Period of each pair, (P,), float32.
        interleaved: Whether a pair is two neighboring coordinates.

    Returns:
        The rotation. Angles are computed in float32, as in transformers: half precision cannot tell large positions
        apart.
    """
    if batch.position_ids is None:
        return Rotation(periods, interleaved=interleaved)
    # float32, since an angle grows with the position and half precision has no digits left for its remainder by 2 pi.
    angles = batch.position_ids[:, None, :, None].astype(mx.float32) / periods  # (B, 1, L, P)
    return Rotation(cos=mx.cos(angles), sin=mx.sin(angles), interleaved=interleaved)


class Rotary(nn.Module):
    """Rotary positions with one rotation for each base, as ModernBERT and Gemma use two (local and global layers).

    Takes a TokenBatch and returns one Rotation per theta.

    Args:
        head_dim: K.
        thetas: Bases (`rope_theta`); the slowest pair turns once in about 2 pi theta tokens.
        stretch: Factor of the periods, one number or one for each pair, (P,); "linear" scaling of the positions.
        interleaved: Whether a pair is two neighboring coordinates (NeoBERT) instead of one in each half of the head.
    """

    def __init__(
        self, head_dim: int, *thetas: float, stretch: float | np.ndarray = 1.0, interleaved: bool = False
    ) -> None:
        super().__init__()
        self._interleaved = interleaved
        exponents = _exponents(head_dim)
        # From numpy: evaluated, hence usable from any thread. float32 powers, as transformers computes them.
        self._periods = [mx.array((np.float32(theta) ** exponents * stretch).astype(np.float32)) for theta in thetas]

    def __call__(self, batch: TokenBatch) -> list[Rotation]:
        return [rotation_for(batch, periods, self._interleaved) for periods in self._periods]


class DynamicRotary(nn.Module):
    """Rotary positions whose base grows with the batch's length beyond the trained one ("dynamic" NTK scaling).

    Takes a TokenBatch and returns one Rotation. Source: transformers/modeling_rope_utils.py, which keeps the base of
    the longest batch so far; here it depends on the batch alone.

    Args:
        head_dim: K, 4 or more.
        theta: The base up to the trained length.
        factor: How far the base grows.
        trained: Longest batch, in tokens, that is rotated with `theta`.
    """

    def __init__(self, head_dim: int, theta: float, factor: float, trained: int) -> None:
        super().__init__()
        self._theta, self._factor, self._trained = theta, factor, trained
        self._power = head_dim / (head_dim - 2)
        self._exponents = mx.array(_exponents(head_dim))

    def __call__(self, batch: TokenBatch) -> list[Rotation]:
        given = batch.position_ids
        length = mx.array(batch.ids.shape[1]) if given is None else given.max() + 1
        beyond = mx.maximum(length.astype(mx.float32) / self._trained - 1, 0)
        bases = self._theta * (1 + self._factor * beyond) ** self._power
        return [rotation_for(batch, bases**self._exponents)]


def _exponents(head_dim: int) -> np.ndarray:
    return np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)


class CheckpointRotary(nn.Module):
    """Rotary positions whose frequencies are a tensor of the checkpoint (`inv_freq`).

    Takes a TokenBatch and returns one Rotation.

    Args:
        head_dim: K.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.inv_freq = mx.ones((head_dim // 2,))

    def __call__(self, batch: TokenBatch) -> list[Rotation]:
        return [rotation_for(batch, 1 / self.inv_freq.astype(mx.float32))]


class RotaryTable(nn.Module):
    """Rotary positions whose sines and cosines are a table of the checkpoint (RoFormer), in interleaved pairs.

    Takes a TokenBatch and returns one Rotation. Positions are always counted, since RoFormer takes no `position_ids`.

    Args:
        positions: Rows of the table.
        head_dim: Width of the table, K: P sines, then P cosines.
    """

    def __init__(self, positions: int, head_dim: int) -> None:
        super().__init__()
        self.table = Embedding(positions, head_dim)

    def __call__(self, batch: TokenBatch) -> list[Rotation]:
        positions = mx.arange(batch.ids.shape[1], dtype=mx.int32)
        # RoFormer's table has the sines in its first half.
        sin, cos = mx.split(self.table(positions)[None, None], 2, axis=-1)  # (1, 1, L, P)
        return [Rotation(cos=cos, sin=sin, interleaved=True)]
