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
    "luke:entities": ("Luke", ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")),
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


@pytest.mark.parametrize("kind", ["Entity", "EntityPair", "EntitySpan"])
def test_entities_are_classified_as_in_transformers(kind: str, tmp_path: Path) -> None:
    name = f"{kind}Classification"
    variant = replace(variant_of("luke:entities"), classes=f"LukeFor{name}")
    inputs = inputs_of(variant)
    if kind == "EntitySpan":
        inputs |= {key: torch.tensor([[1, 4, 2]] * 3) for key in ("entity_start_positions", "entity_end_positions")}
    expected = run_reference(variant, tmp_path, inputs)
    model = getattr(mlx_hf_bridge, f"MLXAutoModelFor{name}").from_pretrained(tmp_path)
    actual = model(**to_numpy(inputs))
    assert list(actual) == list(expected) == ["logits"]
    np.testing.assert_allclose(actual.logits, expected["logits"], rtol=0, atol=2e-5)
    with pytest.raises(InputError, match="are not given, and the model classifies entities"):
        model([[5, 6]])
    if kind == "EntitySpan":
        ends = {"entity_start_positions": [[0]], "entity_end_positions": [[2]]}
        with pytest.raises(TokenRangeError, match=r"entity_end_positions has values from 2 to 2, .* 0 to 1"):
            model([[5, 6]], entity_ids=[[1]], entity_position_ids=[[[0, -1]]], **ends)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"entity_ids": [[1]]}, "entity_ids was given without entity_position_ids, which it needs"),
        ({"entity_attention_mask": [[1]]}, "entity_attention_mask was given without entity_ids"),
        ({"entity_ids": [[9]], "entity_position_ids": [[[0]]]}, r"entity_ids has values from 9 to 9, .* 0 to 8"),
        ({"entity_ids": [[1]], "entity_position_ids": [[[-2]]]}, "entity_position_ids has values from -2 to -2"),
        ({"entity_ids": [[1, 2]], "entity_position_ids": [[[0]]]}, r"has the shape \(1, 1, 1\), expected \(1, 2, 1\)"),
    ],
)
def test_wrong_entities_are_one_clear_error(given: Any, message: str, luke: Any) -> None:
    with pytest.raises((InputError, TokenRangeError), match=message):
        luke([[5, 6]], **given)


def test_the_hidden_states_of_entities_are_apart(luke: Any) -> None:
    variant = variant_of("luke:entities")
    inputs = inputs_of(variant)
    with torch.no_grad():
        expected = variant.module()(**inputs, output_hidden_states=True, output_attentions=True)
    actual = luke(**inputs, output_hidden_states=True, output_attentions=True)
    assert type(actual) is type(expected)
    assert list(actual) == list(expected)
    mask = inputs["attention_mask"].bool()
    for name in ("hidden_states", "entity_hidden_states"):
        for one, other in zip(actual[name], expected[name], strict=True):
            kept = mask if name == "hidden_states" else slice(None)
            np.testing.assert_allclose(one[kept], other[kept], rtol=0, atol=5e-5)
    np.testing.assert_allclose(actual.attentions[0], expected.attentions[0], rtol=0, atol=2e-5)


def saved_model(name: str, folder: Path) -> Any:
    variant_of(name).module().save_pretrained(folder / "source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(folder / "cache"))
        return MLXAutoModel.from_pretrained(folder / "source")


@pytest.fixture(scope="module")
def luke(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return saved_model("luke:entities", tmp_path_factory.mktemp("luke"))


@pytest.fixture(scope="module")
def layoutlm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return saved_model("layoutlm", tmp_path_factory.mktemp("layoutlm"))


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
