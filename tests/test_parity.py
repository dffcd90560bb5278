"""Every family and head against transformers, through files on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, Row, make_model, ragged_inputs, row_name

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification

# float32 on other kernels, tiny models with weights of std 0.3; worst seen 1e-6.
ABSOLUTE = 2e-5
HEADS = {"Model": MLXAutoModel, "ForSequenceClassification": MLXAutoModelForSequenceClassification}


def reference(model: Any, inputs: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()}, **options)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_answers_as_transformers_on_every_valid_token(row: Row, head: str, tmp_path: Path) -> None:
    theirs = make_model(row, head)
    theirs.set_attn_implementation("eager")
    theirs.save_pretrained(tmp_path)
    ours = HEADS[head].from_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    wanted = reference(theirs, inputs, output_hidden_states=True, output_attentions=True)
    got = ours(**inputs, output_hidden_states=True, output_attentions=True)
    # transformers adds an empty `cross_attentions` to encoders that could also decode.
    assert list(got) == [name for name in wanted if name != "cross_attentions"]
    valid = inputs["attention_mask"].astype(bool)
    for name in ("last_hidden_state", "pooler_output", "logits"):
        if name in wanted:
            kept = valid if name == "last_hidden_state" else slice(None)
            np.testing.assert_allclose(got[name][kept], wanted[name].numpy()[kept], rtol=0, atol=ABSOLUTE)
    for mine, his in zip(got.hidden_states, wanted.hidden_states, strict=True):
        np.testing.assert_allclose(mine[valid], his.numpy()[valid], rtol=0, atol=ABSOLUTE)
    for mine, his in zip(got.attentions, wanted.attentions, strict=True):
        rows = np.broadcast_to(valid[:, None, :], his.shape[:3])
        np.testing.assert_allclose(mine[rows], his.numpy()[rows], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_left_padding_and_explicit_positions_answer_as_transformers(row: Row, tmp_path: Path) -> None:
    theirs = make_model(row)
    theirs.save_pretrained(tmp_path)
    ours = MLXAutoModel.from_pretrained(tmp_path)
    flipped = {name: array[:, ::-1].copy() for name, array in ragged_inputs(row).items()}
    placed = {**ragged_inputs(row), "position_ids": np.arange(17)[None][:, ::-1].copy() + 3}
    for inputs in (flipped, placed):
        valid = inputs["attention_mask"].astype(bool)
        wanted = reference(theirs, inputs).last_hidden_state.numpy()
        np.testing.assert_allclose(ours(**inputs).last_hidden_state[valid], wanted[valid], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_a_text_alone_answers_as_in_its_batch(row: Row, tmp_path: Path) -> None:
    make_model(row).save_pretrained(tmp_path)
    ours = MLXAutoModel.from_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    batch = ours(**inputs).last_hidden_state
    for index, length in enumerate(inputs["attention_mask"].sum(axis=1)):
        alone = ours(**{name: array[index : index + 1, :length] for name, array in inputs.items()})
        np.testing.assert_allclose(alone.last_hidden_state[0], batch[index, :length], rtol=0, atol=ABSOLUTE)
