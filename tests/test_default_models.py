"""A pipeline without a model uses transformers' default, at the revision that transformers pins."""

import logging
from pathlib import Path

import huggingface_hub
import pytest
import transformers
from checkpoints import FAMILIES, make_checkpoint
from weight_files import edit_config

from mlx_hf_bridge import pipeline
from mlx_hf_bridge.errors import InputError, RepositoryError
from mlx_hf_bridge.pipelines import TASKS
from mlx_hf_bridge.pipelines.default_models import default_model

COMMIT = "d7645e1" + "0" * 33
LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
# Tasks that transformers 5 has no pipeline for.
WITHOUT = {"question-answering", "text-ranking", "zero-shot-ner"}


@pytest.mark.parametrize("task", sorted(set(TASKS) - WITHOUT))
def test_the_defaults_are_those_of_the_installed_transformers(task: str) -> None:
    assert default_model(task, None) == transformers.pipelines.SUPPORTED_TASKS[task]["default"]["model"]
    assert default_model(task, "main")[1] == "main"


@pytest.mark.parametrize("task", sorted(WITHOUT))
def test_a_task_without_a_default_asks_for_a_model(task: str) -> None:
    with pytest.raises(
        InputError, match=f"no model was given, and transformers has no default for {task}. Pass model="
    ):
        pipeline(task)


def test_zero_shot_without_a_model_loads_the_pinned_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, revision = default_model("zero-shot-classification", None)
    repo = tmp_path / f"models--{model.replace('/', '--')}"
    bart = next(row for row in FAMILIES if row.model_type == "bart")
    make_checkpoint(repo / "snapshots" / COMMIT, bart, "ForSequenceClassification")
    edit_config(repo / "snapshots" / COMMIT, id2label=LABELS, label2id={label: id_ for id_, label in LABELS.items()})
    (repo / "refs").mkdir()
    (repo / "refs" / revision).write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    caplog.clear()
    classify = pipeline("zero-shot-classification")
    said = [record for record in caplog.records if "no model was given" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]
    assert f"using {model} (revision {revision})" in said[0].getMessage()
    assert classify.model.loaded.source.revision == COMMIT
    torch_pipeline = transformers.pipeline(
        "zero-shot-classification", model=str(repo / "snapshots" / COMMIT), device="cpu"
    )
    expected = torch_pipeline("the cat sat", candidate_labels=["dog", "film"])
    found = classify("the cat sat", candidate_labels=["dog", "film"])
    assert found["labels"] == expected["labels"]
    assert found["scores"] == pytest.approx(expected["scores"], abs=2e-5)
    with pytest.raises(RepositoryError, match=r"\(revision 'v2'\) is not in the Hub's cache"):
        pipeline("zero-shot-classification", revision="v2")
