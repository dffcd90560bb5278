"""Tests of every head computed in half precision, as on a GPU: close to transformers in float32, never NaN."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoints import FIRST_ROWS, Row, heads_of, mlx_class, ragged_inputs, save_model

from mlx_hf_bridge.loading import load as load_module

# Tolerances relative to the largest output value, at least 1 because terms may cancel: rounding to 11 and 8 significant
# bits through three layers and a head. Largest differences seen: 0.0031 and 0.034.
SHARE = {mx.float16: 0.006, mx.bfloat16: 0.06}
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
        for name, array in actual.items():
            assert array.dtype == stored
            reference = expected[name].numpy()
            kept = valid if reference.shape[:2] == valid.shape else slice(None)
            size = max(1.0, np.abs(reference[kept]).max())
            off = np.abs(np.array(array.astype(mx.float32)) - reference)[kept].max() / size
            assert row.inaccurate_in_half or off < share, (str(dtype), name, off)
        arrays = {name: mx.array(array) for name, array in gaps.items()}
        padded = mlx_model(**arrays, output_hidden_states=True, output_attentions=True)
        for name, value in padded.items():
            for array in value if isinstance(value, tuple) else (value,):
                assert array.dtype == stored, (str(dtype), name)
                assert mx.isfinite(array).all(), (str(dtype), name)
