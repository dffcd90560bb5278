"""Tests of local attention in blocks against full attention with a window mask, and of rotary against transformers."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb

from mlx_hf_bridge.layers.attention import attend
from mlx_hf_bridge.layers.local_attention import attend_locally, local_mask
from mlx_hf_bridge.layers.rotary import Rotary
from mlx_hf_bridge.layers.token_batch import TokenBatch

# float32 rounding for standard normal inputs and another order of summation.
ABSOLUTE = 5e-6
# float32 values near 8,000 are 5e-4 apart, so sines of such angles in radians are no more accurate than that.
LONG = 1e-3


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("window", [0, 1, 3, 8])
@pytest.mark.parametrize("length", [1, 2, 7, 12, 29, 64])
def test_blocks_answer_as_the_square(length: int, window: int, masked: bool) -> None:
    parts = [mx.random.normal((2, 3, length, 4)) for _ in range(3)]
    mask = (mx.arange(length)[None] < mx.array([[length], [length // 2]]))[:, None, None] if masked else None
    actual = attend_locally(*parts, 0.5, mask, window)
    expected = attend(*parts, 0.5, local_mask(length, window, mask), None)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(np.array(actual), np.array(expected), rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("seen", [[], [0], [30], [0, 30]])
def test_no_padding_makes_a_local_row_nan(seen: list[int], dtype: mx.Dtype) -> None:
    """A query whose window holds only padding attends to itself."""
    parts = [mx.random.normal((1, 2, 31, 8)).astype(dtype) for _ in range(3)]
    mask = mx.array([[place in seen for place in range(31)]])[:, None, None]
    for mixed in (attend_locally(*parts, 0.5, mask, 2), attend(*parts, 0.5, local_mask(31, 2, mask), None)):
        assert mixed.dtype == dtype
        assert mx.isfinite(mixed).all()


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize("length", [17, 8000])
def test_counted_and_given_places_turn_as_in_transformers(length: int, dtype: mx.Dtype) -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, length, 8)).astype(np.float32)
    angles = torch.arange(length)[:, None] / 10_000.0 ** (torch.arange(0, 8, 2) / 8)
    angles = torch.cat([angles, angles], dim=-1)[None]
    expected, _ = apply_rotary_pos_emb(torch.tensor(x), torch.tensor(x), angles.cos(), angles.sin())
    ids, places = mx.zeros((1, length), mx.int32), mx.arange(length, dtype=mx.int32)[None]
    for batch in (TokenBatch(ids), TokenBatch(ids, position_ids=places)):
        [turn] = Rotary(8, 10_000.0)(batch)
        actual = turn(mx.array(x).astype(dtype))
        assert actual.dtype == dtype
        allowed = 5e-3 if dtype == mx.float16 else ABSOLUTE if length == 17 else LONG
        np.testing.assert_allclose(np.array(actual.astype(mx.float32)), expected.numpy(), rtol=0, atol=allowed)
