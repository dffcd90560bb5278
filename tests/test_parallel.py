"""Parallel work returns the results of serial work, in order, and restores the settings that it changes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from mlx_hf_bridge.inference import parallel as module
from mlx_hf_bridge.inference.batching import BatchPipeline, group_by_length, run_batches, run_blocks
from mlx_hf_bridge.inference.parallel import run_in_parallel
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.layers import linear
from mlx_hf_bridge.layers.linear import Linear, QuantizedLinear, dequantizing_once
from mlx_hf_bridge.runtime import device
from mlx_hf_bridge.sentence_transformers.encoding.results import convert_embeddings


def product(seed: int) -> mx.array:
    x = mx.random.normal((8 + seed, 64), key=mx.random.key(seed))
    return (x @ x.T).sum(axis=1)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11])
def test_results_come_in_order_from_any_thread(count: int) -> None:
    expected = [np.array(product(seed)) for seed in range(count)]

    def results() -> list[mx.array]:
        return list(run_in_parallel(partial(product, seed) for seed in range(count)))

    with ThreadPoolExecutor(3) as pool:
        for actual in (results(), *(future.result() for future in [pool.submit(results) for _ in range(3)])):
            assert len(actual) == count
            for one, other in zip(actual, expected, strict=True):
                np.testing.assert_array_equal(np.array(one), other)


def test_no_more_work_is_taken_than_is_under_way() -> None:
    taken: list[int] = []

    def works() -> Iterator[partial[mx.array]]:
        for seed in range(40):
            taken.append(seed)
            yield partial(product, seed)

    results = run_in_parallel(works())
    next(results)
    assert len(taken) == module._AHEAD * device.STREAMS


@pytest.mark.skipif(not device.BLAS_THREADS.known, reason="this BLAS does not tell its threads")
def test_an_error_is_raised_and_the_threads_of_the_blas_come_back() -> None:
    def fails() -> mx.array:
        raise ZeroDivisionError("at work")

    before = device.BLAS_THREADS.count()
    with pytest.raises(ZeroDivisionError, match="at work"):
        list(run_in_parallel([partial(product, 1), fails, partial(product, 2)]))
    abandoned = run_in_parallel(partial(product, seed) for seed in range(9))
    next(abandoned)
    abandoned.close()
    assert device.BLAS_THREADS.count() == before


def test_little_work_is_split_among_the_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small workload is split into batches so that every stream gets a share."""
    monkeypatch.setattr("mlx_hf_bridge.inference.batching.STREAMS", 2)
    assert [len(rows) for rows in group_by_length([40] * 16, 32)] == [8, 8]
    assert [len(rows) for rows in group_by_length([4] * 8, 32)] == [8]
    assert [len(rows) for rows in group_by_length([60] * 8 + [12] * 8, 32)] == [4, 4, 8]


@pytest.mark.parametrize(("bits", "group_size"), [(8, 32), (8, 128), (4, 32), (4, 64)])
def test_weights_dequantized_in_passes_are_mlxs(bits: int, group_size: int) -> None:
    """Dequantization in passes is bitwise equal to mx.dequantize."""
    weight, scales, biases = mx.quantize(mx.random.normal((48, 256)), group_size=group_size, bits=bits)
    expected = mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits)
    assert mx.array_equal(linear._dequantize_in_passes(weight, scales, biases, bits), expected)


def test_weights_are_dequantized_once_in_a_block_and_let_go_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside dequantizing_once(), dequantized weights are cached per dtype, and released on exit."""
    packed = Linear(64, 32).to_quantized(32, 8)
    counted: list[int] = []
    monkeypatch.setattr(
        QuantizedLinear, "_dequantize", lambda self, dtype, rows: counted.append(1) or mx.zeros((32, 64), dtype)
    )
    with dequantizing_once():
        for _ in range(3):
            packed.dequantize(mx.float32)
        assert len(counted) == 1
        packed.dequantize(mx.float16)
        assert len(counted) == 2
    packed.dequantize(mx.float32)
    packed.dequantize(mx.float32)
    assert len(counted) == 4


def test_later_texts_are_tokenised_while_earlier_ones_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most two blocks of tokenized texts are in memory at a time."""
    events: list[str] = []
    steps = BatchPipeline(
        prepare=lambda tokens: events.append("batch") or mx.array([len(one) for one in tokens]),
        compute=lambda lengths: lengths[:, None] * 2.0,
    )

    def blocks() -> Iterator[tuple[list[int], list[Tokens]]]:
        for start in range(0, 12, 4):
            events.append("tokens")
            numbers = [11 - start - step for step in range(4)]
            yield numbers, [Tokens(np.zeros(number + 1, np.int32), None) for number in numbers]

    rows = run_blocks(blocks(), 12, steps, batch_size=1, show_progress=False)
    assert [float(row[0]) for row in rows] == [2.0 * (number + 1) for number in range(12)]
    assert events.count("tokens") == 3
    assert events.index("batch") < events.index("tokens", 1)


def test_texts_of_equal_tokens_are_computed_once() -> None:
    computed: list[int] = []
    steps = BatchPipeline(
        prepare=lambda tokens: computed.append(len(tokens)) or mx.array([int(one.ids[0]) for one in tokens]),
        compute=lambda ids: ids[:, None],
    )
    tokens = [Tokens(np.array([number], np.int32), None) for number in (5, 7, 5, 5, 9, 7)]
    rows = run_batches(tokens, steps, batch_size=32, show_progress=False)
    assert [float(row[0]) for row in rows] == [5, 7, 5, 5, 9, 7]
    assert sum(computed) == 3


def test_parts_of_one_shape_are_rows_of_one_array() -> None:
    """Collecting rows in a list and stacking them later would hold all embeddings in memory twice."""
    steps = BatchPipeline(
        prepare=lambda tokens: mx.array([int(one.ids[0]) for one in tokens]),
        compute=lambda ids: mx.stack([ids, -ids], axis=1),
        same_shape=True,
    )
    tokens = [Tokens(np.array([number], np.int32), None) for number in (5, 7, 5, 9)]
    rows = run_batches(tokens, steps, batch_size=1, show_progress=False)
    np.testing.assert_array_equal(rows, np.array([[5, -5], [7, -7], [5, -5], [9, -9]], np.float32))
    assert isinstance(rows, np.ndarray)
    assert convert_embeddings(rows, True, False) is rows
    assert run_batches([], steps, batch_size=1, show_progress=False) == []
