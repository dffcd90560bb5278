"""Tests of Funnel-Transformer beyond those of all families: checkpoints without a decoder, and short texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FUNNEL, Row, make_wordpiece, ragged_inputs, save_model

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, MLXSentenceTransformer
from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.models.funnel import FunnelConfig

ABSOLUTE = 2e-5
ROW = Row("funnel", "Funnel", transformers.FunnelConfig(**FUNNEL), token_types=3, base="BaseModel")


def reference(model: Any, inputs: dict[str, np.ndarray], **options: Any) -> Any:
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()}, **options)


@pytest.mark.parametrize("lengths", [(17, 9, 4), (6, 6), (5,)])
def test_a_checkpoint_without_a_decoder_gives_its_pooled_states(lengths: tuple[int, ...], tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, ROW, "BaseModel")
    inputs = ragged_inputs(ROW, lengths)
    expected = reference(torch_model, inputs, output_hidden_states=True)
    actual = MLXAutoModel.from_pretrained(tmp_path)(**inputs, output_hidden_states=True)
    np.testing.assert_allclose(actual.last_hidden_state, expected.last_hidden_state, rtol=0, atol=ABSOLUTE)
    for one, other in zip(actual.hidden_states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=ABSOLUTE)


def test_texts_shorter_than_transformers_computes_are_computed_as_if_padded(tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, ROW, "ForSequenceClassification")
    model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    padded = ragged_inputs(ROW, (5, 3))
    short = {name: array[1:, :3] for name, array in padded.items()}
    expected = reference(torch_model, padded).logits[1:]
    np.testing.assert_allclose(model(**short).logits, expected, rtol=0, atol=ABSOLUTE)


def test_pooled_states_have_no_mean_over_tokens(tmp_path: Path) -> None:
    save_model(tmp_path, ROW, "BaseModel")
    make_wordpiece(tmp_path)
    with pytest.raises(InputError, match=r"gives 3 states for 9 tokens.* Use the pooling mode 'cls'"):
        MLXSentenceTransformer(str(tmp_path)).encode(["the cat sat on the mat today"])


@pytest.mark.parametrize(
    "values",
    [{"block_sizes": [2, "1"]}, {"block_sizes": []}, {"block_repeats": [1, 1]}, {"pooling_type": "min"}],
    ids=str,
)
def test_impossible_blocks_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        FunnelConfig.from_json({**ROW.config.to_dict(), **values})
