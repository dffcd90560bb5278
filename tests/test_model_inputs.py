"""Arguments beyond ids and masks that single model types have, against transformers: given, left out, wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from encoder_zoo import inputs_of, largest_difference, run_reference

import mlx_hf_bridge
from benchmarks.traced_variants import VARIANTS, Variant
from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import InputError, TokenRangeError
from mlx_hf_bridge.facade import facade

# Variant -> the start of its classes' names, and the heads that are tried.
HEADS = {
    "layoutlm": ("LayoutLM", ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")),
}
HEADS |= {
    "roc_bert": ("RoCBert", ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")),
    "markuplm": ("MarkupLM", ("SequenceClassification", "TokenClassification", "QuestionAnswering")),
    "xmod": ("Xmod", ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")),
    "tapas": ("Tapas", ("MaskedLM", "SequenceClassification")),
}
NAMES = list(HEADS)
CASES = [(name, "Model") for name in HEADS] + [(name, f"For{head}") for name, own in HEADS.items() for head in own[1]]


# Traced types, whose graph takes the inputs.
TRACED = {
    "bros": ("Bros", ("TokenClassification",)),
    "lilt": ("Lilt", ("SequenceClassification", "TokenClassification", "QuestionAnswering")),
    "layoutlmv3:text": ("LayoutLMv3", ("SequenceClassification", "TokenClassification", "QuestionAnswering")),
    "udop:encoder": ("Udop", ()),
}


def variant_of(name: str, suffix: str = "Model") -> Variant:
    """Return the variant with another class of its model type."""
    found = next(one for one in VARIANTS if one.name == name)
    return found if suffix == "Model" else replace(found, classes={**HEADS, **TRACED}[name][0] + suffix)


def to_numpy(inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in inputs.items()}


def own_inputs(variant: Variant) -> list[str]:
    return list(variant.extra(2, 9))


@pytest.mark.parametrize(("name", "suffix"), CASES)
def test_an_input_gives_the_values_of_transformers(name: str, suffix: str, tmp_path: Path) -> None:
    variant = variant_of(name, suffix)
    inputs = inputs_of(variant)
    expected = run_reference(variant, tmp_path, inputs)
    model = getattr(mlx_hf_bridge, "MLXAutoModel" + suffix.removeprefix("Model")).from_pretrained(tmp_path)
    actual = model(**to_numpy(inputs))
    mask = inputs["attention_mask"].numpy()
    assert largest_difference(actual, expected, mask)[1] == []
    # Without the inputs, the values that transformers assumes.
    plain = {key: tensor for key, tensor in inputs.items() if key not in own_inputs(variant)}
    expected = run_reference(variant, tmp_path, plain)
    assert largest_difference(model(**to_numpy(plain)), expected, mask)[1] == []
    # The inputs matter.
    assert largest_difference(actual, expected, mask)[1] != []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix"),
    [(name, suffix) for name, (_, heads) in TRACED.items() for suffix in ("Model", *(f"For{head}" for head in heads))],
)
def test_a_traced_model_takes_the_input(name: str, suffix: str, tmp_path: Path) -> None:
    variant = variant_of(name, suffix)
    inputs = inputs_of(variant)
    expected = run_reference(variant, tmp_path, inputs)
    model = getattr(mlx_hf_bridge, "MLXAutoModel" + suffix.removeprefix("Model")).from_pretrained(tmp_path)
    assert model.is_traced
    actual = model(**to_numpy(inputs))
    assert largest_difference(actual, expected, inputs["attention_mask"].numpy())[1] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_and_a_quantized_model_read_the_inputs(name: str, tmp_path: Path) -> None:
    variant = variant_of(name)
    inputs = inputs_of(variant)
    expected = run_reference(variant, tmp_path / "source", inputs)
    MLXAutoModel.from_pretrained(tmp_path / "source").save_pretrained(tmp_path / "saved")
    saved = MLXAutoModel.from_pretrained(tmp_path / "saved")
    mask = inputs["attention_mask"].numpy()
    assert largest_difference(saved(**to_numpy(inputs)), expected, mask)[1] == []
    quantized = MLXAutoModel.from_pretrained(tmp_path / "source", quantization_config="q8")
    found = quantized(**to_numpy(inputs)).last_hidden_state[mask.astype(bool)]
    wanted = expected["last_hidden_state"][mask.astype(bool)]
    assert np.corrcoef(np.array(found).ravel(), wanted.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_a_facade_computes_the_inputs_without_torch(name: str, tmp_path: Path) -> None:
    variant = variant_of(name)
    inputs = inputs_of(variant)
    expected = run_reference(variant, tmp_path, inputs)

    def refuse(reason: str) -> Any:
        raise AssertionError(reason)

    model = facade(MLXAutoModel.from_pretrained(tmp_path), fall_back=refuse)
    with torch.no_grad():
        output = model(**inputs)
    assert isinstance(output, transformers.utils.ModelOutput)
    assert list(output) == list(expected)
    assert largest_difference(output, expected, inputs["attention_mask"].numpy())[1] == []


@pytest.fixture(scope="module")
def layoutlm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("layoutlm")
    variant_of("layoutlm").module().save_pretrained(folder / "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(folder / "cache"))
        return MLXAutoModel.from_pretrained(folder / "source")


@pytest.mark.parametrize(
    ("boxes", "error", "message"),
    [
        ([[0, 0, 64, 1], [0] * 4], TokenRangeError, r"bbox has values from 0 to 64, .* 0 to 63 \(max_2d_position_em"),
        ([[-1, 0, 3, 1], [0] * 4], TokenRangeError, r"bbox has values from -1 to 3"),
        ([[5, 0, 3, 1], [0] * 4], TokenRangeError, r"bbox has a box \[5, 0, 3, 1\], expected .* Order the corners"),
        ([[1, 2, 3], [0] * 3], InputError, r"bbox has the shape \(1, 2, 3\), expected \(1, 2, 4\)"),
        ([[1.5, 2, 3, 4], [0] * 4], TypeError, r"bbox has the dtype float"),
    ],
)
def test_wrong_boxes_are_one_clear_error(boxes: Any, error: Any, message: str, layoutlm: Any) -> None:
    with pytest.raises(error, match=message):
        layoutlm([[5, 6]], bbox=[boxes])
