"""Tests of `mlx-hf-bridge convert`: what it writes, what it leaves unchanged, and its errors."""

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from convert_checkpoints import Capture, converted, make_bert, metadata_of, snapshot
from huggingface_hub.utils import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo
from safetensors.numpy import load_file, save_file

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.conversion.api import convert
from mlx_hf_bridge.errors import RepositoryError

PACKINGS: list[tuple[list[str], str, dict[str, Any] | None]] = [
    ([], "q8", {"bits": 8, "group_size": 64, "mode": "affine"}),
    *(([f"--bits={bits}"], f"q{bits}", {"bits": bits, "group_size": 64, "mode": "affine"}) for bits in (2, 3, 5, 6, 8)),
    (["--recipe=q4-rtn"], "q4-rtn", {"bits": 4, "group_size": 64, "mode": "affine"}),
    # These are calibrated, which takes seconds.
    pytest.param(["--bits=4"], "q4", {"bits": 4, "group_size": 64, "mode": "affine"}, marks=pytest.mark.slow),
    pytest.param(
        ["--bits=4", "--group-size=32"],
        "q4-g32",
        {"bits": 4, "group_size": 32, "mode": "affine"},
        marks=pytest.mark.slow,
    ),
    (["--group-size=32"], "q8-g32", {"bits": 8, "group_size": 32, "mode": "affine"}),
    (["--mode=affine"], "q8", {"bits": 8, "group_size": 64, "mode": "affine"}),
    (["--mode=mxfp4"], "mxfp4", {"bits": 4, "group_size": 32, "mode": "mxfp4"}),
    (["--mode=mxfp8", "--bits=8"], "mxfp8", {"bits": 8, "group_size": 32, "mode": "mxfp8"}),
    (["--mode=nvfp4", "--group-size=16"], "nvfp4", {"bits": 4, "group_size": 16, "mode": "nvfp4"}),
    (["--recipe=q6"], "q6", {"bits": 6, "group_size": 64, "mode": "affine"}),
    (["--recipe=mxfp4"], "mxfp4", {"bits": 4, "group_size": 32, "mode": "mxfp4"}),
    (["--bits=32"], "fp32", None),
]


@pytest.fixture
def bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the checkpoint "bert" in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return make_bert(tmp_path / "bert")


def change_metadata(folder: Path, **changes: Any) -> None:
    """Set keys of conversion_metadata.json."""
    (folder / "conversion_metadata.json").write_text(json.dumps({**metadata_of(folder), **changes}), encoding="utf-8")


@pytest.mark.parametrize("content", ["default: {a: 1}\n", "models: [{name: other, hf_name: x, path: 3}]\n", "- [\n"])
def test_another_program_s_config_does_not_matter_to_a_model_that_is_given(
    content: str, bert: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "models.yaml").write_text(content)
    for model in ("bert", str(bert)):
        assert main(["convert", "--model", model, "--bits", "8", "--dry-run"]) == 0
    assert main(["convert", "--model", "other", "--bits", "8", "--dry-run"]) == 1
    assert ("unknown key 'path'" in capsys.readouterr().err) is ("other" in content)


@pytest.mark.parametrize(("flags", "suffix", "packing"), PACKINGS, ids=lambda value: "".join(value) if value else "")
def test_the_flags_name_the_folder_and_the_packing_in_it(
    flags: list[str], suffix: str, packing: dict[str, Any] | None, bert: Path
) -> None:
    assert main(["convert", "--model", str(bert), *flags]) == 0
    config = json.loads((converted(suffix) / "config.json").read_text(encoding="utf-8"))
    assert config.get("quantization") == packing
    assert config["dtype"] == ("float16" if packing else "float32")
    weights = load_file(converted(suffix) / "model.safetensors")
    assert any(array.dtype == np.uint32 for array in weights.values()) == bool(packing)


def test_the_result_holds_weights_config_tokenizer_modules_and_metadata_and_loads(bert: Path) -> None:
    assert main(["convert", "--model", "bert"]) == 0
    files = {path.relative_to(converted()).as_posix() for path in converted().rglob("*") if path.is_file()}
    expected = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "modules.json"}
    assert expected | {"1_Pooling/config.json", "conversion_metadata.json"} <= files
    ids = np.array([[2, 9, 12, 3]])
    direct = MLXAutoModel.from_pretrained(bert, quantization_config="q8")(ids).last_hidden_state
    np.testing.assert_array_equal(MLXAutoModel.from_pretrained(converted())(ids).last_hidden_state, direct)


def test_metadata_tells_source_recipe_libraries_sizes_and_bits(bert: Path) -> None:
    main(["convert", "--model", "bert", "--recipe", "q4-rtn"])
    metadata = metadata_of(converted("q4-rtn"))
    assert metadata["source"] == "bert"
    assert metadata["revision"] is None
    assert metadata["task"] == "feature-extraction"
    assert (metadata["recipe"]["bits"], metadata["recipe"]["group_size"], metadata["dtype"]) == (4, 64, "float16")
    assert metadata["libraries"]["mlx"] == version("mlx")
    assert metadata["source_bytes"] == (bert / "model.safetensors").stat().st_size
    assert metadata["weight_bytes"] == (converted("q4-rtn") / "model.safetensors").stat().st_size
    assert metadata["bits"]["encoder.layer.1.attention.self.query.weight"] == 4
    assert metadata["bits"]["encoder.layer.1.attention.output.LayerNorm.weight"] == "float16"


def test_the_dtype_of_what_is_not_packed_can_be_chosen(bert: Path) -> None:
    assert main(["convert", "--model", "bert", "--dtype", "bfloat16"]) == 0
    assert metadata_of(converted())["dtype"] == "bfloat16"


def test_a_dry_run_predicts_and_touches_nothing(bert: Path, bridge_cache: Path, capsys: Capture) -> None:
    before = snapshot(bert.parent, bridge_cache)
    assert main(["convert", "--model", "bert", "--dry-run"]) == 0
    assert snapshot(bert.parent, bridge_cache) == before
    out = capsys.readouterr().out
    assert "would convert" in out
    assert "0.1 MB" in out
    assert str(converted()) in out


def test_the_folder_is_on_one_line_at_80_columns(bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out_dir = "a_folder_[with]_a_long_name/" + 8 * "another_one/"
    assert main(["convert", "--model", "bert", "--bits", "4", "--output-dir", out_dir, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"{out_dir}bert-mlx-q4\n" in out
    assert "--recipe q4-best or mixed-4 gives smaller errors" in out
    assert main(["convert", "--model", "bert", "--recipe", "q4-rtn", "--dry-run"]) == 0
    assert "--recipe q4 or q4-best or mixed-4 gives smaller errors" in capsys.readouterr().out
    assert main(["convert", "--model", "bert", "--bits", "8", "--dry-run"]) == 0
    assert "smaller errors" not in capsys.readouterr().out


def test_a_result_that_is_there_is_skipped_and_replaced_with_no_skip(bert: Path, capsys: Capture) -> None:
    main(["convert", "--model", "bert"])
    before = snapshot(converted())
    assert main(["convert", "--model", str(bert)]) == 0
    assert snapshot(converted()) == before
    assert main(["convert", "--model", "bert", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("skipped") == 2
    assert main(["convert", "--model", "bert", "--no-skip"]) == 0
    assert snapshot(converted()) != before


def _other_source(folder: Path) -> None:
    change_metadata(folder, source="other", identity={"path": "/elsewhere", "files": []})


NOT_RESULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights.npz": (lambda folder: (folder / "weights.npz").write_bytes(b"x"), "another tool's float32 output"),
    "source": (_other_source, "its source is '/elsewhere', and "),
    "revision": (
        lambda folder: change_metadata(folder, revision="a1b2"),
        "its revision is 'a1b2', and None was asked for",
    ),
    "recipe": (lambda folder: change_metadata(folder, recipe=None), "its recipe is None, and {'bits': 8"),
    "dtype": (
        lambda folder: change_metadata(folder, dtype="bfloat16"),
        "its dtype is 'bfloat16', and 'float16' was asked for",
    ),
    "task": (lambda folder: change_metadata(folder, task="text-classification"), "its task is 'text-classification'"),
    "format": (lambda folder: change_metadata(folder, format=0), "its format is 0"),
    "changed": (lambda folder: os.utime("bert/config.json", (1, 1)), "the files of its source have changed since"),
    "no metadata": (
        lambda folder: (folder / "conversion_metadata.json").unlink(),
        "has no readable conversion_metadata",
    ),
    "not JSON": (
        lambda folder: (folder / "conversion_metadata.json").write_text("{"),
        "has no readable conversion_meta",
    ),
    "a list": (
        lambda folder: (folder / "conversion_metadata.json").write_text("[]"),
        "has no readable conversion_meta",
    ),
    "broken": (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "is incomplete"),
}


@pytest.mark.parametrize("name", NOT_RESULTS)
def test_anything_else_in_the_folder_is_named_and_only_replaced_when_asked(
    name: str, bert: Path, capsys: Capture
) -> None:
    change, words = NOT_RESULTS[name]
    main(["convert", "--model", "bert"])
    change(converted())
    before = snapshot(converted())
    assert main(["convert", "--model", "bert"]) == 1
    assert snapshot(converted()) == before
    error = capsys.readouterr().err
    assert error.startswith(f"error: {converted()} ")
    assert words in error
    assert "--no-skip" in error
    assert main(["convert", "--model", "bert", "--no-skip"]) == 0
    assert main(["convert", "--model", "bert"]) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_folder_around_the_source_is_never_replaced(bert: Path) -> None:
    for folder in (bert, bert.parent):
        with pytest.raises(RepositoryError, match="contains the source itself"):
            convert(bert, folder, overwrite=True)
    (bert.parent / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RepositoryError, match="is a file, expected a folder"):
        convert(bert, bert.parent / "file", overwrite=True)


def test_the_working_directory_is_never_replaced(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bert.parent / "work").mkdir()
    monkeypatch.chdir(bert.parent / "work")
    with pytest.raises(RepositoryError, match="contains the working directory"):
        convert(bert, ".", overwrite=True)


def test_a_conversion_that_fails_leaves_nothing_and_an_older_result_as_it_was(bert: Path, capsys: Capture) -> None:
    main(["convert", "--model", "bert"])
    before = snapshot(converted())
    weights = load_file(bert / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][0] = 1e6
    save_file(weights, bert / "model.safetensors")
    assert main(["convert", "--model", "bert", "--no-skip"]) == 1
    assert snapshot(converted()) == before
    assert list(converted().parent.iterdir()) == [converted()]
    assert "beyond float16's 65504" in capsys.readouterr().err


def test_a_hub_model_is_converted_at_its_revision(bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    repo = bert.parent / "hub" / "models--someone--bert"
    for revision, commit in (("main", "a" * 40), ("older", "b" * 40)):
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / revision).write_text(commit, encoding="utf-8")
        (repo / "snapshots").mkdir(exist_ok=True)
        (repo / "snapshots" / commit).symlink_to(bert)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(bert.parent / "hub"))
    assert main(["convert", "--model", "someone/bert"]) == 0
    assert metadata_of(converted())["source"] == "someone/bert"
    assert metadata_of(converted())["revision"] == "a" * 40
    assert main(["convert", "--model", "someone/bert", "--revision", "older"]) == 1
    assert f"its revision is '{'a' * 40}', and '{'b' * 40}' was asked for" in capsys.readouterr().err
    assert main(["convert", "--model", "someone/bert", "--revision", "older", "--no-skip"]) == 0
    assert metadata_of(converted())["revision"] == "b" * 40


def test_a_dry_run_of_a_hub_model_reads_its_headers_there_and_fetches_no_weights(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    weights, commit = bert / "model.safetensors", "0" * 40
    asked = []

    def on_the_hub(name: str, **options: Any) -> SafetensorsRepoMetadata:
        asked.append((name, options["revision"]))
        with weights.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        tensors = {tensor: TensorInfo(**entry) for tensor, entry in header.items()}
        return SafetensorsRepoMetadata(
            metadata=None,
            sharded=False,
            weight_map={},
            files_metadata={weights.name: SafetensorsFileMetadata(metadata={}, tensors=tensors)},
        )

    plain = convert(bert, tmp_path / "out", dry_run=True)
    weights.rename(tmp_path / weights.name)
    weights = tmp_path / weights.name
    repo = tmp_path / "hub" / "models--org--bert"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit, encoding="utf-8")
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / commit).symlink_to(bert)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", on_the_hub)
    before = snapshot(tmp_path)
    assert convert("org/bert", tmp_path / "out", dry_run=True).predicted_bytes == plain.predicted_bytes
    assert asked == [("org/bert", commit)]
    assert main(["convert", "--model", "org/bert", "--dry-run"]) == 0
    assert "would convert" in capsys.readouterr().out
    assert snapshot(tmp_path) == before
