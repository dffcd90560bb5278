"""Tests of every head computed in half precision, as on a GPU: close to transformers in float32, never NaN."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoints import FIRST_ROWS, Row, heads_of, make_model, mlx_class, ragged_inputs, save_model
from gpu_arithmetic import accumulate_in_float32
from tolerances import SHARE
from torch import nn

from mlx_hf_bridge.loading import load as load_module
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig

ANSWERS = ("last_hidden_state", "pooler_output", "logits", "start_logits", "end_logits", "prediction_logits")
CASES = [
    pytest.param(row, suffix, id=f"{row.model_type}-{suffix}", marks=() if suffix == "Model" else pytest.mark.slow)
    for row in FIRST_ROWS
    for suffix in heads_of(row)
]


def padded_in_every_way(row: Row) -> dict[str, np.ndarray]:
    """Return texts padded right, left, in the middle, at every other position, all but the last token, and entirely."""
    inputs = ragged_inputs(row, (17,) * 6)
    mask = np.ones((6, 17), np.int64)
    mask[0, 9:] = mask[1, :9] = mask[2, 1:16] = mask[3, ::2] = mask[4, :16] = mask[5] = 0
    return {**inputs, "attention_mask": mask}


@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_half_precision_is_near_float32_and_never_nan(
    row: Row, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "activation_dtype", lambda stored: stored)
    torch_model = save_model(tmp_path, row, suffix, labels=2)
    inputs, gaps = ragged_inputs(row), padded_in_every_way(row)
    if suffix == "ForMultipleChoice":
        inputs, gaps = ({name: array[:, None] for name, array in given.items()} for given in (inputs, gaps))
    with torch.no_grad():
        expected = torch_model(**{name: torch.tensor(array) for name, array in inputs.items()})
    valid = inputs["attention_mask"].astype(bool)
    # A head is a few layers on top of the same encoder: float16 alone shows what overflows in it or is promoted.
    for dtype, share in SHARE.items() if suffix == "Model" else [(mx.float16, SHARE[mx.float16])]:
        mlx_model = mlx_class(suffix).from_pretrained(tmp_path, dtype=dtype)
        stored = mx.float32 if row.exceeds_float16 and dtype == mx.float16 else dtype
        actual = mlx_model(**{name: mx.array(array) for name, array in inputs.items()})
        # transformers subtracts a million, which is beyond float16, from the question's logits.
        masks_question = (row.model_type, suffix) == ("big_bird", "ForQuestionAnswering")
        of_outputs = dict.fromkeys(actual, mx.float32 if masks_question else stored)
        for name, array in actual.items():
            assert array.dtype == of_outputs[name]
            reference = expected[name].numpy()
            kept = valid if reference.shape[:2] == valid.shape else slice(None)
            size = max(1.0, np.abs(reference[kept]).max())
            off = np.abs(np.array(array.astype(mx.float32)) - reference)[kept].max() / size
            assert row.inaccurate_in_half or off < share, (str(dtype), name, off)
        arrays = {name: mx.array(array) for name, array in gaps.items()}
        padded = mlx_model(**arrays, output_hidden_states=True, output_attentions=True)
        for name, value in padded.items():
            for array in value if isinstance(value, tuple) else (value,):
                assert array.dtype == of_outputs.get(name, stored), (str(dtype), name)
                assert mx.isfinite(array).all(), (str(dtype), name)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=["float16", "bfloat16"])
def test_embeddings_of_any_dtype_are_computed_in_the_model_s(
    dtype: mx.Dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "activation_dtype", lambda stored: stored)
    row = FIRST_ROWS[0]
    torch_model = save_model(tmp_path, row)
    vectors = torch.randn(2, 5, row.config.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.3
    with torch.no_grad():
        expected = torch_model(inputs_embeds=vectors).last_hidden_state.numpy()
    mlx_model = mlx_class("Model").from_pretrained(tmp_path, dtype=dtype)
    for given in (
        vectors.bfloat16(),
        vectors.half(),
        vectors,
        mx.array(vectors.numpy()).astype(mx.bfloat16),
        vectors.numpy().astype(np.float64),
    ):
        hidden = mlx_model(inputs_embeds=given).last_hidden_state
        # numpy has no bfloat16, so its callers get float32.
        wide = isinstance(given, np.ndarray) and dtype == mx.bfloat16
        assert str(hidden.dtype).rpartition(".")[2] == ("float32" if wide else str(dtype).rpartition(".")[2])
        actual = np.array(hidden.tolist())
        assert np.abs(actual - expected).max() < SHARE[mx.bfloat16] * np.abs(expected).max()


# The last module of each layer that adds to the residual stream of a pre-norm model, by the end of its name in
# transformers, and how large its results may be: T5's in float32 and Gemma's after a norm exceed float16 themselves.
LAST_MODULES = {"post_feedforward_layernorm": 1.2e5, "DenseReluDense.wo": 1.2e5} | dict.fromkeys(
    ("mlp.Wo", "mlp.down_proj", "mlp.fc2", "output.dense"), 6.4e4
)
PRE_NORM = {
    *("clip_text_model", "esm", "eurobert", "flava_text_model", "gemma3_text", "megatron-bert", "modernbert", "mt5"),
    *("qwen3", "roberta-prelayernorm", "siglip_text_model", "t5", "t5gemma", "umt5", "xlm-roberta-xl"),
}


def with_large_sums(model: Any, inputs: dict[str, torch.Tensor]) -> Any:
    """Change a model so that its residual stream leaves float16's range, and return it."""
    found = [
        (module, size)
        for name, module in model.named_modules()
        for end, size in LAST_MODULES.items()
        if name.endswith(end) and not name.endswith("attention.output.dense") and "decoder" not in name
    ]
    outputs: dict[nn.Module, float] = {}
    for module, _ in found:
        module.register_forward_hook(lambda module, _, result: outputs.update({module: float(result.abs().max())}))
    with torch.no_grad():
        # Part of the growth, so that no weight exceeds float16 itself.
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("mlp.Wi.", "up_proj", ".wi_1.", ".wi.", "mlp.fc1.", "intermediate.dense")):
                parameter.mul_(10)
        for module, size in found:  # from the first layer on, since each layer's results depend on those before it
            model(**inputs)
            factor = size / outputs[module]
            if "Gemma" in type(module).__name__:  # a norm that multiplies by its weight plus 1
                module.weight.add_(1).mul_(factor).sub_(1)
            else:
                for parameter in module.parameters():
                    parameter.mul_(factor)
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    assert max(float(state.abs().max()) for state in hidden) > 65504
    return model


@pytest.mark.parametrize(
    ("row", "recipe"),
    [
        pytest.param(row, recipe, id=f"{row.model_type}-{recipe}", marks=() if is_first else pytest.mark.slow)
        for row in FIRST_ROWS
        if row.model_type in PRE_NORM
        for recipe in ("float16", "q8")
        for is_first in [recipe == "q8" and row.model_type in ("t5", "gemma3_text", "modernbert")]
    ],
)
@pytest.mark.usefixtures("without_fusion")
def test_sums_beyond_float16_stay_exact(row: Row, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual streams of pre-norm models leave float16's range, in trained T5 and Gemma models above all."""
    row = replace(row, config=type(row.config).from_dict({**row.config.to_dict(), **row.wide}))
    inputs = {name: torch.tensor(array) for name, array in ragged_inputs(row).items()}
    model = with_large_sums(make_model(row), inputs)
    model.save_pretrained(tmp_path)
    arrays = {name: mx.array(tensor.numpy()) for name, tensor in inputs.items()}
    quantized = MLXQuantizationConfig(bits=8, group_size=32) if recipe == "q8" else None

    def hidden_states() -> np.ndarray:
        mlx_model = mlx_class("Model").from_pretrained(tmp_path, dtype="float16", quantization_config=quantized)
        hidden = mlx_model(**arrays).last_hidden_state
        assert hidden.dtype == load_module.activation_dtype(mx.float16)
        return np.array(hidden.astype(mx.float32))[inputs["attention_mask"].numpy().astype(bool)]

    # On a CPU, the same weights are computed with in float32.
    expected = hidden_states()
    monkeypatch.setattr(load_module, "activation_dtype", lambda stored: stored)
    # Compiled models pad to one of few shapes, and at such positions, which nothing scales, a layer's output overflows.
    monkeypatch.setattr(load_module, "COMPILES_GRAPHS", True)
    accumulate_in_float32(monkeypatch.setattr)
    actual = hidden_states()
    cosines = (actual * expected).sum(-1) / np.linalg.norm(actual, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosines.min() > 0.9995
