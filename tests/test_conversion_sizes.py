"""Tests of predicted, target and actual sizes of conversions, and of the tasks that a model is converted for."""

from pathlib import Path

import pytest
import torch
import transformers
from checkpoints import make_checkpoint
from convert_checkpoints import MB, SMALL, Capture, converted, make_bert, metadata_of
from safetensors.numpy import load_file

from mlx_hf_bridge.cli import main
from mlx_hf_bridge.conversion.api import convert
from mlx_hf_bridge.errors import SizeTargetError


@pytest.fixture
def bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the checkpoint "bert" in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return make_bert(tmp_path / "bert")


def test_a_target_that_is_met_converts(bert: Path) -> None:
    assert main(["convert", "--model", "bert", "--target-size-mb", "0.2"]) == 0
    assert main(["convert", "--model", "bert", "--target-size-mb", "0.2"]) == 0


def test_a_target_that_is_missed_names_the_size_and_writes_nothing(bert: Path, capsys: Capture) -> None:
    predicted = convert(bert, converted(), dry_run=True).predicted_bytes
    assert predicted is not None
    assert main(["convert", "--model", "bert", "--target-size-mb", "0.05"]) == 1
    error = capsys.readouterr().err
    assert f"{predicted / MB:.1f} MB" in error
    assert "target_size_mb=0.05" in error
    assert "would take" in error
    assert not Path("models").exists()
    with pytest.raises(SizeTargetError, match="No fewer bits meet it"):
        convert(bert, converted(), target_size_mb=0.001, dry_run=True)
    with pytest.raises(SizeTargetError, match="Ask for fewer bits"):
        convert(bert, converted(), quantization_config=None, target_size_mb=0.001)


def test_an_existing_result_over_the_target_is_an_error(bert: Path, capsys: Capture) -> None:
    main(["convert", "--model", "bert"])
    assert main(["convert", "--model", "bert", "--target-size-mb", "0.05"]) == 1
    assert "more than target_size_mb=0.05" in capsys.readouterr().err


@pytest.mark.parametrize(
    "task", [None, "text-classification", "zero-shot-classification", "sentiment-analysis", "reranking"]
)
def test_a_classifier_is_converted_as_one(task: str | None, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "classifier", SMALL, "ForSequenceClassification")
    result = convert(tmp_path / "classifier", tmp_path / "out", task=task)
    assert result.task == metadata_of(tmp_path / "out")["task"] == "text-classification"
    assert "classifier.weight" in load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.parametrize("task", ["feature-extraction", "embedding", "embeddings", "sentence-similarity"])
def test_every_name_of_the_embedding_task_is_taken(task: str, bert: Path) -> None:
    assert main(["convert", "--model", "bert", "--task", task]) == 0
    assert metadata_of(converted())["task"] == "feature-extraction"


def test_an_unknown_task_and_one_without_a_head_are_errors(bert: Path, capsys: Capture) -> None:
    assert main(["convert", "--model", "bert", "--task", "fill-mask"]) == 1
    assert "task='fill-mask' cannot be converted for; use one of feature-extraction, " in capsys.readouterr().err
    assert main(["convert", "--model", "bert", "--task", "text-classification"]) == 1
    assert "classifier" in capsys.readouterr().err


@pytest.fixture(scope="module")
def mnli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model with the shapes of typeform/distilbert-base-uncased-mnli and random weights."""
    folder = tmp_path_factory.mktemp("mnli")
    config = transformers.DistilBertConfig(
        vocab_size=30522, dim=768, n_layers=6, n_heads=12, hidden_dim=3072, max_position_embeddings=512, num_labels=3
    )
    torch.manual_seed(0)
    transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("bits", "least", "most"), [(8, 65, 70), (4, 35, 40)])
def test_distilbert_mnli_has_the_size_that_was_predicted(
    bits: int, least: int, most: int, mnli: Path, tmp_path: Path
) -> None:
    result = convert(mnli, tmp_path / "out", quantization_config=f"q{bits}", target_size_mb=most)
    real = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert result.task == "text-classification"
    assert result.weight_bytes == real
    assert least * MB <= real <= most * MB
    assert result.predicted_bytes == pytest.approx(real, rel=0.02)


def test_the_real_model_has_the_size_that_was_predicted(minilm: Path, tmp_path: Path) -> None:
    result = convert(minilm, tmp_path / "out")
    assert result.predicted_bytes == pytest.approx(result.weight_bytes, rel=0.02)
    assert result.source_bytes / (result.weight_bytes or 1) > 3.5
