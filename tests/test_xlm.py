"""Differences between XLM or FlauBERT and BERT that test_parity.py does not cover."""

from pathlib import Path

import pytest
import transformers
from checkpoints import AS_XLM, XLM, Row, ragged_inputs, save_model
from weight_files import edit_config, max_difference, output_array

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForQuestionAnswering, MLXAutoModelForSequenceClassification
from mlx_hf_bridge.errors import ConfigError, WeightsError

ABSOLUTE = 2e-5
ROWS = [
    Row("xlm", "XLM", transformers.XLMConfig(**XLM, n_langs=4), **AS_XLM),
    Row("flaubert", "Flaubert", transformers.FlaubertConfig(**XLM), **AS_XLM),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_an_absent_mask_is_found_from_the_padding_id(row: Row, tmp_path: Path) -> None:
    """Without an attention mask, padding is detected from the pad token id."""
    torch_model = save_model(tmp_path, row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    inputs = ragged_inputs(row)
    given = {"input_ids": inputs["input_ids"]}
    actual, expected = (output_array(model, given, "last_hidden_state") for model in (mlx_model, torch_model))
    assert max_difference(actual, expected, inputs) < ABSOLUTE


def test_old_spellings_of_keys_are_read(tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, ROWS[0])
    edit_config(tmp_path, vocab_size=..., n_words=101, pad_token_id=..., pad_index=1)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert (mlx_model.config.vocab_size, mlx_model.config.pad_token_id) == (101, 1)
    inputs = ragged_inputs(ROWS[0])
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
        )
        < ABSOLUTE
    )


def test_the_head_that_searches_by_beams_is_no_span_classifier(tmp_path: Path) -> None:
    """XLM's beam search question answering head does not load as a span classification head."""
    model = transformers.XLMForQuestionAnswering(ROWS[0].config)
    model.save_pretrained(tmp_path)
    assert MLXAutoModel.from_pretrained(tmp_path)([[5, 6]]).last_hidden_state.shape == (1, 2, 24)
    with pytest.raises(WeightsError, match=r"lacks 2 tensors that the model needs: qa_outputs"):
        MLXAutoModelForQuestionAnswering.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "values", [{"pre_norm": True}, {"asm": True}, {"causal": True}, {"is_encoder": False}], ids=lambda v: next(iter(v))
)
def test_what_would_give_other_vectors_is_refused(values: dict[str, bool], tmp_path: Path) -> None:
    """Config options that would change the outputs raise an error."""
    save_model(tmp_path, ROWS[1])
    edit_config(tmp_path, **values)
    key, value = next(iter(values.items()))
    with pytest.raises(ConfigError, match=rf"config\.json has {key}={value}, which 'flaubert' does not support here"):
        MLXAutoModel.from_pretrained(tmp_path)


def test_another_summary_than_the_first_tokens_is_refused(tmp_path: Path) -> None:
    """A summary_type other than 'first' raises an error."""
    save_model(tmp_path, ROWS[0], "ForSequenceClassification")
    edit_config(tmp_path, summary_type="mean")
    with pytest.raises(ConfigError, match=r"summary_type='mean', .* supported are 'first', true and true\. Use"):
        MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
