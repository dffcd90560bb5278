"""Rotary position embeddings: queries and keys are rotated by angles that grow with their positions.

Source: Su et al., "RoFormer", arXiv 2104.09864.

Axes: B texts, L tokens, H heads, K head width, P pairs of coordinates that are rotated together (K / 2).
"""

import functools
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.linear import Embedding
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.layers.trigonometry import cos, sin
from mlx_hf_bridge.runtime.device import SINES_ARE_INEXACT, fused

# Tables of cosines and sines that are kept: one for each base and power of two of lengths.
_TABLES = 16


@fused
def _sum_of_products(x: mx.array, cos: mx.array, swapped: mx.array, sin: mx.array) -> mx.array:
    """Return x * cos + swapped * sin, all of one shape, computed in float32 and rounded once."""
    return (x.astype(mx.float32) * cos + swapped.astype(mx.float32) * sin).astype(x.dtype)


@dataclass(frozen=True)
class Rotation:
    """A rotation of queries or keys, by consecutive positions or by given cosines and sines.

    Takes x (B, H, L, K) and returns it rotated, in the same shape and dtype.

    Args:
        periods: Period of each pair, (P,): rotate by positions 0, 1, 2, ...; None if `cos` and `sin` are given.
        cos: Cosines of the angles, (1 or B, 1, L, 1, P), or (1 or B, 1, L, P, 1) if interleaved.
        sin: Sines of the angles with the signs of the two rows of a rotation matrix, (1 or B, 1, L, 2, P), or
            (1 or B, 1, L, P, 2) if interleaved.
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
        pairs = x.reshape(*x.shape[:-1], *((-1, 2) if self.interleaved else (2, -1)))
        swapped = pairs[..., ::-1] if self.interleaved else pairs[..., ::-1, :]
        # Views of one shape, since a compiled function of any shape may have been recorded where nothing is broadcast.
        tables = (mx.broadcast_to(table, pairs.shape) for table in (self.cos, self.sin))
        return _sum_of_products(pairs, next(tables), swapped, next(tables)).reshape(x.shape)


def _rotation_by(cosines: mx.array, sines: mx.array, interleaved: bool) -> Rotation:
    """Return the rotation by cosines and sines of shape (1 or B, 1, L, P)."""
    axis = -1 if interleaved else -2
    signed = mx.stack([-sines, sines], axis=axis)
    return Rotation(cos=mx.expand_dims(cosines, axis), sin=signed, interleaved=interleaved)


def counted_rotation(periods: np.ndarray, length: int, interleaved: bool = False) -> Rotation:
    """Return the rotation for positions 0, 1, 2, ..., exact on every device.

    Args:
        periods: Period of each pair, (P,), float32.
        length: L.
        interleaved: Whether a pair is two neighboring coordinates.

    Returns:
        The rotation.
    """
    if not SINES_ARE_INEXACT:
        return Rotation(mx.array(periods), interleaved=interleaved)
    whole = _table(periods.tobytes(), 1 << (length - 1).bit_length(), interleaved)
    return Rotation(cos=whole[0][:, :, :length], sin=whole[1][:, :, :length], interleaved=interleaved)


@functools.lru_cache(_TABLES)
def _table(periods: bytes, length: int, interleaved: bool) -> tuple[mx.array, mx.array]:
    """Return cosines and signed sines of positions 0, 1, ... as a Rotation has them, computed by numpy."""
    # Angles in float32, as in transformers, whose rounding is part of the result; their functions in float64.
    frequencies = 1 / np.frombuffer(periods, np.float32)
    angles = (np.arange(length, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    cosines, sines = (function(angles).astype(np.float32)[None, None] for function in (np.cos, np.sin))
    axis = -1 if interleaved else -2
    return mx.array(np.expand_dims(cosines, axis)), mx.array(np.stack([-sines, sines], axis=axis))


def rotation_for(batch: TokenBatch, periods: np.ndarray | mx.array, interleaved: bool = False) -> Rotation:
    """Return the rotation for a batch's positions.

    Args:
        batch: The batch; its `position_ids` are used if there are any.
        periods: Period of each pair, (P,), float32; an mx.array if they are computed or weights.
        interleaved: Whether a pair is two neighboring coordinates.

    Returns:
        The rotation. Angles are computed in float32, as in transformers: half precision cannot tell large positions
        apart.
    """
    positions, length = batch.position_ids, batch.ids.shape[1]
    if positions is None:
        if isinstance(periods, np.ndarray):
            return counted_rotation(periods, length, interleaved)
        if not SINES_ARE_INEXACT:
            return Rotation(periods, interleaved=interleaved)
        positions = mx.arange(length)[None]
    # float32, since an angle grows with the position and half precision has no digits left for its remainder by 2 pi.
    frequencies = mx.array(1 / periods)
    angles = positions[:, None, :, None].astype(mx.float32) * frequencies  # (1 or B, 1, L, P)
    # A copy, which is not compiled into one kernel with what follows: the rounding of the angles must not be saved.
    angles = mx.contiguous(angles)
    return _rotation_by(cos(angles), sin(angles), interleaved)


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
        # float32 powers, as transformers computes them.
        self._periods = [(np.float32(theta) ** exponents * stretch).astype(np.float32) for theta in thetas]

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
        self._exponents = _exponents(head_dim)

    def __call__(self, batch: TokenBatch) -> list[Rotation]:
        given = batch.position_ids
        if given is None:
            beyond = max(batch.ids.shape[1] / self._trained - 1, 0)
            base = np.float32(self._theta * (1 + self._factor * beyond) ** self._power)
            return [rotation_for(batch, base**self._exponents)]
        longest = (given.max() + 1).astype(mx.float32)
        bases = self._theta * (1 + self._factor * mx.maximum(longest / self._trained - 1, 0)) ** self._power
        return [rotation_for(batch, bases ** mx.array(self._exponents))]


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
        sines, cosines = mx.split(self.table(positions)[None, None], 2, axis=-1)  # (1, 1, L, P)
        return [_rotation_by(cosines, sines, interleaved=True)]
