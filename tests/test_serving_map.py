"""Maps of texts: principal components, or UMAP where it is installed; and traces for OpenTelemetry."""

import sys
from pathlib import Path

import numpy as np
import pytest
from serving_models import OVERLONG, TEXTS, Server, make_embedder

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.serving import projection, telemetry
from mlx_hf_bridge.serving.projection import choose_method, project


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MLXSentenceTransformer:
    return make_embedder(tmp_path_factory.mktemp("serving"))


@pytest.mark.parametrize("shape", [(3000, 16), (10, 50), (3, 4), (2, 4), (1, 4)], ids=str)
def test_a_map_has_the_first_two_principal_components(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = project(rows, "pca")
    left, singular, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    expected = np.zeros((len(rows), 2))
    expected[:, : left.shape[1]] = (left * singular)[:, :2]
    assert found.shape == (len(rows), 2)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=0, atol=1e-3)
    np.testing.assert_array_equal(project(rows, "pca"), found)


def test_equal_texts_are_at_one_point() -> None:
    np.testing.assert_allclose(project(np.ones((60, 5), np.float32), "pca"), 0, atol=1e-6)


def test_umap_is_chosen_where_it_is_installed_and_there_are_enough_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "find_spec", lambda name: None)
    assert [choose_method(method, 3000) for method in (None, "pca")] == ["pca", "pca"]
    with pytest.raises(BackendError, match=r"mlx-hf-bridge\[map\]"):
        choose_method("umap", 3000)
    monkeypatch.setattr(projection, "find_spec", lambda name: object())
    assert [choose_method(None, count) for count in (10, 3000)] == ["pca", "umap"]


def test_the_route_maps_texts_and_truncates_long_ones(model: MLXSentenceTransformer) -> None:
    texts = [*TEXTS, OVERLONG]
    found, refused, many = Server({"tiny": model}).send(
        ("/v1/map", {"input": texts, "method": "pca"}),
        ("/v1/map", {"input": [""]}),
        ("/v1/map", {"input": ["a"] * 5001}),
    )
    content = found.json()
    assert (content["object"], content["model"], content["method"]) == ("map", "tiny", "pca")
    np.testing.assert_allclose(content["data"], project(model.encode(texts), "pca"), rtol=0, atol=1e-5)
    assert content["usage"]["total_tokens"] > 0
    assert (refused.status_code, many.status_code) == (400, 413)


def test_traces_need_their_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.fastapi", None)
    with pytest.raises(BackendError, match=r"mlx-hf-bridge\[otel\]"):
        telemetry.instrument(object())
