"""Keys of config.json are read as transformers reads them, or refused."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers
from checkpoints import FAMILIES, mlx_class, ragged_inputs, save_model
from config_keys import DIFFERS, outcome, share_of
from weight_files import edit_config, max_difference, output_array

ABSOLUTE = 2e-5
BY_TYPE = {row.model_type: row for row in reversed(FAMILIES)}
# The sweep of tests/config_keys.py has about 5,000 cases; each run of the tests takes one share of this many. The share
# follows the release of transformers, so that a run can be repeated.
SHARES = 240
SHARE = sum(transformers.__version__.encode()) % SHARES

# What a hand or another tool may have written into config.json, where transformers computes with it.
EDITS: list[tuple[str, dict[str, Any]]] = [
    ("t5", {"dense_act_fn": "gelu_new"}),
    ("mt5", {"dense_act_fn": "gelu"}),
    ("umt5", {"dense_act_fn": "silu"}),
    ("mt5", {"feed_forward_proj": "gelu", "is_gated_act": True}),
    ("qwen3", {"is_causal": False}),
    ("clip_text_model", {"is_causal": False}),
    ("gte", {"position_embedding_type": "rope", "rope_scaling": None, "rope_parameters": ..., "rope_theta": 50.0}),
]


@pytest.mark.parametrize(("model_type", "edits"), EDITS, ids=lambda value: str(value)[:60])
def test_a_key_that_transformers_reads_is_read(model_type: str, edits: dict[str, Any], tmp_path: Path) -> None:
    row = BY_TYPE[model_type]
    save_model(tmp_path, row)
    edit_config(tmp_path, **edits)
    loader = transformers.AutoModel if row.base == "Model" else getattr(transformers, row.classes + row.base)
    inputs = ragged_inputs(row)
    expected = output_array(loader.from_pretrained(tmp_path), inputs, "last_hidden_state")
    found = output_array(mlx_class("Model").from_pretrained(tmp_path), inputs, "last_hidden_state")
    assert max_difference(found, expected, inputs) < ABSOLUTE


def test_no_key_is_ignored_without_a_word() -> None:
    """A part of the sweep; `python tests/config_keys.py` runs it whole."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {case.name: outcome(case) for case in share_of(SHARE, SHARES)}
    finally:
        logging.disable(logging.NOTSET)
    assert len(found) > 5
    assert not {name: text for name, (result, text) in found.items() if result == DIFFERS}
