"""Tests of what variants of BERT and RoBERTa do differently, beyond the table of families."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, WITH_TOKEN_TYPES, Row, ragged_inputs, save_model
from weight_files import edit_config, max_difference, output_array, read_tensors

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForQuestionAnswering
from mlx_hf_bridge.errors import ConfigError

ABSOLUTE = 2e-5
BY_TYPE = {row.model_type: row for row in FAMILIES}


def test_a_task_table_that_the_config_passes_by_is_carried_and_not_computed(tmp_path: Path) -> None:
    config = transformers.ErnieConfig(**WITH_TOKEN_TYPES, use_task_id=True)
    row = Row("ernie", "Ernie", config, token_types=3)
    torch_model = save_model(tmp_path, row)
    edit_config(tmp_path, use_task_id=False)
    torch_model.embeddings.use_task_id = False
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
        )
        < ABSOLUTE
    )
    assert "embeddings.task_type_embeddings.weight" in read_tensors(mlx_model.folder)


@pytest.mark.parametrize("question", [[3, 11], [0, 16], None], ids=["once or twice", "at the ends", "nowhere"])
def test_splinters_spans_answer_the_first_question_token(question: Any, tmp_path: Path) -> None:
    row = BY_TYPE["splinter"]
    torch_model = save_model(tmp_path, row, "ForQuestionAnswering", labels=2)
    inputs = ragged_inputs(row)
    inputs["input_ids"][inputs["input_ids"] == row.config.question_token_id] = 51
    if question:
        inputs["input_ids"][0, question] = row.config.question_token_id
    actual = MLXAutoModelForQuestionAnswering.from_pretrained(tmp_path)(**inputs)
    with torch.no_grad():
        expected = torch_model(**{name: torch.tensor(array) for name, array in inputs.items()})
    for name in ("start_logits", "end_logits"):
        np.testing.assert_allclose(actual[name], expected[name].numpy(), rtol=1e-6, atol=ABSOLUTE)


REFUSED = {
    "ibert": ({"quant_mode": True}, r"config\.json has quant_mode=True, which 'ibert' does not support here"),
    "squeezebert": ({"q_groups": 5}, r"config\.json has q_groups=5, expected a divisor of 24, the common divisor"),
}


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_would_give_other_vectors_is_refused(model_type: str, tmp_path: Path) -> None:
    save_model(tmp_path, BY_TYPE[model_type])
    values, message = REFUSED[model_type]
    edit_config(tmp_path, **values)
    with pytest.raises(ConfigError, match=message):
        MLXAutoModel.from_pretrained(tmp_path)
