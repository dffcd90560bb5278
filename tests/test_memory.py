"""Tests of peak memory in conversion and loading, and of the number of GPU kernels in a forward pass."""

import re
from collections import Counter
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import FAMILIES, make_checkpoint
from subprocesses import run_python

from benchmarks.models import minilm_folder
from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.layers import activations, attention, norm
from mlx_hf_bridge.layers.token_batch import TokenBatch

MEASURED = """
import sys
from pathlib import Path
import mlx_hf_bridge, mlx.core as mx
from mlx_hf_bridge import MLXAutoModel
model = MLXAutoModel.from_pretrained(sys.argv[1], quantization_config=sys.argv[2])
print((Path(model.folder) / "model.safetensors").stat().st_size, mx.get_active_memory(), mx.get_peak_memory())
"""
# Bytes of the token embedding table, 30,522 x 384 in float32.
LARGEST = 30_522 * 384 * 4


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["q8", "q4-rtn"])
def test_conversion_and_loading_hold_the_result_and_two_tensors_at_most(recipe: str, tmp_path: Path) -> None:
    for _ in ("converted", "loaded"):
        told = run_python(MEASURED, str(minilm_folder()), recipe, MLX_HF_BRIDGE_CACHE=str(tmp_path))
        size, active, peak = map(int, told.split())
        assert active <= 1.15 * size
        assert peak <= size + 2 * LARGEST
    assert peak <= 1.15 * size, "the second load read the source again"


# Kernels that a forward pass of three tiny layers launches on a GPU, embeddings included; more are a regression.
KERNELS = {"bert": 38, "distilbert": 35, "roberta": 41, "mpnet": 38, "modernbert": 41, "t5": 32, "deberta-v2": 35}
VIEWS = {
    "Broadcast", "Reshape", "Transpose", "Slice", "Split", "Squeeze", "ExpandDims", "Flatten", "Unflatten", "AsType",
    "StopGradient", "CustomTransforms",
}  # fmt: skip


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace mx.fast functions, single kernels on a GPU but many primitives on a CPU, by one primitive each."""
    monkeypatch.setattr(attention, "uses_cpu_attention", lambda scores: False)
    monkeypatch.setattr(norm, "SUMS_ARE_SLOW", False)
    monkeypatch.setattr(mx.fast, "layer_norm", lambda x, *rest: mx.abs(x))
    monkeypatch.setattr(mx.fast, "rms_norm", lambda x, *rest: mx.abs(x))
    monkeypatch.setattr(mx.fast, "rope", lambda x, *rest, **options: mx.abs(x))
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda q, k, v, **options: mx.where(q, k, v))
    for name in activations.ACTIVATIONS:
        monkeypatch.setitem(activations.ACTIVATIONS, name, mx.abs)


@pytest.mark.parametrize("model_type", KERNELS)
def test_a_forward_pass_launches_no_more_kernels_than_it_did(
    model_type: str, as_on_a_gpu: None, tmp_path: Path
) -> None:
    make_checkpoint(tmp_path, next(row for row in FAMILIES if row.model_type == model_type))
    model = MLXAutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    hidden = model.loaded.model(TokenBatch(mx.array(np.full((2, 8), 5, np.int32)))).hidden
    mx.export_to_dot(str(tmp_path / "graph.dot"), hidden)
    names = re.findall(r'label ?= ?"([^"]+)", shape=rectangle', (tmp_path / "graph.dot").read_text())
    kernels = Counter(name for name in names if name not in VIEWS)
    assert sum(kernels.values()) <= KERNELS[model_type], kernels
