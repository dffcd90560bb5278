"""Every head computed in half precision, as a GPU does: near transformers in float32, and no NaN for any padding."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, Row, heads_of, mlx_class, ragged_inputs, save_model

from mlx_hf_bridge.loading import load as load_module

# Of the largest value of an answer, or of 1 where its terms cancel: 11 or 8 bits of mantissa through three layers and a
# head; worst seen 0.0031 and 0.034.
SHARE = {mx.float16: 0.006, mx.bfloat16: 0.06}
ANSWERS = ("last_hidden_state", "pooler_output", "logits", "start_logits", "end_logits", "prediction_logits")
# One config a family: what other configs change lies below the heads, and is compared in test_quantization.py.
FIRST = {row.model_type: row for row in reversed(FAMILIES)}
CASES = [
    pytest.param(row, suffix, id=f"{row.model_type}-{suffix}") for row in FIRST.values() for suffix in heads_of(row)
]


def padded_in_every_way(row: Row) -> dict[str, np.ndarray]:
    """Texts padded on the right, on the left, in the middle, at every other slot, all but wholly and wholly."""
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
    for dtype, share in SHARE.items():
        mlx_model = mlx_class(suffix).from_pretrained(tmp_path, dtype=dtype)
        actual = mlx_model(**{name: mx.array(array) for name, array in inputs.items()})
        for name, array in actual.items():
            assert array.dtype == (mx.float32 if row.exceeds_float16 and dtype == mx.float16 else dtype)
            reference = expected[name].numpy()
            kept = valid if reference.shape[:2] == valid.shape else slice(None)
            size = max(1.0, np.abs(reference[kept]).max())
            off = np.abs(np.array(array.astype(mx.float32)) - reference)[kept].max() / size
            assert row.inaccurate_in_half or off < share, (str(dtype), name, off)
        for name, array in mlx_model(**gaps).items():
            assert np.isfinite(np.asarray(array, np.float32)).all(), (str(dtype), name)
