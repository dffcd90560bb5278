"""Traced modules against transformers, through files on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, make_checkpoint, ours_for, ragged_inputs

BERT = FAMILIES[0]
# float32 on other kernels, tiny models with weights of std 0.3; worst seen 1e-6.
ABSOLUTE = 2e-5


def reference(model: Any, inputs: Mapping[str, Any], **options: Any) -> Any:
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()}, **options)


def assert_close(got: Any, wanted: Any, mask: np.ndarray) -> None:
    """Every answer, where a token is."""
    valid = mask.astype(bool)
    assert list(got) == list(wanted)
    for name in got:
        pairs = zip(got[name], wanted[name], strict=True) if name == "hidden_states" else [(got[name], wanted[name])]
        for mine, theirs in pairs:
            kept = valid if theirs.shape[:2] == valid.shape else slice(None)
            np.testing.assert_allclose(np.array(mine)[kept], theirs.numpy()[kept], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_a_traced_bert_answers_as_transformers(head: str, tmp_path: Path) -> None:
    theirs = make_checkpoint(tmp_path, BERT, head)
    traced = ours_for(head).from_pretrained(tmp_path, trace="always")
    inputs = ragged_inputs(BERT)
    assert traced.is_traced
    wanted = reference(theirs, inputs, output_hidden_states=True)
    assert_close(traced(**inputs, output_hidden_states=True), wanted, inputs["attention_mask"])
