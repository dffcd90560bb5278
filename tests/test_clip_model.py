"""The text side of sentence-transformers' CLIPModel; test_checkpoints.py compares it with torch."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from replicas.build import build
from replicas.table import replicas
from st_checkpoints import TEXTS, TOLERANCE
from weight_files import rewrite

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import BridgeError, WeightsError

ROW = next(row for row in replicas() if row.repo == "sentence-transformers/clip-ViT-B-32")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    build(tmp_path / "repo", ROW)
    return tmp_path / "repo"


@pytest.mark.slow
def test_saved_and_quantized_copies_have_the_projection(repo: Path, tmp_path: Path) -> None:
    model = MLXSentenceTransformer(repo)
    expected = model.encode(TEXTS)
    assert model.get_embedding_dimension() == expected.shape[1] == 16
    model.save_pretrained(str(tmp_path / "saved"))
    np.testing.assert_allclose(MLXSentenceTransformer(tmp_path / "saved").encode(TEXTS), expected, **TOLERANCE)
    found = MLXSentenceTransformer(repo, quantization_config={"bits": 8, "group_size": 32}).encode(TEXTS)
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_images_and_a_missing_projection_are_refused(repo: Path) -> None:
    with pytest.raises(BridgeError, match="text"):
        MLXSentenceTransformer(repo).encode([Image.new("RGB", (8, 8))])
    rewrite(repo / "0_CLIPModel", lambda tensors: {k: v for k, v in tensors.items() if "text_projection" not in k})
    with pytest.raises(WeightsError, match=r"lacks 1 tensors that the model needs: text_projection\.weight"):
        MLXSentenceTransformer(repo)
