"""Every family and head against transformers, through files on disk."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, Row, make_model, ragged_inputs, row_name

import mlx_hf_bridge
from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.family import HF_SUFFIXES
from mlx_hf_bridge.models import family_for

# float32 on other kernels, tiny models with weights of std 0.3; worst seen 1e-6.
ABSOLUTE = 2e-5
ANSWERS = (
    "pooler_output",
    "logits",
    "start_logits",
    "end_logits",
    "prediction_logits",
    "seq_relationship_logits",
    "sop_logits",
)
CASES = [
    pytest.param(row, suffix, id=f"{row_name(row)}-{suffix}")
    for row in FAMILIES
    for suffix in HF_SUFFIXES.values()
    if hasattr(transformers, row.classes + suffix)
]


def ours_for(suffix: str) -> Any:
    """Our class for the suffix of a transformers class."""
    return getattr(mlx_hf_bridge, "MLXAutoModel" + suffix.removeprefix("Model"))


def labels_for(suffix: str) -> int:
    return 2 if suffix == "ForQuestionAnswering" else 3


def with_choices(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The texts twice over, second time backwards, as the two choices of each."""
    return {name: np.stack([array, array[::-1]], axis=1) for name, array in inputs.items()}


def reference(model: Any, inputs: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()}, **options)


def assert_same(got: Any, wanted: Any, valid: np.ndarray) -> None:
    """Every field that transformers gives, where a token is."""
    # transformers adds an empty `cross_attentions` to encoders that could also decode.
    assert list(got) == [name for name in wanted if name != "cross_attentions"]
    for name in ("last_hidden_state", *ANSWERS):
        if name in wanted:
            kept = valid if wanted[name].shape[:2] == valid.shape else slice(None)
            np.testing.assert_allclose(got[name][kept], wanted[name].numpy()[kept], rtol=0, atol=ABSOLUTE)
    for mine, his in zip(got.hidden_states, wanted.hidden_states, strict=True):
        np.testing.assert_allclose(mine[valid], his.numpy()[valid], rtol=0, atol=ABSOLUTE)
    for mine, his in zip(got.attentions, wanted.attentions, strict=True):
        rows = np.broadcast_to(valid[:, None, :], his.shape[:3])
        np.testing.assert_allclose(mine[rows], his.numpy()[rows], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_answers_as_transformers_on_every_valid_token(row: Row, suffix: str, tmp_path: Path) -> None:
    theirs = make_model(row, suffix, labels=labels_for(suffix))
    theirs.set_attn_implementation("eager")
    theirs.save_pretrained(tmp_path)
    ours = ours_for(suffix).from_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    if suffix == "ForMultipleChoice":
        inputs = with_choices(inputs)
    wanted = reference(theirs, inputs, output_hidden_states=True, output_attentions=True)
    got = ours(**inputs, output_hidden_states=True, output_attentions=True)
    mask = inputs["attention_mask"].astype(bool)
    assert_same(got, wanted, mask.reshape(-1, mask.shape[-1]))


@pytest.mark.parametrize(("row", "suffix"), [case for case in CASES if "Masked" in case.id or "PreTraining" in case.id])
def test_word_tables_that_are_not_tied_are_read(row: Row, suffix: str, tmp_path: Path) -> None:
    untied = dataclasses.replace(
        row, config=type(row.config).from_dict({**row.config.to_dict(), "tie_word_embeddings": False})
    )
    theirs = make_model(untied, suffix)
    theirs.save_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    got = ours_for(suffix).from_pretrained(tmp_path)(**inputs)
    wanted = reference(theirs, inputs)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name].numpy(), rtol=0, atol=ABSOLUTE, err_msg=name)


@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_every_head_that_transformers_has_is_here(row: Row) -> None:
    family = family_for({"model_type": row.model_type})
    theirs = {suffix for suffix in HF_SUFFIXES.values() if hasattr(transformers, row.classes + suffix)}
    assert {HF_SUFFIXES[task] for task in family.heads} | {"Model"} == theirs


@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_vectors_in_place_of_ids_answer_as_transformers(row: Row, tmp_path: Path) -> None:
    theirs = make_model(row)
    theirs.save_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    width = theirs.get_input_embeddings().weight.shape[1]
    vectors = np.random.default_rng(3).normal(size=(*inputs.pop("input_ids").shape, width)).astype(np.float32)
    wanted = reference(theirs, {"inputs_embeds": vectors, **inputs}).last_hidden_state.numpy()
    got = MLXAutoModel.from_pretrained(tmp_path)(inputs_embeds=vectors, **inputs).last_hidden_state
    valid = inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(got[valid], wanted[valid], rtol=0, atol=ABSOLUTE)


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
