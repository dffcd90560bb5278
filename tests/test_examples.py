"""Tests that every example runs as a user would run it."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from checkpoints import FAMILIES, make_wordpiece
from gliner_models import make as make_gliner
from three_pipelines import ROWS, make_for

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parent.parent / "examples"


def run_example(name: str, *arguments: str) -> str:
    """Run an example in a new process and return its standard output."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.fixture
def nli(tmp_path: Path) -> Path:
    """Save a tiny DistilBERT with the labels of natural language inference, wide enough for groups of 64."""
    row = dataclasses.replace(next(row for row in FAMILIES if row.model_type == "distilbert"))
    labels = {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"}
    config = type(row.config).from_dict(
        {**row.config.to_dict(), "dim": 64, "hidden_dim": 128, "id2label": labels}
        | {"label2id": {name: number for number, name in labels.items()}, "max_position_embeddings": 128}
    )
    transformers.DistilBertForSequenceClassification(config).save_pretrained(tmp_path / "nli")
    make_wordpiece(tmp_path / "nli")
    return tmp_path / "nli"


def test_every_example_has_a_test() -> None:
    here = Path(__file__).read_text()
    assert all(path.name in here for path in EXAMPLES.glob("*.py"))


def test_search_finds_the_sentence_that_answers(minilm: Path) -> None:
    first = run_example("search.py", str(minilm), "When can I buy bread?").splitlines()[1]
    assert "bakery" in first


def test_zero_shot_scores_every_label_of_every_text(nli: Path) -> None:
    printed = run_example("zero_shot.py", str(nli))
    assert all(printed.count(label) >= 3 for label in ("sport", "business", "science"))


def test_convert_distilbert_shrinks_the_weights_and_saves_them(nli: Path, tmp_path: Path) -> None:
    printed = run_example("convert_distilbert.py", str(nli), str(tmp_path / "kept"))
    sizes = [float(line.split()[1]) for line in printed.splitlines()[:3]]
    assert sizes[0] > 2.5 * sizes[1] > 2.5 * sizes[2]
    assert (tmp_path / "kept" / "model.safetensors").is_file()


def test_ner_prints_the_entities_as_the_text_has_them(tmp_path: Path) -> None:
    folder = make_for(tmp_path, ROWS["bert"], "ForTokenClassification")
    lines = run_example("ner.py", str(folder), "the cat sat on the mats.").splitlines()
    assert lines and all(line.split()[0] in ("PER", "LOC", "MISC") for line in lines)


def test_zero_shot_ner_prints_entities_below_their_texts(tmp_path: Path) -> None:
    lines = run_example("zero_shot_ner.py", str(make_gliner(tmp_path / "model", "span"))).splitlines()
    assert [line for line in lines if not line.startswith(" ")][1].startswith("The Voyager 2 probe")


def test_fill_mask_prints_three_words(tmp_path: Path) -> None:
    folder = make_for(tmp_path, ROWS["bert"], "ForMaskedLM")
    lines = run_example("fill_mask.py", str(folder), "the ___ sat").splitlines()
    assert len(lines) == 3 and all("the" in line and "sat" in line for line in lines)


def test_answer_questions_prints_an_answer_a_question(tmp_path: Path) -> None:
    make_for(tmp_path, ROWS["roberta"], "ForQuestionAnswering")
    lines = run_example("answer_questions.py", str(tmp_path)).splitlines()
    assert [line.split("?")[0] + "?" for line in lines] == [
        "When does the bakery open?",
        "Who sells bread at the market?",
        "What does a loaf cost?",
    ]
