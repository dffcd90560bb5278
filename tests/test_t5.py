"""T5's classifiers, which read a decoder behind the encoder: pipelines, conversions, and the errors of transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint, ragged_inputs, save_model
from weight_files import edit_config, read_tensors

from mlx_hf_bridge import (
    MLXAutoModel,
    MLXAutoModelForQuestionAnswering,
    MLXAutoModelForSequenceClassification,
    pipeline,
)
from mlx_hf_bridge.errors import ConfigError, InputError

# float32 tolerance across kernels, as in test_parity.py.
ABSOLUTE = 2e-5
ROWS = {row.model_type: row for row in FAMILIES if row.model_type in ("t5", "mt5", "umt5")}
T5 = ROWS["t5"]
CLASSIFIER, SPANS = "ForSequenceClassification", "ForQuestionAnswering"


@pytest.mark.parametrize("name", ROWS)
def test_a_classifier_answers_as_transformers_pipeline(name: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, ROWS[name], CLASSIFIER)
    texts = ["the cat sat on the mat", "stock market rose today ."]
    expected = transformers.pipeline("text-classification", model=str(tmp_path), device="cpu")(texts, top_k=None)
    actual = pipeline("text-classification", model=tmp_path)(texts, top_k=None)
    for one, other in zip(actual, expected, strict=True):
        assert [label["label"] for label in one] == [label["label"] for label in other]
        assert [label["score"] for label in one] == pytest.approx([label["score"] for label in other], abs=ABSOLUTE)


def test_one_conversion_serves_the_encoder_and_the_classifier(tmp_path: Path) -> None:
    """The decoder is kept where a head reads it, in whatever order the classes are loaded, and dropped elsewhere."""
    torch_model, inputs = save_model(tmp_path, T5, CLASSIFIER), ragged_inputs(T5)
    encoder = MLXAutoModel.from_pretrained(tmp_path)
    classifier = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert encoder.folder == classifier.folder
    with torch.no_grad():
        tensors = {name: torch.tensor(array) for name, array in inputs.items()}
        expected = torch_model.transformer.encoder(**tensors).last_hidden_state
        logits = torch_model(**tensors).logits
    valid = inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(encoder(**inputs).last_hidden_state[valid], expected[valid], rtol=0, atol=ABSOLUTE)
    np.testing.assert_allclose(classifier(**inputs).logits, logits, rtol=0, atol=ABSOLUTE)
    transformers.T5ForConditionalGeneration(T5.config).save_pretrained(tmp_path / "generator")
    folder = MLXAutoModel.from_pretrained(tmp_path / "generator").folder
    assert not [name for name in read_tensors(folder) if "decoder" in name]


def test_a_saved_classifier_is_read_by_transformers(tmp_path: Path) -> None:
    torch_model, inputs = save_model(tmp_path, T5, SPANS, labels=2), ragged_inputs(T5)
    MLXAutoModelForQuestionAnswering.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    loaded, report = transformers.T5ForQuestionAnswering.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"]
    with torch.no_grad():
        one, other = (
            model(**{name: torch.tensor(array) for name, array in inputs.items()}) for model in (loaded, torch_model)
        )
    torch.testing.assert_close(one.start_logits, other.start_logits)


def test_calls_that_transformers_refuses_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, T5, CLASSIFIER)
    model, inputs = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path), ragged_inputs(T5)
    uneven = {**inputs, "input_ids": inputs["input_ids"].copy()}
    uneven["input_ids"][0, 1] = 9
    with pytest.raises(InputError, match="from 2 to 3 end tokens"):
        model(**uneven)
    with pytest.raises(InputError, match="decoder reads token ids"):
        model(inputs_embeds=np.zeros((1, 4, 24), np.float32))


@pytest.mark.parametrize("start", [None, 101])
def test_a_decoder_without_a_start_token_is_one_clear_error(start: int | None, tmp_path: Path) -> None:
    save_model(tmp_path, T5, CLASSIFIER)
    edit_config(tmp_path, decoder_start_token_id=start)
    with pytest.raises(ConfigError, match=f"decoder_start_token_id={start}, expected an id below"):
        MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    MLXAutoModel.from_pretrained(tmp_path)
