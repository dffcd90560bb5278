"""Verification computes its measures as scikit-learn and SciPy do, detects faults and writes complete reports."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest
import scipy.stats
from checkpoints import make_checkpoint
from convert_checkpoints import SMALL, Capture, make_bert
from sklearn.metrics import accuracy_score, f1_score
from weight_files import rewrite

import mlx_hf_bridge
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.conversion.api import convert
from mlx_hf_bridge.errors import InputError, NonFiniteError, RepositoryError
from mlx_hf_bridge.quantization.methods import bundled_texts as calibration_texts
from mlx_hf_bridge.quantization.recipes import RECIPES, describe_recipe
from mlx_hf_bridge.verification import predictors
from mlx_hf_bridge.verification.html import render_html
from mlx_hf_bridge.verification.inputs import bundled_texts, read_labeled, read_pairs
from mlx_hf_bridge.verification.measures import accuracy, compare_embeddings, macro_f1, spearman
from mlx_hf_bridge.verification.reference import find_reference
from mlx_hf_bridge.verification.report import Report
from mlx_hf_bridge.verification.result_store import store_result
from mlx_hf_bridge.verification.steps import full_steps
from mlx_hf_bridge.verification.thresholds import Check, check_measured, resolve_bounds

TEXTS = ["the cat sat", "a dog ran on the mat", "the dog", "on a mat sat the cat", "cat dog cat"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("verify") / "bert")


@pytest.fixture
def packed(source: Path, tmp_path: Path) -> Path:
    convert(source, tmp_path / "q8", show_progress=False)
    return tmp_path / "q8"


def test_measures_are_those_of_scipy_and_scikit_learn() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 9, 50).astype(float), random.normal(size=50)
    assert spearman(one, other) == pytest.approx(100 * scipy.stats.spearmanr(one, other)[0])
    right, named = (["abc"[index] for index in random.integers(0, 3, 60)] for _ in range(2))
    assert accuracy(named, right) == pytest.approx(100 * accuracy_score(right, named))
    assert macro_f1(named, right) == pytest.approx(100 * f1_score(right, named, average="macro"))
    assert np.isnan(spearman(np.ones(5), other[:5]))


def test_a_good_model_passes_beside_sentence_transformers(packed: Path) -> None:
    report = mlx_hf_bridge.verify(packed, texts=TEXTS, full_test=True)
    assert report.passed, report
    assert "sentence-transformers" in report.reference
    assert 0.995 < report.figures["cosine_worst"] <= report.figures["cosine_mean"] <= 1
    assert len(report.cosines) == len(TEXTS)
    assert len(report.layers) == 3
    assert {"latency_ms", "texts_per_second", "peak_memory_mb", "weights_mb", "size_ratio"} <= set(report.figures)
    assert len(report.steps) == 10


def test_without_torch_the_reference_is_our_float32(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = predictors.importlib.util.find_spec
    monkeypatch.setattr(predictors.importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    report = mlx_hf_bridge.verify(packed, texts=TEXTS)
    assert report.passed
    assert "mlx_hf_bridge in float32" in report.reference


def test_wrong_pooling_never_passes(packed: Path) -> None:
    path = packed / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}))
    report = mlx_hf_bridge.verify(packed, texts=TEXTS, thresholds={"cosine_mean": -2, "mean_squared_error": 9})
    assert not report.passed
    assert [step.name for step in report.steps if not step.passed] == ["pooling matches the source"]


def test_nan_never_passes(packed: Path) -> None:
    vectors = np.ones((3, 4), np.float32)
    broken = vectors.copy()
    broken[1, 2] = np.nan
    figures = compare_embeddings(broken, vectors)
    for name, bound in resolve_bounds(8).items():
        if name in figures:
            assert not Check(name, figures[name], bound, name == "cosine_mean").passed
    name = "embeddings.LayerNorm.bias"
    rewrite(packed, lambda tensors: {**tensors, name: tensors[name] * np.nan})
    with pytest.raises(NonFiniteError, match="computed NaN or infinity for text 0"):
        mlx_hf_bridge.verify(packed, texts=TEXTS)


def test_another_model_fails_and_says_so(source: Path, packed: Path, tmp_path: Path, capsys: Capture) -> None:
    make_checkpoint(tmp_path / "other", SMALL, seed=5)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    arguments = ["verify", str(packed), "--texts", str(tmp_path / "texts.txt")]
    assert main([*arguments, "--reference", str(tmp_path / "other")]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "passed" in capsys.readouterr().out
    assert main([*arguments, "--threshold", "cosine_mean=1"]) == 1


def test_the_command_writes_json_a_report_and_a_model_card(packed: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "pairs.csv").write_text("first,second,score\nthe cat,a cat,4.5\nthe dog,a mat,1\ncat dog,dog cat,3\n")
    html = tmp_path / "report.html"
    options = ["--pairs", str(tmp_path / "pairs.csv"), "--json", "--html", str(html), "--store", "--full-test"]
    code = main(["verify", str(packed), *options])
    [document] = json.loads(capsys.readouterr().out)
    assert code == (0 if document["passed"] else 1)
    assert {"spearman", "spearman_reference", "spearman_loss"} <= set(document["figures"])
    page = html.read_text()
    assert page.count("<svg") == 2
    assert f"<title>Verification: {'passed' if document['passed'] else 'failed'}</title>" in page
    assert f"mlx-hf-bridge verify {packed} --pairs" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert json.loads((packed / "verification.json").read_text())["figures"].keys() == document["figures"].keys()
    card = (packed / "README.md").read_text()
    assert "| cosine similarity, mean |" in card
    store_result(mlx_hf_bridge.verify(packed, texts=TEXTS), packed)
    assert (packed / "README.md").read_text().count("## Verification") == 1
    assert mlx_hf_bridge.MLXSentenceTransformer(str(packed)).encode("the cat").shape == (64,)


def test_a_classifier_is_compared_by_its_labels(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "classifier", SMALL, "ForSequenceClassification")
    convert(tmp_path / "classifier", tmp_path / "q8", show_progress=False)
    rows = [f"{text},class {index % 3}" for index, text in enumerate(TEXTS)]
    (tmp_path / "labelled.csv").write_text("text,label\n" + "\n".join(rows))
    report = mlx_hf_bridge.verify(tmp_path / "q8", texts=TEXTS, labelled=tmp_path / "labelled.csv")
    assert report.task == "classification"
    assert report.passed, report
    assert report.figures["label_agreement"] == 100
    assert report.figures["accuracy"] == report.figures["accuracy_reference"]
    (tmp_path / "labelled.csv").write_text("the cat,class 9\n")
    with pytest.raises(InputError, match=r"the labeled file has \['class 9'\], and the model's labels are"):
        mlx_hf_bridge.verify(tmp_path / "q8", texts=TEXTS, labelled=tmp_path / "labelled.csv")


def test_a_checkpoint_is_verified_in_a_recipe(source: Path) -> None:
    report = mlx_hf_bridge.verify(source, quantization_config="q4-rtn", texts=TEXTS, thresholds={"cosine_mean": 0.5})
    assert report.packing == "q4-rtn: 4 bits in groups of 64, affine"
    with pytest.raises(InputError, match=r"has no conversion_metadata.json that names its source, and no recipe"):
        mlx_hf_bridge.verify(source, texts=TEXTS)


def test_the_source_is_found_from_any_directory(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(source, tmp_path / "one" / "model")
    make_checkpoint(tmp_path / "two" / "model", SMALL, seed=5)
    monkeypatch.chdir(tmp_path / "one")
    convert("model", tmp_path / "q8", show_progress=False)
    monkeypatch.chdir(tmp_path / "two")
    report = mlx_hf_bridge.verify(tmp_path / "q8", texts=TEXTS)
    assert report.passed, report
    assert report.reference.startswith(str(tmp_path / "one" / "model"))
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(RepositoryError, match=r"converted from .*one/model, which does not exist any more\. Give"):
        mlx_hf_bridge.verify(tmp_path / "q8", texts=TEXTS)


def test_the_commit_that_was_converted_is_the_reference(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "hub" / "models--org--name"
    shutil.copytree(source, repo / "snapshots" / ("a" * 40))
    make_checkpoint(repo / "snapshots" / ("b" * 40), SMALL, seed=5)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    convert("org/name", tmp_path / "q8", show_progress=False)
    (repo / "refs" / "main").write_text("b" * 40)
    found = find_reference(str(tmp_path / "q8"), None, None)
    assert (found.name, found.revision, found.folder.name) == ("org/name", "a" * 40, "a" * 40)
    [step] = [step for step in full_steps(str(tmp_path / "q8"), found.folder, "embedding", TEXTS) if "ids" in step.name]
    assert (step.verdict, step.detail) == ("ok", f"{len(TEXTS)} texts have the same ids")


def test_shards_are_measured(packed: Path) -> None:
    before = mlx_hf_bridge.verify(packed, texts=TEXTS, full_test=True)
    arrays = mx.load(str(packed / "model.safetensors"))
    (packed / "model.safetensors").unlink()
    parts = [sorted(arrays)[::2], sorted(arrays)[1::2]]
    names = [f"model-{number + 1:05}-of-00002.safetensors" for number in range(2)]
    for name, part in zip(names, parts, strict=True):
        mx.save_safetensors(str(packed / name), {key: arrays[key] for key in part}, {"format": "mlx"})
    where = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (packed / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    after = mlx_hf_bridge.verify(packed, texts=TEXTS, full_test=True)
    assert after.figures["weights_mb"] == pytest.approx(before.figures["weights_mb"], rel=0.02)
    details = [next(step.detail for step in report.steps if "headers" in step.name) for report in (before, after)]
    assert details[0] == details[1] == f"{len(arrays)} tensors"


def test_a_model_that_fails_names_its_recipe_and_better_ones(source: Path, tmp_path: Path) -> None:
    named = {}
    for recipe in ("q4-rtn", "q4-fit"):
        mlx_hf_bridge.convert(source, tmp_path / recipe, quantization_config=recipe)
        named[recipe] = mlx_hf_bridge.verify(tmp_path / recipe, texts=TEXTS, thresholds={"cosine_mean": 1.0})
    assert named["q4-rtn"].packing == "q4-rtn: 4 bits in groups of 64, affine"
    assert named["q4-fit"].packing == "q4-fit: 4 bits in groups of 64, affine; least_squares"
    assert "q4, q4-best, mixed-4" in named["q4-rtn"].advice
    assert not named["q4-fit"].advice
    page = render_html(list(named.values()))
    assert "2 of 2 failed" in page
    assert page.count("<svg") == 5
    assert "Recipes of the same size with smaller errors: q4, q4-best" in page
    own = replace(RECIPES["q4-best"], calibration_texts=[f"text {number}" for number in range(16)])
    for recipe, texts in ((RECIPES["q4-best"], "the bundled texts"), (own, "custom texts")):
        assert describe_recipe(recipe.to_dict(), "4 bits") == f"q4-best: 4 bits; gptq with {texts}"


def test_what_is_not_compared_is_skipped(packed: Path, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer.json"))
    (packed / "conversion_metadata.json").unlink()
    steps = {step.name: step for step in full_steps(str(packed), tmp_path / "bare", "embedding", TEXTS)}
    skipped = [name for name, step in steps.items() if step.verdict == "skipped"]
    assert skipped == ["files are complete", "the tokenizer gives the source's ids"]
    report = Report("m", "r", "embedding", "", 1, {}, (), tuple(steps[name] for name in skipped))
    assert not report.passed
    assert ">skipped</td>" in render_html([report])
    words = (packed / "tokenizer.json").read_text()
    (packed / "tokenizer.json").write_text(
        words.replace('"cat"', '"?"').replace('"dog"', '"cat"').replace('"?"', '"dog"')
    )
    [step] = [step for step in full_steps(str(packed), source, "embedding", TEXTS) if "ids" in step.name]
    assert step.verdict == "FAILED"


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("cosine_mean", (False, False, False), "needs an embedding model"),
        ("label_agreement", (True, True, True), "needs a classifier"),
        ("spearman_loss", (True, False, False), r"needs pairs \(--pairs\)"),
        ("accuracy_loss", (False, True, False), r"needs labelled .* measured are label_agreement, spearman_loss"),
        ("f1_loss", (False, False, False), "needs labelled"),
    ],
)
def test_bounds_of_what_is_not_measured_are_refused(name: str, given: tuple[bool, bool, bool], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_measured([name], *given)
    check_measured([name], not given[0], True, True)


def test_bounds_are_refused_before_the_work(packed: Path, tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(InputError, match=r"thresholds has f1_loss, which is not measured here"):
        mlx_hf_bridge.verify(packed, texts=TEXTS, thresholds={"f1_loss": 1.0})
    assert main(["verify", str(packed), "--html", str(tmp_path / "gone" / "r.html")]) == 1
    assert "is in a folder that does not exist" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "gone"), "--recipe", "q4-rtn", "--store"]) == 1
    assert "--store needs a converted folder" in capsys.readouterr().err


def test_bounds_follow_the_bits() -> None:
    assert [resolve_bounds(bits)["cosine_mean"] for bits in (8, 4, None)] == [0.995, 0.98, 0.9999]
    assert resolve_bounds(4)["mean_squared_error"] == 1e-4
    with pytest.raises(InputError, match=r"thresholds has \['cosine'\], which are not known; use cosine_mean"):
        resolve_bounds(4, {"cosine": 1.0})


BROKEN: list[tuple[Any, str, str]] = [
    (read_pairs, "a,b,high\nc,d,low\n", r"has the score 'low', expected a number"),
    (read_pairs, "a,b\n", r"has the line \['a', 'b'\], expected 3 columns"),
    (read_pairs, "a,b,1\n", r"has 1 scored pairs, expected two or more"),
    (read_labeled, "", r"has no line, expected 2 columns"),
    (read_labeled, "text,label\n", r"has a header and no labeled text"),
]


@pytest.mark.parametrize(("read", "content", "message"), BROKEN, ids=[message for *_, message in BROKEN])
def test_broken_files_are_errors(read: Any, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "file.csv")


def test_verification_texts_are_not_those_of_calibration(packed: Path) -> None:
    assert not set(bundled_texts()) & set(calibration_texts())
    assert render_html([mlx_hf_bridge.verify(packed, texts=TEXTS)]).startswith("<!doctype html>")
