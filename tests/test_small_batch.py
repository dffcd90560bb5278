"""Small-batch matmul with packed weight tiles, and early evaluation of layers."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_hf_bridge.layers import linear, single_batch, small_batch
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.small_batch import PackedTiles

# Dot products of 384 terms near 1, summed in a different order; worst observed 4e-5.
ABSOLUTE = 1e-4


@pytest.fixture(autouse=True)
def sixteen_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the row limit to 16 on every processor: where tiles do not pay off, they are slower but still correct."""
    monkeypatch.setattr(small_batch, "SMALL_BATCH_ROWS", 16)
    monkeypatch.setattr(linear, "SMALL_BATCH_ROWS", 16)


def asked_often(blocks: PackedTiles, x: mx.array, weight: mx.array) -> mx.array | None:
    """Multiply often enough that the weight is packed into tiles, and return the last result."""
    for _ in range(10):
        product = blocks.matmul(x, weight)
    return product


def normal(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(1, 10, 384), (384,), (2, 3, 384), (16, 384)])
def test_blocks_give_the_product(shape: tuple[int, ...]) -> None:
    """The matmul with packed tiles matches the plain matmul for every batch shape."""
    x, weight = normal(*shape), normal(96, 384)
    product = asked_often(PackedTiles(), x, weight)
    assert product is not None
    assert product.shape == (*shape[:-1], 96)
    np.testing.assert_allclose(np.array(product), np.array(x @ weight.T), rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (normal(17, 384), normal(96, 384)),
        (normal(0, 384), normal(96, 384)),
        (normal(4, 384), normal(97, 384)),
        (normal(16, 2048), normal(96, 2048)),
        (normal(4, 384).astype(mx.float16), normal(96, 384).astype(mx.float16)),
    ],
    ids=["many rows", "no rows", "no whole blocks", "too many products a block", "half precision"],
)
def test_other_products_are_left_to_the_usual_way(x: mx.array, weight: mx.array) -> None:
    """Unsupported shapes and dtypes return None, so that the caller uses the plain matmul."""
    assert asked_often(PackedTiles(), x, weight) is None


def test_weights_are_held_twice_for_those_alone_who_keep_asking() -> None:
    """Tiles, a second copy of the weight, are kept only after several calls; every call gives the same bits."""
    blocks, x, weight = PackedTiles(), normal(4, 384), normal(96, 384)
    kept, results = [], []
    for _ in range(6):
        result = blocks.matmul(x, weight)
        assert result is not None
        results.append(np.array(result))
        kept.append(blocks._tiles is not None)
    assert kept == [False] * 4 + [True] * 2
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_replaced_weight_is_the_one_that_counts() -> None:
    """Replacing the weight of a layer invalidates its packed tiles."""
    layer, x = Linear(384, 96), normal(4, 384)
    for scale in (1.0, -2.0):
        layer.update({"weight": normal(96, 384) * scale, "bias": normal(96)})
        for _ in range(10):
            with single_batch.single_batch_mode():
                product = layer(x)
            expected = x @ layer.weight.T + layer.bias
            np.testing.assert_allclose(np.array(product), np.array(expected), rtol=0, atol=ABSOLUTE)


def test_what_is_not_served_alone_is_the_same_however_often_it_is_asked_for() -> None:
    """Outside single-batch mode, no tiles are used and outputs stay bitwise equal."""
    layer, x = Linear(384, 96), normal(4, 384)
    layer.update({"weight": normal(96, 384), "bias": normal(96)})
    first = np.array(layer(x))
    for _ in range(10):
        layer(x)
    assert layer._tiles._tiles is None
    for _ in range(10):
        with single_batch.single_batch_mode():
            layer(x)
        np.testing.assert_array_equal(np.array(layer(x)), first)
    assert layer._tiles._tiles is not None


def test_gradients_of_weights_are_those_of_the_usual_way() -> None:
    """Gradients with respect to a weight that has packed tiles match the analytic ones."""
    layer, x = Linear(384, 96), normal(4, 384)
    layer.update({"weight": normal(96, 384), "bias": normal(96)})

    def loss(weight: mx.array) -> mx.array:
        layer.update({"weight": weight})
        return mx.square(layer(x)).sum()

    weight = layer.weight
    with single_batch.single_batch_mode():
        for _ in range(10):
            layer(x)
        found = [mx.grad(loss)(weight) for _ in range(10)][-1]
    expected = 2 * (x @ weight.T + layer.bias).T @ x
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-4, atol=1e-2)


def test_layers_are_begun_within_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are evaluated early only inside single_batch_mode()."""
    begun: list[mx.array] = []
    monkeypatch.setattr(single_batch, "EVALUATES_EARLY", True)
    monkeypatch.setattr(mx, "async_eval", begun.append)
    single_batch.start_evaluation(normal(2))
    assert not begun
    with single_batch.single_batch_mode():
        single_batch.start_evaluation(normal(2))
    single_batch.start_evaluation(normal(2))
    assert len(begun) == 1
