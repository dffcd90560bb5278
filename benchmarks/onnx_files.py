"""Run a model with ONNX Runtime: exported by torch and quantized to int8 once, then computed on all cores.

Like sentence-transformers' backend="onnx" without optimum, which needs transformers 4: the same graph, onnxruntime's
own fusions, and the settings of its "avx512_vnni" (weights symmetric int8 per channel, inputs dynamic uint8:
onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

import functools
import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.sorted_batches import Inputs, encoder, mean

NEEDS = ("onnx", "onnxscript", "onnxruntime")
# Inherited by the processes that a benchmark starts, so that they find what this one has exported.
_SCRATCH = "MLX_HF_BRIDGE_BENCHMARK_ONNX"
_HIDDEN = "last_hidden_state"


def load(folder: str, is_int8: bool) -> Callable[[list[str]], np.ndarray]:
    """Return a function that encodes texts with ONNX Runtime; exports the model first if needed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    path = _quantized_model(_exported_model(folder)) if is_int8 else _exported_model(folder)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def embed(inputs: Inputs) -> np.ndarray:
        (hidden,) = session.run([_HIDDEN], {name: inputs[name] for name in names})
        return mean(hidden, inputs["attention_mask"])

    return encoder(folder, embed)


def _exported_model(folder: str) -> Path:
    path = _scratch() / f"{hashlib.sha256(folder.encode()).hexdigest()[:16]}.onnx"
    if not path.is_file():
        _export(folder, path)
    return path


def _export(folder: str, path: Path) -> None:
    """Export with dynamic batch and length; LayerNorm and gelu are fused where onnxruntime recognizes them."""
    import torch
    import transformers
    from onnxruntime.transformers import optimizer

    # Eager attention gives the simplest graph: sdpa's export guards against rows of NaN in each layer.
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model.config.return_dict = False
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(["a", "b c d"], padding=True, return_tensors="pt")
    raw = path.with_suffix(".raw")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            kwargs=dict(inputs),
            f=raw,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=list(inputs),
            output_names=[_HIDDEN],
            dynamic_shapes={name: dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC) for name in inputs},
        )
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    optimizer.optimize_model(str(raw), "bert", heads, width, opt_level=0).save_model_to_file(str(path))
    raw.unlink()


def _quantized_model(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_suffix(".int8.onnx")
    if not target.is_file():
        logging.disable(
            logging.WARNING
        )  # hides a warning about missing "pre-processing": shapes are known and fusions are done
        quantize_dynamic(path, target, per_channel=True, reduce_range=False, weight_type=QuantType.QInt8)
    return target


def _scratch() -> Path:
    if _SCRATCH not in os.environ:
        os.environ[_SCRATCH] = _own_scratch().name
    return Path(os.environ[_SCRATCH])


@functools.cache
def _own_scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary directory that is removed when this process ends."""
    return tempfile.TemporaryDirectory(prefix="onnx-")
