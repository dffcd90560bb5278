"""Tests that transformers loads exports in its metal format and computes the outputs of the quantized MLX model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from checkpoints import make_checkpoint, ragged_inputs
from convert_checkpoints import SMALL, Capture
from weight_files import max_difference, output_array

from mlx_hf_bridge import MLXAutoModelForSequenceClassification
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.conversion.api import convert
from mlx_hf_bridge.conversion.metal_export import export_metal
from mlx_hf_bridge.errors import QuantizationError, RepositoryError

# The export rounds the token embedding table to float16 once more; logits are between 1 and 4.
TOLERANCE = 5e-3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_transformers_computes_what_ours_computes(bits: int, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "source", SMALL, "ForSequenceClassification")
    recipe: Any = {"bits": bits, "method": "least_squares"}
    convert(tmp_path / "source", tmp_path / "packed", quantization_config=recipe, show_progress=False)
    export_metal(tmp_path / "packed", tmp_path / "metal")
    said = json.loads((tmp_path / "metal" / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["bits"], said["group_size"]) == ("metal", bits, 64)
    torch_model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "metal", device_map={"": "cpu"}
    )
    inputs = ragged_inputs(SMALL)
    expected = output_array(torch_model, inputs, "logits")
    for folder in ("packed", "metal"):
        mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path / folder)
        assert max_difference(output_array(mlx_model, inputs, "logits"), expected, inputs) < TOLERANCE
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize(
    "recipe", ["q6", "mxfp4", None, {"bits": 4, "modules": {"output.dense": {"bits": 8}}}], ids=str
)
def test_other_packings_are_refused(recipe: Any, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "source", SMALL)
    convert(tmp_path / "source", tmp_path / "packed", quantization_config=recipe, show_progress=False)
    with pytest.raises(QuantizationError, match=r"the metal format has affine 2, 4 or 8 bits"):
        export_metal(tmp_path / "packed", tmp_path / "metal")
    assert not (tmp_path / "metal").exists()


def test_an_occupied_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(RepositoryError, match="is not an empty folder"):
        export_metal(tmp_path / "packed", tmp_path / "there")
    assert (tmp_path / "there" / "file").read_text() == "mine"


def test_the_command_writes_the_same_folder_and_says_where(tmp_path: Path, capsys: Capture) -> None:
    make_checkpoint(tmp_path / "source", SMALL)
    convert(tmp_path / "source", tmp_path / "packed", quantization_config="q4-rtn", show_progress=False)
    export_metal(tmp_path / "packed", tmp_path / "expected")
    assert main(["export-metal", str(tmp_path / "packed"), str(tmp_path / "metal")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'metal'}\n  weights  0.")
    names = sorted(path.relative_to(tmp_path / "expected") for path in (tmp_path / "expected").rglob("*"))
    assert sorted(path.relative_to(tmp_path / "metal") for path in (tmp_path / "metal").rglob("*")) == names
    for name in names:
        assert (tmp_path / "metal" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_the_command_says_in_one_line_what_it_cannot_export(tmp_path: Path, capsys: Capture) -> None:
    make_checkpoint(tmp_path / "source", SMALL)
    for folder, words in (("source", "is packed in 32 bits"), ("nowhere", "nowhere")):
        assert main(["export-metal", str(tmp_path / folder), str(tmp_path / "metal")]) == 1
        stderr = capsys.readouterr().err
        assert stderr.startswith("error: ") and words in stderr and stderr.count("\n") == 1
    assert not (tmp_path / "metal").exists()
