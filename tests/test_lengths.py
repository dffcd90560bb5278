"""Tests of texts of the maximum length and one token longer: truncated or an error, never read out of bounds."""

import logging
from pathlib import Path

import numpy as np
import pytest
import transformers
from checkpoints import FAMILIES, Row, make_checkpoint, ragged_inputs, row_name
from sentence_transformers import SentenceTransformer
from weight_files import edit_config, output_array

import mlx_hf_bridge
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
    assert mlx_model.loaded.config.has_position_table == row.has_position_table
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
    # Qwen2's tokenizer, which transformers builds from any vocabulary, knows letters; the others know words.
    word, space = ("c", "") if row.model_type == "qwen2" else ("cat", " ")
    words = [word] * limit
    with caplog.at_level(logging.WARNING):
        long = sentences.encode([space.join(words)])
    assert f"1 of 1 texts have more than {limit} tokens and were truncated" in caplog.text
    fits = sentences.encode([space.join(words[: limit - 2])], overlong="error")
    np.testing.assert_allclose(long, fits, rtol=RELATIVE, atol=RELATIVE)
    with pytest.raises(OverlongTextError, match=rf"1 of 1 texts have more than {limit} tokens"):
        sentences.encode([space.join(words[: limit - 1])], overlong="error")


@pytest.mark.parametrize("name", ["deberta-v2", "modernbert", "nomic_bert"])
def test_a_model_without_a_position_table_is_limited_as_in_the_reference(name: str, tmp_path: Path) -> None:
    """`max_position_embeddings` is then a length of training: it bounds neither the model nor transformers' pipelines.

    sentence-transformers does cut at it, unless the repo sets `max_seq_length`.
    """
    row = next(row for row in FAMILIES if row.model_type == name and not row.has_position_table)
    make_checkpoint(tmp_path, row)
    edit_config(tmp_path, max_position_embeddings=9)
    inputs = ragged_inputs(row, (30, 30))
    positions = {"position_ids": np.tile(np.arange(30)[::-1] + 20, (2, 1))} if name != "deberta-v2" else {}
    expected = output_array(transformers.AutoModel.from_pretrained(tmp_path), inputs | positions, "last_hidden_state")
    found = output_array(MLXAutoModel.from_pretrained(tmp_path), inputs | positions, "last_hidden_state")
    np.testing.assert_allclose(found, expected, rtol=0, atol=ABSOLUTE)

    text = " ".join(["cat", "dog"] * 20)
    states = [
        made("feature-extraction", model=str(tmp_path))(text, truncation=True)
        for made in (transformers.pipeline, mlx_hf_bridge.pipeline)
    ]
    np.testing.assert_allclose(states[1], states[0], rtol=0, atol=ABSOLUTE)
    assert len(states[0][0]) == len(text.split()) + 2

    assert MLXSentenceTransformer(tmp_path).max_seq_length == SentenceTransformer(str(tmp_path)).max_seq_length == 9
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 21}')
    assert MLXSentenceTransformer(tmp_path).max_seq_length == SentenceTransformer(str(tmp_path)).max_seq_length
