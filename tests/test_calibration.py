"""Tests of calibrated rounding: smaller errors than mx.quantize, in the format of MLX, reproducible."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import FAMILIES, make_checkpoint
from convert_checkpoints import make_bert, metadata_of

from mlx_hf_bridge import MLXAutoModel, MLXQuantizationConfig, MLXSentenceTransformer
from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion import method_choice
from mlx_hf_bridge.conversion.api import convert
from mlx_hf_bridge.conversion.plan import plan_conversion
from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.quantization import calibration, distillation, layerwise
from mlx_hf_bridge.quantization.grid import quantize_least_squares
from mlx_hf_bridge.quantization.methods import bundled_texts
from mlx_hf_bridge.quantization.quantized_weights import QuantizedWeights
from mlx_hf_bridge.quantization.recipes import BITS, GROUP_SIZES, recipe_from
from mlx_hf_bridge.quantization.statistics import InputMoments
from mlx_hf_bridge.quantization.two_sided_rounding import round_weights

WIDTHS = [(bits, size) for bits in BITS["affine"] for size in GROUP_SIZES["affine"]]
TEXTS = [f"{first} {second} the {third}" for first in "abcd" for second in ("cat sat", "dog ran") for third in "xyz"]


def random_weights(outputs: int = 24, inputs: int = 128) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(outputs, inputs)).astype(np.float32)


def unpacked(packed: Any, bits: int, group_size: int) -> np.ndarray:
    """Return the weights dequantized by MLX."""
    return np.array(mx.dequantize(*packed, group_size=group_size, bits=bits))


def own_rounding(weights: np.ndarray, bits: int, group_size: int) -> np.ndarray:
    """Return the weights quantized by mx.quantize and dequantized."""
    return unpacked(mx.quantize(mx.array(weights), group_size=group_size, bits=bits), bits, group_size)


def error_of(weights: np.ndarray, quantized: QuantizedWeights, second: np.ndarray) -> float:
    """Return the squared error of a linear layer for inputs of second moment `second`, summed over its outputs."""
    off = weights - quantized.dequantize()
    return float(((off @ second) * off).sum())


@pytest.mark.parametrize(("bits", "group_size"), WIDTHS)
def test_mlx_reads_our_codes_as_what_they_stand_for(bits: int, group_size: int) -> None:
    codes = quantize_least_squares(random_weights(), bits, group_size, mx.float32)
    packed = codes.pack(mx.float32)
    read = unpacked((packed["weight"], packed["scales"], packed["biases"]), bits, group_size)
    np.testing.assert_allclose(read, codes.dequantize(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("bits", "group_size"), WIDTHS)
def test_least_squares_errs_less_than_mlx_and_second_order_rounding_less_than_both(bits: int, group_size: int) -> None:
    weights, random = random_weights(), np.random.default_rng(1)
    inputs = random.normal(size=(400, 128)) @ (random.normal(size=(128, 128)) * np.linspace(0.1, 2, 128))
    second = (inputs.T @ inputs / 400).astype(np.float32)
    plain, fit = own_rounding(weights, bits, group_size), quantize_least_squares(weights, bits, group_size)
    assert ((weights - fit.dequantize()) ** 2).mean() < ((weights - plain) ** 2).mean()
    over_inputs = float((((weights - plain) @ second) * (weights - plain)).sum())
    assert error_of(weights, round_weights(weights, second, bits, group_size), second) < 0.6 * error_of(
        weights, fit, second
    )
    assert error_of(weights, fit, second) < over_inputs


@pytest.mark.parametrize("weights", [np.zeros((2, 64)), np.full((2, 64), 3.0), np.eye(2, 64), np.full((2, 64), 1e-9)])
def test_groups_without_a_range_are_kept_as_they_are(weights: np.ndarray) -> None:
    found = quantize_least_squares(weights.astype(np.float32), 4, 64).dequantize()
    np.testing.assert_allclose(found, weights, rtol=0, atol=1e-3)
    again = round_weights(weights.astype(np.float32), np.zeros((64, 64), np.float32), 4, 64).dequantize()
    np.testing.assert_allclose(again, weights, rtol=0, atol=1e-3)


@pytest.mark.parametrize("centered", [False, True])
def test_moments_are_those_of_all_rows_by_their_texts_counts(centered: bool) -> None:
    random = np.random.default_rng(3)
    calls = [(random.normal(5, 1, (2, length, 6)), random.normal(5, 1, (2, length, 6))) for length in (3, 4)]
    counts = np.array([[1.0, 4.0], [0.5, 2.0]])
    found = InputMoments()
    for (x, y), each in zip(calls, counts, strict=True):
        found.add(mx.array(x.astype(np.float32)), mx.array(y.astype(np.float32)), mx.array(each.astype(np.float32)))
    rows = [np.concatenate([call[side].reshape(-1, 6) for call in calls]) for side in (0, 1)]
    weights = np.concatenate([np.repeat(each, length) for each, length in zip(counts, (3, 4), strict=True)])
    means = [np.average(part, axis=0, weights=weights) for part in rows]
    x, y = (part - mean if centered else part for part, mean in zip(rows, means, strict=True))
    expected = [(x * weights[:, None]).T @ part / weights.sum() for part in (x, y - x)]
    for mlx_model, torch_model in zip(
        [*found.means(), *found.second_moments(centered)], [*means, *expected], strict=True
    ):
        np.testing.assert_allclose(mlx_model, torch_model, rtol=0, atol=2e-5)


def test_rows_that_are_not_of_texts_count_alike() -> None:
    rows = mx.array(np.random.default_rng(4).normal(size=(7, 6)).astype(np.float32))
    found, alike = InputMoments(), InputMoments()
    found.add(rows, rows, mx.array([1.0, 9.0]))
    alike.add(rows, rows, mx.array([1.0]))
    np.testing.assert_allclose(found.second_moments(False)[0], alike.second_moments(False)[0], rtol=0, atol=1e-6)


def cosine_to_float(folder: Path, recipe: Any) -> float:
    """Return the mean cosine between hidden states of the quantized and the float model."""
    ids = np.random.default_rng(5).integers(5, 60, (12, 9))
    floats, mlx_model = (
        MLXAutoModel.from_pretrained(folder),
        MLXAutoModel.from_pretrained(folder, quantization_config=recipe),
    )
    one, other = (np.array(model(ids).last_hidden_state).reshape(108, -1) for model in (floats, mlx_model))
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return float(cosines.mean())


@pytest.mark.slow
def test_a_calibrated_folder_is_nearer_to_the_float_model_than_a_plain_one(tmp_path: Path) -> None:
    make_bert(tmp_path)
    plain = cosine_to_float(tmp_path, "q3")
    recipes = {method: MLXQuantizationConfig(3, method=method) for method in ("least_squares", "data_free", "gptq")}
    by_method = {method: cosine_to_float(tmp_path, recipe) for method, recipe in recipes.items()}
    assert plain < by_method["least_squares"] < min(by_method["data_free"], by_method["gptq"]) < 1


# The rows of bert differ only in their activation, which does not matter to calibration.
CALIBRATED = [row for row in FAMILIES if row.model_type in ("bert", "albert", "modernbert", "t5")][1:]


@pytest.mark.slow
@pytest.mark.parametrize("row", CALIBRATED, ids=lambda row: row.model_type)
def test_other_families_are_calibrated_too(row: Any, tmp_path: Path) -> None:
    """ALBERT's shared layers, ModernBERT's gated feed-forwards and T5: the result loads, with finite outputs."""
    from test_quantization import widened

    # Half the usual width: rounding takes a fourth of the time, and groups of 64 still fit.
    wide = {name: width // 2 for name, width in ({"embedding_size": 128} | row.wide).items()}
    if not hasattr(row.config, "embedding_size"):
        del wide["embedding_size"]
    make_checkpoint(tmp_path, widened(replace(row, wide=wide)))
    recipe = {"bits": 4, "method": "gptq", "calibration_texts": TEXTS}
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    assert np.isfinite(np.array(mlx_model(np.array([[5, 6, 7]])).last_hidden_state)).all()
    plain = MLXAutoModel.from_pretrained(tmp_path, quantization_config="q4-rtn")
    names = [set(mx.load(str(model.folder / "model.safetensors"))) for model in (mlx_model, plain)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_calibration_gives_the_same_bytes_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "STEPS", 4)
    make_bert(tmp_path / "bert")
    recipe = MLXQuantizationConfig(bits=4, method="distill", calibration_texts=TEXTS)
    for name in ("one", "two"):
        convert(tmp_path / "bert", tmp_path / name, quantization_config=recipe, show_progress=False)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_a_calibration_that_was_broken_off_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "STEPS", 6)
    monkeypatch.setattr(distillation, "_SAVE_EVERY", 2)
    make_bert(tmp_path / "bert")
    recipe = MLXQuantizationConfig(bits=4, method="distill", calibration_texts=TEXTS)

    def run(name: str) -> bytes:
        convert(tmp_path / "bert", tmp_path / name, quantization_config=recipe, show_progress=False)
        return (tmp_path / name / "model.safetensors").read_bytes()

    whole = run("whole")
    step, done = distillation._Distillation.step, []

    def stopping(self: Any, batch: Any, rate: float) -> None:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(rate)
        step(self, batch, rate)

    monkeypatch.setattr(distillation._Distillation, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    assert not (tmp_path / "broken").exists()
    done.clear()
    rounds: list[str] = []
    monkeypatch.setattr(layerwise, "round_weights", lambda *args: rounds.append("again"))
    assert run("resumed") == whole
    assert len(done) == 2
    assert not rounds


@pytest.mark.slow
def test_the_texts_and_the_method_belong_to_the_identity(tmp_path: Path) -> None:
    make_bert(tmp_path)
    recipes = [
        MLXQuantizationConfig(4, method="gptq"),
        MLXQuantizationConfig(4, method="gptq", calibration_texts=TEXTS),
        MLXQuantizationConfig(4, method="gptq", calibration_texts=TEXTS[::-1]),
        MLXQuantizationConfig(4, method="least_squares"),
        MLXQuantizationConfig(4),
    ]
    folders = [MLXSentenceTransformer(str(tmp_path), quantization_config=recipe).folder for recipe in recipes]
    assert len(set(folders)) == len(recipes)
    noted = metadata_of(folders[1])["recipe"]
    assert noted == recipes[1].to_dict()
    assert "cat sat" not in json.dumps(noted)
    again = MLXSentenceTransformer(str(folders[1]), quantization_config=recipes[1])
    assert again.folder == folders[1]
    with pytest.raises(QuantizationError, match="is already converted with"):
        MLXSentenceTransformer(str(folders[1]), quantization_config=recipes[2])


def test_a_recipe_comes_back_from_its_dict_where_its_texts_are_at_hand() -> None:
    for name in ("q4", "q4-rtn", "q4-best", "q4-free", "mixed-4-8", "q3"):
        recipe = recipe_from(name)
        assert recipe is not None
        assert recipe_from(recipe.to_dict()) == recipe
    own = MLXQuantizationConfig(4, method="gptq", calibration_texts=TEXTS)
    with pytest.raises(QuantizationError, match=r"calibration='\w+', the hash of texts that are not available"):
        recipe_from(own.to_dict())


def test_a_checkpoint_without_a_tokenizer_cannot_be_calibrated(tmp_path: Path) -> None:
    from checkpoints import save_model
    from test_quantization import BERT

    save_model(tmp_path, BERT)
    with pytest.raises(QuantizationError, match=r"has no tokenizer, so it cannot read calibration.*least_squares"):
        MLXAutoModel.from_pretrained(tmp_path, quantization_config="q4-best")
    MLXAutoModel.from_pretrained(tmp_path, quantization_config="q4-fit")
    folder = MLXAutoModel.from_pretrained(tmp_path, quantization_config="q4").folder
    assert metadata_of(folder)["method"] == "least_squares"


def test_q4_is_nearer_to_the_float_model_than_plain_rounding_in_a_folder_of_its_own(tmp_path: Path) -> None:
    make_bert(tmp_path)
    models = [MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe) for recipe in (None, "q4-rtn", "q4")]
    ids = np.array([[2, 9, 12, 3], [2, 14, 7, 3]])
    expected, plain, calibrated = (np.array(model(ids).last_hidden_state) for model in models)
    assert np.square(calibrated - expected).mean() < 0.7 * np.square(plain - expected).mean()
    folders = [model.folder for model in models]
    assert len(set(folders)) == 3
    assert metadata_of(folders[2])["recipe"]["method"] == "auto"
    assert metadata_of(folders[2])["method"] == "gptq"
    # A dict and a config mean their fields, as for mlx-lm: plain rounding.
    assert MLXAutoModel.from_pretrained(tmp_path, quantization_config={"bits": 4}).folder == folders[1]


@pytest.mark.parametrize(("limit", "method"), [(10**9, "gptq"), (0, "least_squares")])
def test_q4_reads_no_texts_for_very_large_models(
    limit: int, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bert(tmp_path)
    monkeypatch.setattr(method_choice, "_CALIBRATED", limit)
    plan = plan_conversion(read_checkpoint(locate(tmp_path, HubOptions())), BASE_TASK, recipe_from("q4"), None)
    assert method_choice.choose_rounding(plan) == method_choice.Rounding(method, 0)


IMPOSSIBLE = [
    (
        {"method": "awq"},
        r"method='awq' is not known; use one of auto, minmax, least_squares, data_free, gptq, ",
    ),
    ({"method": "gptq", "mode": "mxfp4"}, r"method='gptq' finds affine scales and biases, and mode='mxfp4' has none\."),
    ({"method": "gptq", "calibration_texts": "text"}, r"calibration_texts is 'text', expected a list of texts\."),
    ({"method": "gptq", "calibration_texts": ["a"]}, r"calibration_texts has 1 texts that are not blank, expected 16"),
    ({"calibration_texts": TEXTS}, r"calibration_texts were given, and method='minmax' reads none\."),
    ({"seed": -1}, r"seed=-1, expected an integer from 0"),
    ({"modules": {"a": 4}}, r"modules has a=4, expected \{'bits': \.\.\., 'group_size'"),
    ({"modules": {"a": {"bits": 7}}}, r"bits=7 is not packed"),
    ({"modules": {1: None}}, r"modules has the key 1, expected a module's path\."),
]


@pytest.mark.parametrize(("given", "message"), IMPOSSIBLE, ids=str)
def test_an_impossible_calibration_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        recipe_from(given)


def test_modules_have_the_widths_that_they_are_given(tmp_path: Path) -> None:
    make_bert(tmp_path)
    modules = {"intermediate.dense": {"bits": 8, "group_size": 32}, "word_embeddings": None}
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config={"bits": 3, "modules": modules})
    bits = metadata_of(mlx_model.folder)["bits"]
    assert bits["encoder.layer.0.intermediate.dense.weight"] == 8
    assert bits["encoder.layer.0.output.dense.weight"] == 3
    assert bits["embeddings.word_embeddings.weight"] == "float16"
    packing = json.loads((mlx_model.folder / "config.json").read_text())["quantization"]
    own = {"group_size": 32, "bits": 8, "mode": "affine"}
    assert packing == {
        "group_size": 64,
        "bits": 3,
        "mode": "affine",
        **{f"encoder.layer.{layer}.intermediate.dense": own for layer in range(2)},
    }
    with pytest.raises(QuantizationError, match="fused with it"):
        MLXAutoModel.from_pretrained(tmp_path, quantization_config={"bits": 4, "modules": {"query": {"bits": 8}}})


def test_the_bundled_texts_are_many_and_different() -> None:
    texts = bundled_texts()
    assert len(set(texts)) == len(texts) >= 300
    assert min(map(len, texts)) < 10 < 200 < max(map(len, texts))
