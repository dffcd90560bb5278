"""Tests of texts of the maximum length and one token longer: truncated or an error, never read out of bounds."""

import logging
from pathlib import Path

import numpy as np
import pytest
from checkpoints import FAMILIES, Row, make_checkpoint, ragged_inputs, row_name
from weight_files import output_array

from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer
from mlx_hf_bridge.errors import OverlongTextError, TokenRangeError

ABSOLUTE = 2e-5
# Sentence embeddings of tiny models with random weights of std 0.3 have values of up to 10.
RELATIVE = 1e-5
# Both model_max_length of the tokenizer and the number of position embeddings.
LIMIT = 44


@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_the_longest_text_is_computed_and_one_token_more_truncated_or_refused(
    row: Row, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MLX itself would silently read past the end of a position embedding table."""
    torch_model = make_checkpoint(tmp_path, row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    limit = min(mlx_model.loaded.config.max_length, LIMIT)
    assert row.has_position_table or limit == LIMIT
    for length in (limit, limit + 1):
        inputs = ragged_inputs(row, (length, 3))
        if row.has_position_table and length > limit:
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                output_array(torch_model, inputs, "last_hidden_state")
            with pytest.raises(TokenRangeError, match=rf"{length} tokens reach position {LIMIT}.*at most {limit} tok"):
                mlx_model(**inputs)
            continue
        expected = output_array(torch_model, inputs, "last_hidden_state")
        bound = max(ABSOLUTE, row.relative * np.abs(expected).max())
        valid = inputs["attention_mask"].astype(bool)
        np.testing.assert_allclose(mlx_model(**inputs).last_hidden_state[valid], expected[valid], rtol=0, atol=bound)

    sentences = MLXSentenceTransformer(tmp_path)
    words = ["cat"] * limit
    with caplog.at_level(logging.WARNING):
        long = sentences.encode([" ".join(words)])
    assert f"1 of 1 texts have more than {limit} tokens and were truncated" in caplog.text
    fits = sentences.encode([" ".join(words[: limit - 2])], overlong="error")
    np.testing.assert_allclose(long, fits, rtol=RELATIVE, atol=RELATIVE)
    with pytest.raises(OverlongTextError, match=rf"1 of 1 texts have more than {limit} tokens"):
        sentences.encode([" ".join(words[: limit - 1])], overlong="error")
