"""Tests of mixed precision for a target size: solver against brute force, size in bytes, plans printed and reused."""

import itertools
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from convert_checkpoints import MB, Capture, make_bert, metadata_of

from mlx_hf_bridge import MLXQuantizationConfig, MLXSentenceTransformer
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.conversion.api import convert
from mlx_hf_bridge.errors import QuantizationError, SizeTargetError
from mlx_hf_bridge.quantization.recipes import recipe_from
from mlx_hf_bridge.quantization.solver import Choice, choose_widths, convex_front, min_bytes
from mlx_hf_bridge.quantization.widths import BitWidth


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_bert(tmp_path / "bert")


def random_choices(seed: int) -> dict[str, list[Choice]]:
    """Return random sizes and errors of six bit widths for four layers."""
    random = np.random.default_rng(seed)
    found = {}
    for name in "abcd":
        scale, weights = random.lognormal(0, 2), int(random.integers(10, 200))
        found[name] = [Choice(BitWidth(bits, 64), weights * bits, scale / 4**bits) for bits in (2, 3, 4, 5, 6, 8)]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_solver_finds_what_trying_everything_finds_but_for_the_last_bytes(seed: int) -> None:
    choices = random_choices(seed)
    budget = min_bytes(choices) * 2
    everything = [
        (sum(one.error for one in combination), sum(one.bytes for one in combination))
        for combination in itertools.product(*choices.values())
    ]
    found = choose_widths(choices, budget)
    assert sum(one.bytes for one in found.values()) <= budget
    best = min(error for error, size in everything if size <= budget)
    with_less = min(error for error, size in everything if size <= 0.9 * budget)
    assert best <= sum(one.error for one in found.values()) <= max(with_less, best)


def test_a_front_is_convex_and_falls() -> None:
    points = [Choice(None, size, error) for size, error in ((10, 9), (20, 8), (30, 1), (40, 2), (50, 0))]
    assert [(one.bytes, one.error) for one in convex_front(points)] == [(10, 9), (30, 1), (50, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("target", [{"bits_per_weight": 4.5}, {"target_size_mb": 0.06}], ids=str)
def test_a_target_is_met_in_bytes_and_beats_plain_rounding_of_that_size(
    target: dict[str, float], bert: Path, tmp_path: Path
) -> None:
    recipe = MLXQuantizationConfig(method="gptq", **target)  # type: ignore[arg-type]
    result = convert(bert, tmp_path / "mixed", quantization_config=recipe, show_progress=False)
    assert result.modules is not None
    plain = convert(bert, tmp_path / "rtn", quantization_config="q4-rtn", show_progress=False)
    written = (tmp_path / "mixed" / "model.safetensors").stat().st_size
    assert plain.weight_bytes is not None
    assert written <= (target["target_size_mb"] * MB if "target_size_mb" in target else 1.01 * plain.weight_bytes)
    metadata = metadata_of(tmp_path / "mixed")
    assert metadata["plan"] == result.modules
    assert len({json.dumps(width) for width in metadata["plan"].values()}) > 1
    texts = ["the cat sat", "a dog ran on the mat", "on a mat"]
    floats, mixed, four = (
        MLXSentenceTransformer(str(path)).encode(texts, normalize_embeddings=True)
        for path in (bert, tmp_path / "mixed", tmp_path / "rtn")
    )
    assert (floats * mixed).sum() > (floats * four).sum()


def test_dry_run_shows_the_plan_and_writes_nothing(bert: Path, tmp_path: Path, capsys: Capture) -> None:
    output = str(tmp_path / "out")
    assert main(["convert", "--model", str(bert), "--recipe", "mixed-4-8", "--dry-run", "--output-dir", output]) == 0
    shown = capsys.readouterr().out
    assert "encoder.layer.0.attention.self.query" in shown
    assert "groups of" in shown
    assert not Path(output).exists()


def test_a_plan_is_used_again(bert: Path, tmp_path: Path) -> None:
    recipe = MLXQuantizationConfig(method="least_squares", bits_per_weight=5.0)
    convert(bert, tmp_path / "first", quantization_config=recipe, show_progress=False)
    file = str(tmp_path / "first" / "conversion_metadata.json")
    convert(bert, tmp_path / "again", quantization_config=file, show_progress=False)
    one, two = (mx.load(str(tmp_path / name / "model.safetensors")) for name in ("first", "again"))
    assert {name: array.shape for name, array in one.items()} == {name: array.shape for name, array in two.items()}
    assert all(bool(mx.array_equal(one[name], two[name])) for name in one)
    (tmp_path / "no.json").write_text("[]")
    with pytest.raises(QuantizationError, match="holds no recipe"):
        recipe_from(str(tmp_path / "no.json"))


@pytest.mark.slow
def test_a_target_that_cannot_be_met_names_the_smallest_size(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(SizeTargetError, match=r"target_size_mb=0.01 cannot be met.* smallest possible is 0\.\d+ MB"):
        convert(bert, tmp_path / "out", quantization_config={"target_size_mb": 0.01}, show_progress=False)
    with pytest.raises(SizeTargetError, match=r"bits_per_weight=3 cannot be met.* the smallest is 4\.4"):
        convert(bert, tmp_path / "out", quantization_config={"bits_per_weight": 3, "bits_choices": [4, 8]})
    with pytest.raises(SizeTargetError, match=r"target_size_mb=0\.01 cannot be met"):
        convert(bert, tmp_path / "out", quantization_config="mixed-4", target_size_mb=0.01, show_progress=False)
    assert not (tmp_path / "out").exists()


IMPOSSIBLE = [
    ({"target_size_mb": 0}, r"target_size_mb=0, expected a number greater than 0"),
    ({"target_size_mb": 1, "bits_per_weight": 4}, r"were both given"),
    ({"bits_choices": [4]}, r"bits_choices is for target_size_mb or bits_per_weight"),
    ({"bits_per_weight": 4, "bits_choices": [7]}, r"bits_choices=\(7,\), expected some of 2, 3, 4, 5, 6, 8, 32"),
    ({"bits_per_weight": 4, "mode": "mxfp4"}, r"chooses the bits of affine modules"),
]


@pytest.mark.parametrize(("given", "message"), IMPOSSIBLE, ids=str)
def test_an_impossible_target_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        recipe_from(given)
