"""Tests of the commands rerank, ner, qa, fill-mask, compare, bench and push: what the public API gives."""

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from convert_checkpoints import SMALL, Capture, make_bert

from mlx_hf_bridge import MLXCrossEncoder, pipeline
from mlx_hf_bridge.cli import main

TEXTS = ["the cat sat on the mat.", "stock market rose today!", "i love this film"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_checkpoint(folder / "rank", SMALL, "ForSequenceClassification", labels=1)
    make_checkpoint(folder / "ner", SMALL, "ForTokenClassification")
    make_checkpoint(folder / "qa", SMALL, "ForQuestionAnswering", labels=2)
    make_checkpoint(folder / "mask", SMALL, "ForMaskedLM")
    make_bert(folder / "bert")
    return folder


def answer(capsys: Capture, *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rerank_orders_as_the_cross_encoder(models: Path, capsys: Capture) -> None:
    expected = MLXCrossEncoder(str(models / "rank")).rank("the cat", TEXTS, top_k=2)
    found = answer(capsys, "rerank", str(models / "rank"), "the cat", *TEXTS, "--top-k", "2")["results"]
    assert [(one["line"] - 1, one["score"]) for one in found] == [(e["corpus_id"], e["score"]) for e in expected]
    assert found[0]["text"] == TEXTS[int(expected[0]["corpus_id"])]
    assert main(["rerank", str(models / "rank"), "the cat", "word " * 40]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_ner_finds_the_entities_of_the_pipeline(models: Path, tmp_path: Path, capsys: Capture) -> None:
    expected = pipeline("token-classification", str(models / "ner"))(TEXTS, aggregation_strategy="simple")
    found = answer(capsys, "ner", str(models / "ner"), *TEXTS)["results"]
    for row, reference in zip(found, expected, strict=True):
        assert [(one["label"], one["start"], one["end"]) for one in row["entities"]] == [
            (one["entity_group"], one["start"], one["end"]) for one in reference
        ]
    assert main(["ner", str(models / "ner"), 'a <b> & "c"', *TEXTS, "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert page.count("<mark") >= sum(len(row) for row in expected) / 2
    assert main(["ner", str(models / "ner"), TEXTS[0]]) == 0
    assert TEXTS[0] in capsys.readouterr().out
    assert main(["ner", str(models / "ner"), "x", "--html", str(tmp_path / "gone" / "page.html")]) == 1
    assert "is in a folder that does not exist" in capsys.readouterr().err


def test_qa_answers_as_the_pipeline(models: Path, tmp_path: Path, capsys: Capture) -> None:
    context = " ".join(TEXTS)
    expected = pipeline("question-answering", str(models / "qa"))(question="a cat", context=context, top_k=2)
    found = answer(capsys, "qa", str(models / "qa"), "a cat", context, "--top-k", "2")["answers"]
    assert [(one["answer"], one["score"]) for one in found] == [(e["answer"], e["score"]) for e in expected]
    (tmp_path / "text").write_text(context)
    assert main(["qa", str(models / "qa"), "a cat", "--file", str(tmp_path / "text")]) == 0
    assert capsys.readouterr().out.startswith(f"{expected[0]['score']:.4f}  ")


def test_fill_mask_fills_every_mask(models: Path, capsys: Capture) -> None:
    expected = pipeline("fill-mask", str(models / "mask"))("the [MASK] sat", top_k=2)
    found = answer(capsys, "fill-mask", str(models / "mask"), "the <mask> sat", "a [MASK] [MASK]", "--top-k", "2")
    [one], two = (row["masks"] for row in found["results"])
    assert [(word["token"], word["score"]) for word in one] == [(e["token_str"], e["score"]) for e in expected]
    assert [len(words) for words in two] == [2, 2]
    assert main(["fill-mask", str(models / "mask"), "the [MASK] sat"]) == 0
    assert "  mask  0." in capsys.readouterr().out


def test_compare_shows_every_recipe_and_the_best_for_a_size(models: Path, tmp_path: Path, capsys: Capture) -> None:
    model, picture = str(models / "bert"), tmp_path / "sizes.svg"
    assert main(["compare", model, "q8", "q4-rtn", "q2", "--json", "--picture", str(picture), "--size-mb", "0.1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["recipes"]) == ["q8", "q4-rtn", "q2"]
    figures = {name: report["figures"] for name, report in found["recipes"].items()}
    assert figures["q8"]["cosine_mean"] > figures["q4-rtn"]["cosine_mean"] > figures["q2"]["cosine_mean"]
    assert found["best"] == "q8"
    small = [name for name in figures if figures[name]["weights_mb"] <= 0.1]
    assert found["best_for_size"] == small[0]
    svg = picture.read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "--ink:#1f2328" in svg
    with pytest.raises(SystemExit):
        main(["compare", model, "q8", "q8"])


def test_compare_ends_with_1_if_nothing_is_small_enough(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare", str(models / "ner").replace("ner", "bert"), "q8", "q4-rtn", "--size-mb", "0.001"]) == 1
    captured = capsys.readouterr()
    assert "best of at most 0.001 MB: none is small enough" in captured.out
    assert max(map(len, captured.out.splitlines()[3:])) <= 80
    assert "comparing q4-rtn ..." in captured.err


def test_bench_measures_each_recipe_and_the_reference(models: Path, capsys: Capture) -> None:
    found = answer(capsys, "bench", str(models / "bert"), "q8", "q4-rtn")["measurements"]
    assert [one["name"] for one in found[:2]] == ["q8", "q4-rtn"]
    assert found[2]["name"].startswith("sentence-transformers ")
    assert all(one["texts_per_second"] > 0 and one["latency_ms"] > 0 for one in found)
    assert main(["bench", str(models / "bert"), "--no-reference", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "as it is" in captured.out


def test_push_uploads_the_folder_with_its_card(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    folder = str(tmp_path / "bert-q8")
    assert main(["convert", str(models / "bert"), "--output", folder, "--recipe", "q8", "--json"]) == 0
    [result] = json.loads(capsys.readouterr().out)["results"]
    assert (result["action"], result["folder"]) == ("converted", folder)
    shown = answer(capsys, "push", folder, "me/bert-q8", "--dry-run")
    assert "# me/bert-q8" in shown["card"]
    assert "model.safetensors" in shown["files"]
    uploaded: dict[str, bytes] = {}

    def upload(self: Any, repo_id: str, folder_path: Path, **options: Any) -> Any:
        uploaded.update({path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files(folder_path)})
        assert (repo_id, options["commit_message"]) == ("me/bert-q8", "Better weights")
        return type("Commit", (), {"commit_url": "https://hub/commit/1", "pr_url": None})()

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, repo_id, **options: Repo(repo_id))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    assert main(["push", folder, "me/bert-q8", "--message", "Better weights"]) == 0
    assert "https://hub/commit/1" in capsys.readouterr().out
    assert {path.relative_to(folder).as_posix() for path in files(Path(folder))} <= set(uploaded)
    assert uploaded["model.safetensors"] == Path(folder, "model.safetensors").read_bytes()
    assert b"# me/bert-q8" in uploaded["README.md"]
    assert main(["push", str(models / "bert"), "me/x", "--dry-run"]) == 1
    assert "is not a converted folder" in capsys.readouterr().err


class Repo:
    """What create_repo returns."""

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
