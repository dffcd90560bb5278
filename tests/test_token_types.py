"""Token type ids that transformers 5's tokenizers no longer give: question answering has them, others warn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, save_model

from mlx_hf_bridge import MLXCrossEncoder, pipeline

PIECES = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [(piece, 0.0) for piece in PIECES] + [(f"▁{word}", -1.0) for word in ["who", "sat", "the", "cat", "dog"]]
BY_TYPE = {row.model_type: row for row in FAMILIES}
EXAMPLE = {"question": "who sat", "context": "the cat the dog sat"}
LOST = "tells the texts of a pair apart by token_type_ids"


def make(folder: Path, head: str, model_type: str = "albert", labels: int = 2, **settings: Any) -> Any:
    """Save a model with AlbertTokenizer, or with what `settings` say of it instead; return transformers' model."""
    torch_model = save_model(folder, BY_TYPE[model_type], head, labels)
    transformers.AlbertTokenizer(vocab=VOCABULARY).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return torch_model


CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "AlbertTokenizer": ("albert", {}, True),
    # transformers 4.57's generic tokenizer gave token type ids, too.
    "generic": ("bert", {"tokenizer_class": "PreTrainedTokenizerFast"}, True),
    "chosen without": (
        "bert",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids"]},
        False,
    ),
    "BigBirdTokenizer": ("bert", {"tokenizer_class": "BigBirdTokenizer"}, False),
}


@pytest.mark.parametrize(
    ("name", "saved_again"), [*((name, False) for name in CASES), ("AlbertTokenizer", True), ("generic", True)]
)
def test_question_answering_reads_pairs_as_transformers_4_does(name: str, saved_again: bool, tmp_path: Path) -> None:
    model_type, settings, expects_types = CASES[name]
    torch_model = make(tmp_path / "source", "ForQuestionAnswering", model_type, **settings)
    answer = pipeline("question-answering", tmp_path / "source")
    if saved_again:
        answer.save_pretrained(tmp_path / "saved")
        answer = pipeline("question-answering", tmp_path / "saved")
    computed: list[np.ndarray] = []
    inner = answer._call_model
    answer._call_model = lambda batch: computed.append(inner(batch)) or computed[-1]
    answer(EXAMPLE)
    encoding = transformers.AutoTokenizer.from_pretrained(tmp_path / "source")(*EXAMPLE.values()).encodings[0]
    assert encoding.type_ids == [0] * 4 + [1] * 6
    types = encoding.type_ids if expects_types else [0] * len(encoding.ids)
    with torch.no_grad():
        output = torch_model(torch.tensor([encoding.ids]), token_type_ids=torch.tensor([types]))
    expected = np.stack([output.start_logits, output.end_logits], axis=-1)
    np.testing.assert_allclose(computed[0], expected, atol=2e-5)


def test_other_pipelines_answer_as_transformers_5_and_warn_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "ForSequenceClassification", labels=3)
    classify, reference = (
        pipeline("text-classification", tmp_path),
        transformers.pipeline("text-classification", tmp_path),
    )
    classify("the cat")
    assert LOST not in caplog.text
    pair = {"text": "the cat", "text_pair": "sat"}
    for _ in range(2):
        assert classify(pair) == {**reference(pair), "score": pytest.approx(reference(pair)["score"], abs=2e-5)}
    assert caplog.text.count(LOST) == 1
    names = ["input_ids", "token_type_ids", "attention_mask"]
    given = transformers.AutoTokenizer.from_pretrained(tmp_path, model_input_names=names)
    typed = pipeline("text-classification", tmp_path, given)
    assert typed(pair)["score"] != pytest.approx(classify(pair)["score"], abs=1e-4)
    assert caplog.text.count(LOST) == 1


def test_zero_shot_classification_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "ForSequenceClassification", labels=3)
    config = json.loads((tmp_path / "config.json").read_text())
    labels = {"0": "ENTAILMENT", "1": "NEUTRAL", "2": "CONTRADICTION"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    classify = pipeline("zero-shot-classification", tmp_path)
    for _ in range(2):
        classify("the cat sat", ["cat", "dog"])
    assert caplog.text.count(LOST) == 1


def test_a_cross_encoder_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "ForSequenceClassification", labels=1)
    model = MLXCrossEncoder(str(tmp_path))
    before = [model.predict([("the cat", "sat")]) for _ in range(2)]
    assert caplog.text.count(LOST) == 1
    assert "returns_token_type_ids = True" in caplog.text
    model[0].tokenizer.returns_token_type_ids = True
    assert not np.allclose(model.predict([("the cat", "sat")]), before[0], atol=1e-4)
