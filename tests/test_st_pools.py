"""Worker process pools return the results of a single process and fail with clear errors."""

import multiprocessing
import os
import queue
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from st_checkpoints import PAIRS, TEXTS

from mlx_hf_bridge import MLXCrossEncoder, MLXMultiVectorEncoder, MLXSentenceTransformer, MLXSparseEncoder
from mlx_hf_bridge.errors import InputError, OverlongTextError
from mlx_hf_bridge.sentence_transformers.encoding import pools
from mlx_hf_bridge.sentence_transformers.encoding.pool_pipes import Received, Sender
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool, WorkerError
from mlx_hf_bridge.sentence_transformers.modules.token_pooling import LambdaTokenPooling

SAME = {"rtol": 1e-5, "atol": 1e-5}


def test_a_pool_encodes_in_order_with_every_setting_and_hands_errors_over(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    mlx_model = MLXSentenceTransformer(tmp_path, prompts={"query": "news "})
    mlx_model.max_seq_length = 9
    expected = mlx_model.encode_query(TEXTS, normalize_embeddings=True)
    tokens = mlx_model.encode(TEXTS, output_value="token_embeddings")
    pool = mlx_model.start_multi_process_pool(["cpu", "cpu"])
    try:
        actual = mlx_model.encode_query(TEXTS, normalize_embeddings=True, pool=pool, chunk_size=2)
        np.testing.assert_allclose(actual, expected, **SAME)
        with pytest.warns(DeprecationWarning, match="Use encode with pool"):
            older = mlx_model.encode_multi_process(TEXTS, pool)
        np.testing.assert_allclose(older, mlx_model.encode(TEXTS), **SAME)
        for one, other in zip(mlx_model.encode(TEXTS, output_value="token_embeddings", pool=pool), tokens, strict=True):
            np.testing.assert_allclose(np.array(one), np.array(other), **SAME)
        assert mlx_model.encode([], pool=pool).shape == (0,)
        with pytest.raises(InputError, match="item 5 to encode is a int"):
            mlx_model.encode([*TEXTS[:5], 7], pool=pool, chunk_size=2)
        with pytest.raises(OverlongTextError, match=r"more than 9 tokens.*\(texts 4 to 5 of this call"):
            mlx_model.encode([*["a"] * 5, "a " * 9], pool=pool, chunk_size=2, overlong="error")
        # Left over from a call that was interrupted.
        pool["input"].put(("another call", 0, TEXTS[::-1], {}))
        np.testing.assert_allclose(mlx_model.encode(TEXTS, pool=pool), mlx_model.encode(TEXTS), **SAME)
        np.testing.assert_allclose(mlx_model.encode(TEXTS[0], pool=pool), mlx_model.encode(TEXTS[0]), **SAME)
        pool["processes"][0].kill()
        pool["processes"][1].kill()
        with pytest.raises(WorkerError, match="2 worker processes died"):
            mlx_model.encode(TEXTS, pool=pool)
    finally:
        mlx_model.stop_multi_process_pool(pool)
    with pytest.raises(InputError, match="the pool was stopped"):
        mlx_model.encode(TEXTS, pool=pool)
    with pytest.raises(InputError, match="pool is a list, expected what start_multi_process_pool returned"):
        mlx_model.encode(TEXTS, pool=["cpu"])  # type: ignore[arg-type]


def test_half_a_result_keeps_nobody_waiting() -> None:
    """A worker that is killed while it writes a result leaves half of it in the pipe."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    received = Received(reader, Sender(writer, threading.Lock()))
    os.write(writer.fileno(), struct.pack("!i", 100) + b"half")
    with pytest.raises(queue.Empty):
        received.get(timeout=0.01)
    writer.close()
    received.close()
    assert not received._thread.is_alive()


class FakeProcess:
    """A worker that is a thread of the test."""

    pid = exitcode = 0

    def is_alive(self) -> bool:
        return True


class OpenQueue(queue.Queue[Any]):
    """A queue between threads, with what is looked at of one between processes."""

    _closed = False


def thread_pool(compute: Callable[[list[str]], list[str]]) -> Pool:
    """Return a pool whose worker is a thread."""
    pool: Pool = {"input": OpenQueue(), "output": OpenQueue(), "processes": [FakeProcess()]}
    pool["lock"] = threading.Lock()
    threading.Thread(target=pools._serve, args=(compute, pool["input"], pool["output"]), daemon=True).start()
    return pool


@pytest.mark.parametrize("error", [KeyboardInterrupt, WorkerError])
def test_an_interrupted_call_leaves_nothing_to_the_next(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_work, real = threading.Event(), pools._next_result

    def compute(texts: list[str]) -> list[str]:
        may_work.wait()
        return [text.upper() for text in texts]

    def interrupted(*arguments: Any) -> Any:
        raise error

    pool = thread_pool(compute)
    monkeypatch.setattr(pools, "_next_result", interrupted)
    with pytest.raises(error):
        pools.encode_in_pool(pool, ["a", "b", "c"], {}, 1, False)
    assert pool["input"].qsize() == 0
    # Of the first call, one chunk was taken already, and a late result comes in.
    may_work.set()
    pool["output"].put((-1, 5, ["late"]))
    monkeypatch.setattr(pools, "_next_result", real)
    for texts in (["d", "e", "f"], ["g"]):
        assert pools.encode_in_pool(pool, texts, {}, 1, False) == [text.upper() for text in texts]


def test_threads_share_a_pool_one_call_at_a_time() -> None:
    pool = thread_pool(lambda texts: [text.upper() for text in texts])
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(pools.encode_in_pool, pool, [f"a{n}", f"b{n}"], {}, 1, False) for n in range(40)]
    assert [call.result() for call in calls] == [[f"A{n}", f"B{n}"] for n in range(40)]


@pytest.mark.parametrize("kind", ["ForSequenceClassification", "ForMaskedLM"])
def test_a_list_of_devices_makes_a_pool_for_one_call(kind: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, None, kind, 1)
    if kind == "ForMaskedLM":
        sparse = MLXSparseEncoder(tmp_path)
        actual: Any = sparse.encode(TEXTS, device=["cpu"]).to_dense()
        np.testing.assert_allclose(actual, sparse.encode(TEXTS).to_dense(), **SAME)
    else:
        reranker = MLXCrossEncoder(tmp_path)
        np.testing.assert_allclose(reranker.predict(PAIRS, device=["cpu"]), reranker.predict(PAIRS), **SAME)


def test_what_cannot_be_sent_to_a_worker_is_refused_before_anything_waits(tmp_path: Path) -> None:
    """Arguments that cannot be pickled raise an error before any worker is awaited."""
    make_checkpoint(tmp_path)
    mlx_model = MLXMultiVectorEncoder(modules=[MLXSentenceTransformer(tmp_path)[0]])
    halved = LambdaTokenPooling(lambda vectors: vectors[::2])
    with pytest.raises(InputError, match="cannot be sent to worker processes"):
        mlx_model.encode_document(TEXTS, token_pooling=halved, pool={"input": None, "output": None, "processes": [1]})
