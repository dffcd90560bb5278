"""Pools of worker processes: the same results as here, and clear ends when something fails."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from st_repos import PAIRS, TEXTS

from mlx_hf_bridge import MLXCrossEncoder, MLXMultiVectorEncoder, MLXSentenceTransformer, MLXSparseEncoder
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers.encoding.pools import WorkerError
from mlx_hf_bridge.sentence_transformers.modules.token_pooling import LambdaTokenPooling

SAME = {"rtol": 1e-5, "atol": 1e-5}


def test_a_pool_encodes_in_order_with_every_setting_and_hands_errors_over(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    ours = MLXSentenceTransformer(tmp_path, prompts={"query": "news "})
    ours.max_seq_length = 9
    wanted = ours.encode_query(TEXTS, normalize_embeddings=True)
    tokens = ours.encode(TEXTS, output_value="token_embeddings")
    pool = ours.start_multi_process_pool(["cpu", "cpu"])
    try:
        got = ours.encode_query(TEXTS, normalize_embeddings=True, pool=pool, chunk_size=2)
        np.testing.assert_allclose(got, wanted, **SAME)
        np.testing.assert_allclose(ours.encode_multi_process(TEXTS, pool), ours.encode(TEXTS), **SAME)
        for one, other in zip(ours.encode(TEXTS, output_value="token_embeddings", pool=pool), tokens, strict=True):
            np.testing.assert_allclose(np.array(one), np.array(other), **SAME)
        assert ours.encode([], pool=pool).shape == (0,)
        with pytest.raises(InputError, match="expected a text"):
            ours.encode(["a", 7], pool=pool)
        np.testing.assert_allclose(ours.encode(TEXTS[0], pool=pool), ours.encode(TEXTS[0]), **SAME)
        pool["processes"][0].kill()
        pool["processes"][1].kill()
        with pytest.raises(WorkerError, match="2 worker processes died"):
            ours.encode(TEXTS, pool=pool)
    finally:
        ours.stop_multi_process_pool(pool)


@pytest.mark.parametrize("kind", ["ForSequenceClassification", "ForMaskedLM"])
def test_a_list_of_devices_makes_a_pool_for_one_call(kind: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, None, kind, 1)
    if kind == "ForMaskedLM":
        sparse = MLXSparseEncoder(tmp_path)
        got: Any = sparse.encode(TEXTS, device=["cpu"]).to_dense()
        np.testing.assert_allclose(got, sparse.encode(TEXTS).to_dense(), **SAME)
    else:
        reranker = MLXCrossEncoder(tmp_path)
        np.testing.assert_allclose(reranker.predict(PAIRS, device=["cpu"]), reranker.predict(PAIRS), **SAME)


def test_what_cannot_be_sent_to_a_worker_is_refused_before_anything_waits(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    ours = MLXMultiVectorEncoder(modules=[MLXSentenceTransformer(tmp_path)[0]])
    halved = LambdaTokenPooling(lambda vectors: vectors[::2])
    with pytest.raises(InputError, match="cannot be sent to worker processes"):
        ours.encode_document(TEXTS, token_pooling=halved, pool={"input": None, "output": None, "processes": [1]})
