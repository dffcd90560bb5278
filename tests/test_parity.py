"""Every model family and head matches transformers after a round trip through files on disk."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, FIRST_ROWS, Row, heads_of, mlx_class, ragged_inputs, row_name, save_model

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.architecture.family import BASE_TASK, HF_SUFFIXES
from mlx_hf_bridge.models import family_for

# Absolute float32 tolerance across kernels, for tiny models with weights of std 0.3; worst observed 1e-6.
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
# Heads hardly depend on a family's options: those of its first config run with every other test.
CASES = [
    pytest.param(
        row,
        suffix,
        id=f"{row_name(row)}-{suffix}",
        marks=() if suffix == "Model" or row in FIRST_ROWS else pytest.mark.slow,
    )
    for row in FAMILIES
    for suffix in heads_of(row)
]


def labels_for(suffix: str) -> int:
    return 2 if suffix == "ForQuestionAnswering" else 3


def with_choices(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return inputs with two choices per example: the batch itself and the batch in reverse order."""
    return {name: np.stack([array, array[::-1]], axis=1) for name, array in inputs.items()}


def reference(model: Any, inputs: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()}, **options)


def assert_same(actual: Any, expected: Any, valid: np.ndarray, blind: bool, case: str) -> None:
    """Assert that every field that transformers returns matches at non-padding positions.

    Args:
        actual: Output of the MLX model.
        expected: Output of the transformers model.
        valid: Attention mask of shape (B, L), bool.
        blind: Whether outputs at padding positions are not comparable. Pooled outputs are then compared only for texts
            whose first position is a real token.
        case: Label of the case for failure messages.
    """
    # transformers adds empty `cross_attentions` or a cache to encoders that can also decode, and LUKE's entity states
    # even when there are no entities.
    extra = (
        "past_key_values",
        "entity_hidden_states",
        *(() if expected.get("cross_attentions") else ("cross_attentions",)),
    )
    traced = ("attentions", "global_attentions", "decoder_attentions", "cross_attentions", "encoder_attentions")
    texts = valid[:, 0] if blind else np.ones(len(valid), bool)
    texts = texts.reshape(len(actual["logits"]), -1) if "Choice" in type(actual).__name__ else texts
    # T5Gemma's encoder returns recorded outputs in a different order than the fields of its output class.
    order = [field.name for field in dataclasses.fields(expected)]
    named = sorted((name for name in expected if name not in extra), key=order.index)
    assert [name for name in actual if name in expected or name not in traced] == named
    for name in ("last_hidden_state", "encoder_last_hidden_state", *ANSWERS):
        if name in expected:
            kept = valid if expected[name].shape[:2] == valid.shape else texts
            np.testing.assert_allclose(
                actual[name][kept], expected[name].numpy()[kept], rtol=0, atol=ABSOLUTE, err_msg=case
            )
    # A model with a decoder records both of its stacks.
    has_decoder = "encoder_last_hidden_state" in expected
    states = ("decoder_hidden_states", "encoder_hidden_states") if has_decoder else ("hidden_states",)
    weights = ("decoder_attentions", "cross_attentions", "encoder_attentions") if has_decoder else ("attentions",)
    for name in states:
        for mlx_value, torch_value in zip(actual[name], expected[name], strict=True):
            # CANINE's deep layers have states of groups of tokens, not of tokens.
            kept = valid if torch_value.shape[:2] == valid.shape else slice(None)
            np.testing.assert_allclose(
                mlx_value[kept], torch_value.numpy()[kept], rtol=0, atol=ABSOLUTE, err_msg=f"{case}, {name}"
            )
    for name in weights:
        for mlx_value, torch_value in zip(actual.get(name) or (), expected.get(name) or (), strict=name in expected):
            per_token = torch_value.shape[2] == valid.shape[1]
            rows = np.broadcast_to(valid[:, None, :], torch_value.shape[:3]) if per_token else slice(None)
            np.testing.assert_allclose(
                mlx_value[rows], torch_value.numpy()[rows], rtol=0, atol=ABSOLUTE, err_msg=f"{case}, {name}"
            )
    for mlx_value, torch_value in zip(
        actual.get("global_attentions", ()), expected.get("global_attentions") or (), strict="attentions" in expected
    ):
        rows = np.broadcast_to(valid[:, None, :], mlx_value.shape[:3])
        # For a text with fewer global tokens than another, transformers averages over all positions, and MLX returns 0.
        there = np.where(mlx_value.any(axis=2, keepdims=True), torch_value[:, :, : valid.shape[1]].numpy(), 0)
        np.testing.assert_allclose(mlx_value[rows], there[rows], rtol=0, atol=ABSOLUTE, err_msg=case)


@pytest.mark.parametrize(("row", "suffix"), CASES)
def test_answers_as_transformers_on_every_valid_token(row: Row, suffix: str, tmp_path: Path) -> None:
    """Right-padded, left-padded and unbatched inputs match each attention implementation of transformers."""
    torch_model = save_model(tmp_path, row, suffix, labels=labels_for(suffix))
    mlx_model = mlx_class(suffix).from_pretrained(tmp_path)
    for name, inputs in paddings(row).items():
        given = with_choices(inputs) if suffix == "ForMultipleChoice" else inputs
        actual = mlx_model(**given, output_hidden_states=True, output_attentions=True)
        mask = given["attention_mask"].astype(bool).reshape(-1, given["attention_mask"].shape[-1])
        for way in ("eager", "sdpa") if torch_model._supports_sdpa else ("eager",):
            torch_model.set_attn_implementation(way)
            expected = reference(torch_model, given, output_hidden_states=True, output_attentions=way == "eager")
            assert_same(actual, expected, mask, row.ignores_padding_outputs, f"{way}, {name}")


def paddings(row: Row) -> dict[str, dict[str, np.ndarray]]:
    """Return a ragged batch padded on the right, one padded on the left, and its second text as a batch of one."""
    right = ragged_inputs(row)
    length = int(right["attention_mask"][1].sum())
    return {
        "right": right,
        "left": {name: array[:, ::-1].copy() for name, array in right.items()},
        "alone": {name: array[1:2, :length] for name, array in right.items()},
    }


def is_masked_otherwise(row: Row) -> bool:
    """Return whether a row stands for a way to mask: key masks, causal and windowed ones, fused and written out."""
    names = ("bert", "qwen3", "gemma3_text", "modernbert", "eurobert", "clip_text_model", "nomic_bert")
    names += ("t5", "mpnet", "convbert", "squeezebert", "big_bird", "roformer", "splinter", "bart", "mvp")
    return row.model_type in names and row is next(one for one in FAMILIES if one.model_type == row.model_type)


@pytest.mark.parametrize("row", [row for row in FAMILIES if is_masked_otherwise(row)], ids=row_name)
def test_queries_that_see_little_or_nothing_answer_as_transformers(row: Row, tmp_path: Path) -> None:
    """Hidden states of padding too: where no key is visible, torch's attention gives 0, and an eager one the mean."""
    torch_model = save_model(tmp_path, row)
    mlx_model = mlx_class("Model").from_pretrained(tmp_path)
    inputs = ragged_inputs(row, (23, 9, 4))
    mask = inputs["attention_mask"]
    torch_model.set_attn_implementation("sdpa" if torch_model._supports_sdpa else "eager")
    holes = np.where(np.arange(23)[None] % 7 == 3, 0, mask)
    for given in (mask, mask[:, ::-1].copy(), holes, mask * [[1], [0], [1]]):
        changed = {**inputs, "attention_mask": given}
        expected = reference(torch_model, changed).last_hidden_state
        np.testing.assert_allclose(mlx_model(**changed).last_hidden_state, expected, rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize(("row", "suffix"), [case for case in CASES if "Masked" in case.id or "PreTraining" in case.id])
def test_word_tables_that_are_not_tied_are_read(row: Row, suffix: str, tmp_path: Path) -> None:
    """LM heads with untied embeddings load their own decoder weight."""
    untied = dataclasses.replace(
        row, config=type(row.config).from_dict({**row.config.to_dict(), "tie_word_embeddings": False})
    )
    torch_model = save_model(tmp_path, untied, suffix)
    inputs = ragged_inputs(row)
    actual = mlx_class(suffix).from_pretrained(tmp_path)(**inputs)
    expected = reference(torch_model, inputs)
    valid = inputs["attention_mask"].astype(bool)
    for name in expected:
        kept = valid if expected[name].shape[:2] == valid.shape else slice(None)
        np.testing.assert_allclose(
            actual[name][kept], expected[name].numpy()[kept], rtol=0, atol=ABSOLUTE, err_msg=name
        )


@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_every_head_that_transformers_has_is_here(row: Row) -> None:
    family = family_for({"model_type": row.model_type})
    assert {HF_SUFFIXES[task] for task in family.heads if task in HF_SUFFIXES} | {"Model"} == set(heads_of(row))
    assert family.hf_class_name(BASE_TASK) == row.classes + row.base


@pytest.mark.parametrize("row", [row for row in FAMILIES if row.accepts_inputs_embeds], ids=row_name)
def test_vectors_in_place_of_ids_answer_as_transformers(row: Row, tmp_path: Path) -> None:
    """Outputs for inputs_embeds match transformers."""
    torch_model = save_model(tmp_path, row)
    inputs = ragged_inputs(row)
    # CANINE hashes its ids and has no token table.
    is_hashed = row.model_type == "canine"
    width = row.config.hidden_size if is_hashed else torch_model.get_input_embeddings().weight.shape[1]
    vectors = np.random.default_rng(3).normal(size=(*inputs.pop("input_ids").shape, width)).astype(np.float32)
    expected = reference(torch_model, {"inputs_embeds": vectors, **inputs}).last_hidden_state.numpy()
    actual = MLXAutoModel.from_pretrained(tmp_path)(inputs_embeds=vectors, **inputs).last_hidden_state
    valid = inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(actual[valid], expected[valid], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_explicit_positions_answer_as_transformers(row: Row, tmp_path: Path) -> None:
    """Outputs for explicit position_ids match transformers."""
    torch_model = save_model(tmp_path, row)
    inputs = ragged_inputs(row)
    # Positions are given per text: transformers' XLM and FlauBERT do not broadcast position_ids over the batch.
    backwards = np.broadcast_to(np.arange(17)[None][:, ::-1] + 3, (3, 17)).copy()
    expected = reference(torch_model, {**inputs, "position_ids": backwards}).last_hidden_state.numpy()
    actual = MLXAutoModel.from_pretrained(tmp_path)(**inputs, position_ids=backwards[:1]).last_hidden_state
    valid = inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(actual[valid], expected[valid], rtol=0, atol=ABSOLUTE)
