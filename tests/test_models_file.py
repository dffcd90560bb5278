"""Tests of the YAML file of models that `mlx-hf-bridge convert` reads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from convert_checkpoints import Capture, make_bert

from mlx_hf_bridge.cli import main
from mlx_hf_bridge.cli.models_file import read_models
from mlx_hf_bridge.cli.quantization_options import QuantizationOptions
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.quantization.recipes import RECIPES


@pytest.fixture
def bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the checkpoint "bert" in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return make_bert(tmp_path / "bert")


def write_models(*models: dict[str, Any], path: str = "config/models.yaml") -> None:
    """Write a YAML file of models."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(yaml.safe_dump({"models": list(models)}), encoding="utf-8")


def test_without_a_model_all_of_the_config_are_converted_and_one_that_fails_stops_none(
    bert: Path, capsys: Capture
) -> None:
    write_models(
        {"name": "gone", "hf_name": "./no/such/folder"},
        {"name": "four", "hf_name": "bert", "quantization": {"bits": 4, "dtype": "int4", "group_size": 32}},
        {"name": "large", "hf_name": "bert", "quantization": {"bits": 32, "dtype": "float32", "target_size_mb": 0.1}},
        {"name": "whole", "hf_name": "bert", "quantization": {"bits": 32}, "task": "sentence-similarity"},
    )
    assert main(["convert"]) == 1
    captured = capsys.readouterr()
    made = {path.name for path in Path("models/mlx_converted").iterdir()}
    assert made == {"four-mlx-q4-g32", "whole-mlx-fp32"}
    assert "error: gone: './no/such/folder' is neither a folder" in captured.err
    assert "error: large: the weights of bert in float take" in captured.err
    blocks = {block.partition(":")[0]: block for block in captured.out.split("\n\n")}
    assert "failed" in blocks["gone"]
    assert "failed" in blocks["large"]
    assert "four: converted" in blocks["four"]
    assert "4 (groups of 32)" in blocks["four"]
    assert "models/mlx_converted/whole-mlx-fp32\n" in blocks["whole"]


def test_every_recipe_can_be_written_in_the_file(bert: Path) -> None:
    texts = [f"the cat number {number} sat" for number in range(16)]
    Path("texts.txt").write_text("\n".join(texts))
    write_models(
        {"name": "a", "hf_name": "bert", "quantization": {"recipe": "q4-fit"}},
        {"name": "b", "hf_name": "bert", "quantization": {"bits": 4, "method": "least_squares"}},
        {"name": "c", "hf_name": "bert", "quantization": {"recipe": "q4-best", "calibration_texts": "texts.txt"}},
        {"name": "d", "hf_name": "bert", "quantization": {"recipe": "mixed-4", "bits_per_weight": 5}},
    )
    a, b, c, d = (entry.quantization.resolve()[0] for entry in read_models(Path("config/models.yaml")))
    assert a == b == RECIPES["q4-fit"]
    assert c == replace(RECIPES["q4-best"], calibration_texts=tuple(texts))
    assert d is not None
    assert d.bits_per_weight == 5


def test_model_takes_a_name_of_the_config_and_flags_go_before_its_values(bert: Path) -> None:
    write_models(
        {"name": "four", "hf_name": "bert", "quantization": {"bits": 4, "dtype": "int4", "group_size": 32}},
        {"name": "other", "hf_name": "./no/such/folder"},
        path="mine.yaml",
    )
    config = ["--config", "mine.yaml", "--output-dir", "out"]
    assert main(["convert", *config, "--model", "four"]) == 0
    assert main(["convert", *config, "--model", "four", "--bits", "6"]) == 0
    assert main(["convert", *config, "--model", "four", "--bits", "32"]) == 0
    assert main(["convert", *config, "--model", "four", "--group-size", "64"]) == 0
    assert main(["convert", *config, "--model", "four", "--mode", "mxfp8"]) == 0
    assert main(["convert", *config, "--model", "four", "--recipe", "q2"]) == 0
    assert main(["convert", *config, "--model", "four", "--bits", "5", "--target-size-mb", "0.01"]) == 1
    assert main(["convert", *config, "--model", "bert", "--bits", "3"]) == 0
    names = {"four-mlx-q4-g32", "four-mlx-q6-g32", "four-mlx-fp32", "four-mlx-q4", "four-mlx-mxfp8", "four-mlx-q2"}
    assert {path.name for path in Path("out").iterdir()} == {*names, "bert-mlx-q3"}


def test_no_config_and_no_model_is_an_error(bert: Path, capsys: Capture) -> None:
    assert main(["convert"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no config config/models.yaml. Give --config FILE, or ")
    assert main(["convert", "--model", "bert", "--config", "gone.yaml"]) == 1
    assert "there is no config gone.yaml" in capsys.readouterr().err


GOOD = {"name": "a", "hf_name": "b"}
FAULTS: dict[str, tuple[Any, str]] = {
    "no mapping": (["a"], "is ['a'], expected a mapping with the keys models"),
    "empty": (None, "is None, expected a mapping with the keys models"),
    "no models": ({}, "has no 'models'; required keys are models"),
    "unknown top key": ({"models": [GOOD], "model": 1}, "has the unknown key 'model'; known keys are models"),
    "models no list": ({"models": GOOD}, "expected a list"),
    "empty list": ({"models": []}, "has an empty list of models"),
    "entry no mapping": ({"models": ["a"]}, "models[0] is 'a', expected a mapping with the keys name, hf_name, task"),
    "doubled": ({"models": [GOOD, GOOD]}, "has the name 'a' more than once"),
}
ENTRY_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (
        {"nam": "x"},
        "models[0] has the unknown key 'nam'; known keys are name, hf_name, task",
    ),
    "name no string": ({"name": 3}, "has name=3, expected a string"),
    "name empty": ({"name": ""}, "has name='', expected a string"),
    "name a path": ({"name": "../a"}, "has name='../a', expected letters, digits"),
    "name dots": ({"name": ".."}, "has name='..', expected letters, digits"),
    "hf_name no string": ({"hf_name": ["b"]}, "has hf_name=['b'], expected a string"),
    "task": ({"task": "fill-mask"}, "has task='fill-mask', expected one of feature-extraction, embedding"),
    "quantization no mapping": ({"quantization": 8}, "has quantization=8, expected a mapping"),
}
QUANTIZATION_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (
        {"bit": 8},
        "has the unknown key 'bit'; known keys are bits, group_size, mode",
    ),
    "bits 7": ({"bits": 7}, "has bits=7, expected one of 2, 3, 4, 5, 6, 8, 32"),
    "bits a string": ({"bits": "8"}, "has bits='8', expected an integer"),
    "bits a bool": ({"bits": True}, "has bits=True, expected an integer"),
    "group_size": ({"group_size": 48}, "group_size=48 is not packed by MLX in mode 'affine'; use 32 or 64 or 128"),
    "group_size a float": ({"group_size": 64.0}, "has group_size=64.0, expected an integer"),
    "mode": ({"mode": "int8"}, "has mode='int8', expected one of affine, mxfp4, mxfp8, nvfp4"),
    "mode and bits": ({"mode": "mxfp4", "bits": 8}, "bits=8 is not packed by MLX in mode 'mxfp4'; use 4"),
    "mode and 32": ({"mode": "mxfp4", "bits": 32}, "mode='mxfp4' contradicts bits=32"),
    "dtype": ({"dtype": "int7"}, "has dtype='int7', expected one of int2, int3"),
    "dtype and bits": (
        {"dtype": "int8", "bits": 4},
        "dtype='int8' means 8 bits and the quantization has 4; make them agree",
    ),
    "dtype and mode": ({"dtype": "int8", "mode": "mxfp4"}, "means 8 bits and the quantization has 4 (mode mxfp4)"),
    "float32 and bits": ({"dtype": "float32", "bits": 8}, "dtype='float32' means 32 bits and the quantization has 8"),
    "int8 and 32": ({"dtype": "int8", "bits": 32}, "dtype='int8' contradicts bits=32, which means no quantization"),
    "float16 and 32": ({"dtype": "float16", "bits": 32}, "dtype='float16' contradicts bits=32"),
    "target a string": ({"target_size_mb": "70"}, "has target_size_mb='70', expected a number"),
    "target 0": ({"target_size_mb": 0}, "has target_size_mb=0, expected a number greater than 0"),
}
ALL_FAULTS = {
    **FAULTS,
    **{name: ({"models": [{**GOOD, **entry}]}, words) for name, (entry, words) in ENTRY_FAULTS.items()},
    **{
        f"quantization: {name}": ({"models": [{**GOOD, "quantization": quantization}]}, words)
        for name, (quantization, words) in QUANTIZATION_FAULTS.items()
    },
    "no hf_name": ({"models": [{"name": "a"}]}, "models[0] has no 'hf_name'; required keys are name, hf_name"),
}


@pytest.mark.parametrize("name", ALL_FAULTS)
def test_a_fault_of_the_config_is_named_before_anything_is_done(name: str, bert: Path, capsys: Capture) -> None:
    content, words = ALL_FAULTS[name]
    Path("config").mkdir()
    Path("config/models.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["convert"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: config/models.yaml")
    assert words in error
    assert error.count("\n") == 1
    assert not Path("models").exists()


@pytest.mark.parametrize("content", [b"models: [", b"\xff\xfe\x00", b"models: !!python/object:os.system x"])
def test_a_config_that_is_not_yaml_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_models(tmp_path / "models.yaml")


RESOLVED: list[tuple[QuantizationOptions, str | None, str | None]] = [
    (QuantizationOptions(), "q8", None),
    (QuantizationOptions(bits=8, dtype="uint8"), "q8", None),
    (QuantizationOptions(dtype="int4"), "q4", None),
    (QuantizationOptions(bits=4, dtype="bfloat16"), "q4", "bfloat16"),
    (QuantizationOptions(dtype="float16"), "q8", "float16"),
    (QuantizationOptions(mode="mxfp8", dtype="int8"), "mxfp8", None),
    (QuantizationOptions(bits=32, dtype="float32", group_size=64, mode="affine"), None, "float32"),
    (QuantizationOptions(dtype="float32"), None, "float32"),
]


@pytest.mark.parametrize(("packing", "recipe", "dtype"), RESOLVED)
def test_packings_that_agree_with_themselves(
    packing: QuantizationOptions, recipe: str | None, dtype: str | None
) -> None:
    assert packing.resolve() == (RECIPES[recipe] if recipe else None, dtype)


def test_flags_replace_what_depends_on_them_and_keep_the_rest() -> None:
    entry = QuantizationOptions(bits=4, group_size=32, dtype="int4")
    assert QuantizationOptions().with_defaults(entry) == entry
    assert QuantizationOptions(bits=6).with_defaults(entry) == QuantizationOptions(bits=6, group_size=32)
    assert QuantizationOptions(mode="affine").with_defaults(entry) == QuantizationOptions(
        bits=4, group_size=32, mode="affine"
    )
    assert QuantizationOptions(mode="nvfp4").with_defaults(entry) == QuantizationOptions(mode="nvfp4")
    assert QuantizationOptions(recipe="q2").with_defaults(entry) == QuantizationOptions(recipe="q2")
    assert QuantizationOptions(bits=32).with_defaults(
        QuantizationOptions(bits=8, dtype="bfloat16")
    ) == QuantizationOptions(bits=32)
    assert QuantizationOptions(bits=4).with_defaults(
        QuantizationOptions(bits=8, dtype="bfloat16")
    ) == QuantizationOptions(bits=4, dtype="bfloat16")


def test_the_config_of_the_project_is_good() -> None:
    entries = read_models(Path(__file__).parent.parent / "config" / "models.yaml")
    assert {entry.hf_name for entry in entries} >= {
        "sentence-transformers/all-MiniLM-L6-v2",
        "typeform/distilbert-base-uncased-mnli",
    }


def test_an_installed_package_has_the_models_of_the_repository(
    bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    packaged = bert.parent / "packaged.yaml"
    packaged.write_text(yaml.safe_dump({"models": [{"name": "small", "hf_name": "bert"}]}), encoding="utf-8")
    monkeypatch.setattr("mlx_hf_bridge.cli.convert._PACKAGED", packaged)
    assert main(["convert", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "small: would convert" in captured.out
    assert f"the models of {packaged} are converted" in captured.err


def test_a_name_that_is_nearly_one_of_the_file_is_no_model_of_the_hub(bert: Path, capsys: Capture) -> None:
    write_models({"name": "minilm", "hf_name": "bert"})
    assert main(["convert", "minlm", "--dry-run"]) == 1
    assert "the models file has no 'minlm'; did you mean minilm?" in capsys.readouterr().err
