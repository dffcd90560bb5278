"""Tests of call arguments specific to one family against transformers; for other families they are errors."""

from pathlib import Path

import numpy as np
import pytest
from checkpoints import FAMILIES, make_model, mlx_class, ragged_inputs, save_model
from weight_files import max_difference, output_array

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, TokenRangeError

ABSOLUTE = 2e-5

OWN = {"ernie": ("task_type_ids", 5), "xlm": ("langs", 4), "flaubert": ("langs", 4)}


# transformers' ErnieForMultipleChoice fails on task_type_ids, since it does not flatten the choices dimension.
OWN_CASES = [
    (model_type, suffix)
    for model_type in OWN
    for suffix in ("Model", "ForSequenceClassification", "ForMultipleChoice")
    if (model_type, suffix) != ("ernie", "ForMultipleChoice")
]


@pytest.mark.parametrize(("model_type", "suffix"), OWN_CASES)
def test_arguments_of_one_family_answer_as_transformers(model_type: str, suffix: str, tmp_path: Path) -> None:
    name, values = OWN[model_type]
    row = next(
        row for row in FAMILIES if row.model_type == model_type
        and getattr(row.config, "use_task_id", True) and getattr(row.config, "n_langs", 2) > 1
    )  # fmt: skip
    torch_model = save_model(tmp_path, row, suffix)
    inputs = ragged_inputs(row)
    inputs[name] = np.random.default_rng(1).integers(0, values, inputs["input_ids"].shape)
    if suffix == "ForMultipleChoice":
        inputs = {key: np.stack([array, array[::-1]], axis=1) for key, array in inputs.items()}
    field = "last_hidden_state" if suffix == "Model" else "logits"
    mlx_model = mlx_class(suffix).from_pretrained(tmp_path)
    actual, expected = (output_array(model, inputs, field) for model in (mlx_model, torch_model))
    assert max_difference(actual, expected, inputs) < ABSOLUTE
    assert not np.allclose(
        actual, output_array(mlx_model, {key: array for key, array in inputs.items() if key != name}, field)
    )
    with pytest.raises(TokenRangeError, match=f"{name} has values from {values} to {values}"):
        mlx_model(**{**inputs, name: np.full_like(inputs["input_ids"], values)})


def test_an_argument_without_its_table_may_only_be_0(tmp_path: Path) -> None:
    make_model(next(row for row in FAMILIES if row.model_type == "ernie")).save_pretrained(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    plain = mlx_model([[5, 6]]).last_hidden_state
    assert np.array_equal(plain, mlx_model([[5, 6]], task_type_ids=[[0, 0]]).last_hidden_state)
    with pytest.raises(InputError, match=r"task_type_ids has values other than 0, and this ErnieModel has no table"):
        mlx_model([[5, 6]], task_type_ids=[[0, 1]])


def test_an_argument_of_another_family_is_a_type_error(tmp_path: Path) -> None:
    save_model(tmp_path, FAMILIES[0], "ForSequenceClassification")
    mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(ArgumentTypeError, match=r"BertForSequenceClassification got langs, which it does not take; it"):
        mlx_model([[5, 6]], langs=[[0, 0]])
    make_model(next(row for row in FAMILIES if row.model_type == "longformer")).save_pretrained(tmp_path / "other")
    mlx_model = MLXAutoModel.from_pretrained(tmp_path / "other")
    with pytest.raises(TypeError, match=r"got langs, .* it also takes global_attention_mask\. Omit it"):
        mlx_model([[5, 6]], langs=[[0, 0]])
