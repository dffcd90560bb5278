"""Tests of the polynomial exponential, and of activations and attention built on it, against torch and MLX."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_hf_bridge.layers import attention
from mlx_hf_bridge.layers.activations import cpu_gelu
from mlx_hf_bridge.layers.attention import cpu_attention
from mlx_hf_bridge.layers.fast_math import exp2, exp2_nonpositive, sigmoid, tanh

# The approximations have errors below 5e-7 in float32; in half precision the rounding of the result dominates.
ROUNDING = {mx.float32: 1e-6, mx.float16: 4e-3, mx.bfloat16: 3e-2}
# Scores reach 30, which float32 represents to 2e-6, so the weights of both sides have relative errors of that size.
CLOSE = 1e-5
ALL = mx.concatenate([mx.linspace(-12, 12, 200_001), mx.array([0.0, -0.0, 1e-30, 90.0, -90.0, 1e4, -1e4])])


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    ("mlx_function", "torch_function"),
    [(cpu_gelu, torch.nn.functional.gelu), (sigmoid, torch.sigmoid), (tanh, torch.tanh)],
    ids=["gelu", "sigmoid", "tanh"],
)
def test_an_activation_by_powers_is_torchs(
    mlx_function: Callable[[mx.array], mx.array],
    torch_function: Callable[[torch.Tensor], torch.Tensor],
    dtype: mx.Dtype,
) -> None:
    x = ALL.astype(dtype)
    actual = mlx_function(x)
    assert actual.dtype == dtype
    expected = torch_function(torch.tensor(np.array(x.astype(mx.float32)), dtype=torch.float64)).numpy()
    np.testing.assert_allclose(
        np.array(actual.astype(mx.float32)), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype]
    )


def test_powers_of_two_are_numpys_between_their_bounds_and_stay_there_outside() -> None:
    x = np.linspace(-100, 100, 400_001, dtype=np.float32)
    np.testing.assert_allclose(np.array(exp2(mx.array(x))), np.exp2(x.astype(np.float64)), rtol=4e-7)
    below = x[x <= 0]
    np.testing.assert_array_equal(np.array(exp2_nonpositive(mx.array(below))), np.array(exp2(mx.array(below))))
    ends = exp2(mx.array([-mx.inf, -1e9, 0.0, 1e9, mx.inf])).tolist()
    assert ends == [2.0**-100, 2.0**-100, 1.0, 2.0**100, 2.0**100]


def random_parts(length: int, shared: int = 1) -> list[mx.array]:
    """Return random queries, keys and values, with key-value heads shared by `shared` query heads."""
    mx.random.seed(length)
    shapes = [(2, 4, length, 8), (2, 4 // shared, length, 8), (2, 4 // shared, length, 8)]
    return [mx.random.normal(shape) * 2 for shape in shapes]


def masks(length: int) -> dict[str, mx.array | None]:
    """Return attention masks by name: none, padding, causal, and both."""
    ragged = mx.arange(length)[None, None, None] < mx.array([length, max(1, length // 3)])[:, None, None, None]
    places = mx.arange(length)
    causal = (places[:, None] >= places[None])[None, None]
    return {
        "none": None,
        "ragged": ragged,
        "causal": causal,
        "both": mx.logical_or(causal & ragged, mx.eye(length) > 0),
    }


@pytest.mark.parametrize("kind", masks(1))
@pytest.mark.parametrize("length", [1, 2, 17, 40])
@pytest.mark.parametrize("shared", [1, 2])
def test_attention_by_powers_is_mlxs(kind: str, length: int, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare both a single block and blocks of 7 queries."""
    parts, mask = random_parts(length, shared), masks(length)[kind]
    expected = np.array(mx.fast.scaled_dot_product_attention(*parts, scale=0.3, mask=mask))
    for most in (2**23, 7 * 2 * 4 * length):
        monkeypatch.setattr(attention, "_MAX_BLOCK_SCORES", most)
        np.testing.assert_allclose(np.array(cpu_attention(*parts, 0.3, mask, None)), expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("kind", masks(1))
def test_attention_by_powers_adds_a_bias_and_floats_in_place_of_a_mask(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, mask = random_parts(19), masks(19)[kind]
    bias = mx.random.normal((1, 4, 19, 19)) * 3
    added = bias if mask is None else mx.where(mask, bias, -mx.inf)
    expected = np.array(mx.fast.scaled_dot_product_attention(*parts, scale=0.3, mask=added))
    for most in (2**23, 5 * 2 * 4 * 19):
        monkeypatch.setattr(attention, "_MAX_BLOCK_SCORES", most)
        for given in ((mask, bias), (added, None)):
            np.testing.assert_allclose(np.array(cpu_attention(*parts, 0.3, *given)), expected, rtol=0, atol=CLOSE)


def test_a_far_larger_score_of_a_hidden_key_does_not_weaken_the_visible_ones() -> None:
    queries, keys, values = (mx.ones((1, 1, 2, 4)) for _ in range(3))
    keys = keys * mx.array([1.0, 1000.0])[None, None, :, None]
    values = values * mx.array([3.0, 7.0])[None, None, :, None]
    mask = mx.array([True, False])[None, None, None]
    assert cpu_attention(queries, keys, values, 1.0, mask, None).tolist() == [[[[3.0] * 4] * 2]]
