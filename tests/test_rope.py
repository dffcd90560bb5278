"""Scaled rotary positions against transformers: rope types "linear" and "dynamic" of every family that has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FIRST_ROWS, Row, make_checkpoint, make_model, ragged_inputs

from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer
from mlx_hf_bridge.errors import ConfigError

NAMES = ("nomic_bert", "gte", "jina_embeddings_v3", "eurobert", "qwen3")
ROWS = {row.model_type: row for row in FIRST_ROWS if row.model_type in NAMES}
# Texts have 17, 9 and 4 tokens.
TRAINED = 6
SCALED = {"linear": {"factor": 2.5}, "dynamic": {"factor": 3.0}}


def changed(row: Row, rope_type: str, trained: int = TRAINED) -> Row:
    """Return the row with a rope type, trained to `trained` tokens."""
    rope = {"rope_type": rope_type, "rope_theta": 50.0, **SCALED[rope_type]}
    keys = {**row.config.to_dict(), "rope_parameters": rope, "max_position_embeddings": trained}
    return Row(**{**vars(row), "config": type(row.config).from_dict(keys)})


def hidden(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(**{name: torch.tensor(array) for name, array in inputs.items()})[0].numpy()
    return found


@pytest.mark.parametrize("rope_type", SCALED)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_scaled_positions_are_those_of_transformers(row: Row, rope_type: str, tmp_path: Path) -> None:
    """Within the trained length, beyond it, and with positions of the caller's."""
    make_model(changed(row, rope_type)).save_pretrained(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    batch = ragged_inputs(row)
    short = {name: array[2:, :4] for name, array in batch.items()}
    far = {**short, "position_ids": np.arange(4)[None] * 3}
    for inputs in (short, batch, far):
        # transformers' module remembers the longest batch that it has seen.
        torch_model = make_model(changed(row, rope_type))
        there = inputs["attention_mask"].astype(bool)
        actual = mlx_model(**inputs).last_hidden_state
        np.testing.assert_allclose(actual[there], hidden(torch_model, inputs)[there], rtol=0, atol=2e-5)


def test_company_does_not_change_a_vector_beyond_the_trained_length(tmp_path: Path) -> None:
    """A "dynamic" rotation depends on the padded length, so texts beyond the trained length are padded to none."""
    make_checkpoint(tmp_path, changed(ROWS["nomic_bert"], "dynamic", 9))
    model = MLXSentenceTransformer(str(tmp_path), trust_remote_code=False)
    model.max_seq_length = 40
    texts = ["the cat", "a dog sat on the mat . ! ?", "news today", "the cat sat on the mat . is this good or bad ?"]
    alone = [model.encode(text) for text in texts]
    np.testing.assert_allclose(model.encode(texts), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "yarn", "factor": 2.0}, "rope_type='yarn'.*supported are 'default', 'linear', 'dynamic' and 1"),
        ({"rope_type": "linear"}, "rope_type='linear' with factor=None"),
        ({"rope_type": "dynamic", "factor": True}, "factor=True, expected a number of 1 or more"),
    ],
)
def test_a_rope_type_that_is_not_computed_is_named(rope: dict[str, Any], message: str, tmp_path: Path) -> None:
    make_model(ROWS["nomic_bert"]).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=message):
        MLXAutoModel.from_pretrained(tmp_path, rope_parameters=rope)
