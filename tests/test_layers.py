"""Tests of layers against transformers, or against a slow reference implementation."""

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from mlx.utils import tree_map
from transformers.activations import ACT2FN

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.layers.activations import ACTIVATIONS, gelu
from mlx_hf_bridge.layers.alibi import DoubleResidualLayer
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.decoder import CrossAttention, DecoderLayer
from mlx_hf_bridge.layers.encoder import Encoder, OutputRecorder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.heads import FirstTokenClassifier, PooledClassifier, Pooler, TokenClassifier
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.padding import sum_finite_at_padding
from mlx_hf_bridge.layers.pre_norm import DoubleNormLayer, PreNormLayer
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime import device

# float32, inputs from -8 to 8; largest difference seen 1e-6 (gelu_fast evaluates gelu_new in another order).
ABSOLUTE = 3e-6
GRID = np.linspace(-8, 8, 4001, dtype=np.float32)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_that_of_transformers(name: str) -> None:
    """transformers' "gelu" is the erf form; MLX's approx="precise" is the tanh form, which differs by up to 5e-4."""
    expected = ACT2FN[name](torch.tensor(GRID)).numpy()
    np.testing.assert_allclose(np.array(ACTIVATIONS[name](mx.array(GRID))), expected, rtol=0, atol=ABSOLUTE)


def test_every_activation_of_transformers_without_weights_of_its_own_is_here() -> None:
    assert set(ACT2FN) - {"prelu", "xielu"} == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_activation_promotes_half_precision(name: str, dtype: mx.Dtype) -> None:
    """A single float32 operand would promote all later activations to float32."""
    result = ACTIVATIONS[name](mx.array(GRID).astype(dtype))
    assert result.dtype == dtype
    assert mx.isfinite(result).all()


class Counting(nn.Module):
    """A module that counts its calls and has no parameters, so that it is falsy like nn.Identity."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __call__(self, x: Any, *_: Any) -> Any:
        self.calls += 1
        return x


class Answering(Counting):
    """A counting module that returns logits, to be used as a head."""

    def __call__(self, x: Any, *_: Any) -> Any:
        return {"logits": super().__call__(x)}


class Ones(nn.Module):
    """Embeddings that are all ones."""

    def __init__(self) -> None:
        super().__init__()
        self.word = None

    def __call__(self, batch: Any) -> mx.array:
        return mx.ones((*batch.ids.shape, 4))


def test_a_module_that_is_false_is_still_used() -> None:
    """nn.Module is a dict, so bool(nn.Identity()) is False and `if module` would skip it."""
    assert not nn.Identity()
    assert not Counting()
    projection, layer, pooler, head = Counting(), Counting(), Counting(), Answering()
    model = Model(Encoder(Ones(), [layer], projection=projection), pooler, head)
    encoded = model(TokenBatch(mx.zeros((1, 2), mx.int32)))
    assert [module.calls for module in (projection, layer, pooler, head)] == [1, 1, 1, 1]
    assert encoded.pooled is not None
    assert encoded.logits is not None


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_a_row_of_padding_alone_sees_itself(dtype: mx.Dtype) -> None:
    """A softmax over only masked keys would be NaN without special treatment."""
    attention = Attention(8, 2)
    attention.set_dtype(dtype)
    x = mx.random.normal((2, 3, 8)).astype(dtype)
    mask = TokenBatch(mx.zeros((2, 3), mx.int32), mx.array([[True, True, False], [False] * 3])).key_mask()
    assert mask is not None
    assert mask.dtype == mx.bool_
    for result in (attention(x, mask), *attention.with_weights(x, mask)):
        assert result.dtype == dtype
        assert mx.isfinite(result).all()


def test_masked_tokens_have_no_weight_and_the_two_paths_agree() -> None:
    attention = Attention(8, 2)
    for linear in (attention.qkv, attention.out):
        linear.weight = mx.random.normal(linear.weight.shape)
    x, bias = mx.random.normal((2, 5, 8)), mx.random.normal((1, 2, 5, 5))
    batch = TokenBatch(mx.zeros((2, 5), mx.int32), mx.arange(5)[None] < mx.array([[5], [3]]))
    for term in (None, bias):
        mixed, weights = attention.with_weights(x, batch.key_mask(), term)
        np.testing.assert_allclose(np.array(attention(x, batch.key_mask(), term)), np.array(mixed), atol=1e-4)
        assert mx.array_equal(weights[1, :, :, 3:], mx.zeros((2, 5, 2)))
        np.testing.assert_allclose(np.array(weights.sum(axis=-1)), 1, atol=1e-5)


def test_attention_is_the_sum_written_out() -> None:
    """The reference computes one head and one query at a time in NumPy."""
    attention = Attention(6, 3)
    weight, bias = mx.random.normal((18, 6)), mx.random.normal((18,))
    attention.qkv.weight, attention.qkv.bias = weight, bias
    attention.out.weight = mx.eye(6)
    x = np.random.default_rng(0).normal(size=(1, 4, 6)).astype(np.float32)
    queries, keys, values = np.split(x[0] @ np.array(weight).T + np.array(bias), 3, axis=1)
    expected = np.zeros((4, 6), np.float32)
    for head in range(3):
        part = slice(2 * head, 2 * head + 2)
        for query in range(4):
            scores = np.exp(keys[:, part] @ queries[query, part] / math.sqrt(2))
            expected[query, part] = scores / scores.sum() @ values[:, part]
    np.testing.assert_allclose(np.array(attention(mx.array(x), None))[0], expected, atol=1e-4)


@pytest.mark.parametrize(("width", "widening"), [(24, 3), (32, 2), (48, 2)])
def test_widened_heads_compute_the_same(width: int, widening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "BACKEND", "metal")
    assert device.head_widening(width) == widening
    assert device.head_widening(64) == device.head_widening(16) == 1
    wide = Attention(2 * width, 2)
    monkeypatch.setattr(device, "BACKEND", "cpu")
    plain = Attention(2 * width, 2)
    assert plain._widening == 1
    random = mx.random.key(0)
    plain.update(tree_map(lambda array: mx.random.normal(array.shape, key=random) * 0.3, plain.parameters()))
    wide.update(plain.parameters())
    x = mx.random.normal((2, 9, 2 * width), key=random)
    mask = mx.arange(9)[None, None, None] < mx.array([9, 4])[:, None, None, None]
    for given in (None, mask):
        for one in ("__call__", "first_token"):
            expected, actual = (np.array(getattr(layer, one)(x, given)) for layer in (plain, wide))
            np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)
    monkeypatch.setattr(device, "BACKEND", "metal")
    monkeypatch.setenv("MLX_HF_BRIDGE_WIDE_HEADS", "0")
    assert device.head_widening(width) == 1


def test_a_trace_keeps_what_it_is_asked_for() -> None:
    encoder = Encoder(Ones(), [Counting(), Counting()])
    batch = TokenBatch(mx.zeros((1, 2), mx.int32))
    for expected in (True, False):
        recorder = OutputRecorder(output_hidden_states=expected)
        encoder(batch, recorder)
        assert len(recorder.hidden_states) == (3 if expected else 0)


@pytest.mark.parametrize("lengths", [(5, 5), (5, 3)])
@pytest.mark.parametrize("term", [False, True])
def test_the_first_token_alone_is_that_of_the_whole_layer(lengths: tuple[int, int], term: bool) -> None:
    """Compare both standard attention and another attention module in the same layer."""
    layer = PostNormLayer(Attention(8, 2), FeedForward(8, 16, gelu), 8, 1e-12)
    layer.update(tree_map(lambda array: mx.random.normal(array.shape), layer.parameters()))
    x, bias = mx.random.normal((2, 5, 8)), mx.random.normal((1, 2, 5, 5)) if term else None
    mask = TokenBatch(mx.zeros((2, 5), mx.int32), mx.arange(5)[None] < mx.array(lengths)[:, None]).key_mask()
    whole = np.array(layer(x, mask, bias, OutputRecorder()))
    np.testing.assert_allclose(np.array(layer.first_token(x, mask, bias)), whole[:, :1], atol=ABSOLUTE)
    layer.attention = Counting()
    other = np.array(layer(x, mask, bias, OutputRecorder()))
    np.testing.assert_array_equal(np.array(layer.first_token(x, mask, bias)), other[:, :1])


def test_a_stack_gives_first_tokens_alone_where_they_are_all_that_is_read() -> None:
    layers = [PostNormLayer(Attention(4, 2), FeedForward(4, 8, gelu), 4, 1e-12) for _ in range(2)]
    batch = TokenBatch(mx.zeros((3, 5), mx.int32))
    for stack in (Encoder(Ones(), layers), Encoder(Ones(), [Counting()])):
        assert stack(batch, OutputRecorder(), first_token=True).shape == (3, 1, 4)
    for head, pooler, shape in (
        (FirstTokenClassifier(4, 2, gelu), None, (3, 1, 4)),
        (PooledClassifier(4, 2), Pooler(4), (3, 1, 4)),
        (TokenClassifier(4, 2), None, (3, 5, 4)),
    ):
        model = Model(Encoder(Ones(), layers), pooler, head)
        assert model(batch, outputs_only=True).hidden.shape == shape
        assert model(batch).hidden.shape == (3, 5, 4)
        assert model(batch, output_hidden_states=True, outputs_only=True).hidden.shape == (3, 5, 4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_a_layer_norm_is_torchs_far_from_zero_too(dtype: mx.Dtype, bias: bool) -> None:
    norm = LayerNorm(48, 1e-5, bias)
    norm.update(tree_map(lambda array: mx.random.normal(array.shape), norm.parameters()))
    x = mx.random.normal((2, 5, 48)) * mx.array([1.0, 100.0])[:, None, None] + mx.array([0.0, 300.0])[:, None, None]
    x = x.astype(dtype)
    weights = [torch.tensor(np.array(array, np.float64)) for array in (norm.weight, *([norm.bias] if bias else []))]
    expected = torch.nn.functional.layer_norm(torch.tensor(np.array(x, np.float64)), (48,), *weights, eps=1e-5).numpy()
    norm.set_dtype(dtype)
    actual = norm(x)
    assert actual.dtype == dtype
    np.testing.assert_allclose(
        np.array(actual, np.float64), expected, rtol=0, atol=1e-5 if dtype == mx.float32 else 0.02
    )


class OverflowsAtTheEnd(nn.Module):
    """A feed-forward block whose results at the last position are infinite or NaN."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def __call__(self, x: mx.array) -> mx.array:
        return mx.concatenate([x[:, :5] * 2, mx.full_like(x[:, 5:], self.value)], axis=1)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", [PostNormLayer, PreNormLayer, DoubleNormLayer, DoubleResidualLayer])
def test_an_overflow_at_padding_stays_there(kind: type[nn.Module], causal: bool, value: float) -> None:
    """Attention gives padding a weight of 0, and 0 times infinity is NaN."""
    attention, block, norms = Attention(16, 2), OverflowsAtTheEnd(value), (LayerNorm(16), LayerNorm(16))
    layer = {
        PostNormLayer: lambda: PostNormLayer(attention, block, 16, 1e-5),
        PreNormLayer: lambda: PreNormLayer(attention, norms[0], block, norms[1]),
        DoubleNormLayer: lambda: DoubleNormLayer(attention, block, lambda: LayerNorm(16)),
        DoubleResidualLayer: lambda: DoubleResidualLayer(attention, block, 16, 1e-5),
    }[kind]()
    layer.update(tree_map(lambda array: mx.random.normal(array.shape, key=mx.random.key(1)) * 0.3, layer.parameters()))
    layer.update(tree_map(lambda array: array.astype(mx.float16), layer.parameters()))
    x = mx.random.normal((2, 6, 16), key=mx.random.key(0)).astype(mx.float16)

    def twice(x: mx.array, tokens: int) -> mx.array:
        seen = mx.arange(x.shape[1]) < tokens
        mask = mx.broadcast_to(seen[None, None, None], (2, 1, 1, x.shape[1]))
        if causal:
            mask = mx.logical_and(mask, mx.tri(x.shape[1], dtype=mx.bool_))
        for _ in range(2):
            x = layer(x, mask, None, OutputRecorder())
        return x

    padded = twice(x, 5)
    assert mx.isfinite(padded).all()
    np.testing.assert_allclose(padded[:, :5], twice(x[:, :5], 5), rtol=0, atol=2e-2)
    # What overflows at a token is not hidden.
    assert not mx.isfinite(twice(x, 6)).all()


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_overflow_at_padding_stays_there_in_a_decoder(norm_first: bool) -> None:
    """The causal mask hides padding at the end from the tokens before it."""
    attentions = Attention(16, 2), CrossAttention(16, 2)
    layer = DecoderLayer(*attentions, OverflowsAtTheEnd(math.inf), lambda: LayerNorm(16), norm_first)
    layer.update(tree_map(lambda array: mx.random.normal(array.shape, key=mx.random.key(1)) * 0.3, layer.parameters()))
    layer.update(tree_map(lambda array: array.astype(mx.float16), layer.parameters()))
    x, encoded = (mx.random.normal((2, 6, 16), key=mx.random.key(seed)).astype(mx.float16) for seed in (0, 1))
    mask = mx.broadcast_to((mx.arange(6) < 5)[None, None, None], (2, 1, 1, 6))

    def twice(x: mx.array, tokens: int) -> mx.array:
        for _ in range(2):
            x = layer(x, mx.tri(tokens, dtype=mx.bool_)[None, None], None, encoded, mask, OutputRecorder())
        return x

    assert mx.isfinite(twice(x, 6)).all()
    np.testing.assert_allclose(twice(x, 6)[:, :5], twice(x[:, :5], 5), rtol=0, atol=2e-2)


def test_a_sum_with_finite_padding_is_the_plain_sum() -> None:
    x, y = (mx.random.normal((2, 6, 16), key=mx.random.key(seed)).astype(mx.float16) for seed in (0, 1))
    mask = mx.array([[True] * 4 + [False] * 2, [True] * 6])[:, None, None]
    np.testing.assert_array_equal(sum_finite_at_padding(x, y, mask, mx.float16), x + y)
