"""DPR's encoders and reader answer as transformers, from files of each kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import STD, WITH_TOKEN_TYPES, make_wordpiece, mlx_class
from weight_files import edit_config, rewrite

from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer
from mlx_hf_bridge.errors import UnsupportedModelError, WeightsError

ABSOLUTE = 2e-5


def save(folder: Path, kind: str, **keys: Any) -> Any:
    """Save a random model of one of DPR's classes and return it."""
    torch.manual_seed(0)
    config = transformers.DPRConfig(**WITH_TOKEN_TYPES, hidden_act="gelu_new", pad_token_id=1, **keys)
    model = getattr(transformers, f"DPR{kind}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, STD)
    model.save_pretrained(folder)
    return model


def batch() -> dict[str, np.ndarray]:
    """Return ids padded with 1 on the right, and token types."""
    random = np.random.default_rng(0)
    real = np.arange(9) < [[9], [6], [3]]
    ids = np.where(real, random.integers(5, 101, real.shape), 1)
    return {"input_ids": ids, "token_type_ids": random.integers(0, 3, real.shape) * real}


@pytest.mark.parametrize(
    ("kind", "head", "keys"),
    [
        ("QuestionEncoder", "Model", {}),
        ("QuestionEncoder", "Model", {"projection_dim": 10}),
        ("ContextEncoder", "Model", {"projection_dim": 10}),
        ("Reader", "ForQuestionAnswering", {}),
    ],
)
def test_outputs_are_those_of_transformers(kind: str, head: str, keys: dict[str, Any], tmp_path: Path) -> None:
    """Without a mask padding is masked by its id; the first output is the pooled one, as there."""
    reference, inputs = save(tmp_path, kind, **keys), batch()
    # Old files have the pooler of the BERT inside, which transformers leaves out.
    prefix = "question_encoder.bert_model.pooler.dense"
    if kind == "QuestionEncoder":
        extra = {f"{prefix}.weight": torch.ones(24, 24), f"{prefix}.bias": torch.ones(24)}
        rewrite(tmp_path, lambda tensors: tensors | extra)
    model = mlx_class(head).from_pretrained(tmp_path)
    if kind == "Reader":  # it reads no token types
        inputs.pop("token_type_ids")
        inputs["attention_mask"] = (inputs["input_ids"] != 1).astype(int)
    for given in (inputs, {**inputs, "attention_mask": (np.arange(9) < [[9], [5], [1]]).astype(int)}):
        with torch.no_grad():
            tensors = {name: torch.tensor(array) for name, array in given.items()}
            expected = reference(**tensors, output_hidden_states=True, output_attentions=True)
        found = model(**given, output_hidden_states=True, output_attentions=True)
        assert list(found) == list(expected)
        for name in ("pooler_output", "start_logits", "end_logits", "relevance_logits"):
            if name in expected:
                np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=ABSOLUTE)
        np.testing.assert_allclose(found[0], expected[0].numpy(), rtol=0, atol=ABSOLUTE)
        for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=ABSOLUTE)
    model.save_pretrained(tmp_path / "saved")
    again = mlx_class(head).from_pretrained(tmp_path / "saved")(**inputs)
    np.testing.assert_array_equal(again[0], model(**inputs)[0])
    packed = mlx_class(head).from_pretrained(tmp_path, quantization_config="q8")(**inputs)
    assert np.abs(packed[0] - model(**inputs)[0]).max() < 0.2


def test_what_is_missing_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, "QuestionEncoder")
    with pytest.raises(WeightsError, match=r"qa_outputs\.weight"):
        mlx_class("ForQuestionAnswering").from_pretrained(tmp_path)
    make_wordpiece(tmp_path)
    with pytest.raises(UnsupportedModelError, match="MLXAutoModel, whose pooler_output"):
        MLXSentenceTransformer(str(tmp_path))
    edit_config(tmp_path, projection_dim=10)
    with pytest.raises(WeightsError, match="encode_proj"):
        MLXAutoModel.from_pretrained(tmp_path)
