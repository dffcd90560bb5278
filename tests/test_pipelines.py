"""pipeline() against transformers' own pipelines on torch: structures, labels, orders, scores, errors."""

import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, WITH_SEGMENTS, Row, make_model, make_wordpiece, ragged_inputs
from programs import finished

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, errors, pipeline
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.pipelines import ALIASES, TASKS
from mlx_hf_bridge.pipelines.base import STREAM_ROWS

# Scores are float32 probabilities of logits scaled by SHARPNESS; worst seen 2.1e-5, at twice that scale.
ABSOLUTE = 1e-4
# The tiny models' logits hardly depend on the text; scaled up around their mean, a wrong score or order shows.
SHARPNESS = 50.0
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
ROWS = {
    "bert": FAMILIES[0],
    "distilbert": next(row for row in FAMILIES if row.model_type == "distilbert"),
    "roberta": Row(
        "roberta",
        "Roberta",
        transformers.RobertaConfig(**{**WITH_SEGMENTS, "max_position_embeddings": 122}, pad_token_id=1),
        1,
    ),
}
ZERO_SHOT, TEXT = "zero-shot-classification", "text-classification"
TEXTS = ["the cat sat on the mat.", "a stock market rose today!", "i love this film", "bad news"]
LABELS = ["cat", "stock market", "good film", "sport", "bad news"]
LONG = "the cat sat on the mat. " * 12


def make_byte_pairs(folder: Path) -> None:
    """A RoBERTa vocabulary of single letters that fits the tiny models."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", ".", ",", "!", *map(chr, range(ord("a"), ord("z") + 1))]
    merges = ["Ġ t", "h e", "a t", "Ġt he", "i s", "e n", "o n"]
    tokens += [merge.replace(" ", "") for merge in merges]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [tuple(merge.split()) for merge in merges]
    transformers.RobertaTokenizer(vocab=vocabulary, merges=pairs, model_max_length=120).save_pretrained(folder)


def make_classifier(folder: Path, row: Row, names: dict[int, str] = NLI, sharpness: float = SHARPNESS) -> Path:
    model = make_model(row, "ForSequenceClassification", len(names))
    inputs = {name: torch.tensor(array) for name, array in ragged_inputs(row).items()}
    last = model.classifier.out_proj if row.model_type == "roberta" else model.classifier
    with torch.no_grad():
        last.weight.mul_(sharpness)
        last.bias.sub_(model(**inputs).logits.mean(dim=0))
    model.config.id2label = names
    model.config.label2id = {name: number for number, name in names.items()}
    model.save_pretrained(folder)
    (make_byte_pairs if row.model_type == "roberta" else make_wordpiece)(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def theirs_of(task: str, folder: Path, **options: Any) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu", **options)


@dataclasses.dataclass
class Both:
    """One checkpoint's pipelines in both worlds."""

    folder: Path
    ours: dict[str, Any]
    theirs: dict[str, Any]


@pytest.fixture(scope="module", params=ROWS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path_factory.mktemp("module_cache")))
        folder = make_classifier(tmp_path_factory.mktemp(request.param), ROWS[request.param])
        ours = {task: pipeline(task, folder) for task in (ZERO_SHOT, TEXT)}
    yield Both(folder, ours, {task: theirs_of(task, folder) for task in ours})


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_classifier(tmp_path / "bert", ROWS["bert"])


def assert_same(got: Any, wanted: Any) -> None:
    assert type(got) is type(wanted)
    if isinstance(wanted, list):
        assert len(got) == len(wanted)
        for mine, his in zip(got, wanted, strict=True):
            assert_same(mine, his)
    elif isinstance(wanted, dict):
        assert list(got) == list(wanted)
        assert_same(list(got.values()), list(wanted.values()))
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=0, abs=ABSOLUTE)
    else:
        assert got == wanted


Call = Callable[[Any], Any]

ZERO_SHOT_CALLS: dict[str, Call] = {
    "a text": lambda pipe: pipe(TEXTS[0], LABELS),
    "by keyword": lambda pipe: pipe(sequences=TEXTS[0], candidate_labels=LABELS),
    "a list of texts": lambda pipe: pipe(TEXTS, LABELS),
    "a list of one": lambda pipe: pipe(TEXTS[:1], LABELS),
    "a nested list of one": lambda pipe: pipe([TEXTS[:1]], LABELS),
    "labels in a string": lambda pipe: pipe(TEXTS, "cat, stock market ,, good film,"),
    "labels in a tuple": lambda pipe: pipe(TEXTS, tuple(LABELS)),
    "labels that are no strings": lambda pipe: pipe(TEXTS[0], [1, 2, "cat"]),
    "labels with blanks stay": lambda pipe: pipe(TEXTS[0], [" cat ", "a,b", ""]),
    "one label": lambda pipe: pipe(TEXTS, ["cat"]),
    "one label in a string": lambda pipe: pipe(TEXTS[0], "cat"),
    "one label and multi_label": lambda pipe: pipe(TEXTS[0], "cat", multi_label=True),
    "multi_label": lambda pipe: pipe(TEXTS, LABELS, multi_label=True),
    "not multi_label": lambda pipe: pipe(TEXTS, LABELS, multi_label=False),
    "a template": lambda pipe: pipe(TEXTS, LABELS, hypothesis_template="i love {}!"),
    "a template of the label": lambda pipe: pipe(TEXTS, LABELS, hypothesis_template="{}"),
    "a template with two places of it": lambda pipe: pipe(TEXTS, LABELS, hypothesis_template="{0} is {0}"),
    "equal labels tie in reverse": lambda pipe: pipe(TEXTS, ["cat", "dog", "cat", "dog", "cat"]),
    "equal labels and multi_label": lambda pipe: pipe(TEXTS, ["cat", "dog", "cat"], multi_label=True),
    "equal texts": lambda pipe: pipe([TEXTS[0]] * 3, LABELS),
    "texts cut at the limit": lambda pipe: pipe([LONG, "cat", LONG], LABELS, batch_size=2),
    "texts cut and multi_label": lambda pipe: pipe(LONG, LABELS, multi_label=True),
    "more than 16 labels": lambda pipe: pipe(TEXTS[0], [f"{one} {two}" for one in "abcde" for two in "fghij"]),
    "a generator": lambda pipe: list(pipe((text for text in TEXTS), LABELS)),
    "an empty generator": lambda pipe: pipe((text for text in []), LABELS),
    "a space": lambda pipe: pipe(" ", LABELS),
}
TEXT_CALLS: dict[str, Call] = {
    "a text": lambda pipe: pipe(TEXTS[0]),
    "by keyword": lambda pipe: pipe(inputs=TEXTS[0]),
    "an empty text": lambda pipe: pipe(""),
    "a list of texts": lambda pipe: pipe(TEXTS),
    "a list of one": lambda pipe: pipe(TEXTS[:1]),
    "a pair": lambda pipe: pipe({"text": TEXTS[0], "text_pair": TEXTS[1]}),
    "a dict without pair": lambda pipe: pipe({"text": TEXTS[0]}),
    "a pair with nothing": lambda pipe: pipe(
        [{"text": "a", "text_pair": ""}, {"text": "a", "text_pair": None}], top_k=None
    ),
    "texts and pairs": lambda pipe: pipe([TEXTS[0], {"text": TEXTS[0], "text_pair": TEXTS[1]}, TEXTS[2]]),
    "a pair in the old form": lambda pipe: pipe([[[TEXTS[0], TEXTS[1]]]]),
    "top_k 1": lambda pipe: pipe(TEXTS[0], top_k=1),
    "top_k 2": lambda pipe: pipe(TEXTS[0], top_k=2),
    "top_k 0": lambda pipe: pipe(TEXTS[0], top_k=0),
    "top_k beyond the labels": lambda pipe: pipe(TEXTS, top_k=9),
    "top_k -1": lambda pipe: pipe(TEXTS, top_k=-1),
    "top_k None": lambda pipe: pipe(TEXTS[0], top_k=None),
    "top_k None, a list": lambda pipe: pipe(TEXTS, top_k=None),
    "top_k None, a pair": lambda pipe: pipe({"text": TEXTS[0], "text_pair": TEXTS[1]}, top_k=None),
    "sigmoid": lambda pipe: pipe(TEXTS, function_to_apply="sigmoid", top_k=None),
    "softmax": lambda pipe: pipe(TEXTS, function_to_apply="SoftMax", top_k=None),
    "none": lambda pipe: pipe(TEXTS, function_to_apply="none", top_k=1),
    "no function named": lambda pipe: pipe(TEXTS, function_to_apply=None),
    "truncation": lambda pipe: pipe([LONG, "cat"], truncation=True, top_k=None),
    "truncation of pairs": lambda pipe: pipe({"text": LONG, "text_pair": LONG}, truncation=True),
    "truncation only_first": lambda pipe: pipe({"text": LONG, "text_pair": "a cat"}, truncation="only_first"),
    "truncation only_second": lambda pipe: pipe({"text": "a cat", "text_pair": LONG}, truncation="only_second"),
    "truncation to max_length": lambda pipe: pipe([LONG, "cat"], truncation=True, max_length=7),
    "max_length alone": lambda pipe: pipe(LONG, max_length=9),
    "max_length and no truncation": lambda pipe: pipe(TEXTS[0], max_length=4, truncation=False),
    "max_length beside padding": lambda pipe: pipe(TEXTS[0], max_length=4, padding="max_length"),
    "do_not_truncate": lambda pipe: pipe(TEXTS[0], max_length=4, truncation="do_not_truncate"),
    "no special tokens": lambda pipe: pipe(TEXTS, add_special_tokens=False, top_k=None),
    "padding": lambda pipe: pipe(TEXTS, padding=True, truncation=True, batch_size=2, num_workers=0),
    "a generator": lambda pipe: list(pipe(text for text in TEXTS)),
    "a generator with top_k": lambda pipe: list(pipe((text for text in TEXTS), top_k=2)),
    "an empty generator": lambda pipe: pipe(text for text in []),
}


@pytest.mark.parametrize("call", ZERO_SHOT_CALLS)
def test_zero_shot_answers_as_transformers(both: Both, call: str) -> None:
    make = ZERO_SHOT_CALLS[call]
    assert_same(make(both.ours[ZERO_SHOT]), make(both.theirs[ZERO_SHOT]))


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
@pytest.mark.parametrize("call", TEXT_CALLS)
def test_text_classification_answers_as_transformers(both: Both, call: str) -> None:
    make = TEXT_CALLS[call]
    assert_same(make(both.ours[TEXT]), make(both.theirs[TEXT]))


def test_scores_depend_on_the_text(both: Both) -> None:
    """The checks above would pass on a model that answers the same to everything, or is sure of all it says."""
    scores = [answer["score"] for answer in both.ours[TEXT](TEXTS)]
    assert max(scores) - min(scores) > 100 * ABSOLUTE and min(scores) < 0.95
    answers = both.ours[ZERO_SHOT](TEXTS, LABELS)
    assert len({tuple(answer["labels"]) for answer in answers}) > 1
    assert max(answer["scores"][0] - answer["scores"][-1] for answer in answers) > 100 * ABSOLUTE


DEFAULTS: list[tuple[str, dict[str, Any], Call]] = [
    (TEXT, {"top_k": None}, lambda pipe: [pipe(TEXTS[0]), pipe(TEXTS), pipe(TEXTS[0], top_k=1)]),
    (TEXT, {"top_k": 2}, lambda pipe: [pipe(TEXTS[0]), pipe({"text": "a"}), pipe(TEXTS[0], function_to_apply="none")]),
    (TEXT, {"function_to_apply": "sigmoid"}, lambda pipe: [pipe(TEXTS), pipe(TEXTS, function_to_apply="none")]),
    (TEXT, {"truncation": True, "max_length": 6}, lambda pipe: [pipe(LONG), pipe(LONG, max_length=20)]),
    (TEXT, {"batch_size": 2, "num_workers": 0, "truncation": True}, lambda pipe: pipe([*TEXTS, LONG])),
    (ZERO_SHOT, {"candidate_labels": "cat, dog"}, lambda pipe: [pipe(TEXTS), pipe(TEXTS[0], ["sport", "news"])]),
    (ZERO_SHOT, {"multi_label": True}, lambda pipe: [pipe(TEXTS, LABELS), pipe("a", LABELS, multi_label=False)]),
    (ZERO_SHOT, {"hypothesis_template": "a {}", "batch_size": 3}, lambda pipe: pipe(TEXTS, LABELS)),
]


@pytest.mark.parametrize("number", range(len(DEFAULTS)))
def test_defaults_of_the_pipeline_hold_until_a_call_says_otherwise(bert: Path, number: int) -> None:
    task, defaults, call = DEFAULTS[number]
    assert_same(call(pipeline(task, bert, **defaults)), call(theirs_of(task, bert, **defaults)))


PROBLEMS = [None, "regression", "multi_label_classification"]


# transformers itself refuses a config of one label that is single_label_classification.
@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [*((kind, labels) for kind in PROBLEMS for labels in (1, 2, 4)), ("single_label_classification", 4)],
)
def test_the_function_follows_problem_type_and_number_of_labels(tmp_path: Path, problem_type: str, labels: int) -> None:
    folder = make_classifier(tmp_path, ROWS["bert"], {number: f"LABEL_{number}" for number in range(labels)}, 5.0)
    edit_json(folder / "config.json", problem_type=problem_type)
    ours, theirs = pipeline("sentiment-analysis", folder), theirs_of("sentiment-analysis", folder)
    assert_same(ours(TEXTS), theirs(TEXTS))
    assert_same(ours(TEXTS, top_k=None), theirs(TEXTS, top_k=None))


@pytest.mark.parametrize(
    "names",
    [
        {0: "ENTAILMENT", 1: "neutral", 2: "contradiction"},
        {0: "no", 1: "Entails", 2: "entailed"},
        {0: "contradiction", 1: "entailment"},
        {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
    ],
    ids=str,
)
def test_entailment_is_looked_up_as_transformers_does(tmp_path: Path, names: dict[int, str]) -> None:
    folder = make_classifier(tmp_path, ROWS["bert"], names)
    ours, theirs = pipeline(ZERO_SHOT, folder), theirs_of(ZERO_SHOT, folder)
    assert ours.entailment_id == theirs.entailment_id
    for multi_label in (False, True):
        assert_same(ours(TEXTS, LABELS, multi_label=multi_label), theirs(TEXTS, LABELS, multi_label=multi_label))


def test_a_model_without_entailment_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_classifier(tmp_path, ROWS["bert"], {0: "spam", 1: "ham"})
    with caplog.at_level(logging.WARNING, "mlx_hf_bridge"):
        pipeline(ZERO_SHOT, folder)
    assert "no label starts with 'entail'" in caplog.text


# (task, call, type that both raise, a part of our message)
ERRORS: dict[str, tuple[str, Call, type[Exception], str]] = {
    "no labels given": (ZERO_SHOT, lambda pipe: pipe("cat"), TypeError, "candidate_labels is None"),
    "labels None": (ZERO_SHOT, lambda pipe: pipe("cat", None), TypeError, "candidate_labels is None"),
    "labels a number": (ZERO_SHOT, lambda pipe: pipe("cat", 5), TypeError, "expected a list of labels"),
    "labels a set": (ZERO_SHOT, lambda pipe: pipe("cat", {"a"}), TypeError, "expected a list of labels"),
    "labels empty": (ZERO_SHOT, lambda pipe: pipe("cat", []), ValueError, "expected at least one"),
    "labels only commas": (ZERO_SHOT, lambda pipe: pipe("cat", " , "), ValueError, "expected at least one"),
    "zero-shot of nothing": (ZERO_SHOT, lambda pipe: pipe("", LABELS), ValueError, "one text is empty"),
    "zero-shot of nothing in a list": (
        ZERO_SHOT,
        lambda pipe: pipe(["a", ""], LABELS),
        ValueError,
        "one text is empty",
    ),
    "zero-shot of []": (ZERO_SHOT, lambda pipe: pipe([], LABELS), IndexError, "the list of texts is empty"),
    "zero-shot of None": (ZERO_SHOT, lambda pipe: pipe(None, LABELS), TypeError, "of type NoneType"),
    "zero-shot of a number": (ZERO_SHOT, lambda pipe: pipe([5], LABELS), TypeError, "of type int"),
    "template without place": (
        ZERO_SHOT,
        lambda pipe: pipe("cat", LABELS, hypothesis_template="a cat"),
        ValueError,
        "has no place for the label",
    ),
    "template None": (
        ZERO_SHOT,
        lambda pipe: pipe("cat", LABELS, hypothesis_template=None),
        AttributeError,
        "expected a string like",
    ),
    "a third argument": (ZERO_SHOT, lambda pipe: pipe("cat", LABELS, "{}"), ValueError, "expected the labels alone"),
    "labels twice": (ZERO_SHOT, lambda pipe: pipe("a", LABELS, candidate_labels="b"), ValueError, "the labels alone"),
    "text of []": (TEXT, lambda pipe: pipe([]), IndexError, "the list of texts is empty"),
    "text of None": (TEXT, lambda pipe: pipe(None), ValueError, "one text is None"),
    "text of a number": (TEXT, lambda pipe: pipe([5]), ValueError, "one text is 5"),
    "text of bytes": (TEXT, lambda pipe: pipe(b"cat"), ValueError, "one text is b'cat'"),
    "a dict without text": (TEXT, lambda pipe: pipe({"text_pair": "a"}), ValueError, "expected a string"),
    "a pair with a number": (TEXT, lambda pipe: pipe({"text": "a", "text_pair": 5}), ValueError, "expected a string"),
    "a chat": (TEXT, lambda pipe: pipe([{"role": "user", "content": "a"}]), ValueError, "expected a string"),
    "a pair as a list": (TEXT, lambda pipe: pipe([["a", "b"]]), ValueError, '"text_pair"'),
    "a nested list": (TEXT, lambda pipe: pipe([["a"]]), ValueError, '"text_pair"'),
    "unknown function": (TEXT, lambda pipe: pipe("a", function_to_apply="default"), KeyError, "use one of sigmoid"),
    "function a number": (TEXT, lambda pipe: pipe("a", function_to_apply=5), ValueError, "function_to_apply=5"),
    "unknown truncation": (TEXT, lambda pipe: pipe("a", truncation="both"), ValueError, "truncation='both'"),
    "unknown padding": (TEXT, lambda pipe: pipe("a", padding="all"), ValueError, "padding='all'"),
    "max_length a string": (TEXT, lambda pipe: pipe(LONG, max_length="5"), TypeError, "max_length='5'"),
    "batch_size 0": (TEXT, lambda pipe: pipe(TEXTS, batch_size=0), ValueError, "batch_size=0"),
    "only_second of one text": (TEXT, lambda pipe: pipe(LONG, truncation="only_second"), Exception, "cannot be done"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_of_transformers_type_and_say_what_to_do(both: Both, name: str) -> None:
    task, call, kind, message = ERRORS[name]
    with pytest.raises(kind) as his:
        call(both.theirs[task])
    with pytest.raises(errors.BridgeError) as mine:
        call(both.ours[task])
    assert isinstance(mine.value, type(his.value))
    assert message in str(mine.value)
    assert not str(mine.value).startswith(("'", '"'))


def test_an_overlong_text_is_refused_where_transformers_fails(both: Both) -> None:
    for call in (lambda pipe: pipe(LONG * 2), lambda pipe: pipe(["a", LONG * 2], truncation=True, max_length=400)):
        with pytest.raises((RuntimeError, IndexError)):
            call(both.theirs[TEXT])
        with pytest.raises(errors.TokenRangeError, match=r"the model takes at most \d+. Pass truncation=True"):
            call(both.ours[TEXT])


def test_a_label_too_long_for_the_model_is_refused(both: Both) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        both.theirs[ZERO_SHOT]("a cat", ["dog", LONG])
    with pytest.raises(errors.TokenRangeError, match="Shorten the label"):
        both.ours[ZERO_SHOT]("a cat", ["dog", LONG])


def test_a_label_that_leaves_the_text_no_room_is_read_whole_as_in_transformers(bert: Path) -> None:
    edit_json(bert / "tokenizer_config.json", model_max_length=12)
    labels = ["cat", "the cat sat on the mat on the dog"]
    assert_same(pipeline(ZERO_SHOT, bert)(TEXTS, labels), theirs_of(ZERO_SHOT, bert)(TEXTS, labels))


# What transformers answers for a part of the input, or without a word about what it left out.
REFUSED: dict[str, tuple[str, Call, str]] = {
    "a tuple of texts": (TEXT, lambda pipe: pipe(("a", "b")), "expected a string"),
    "a dict of lists": (TEXT, lambda pipe: pipe({"text": ["a", "b"]}), "expected a string"),
    "a dict with more keys": (TEXT, lambda pipe: pipe({"text": "a", "pair": "b"}), "expected a string"),
    "an argument without meaning": (TEXT, lambda pipe: pipe("a", return_all_scores=True), "got return_all_scores"),
    "top_k of a string": (TEXT, lambda pipe: pipe("a", top_k="all"), "top_k='all'"),
    "max_length 1": (TEXT, lambda pipe: pipe("a cat", max_length=1), "less than the 2 special tokens"),
    "max_length 0": (TEXT, lambda pipe: pipe("a cat", max_length=0), "expected 1 token or more"),
    "a tuple of texts, zero-shot": (ZERO_SHOT, lambda pipe: pipe(("a", "b"), LABELS), "one flat list"),
    "nested texts": (ZERO_SHOT, lambda pipe: pipe([["a", "b"]], LABELS), "one flat list"),
    "the old name of multi_label": (
        ZERO_SHOT,
        lambda pipe: pipe("a", LABELS, multi_class=True),
        "it takes candidate_labels",
    ),
    "truncation that is not done": (
        ZERO_SHOT,
        lambda pipe: pipe("a", LABELS, truncation=False),
        "always cuts the text",
    ),
    "a template with two labels": (
        ZERO_SHOT,
        lambda pipe: pipe("a", LABELS, hypothesis_template="{} {}"),
        "Put {} once",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_dropped_in_silence_is_refused(both: Both, name: str) -> None:
    task, call, message = REFUSED[name]
    with pytest.raises(errors.BridgeError) as refusal:
        call(both.ours[task])
    assert message in str(refusal.value)


def test_zero_shot_does_not_overflow_where_transformers_does(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path, ROWS["bert"], NLI, 30_000.0)
    pipe = pipeline(ZERO_SHOT, folder)
    loud = {"top_k": None, "function_to_apply": "none"}
    logits = pipeline(TEXT, folder)({"text": TEXTS[0], "text_pair": "This example is cat."}, **loud)
    assert max(abs(one["score"]) for one in logits) > 89
    for multi_label in (False, True):
        answer = pipe(TEXTS, LABELS, multi_label=multi_label)
        assert np.isfinite([one["scores"] for one in answer]).all()
    assert sum(pipe(TEXTS[0], LABELS)["scores"]) == pytest.approx(1)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape (rows, tokens) of each batch that goes through a model."""
    shapes: list[tuple[int, ...]] = []
    original = Model.__call__

    def counted(self: Model, batch: Any, *args: Any, **options: Any) -> Any:
        shapes.append(tuple(batch.ids.shape))
        return original(self, batch, *args, **options)

    monkeypatch.setattr(Model, "__call__", counted)
    return shapes


def test_all_labels_of_all_texts_share_one_batch(bert: Path, forwards: list[tuple[int, ...]]) -> None:
    pipeline(ZERO_SHOT, bert)(TEXTS, LABELS)
    assert [rows for rows, _ in forwards] == [len(TEXTS) * len(LABELS)]


def test_equal_texts_and_labels_are_computed_once(bert: Path, forwards: list[tuple[int, ...]]) -> None:
    pipeline(ZERO_SHOT, bert)([TEXTS[0], TEXTS[0]], ["cat", "dog", "cat"])
    assert [rows for rows, _ in forwards] == [2]


def test_batch_size_bounds_the_tokens_of_a_batch(bert: Path, forwards: list[tuple[int, ...]]) -> None:
    texts = [f"{'cat ' * 30}{letter}" for letter in "abcdefghij"]
    pipeline(TEXT, bert)(texts, batch_size=2)
    assert len(forwards) > 1
    assert all(rows * tokens <= 2 * 128 for rows, tokens in forwards)


def counting(read: list[str], number: int) -> Iterator[str]:
    for index in range(number):
        read.append(TEXTS[index % len(TEXTS)])
        yield read[-1]


@pytest.mark.parametrize("task", [ZERO_SHOT, TEXT])
def test_a_stream_is_read_in_chunks_and_answered_lazily(both: Both, task: str) -> None:
    labels = (LABELS,) if task == ZERO_SHOT else ()
    ahead = STREAM_ROWS // len(LABELS) if task == ZERO_SHOT else STREAM_ROWS
    read: list[str] = []
    stream = both.ours[task](counting(read, 10 * STREAM_ROWS), *labels)
    assert len(read) == 1
    first = next(stream)
    assert len(read) == ahead
    assert_same([first], both.ours[task](TEXTS[:1], *labels))
    assert len([next(stream) for _ in range(ahead)]) == ahead
    assert len(read) == 2 * ahead


def test_batch_size_1_answers_a_stream_text_by_text(both: Both) -> None:
    read: list[str] = []
    for number, answer in enumerate(both.ours[TEXT](counting(read, 3), batch_size=1)):
        assert len(read) == number + 1
        assert_same([answer], both.ours[TEXT]([TEXTS[number]]))


def test_a_long_list_is_answered_in_order_across_chunks(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline(ZERO_SHOT, bert)
    wanted = [pipe(text, LABELS) for text in TEXTS]
    monkeypatch.setattr(type(pipe), "rows_at_once", 11)
    assert_same(pipe(TEXTS * 3, LABELS), wanted * 3)


def test_iterators_and_datasets_stream_too(both: Both) -> None:
    class Rows(torch.utils.data.Dataset[str]):
        def __len__(self) -> int:
            return len(TEXTS)

        def __getitem__(self, index: int) -> str:
            return TEXTS[index]

    wanted = both.ours[TEXT](TEXTS)
    for inputs in (Rows(), iter(TEXTS), np.array(TEXTS)):
        assert_same(list(both.ours[TEXT](inputs)), wanted)
    assert_same(list(both.theirs[TEXT](Rows())), wanted)


def test_threads_get_the_answers_of_the_main_thread(both: Both) -> None:
    pipe, answers = both.ours[ZERO_SHOT], {}

    def work(number: int) -> None:
        for _ in range(3):
            answers[number] = pipe([TEXTS[number], LONG], LABELS, multi_label=bool(number % 2))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert_same(answers[number], pipe([TEXTS[number], LONG], LABELS, multi_label=bool(number % 2)))


def test_cut_texts_are_reported_once_with_their_count(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = pipeline(ZERO_SHOT, bert)
    with caplog.at_level(logging.WARNING, "mlx_hf_bridge"):
        pipe([*TEXTS, LONG], LABELS)
        pipe([LONG], LABELS)
    assert [record.getMessage()[:10] for record in caplog.records] == ["1 of 5 tex"]


def test_a_tokenizer_without_limit_is_cut_at_the_model_s(both: Both, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(both.folder)
    limited = both.ours[ZERO_SHOT](LONG, LABELS)
    tokenizer.model_max_length = int(1e30)
    assert_same(pipeline(ZERO_SHOT, both.folder, tokenizer)(LONG, LABELS), limited)
    assert_same(pipeline(TEXT, both.folder, tokenizer)(LONG, truncation=True), both.ours[TEXT](LONG, truncation=True))


def test_a_tokenizer_of_transformers_is_read_with_as_it_is(bert: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert, model_max_length=20, truncation_side="left")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    ours, theirs = pipeline(ZERO_SHOT, bert, tokenizer=tokenizer), theirs_of(ZERO_SHOT, bert, tokenizer=tokenizer)
    assert_same(ours([LONG, "a dog"], LABELS), theirs([LONG, "a dog"], LABELS))
    assert ours.tokenizer.model_max_length == 20
    assert tokenizer.model_max_length == 20


def test_a_tokenizer_may_come_from_another_folder(bert: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_wordpiece(other)
    edit_json(other / "tokenizer_config.json", model_max_length=9)
    tokenizer = transformers.AutoTokenizer.from_pretrained(other)
    wanted = theirs_of(TEXT, bert, tokenizer=tokenizer)(LONG, truncation=True)
    assert_same(pipeline(TEXT, bert, tokenizer=str(other))(LONG, truncation=True), wanted)
    with pytest.raises(errors.RepositoryError, match="has no tokenizer"):
        pipeline(TEXT, bert, tokenizer=tmp_path)
    with pytest.raises(errors.ArgumentTypeError, match="tokenizer is a int, expected"):
        pipeline(TEXT, bert, tokenizer=5)


def test_segments_are_given_only_if_the_tokenizer_s_config_says_so(bert: Path) -> None:
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    with_segments = pipeline(TEXT, bert)(pair, top_k=None)
    edit_json(bert / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    without = pipeline(TEXT, bert)(pair, top_k=None)
    assert_same(without, theirs_of(TEXT, bert)(pair, top_k=None))
    assert without != with_segments


def test_a_quantised_model_answers_nearly_as_the_float_one(tmp_path: Path) -> None:
    wide = {**WITH_SEGMENTS, "hidden_size": 64, "intermediate_size": 128}
    folder = make_classifier(tmp_path, Row("bert", "Bert", transformers.BertConfig(**wide), segments=3), NLI, 3.0)
    packed = pipeline(ZERO_SHOT, folder, quantization_config="q8")
    assert packed.model.quantization_config.bits == 8
    for mine, his in zip(packed(TEXTS, LABELS), theirs_of(ZERO_SHOT, folder)(TEXTS, LABELS), strict=True):
        scores = dict(zip(mine["labels"], mine["scores"], strict=True))
        assert [scores[label] for label in his["labels"]] == pytest.approx(his["scores"], abs=0.03)


def test_a_loaded_model_serves_several_pipelines(bert: Path) -> None:
    model = MLXAutoModelForSequenceClassification.from_pretrained(bert)
    pipe = pipeline(TEXT, model)
    assert pipe.model is model and pipeline(ZERO_SHOT, model=model).model is model
    assert_same(pipe(TEXTS), theirs_of(TEXT, bert)(TEXTS))
    assert repr(pipe).startswith("TextClassificationPipeline('text-classification', BertForSequenceClassification on")
    with pytest.raises(errors.ArgumentTypeError, match="loaded already"):
        pipeline(TEXT, model, quantization_config="q8")


def test_what_is_no_classifier_is_refused(bert: Path) -> None:
    for model in (MLXAutoModel.from_pretrained(bert), object()):
        with pytest.raises(errors.ArgumentTypeError, match="MLXAutoModelForSequenceClassification"):
            pipeline(TEXT, model)
    with pytest.raises(errors.InputError, match="no model was named"):
        pipeline(TEXT)


def test_an_unknown_task_is_a_key_error_that_names_the_known(bert: Path) -> None:
    with pytest.raises(KeyError):
        theirs_of("text-ranking-ish", bert)
    for task in ("text-ranking-ish", None):
        with pytest.raises(errors.UnknownNameError) as refusal:
            pipeline(task, bert)
        assert isinstance(refusal.value, KeyError)
        assert str(refusal.value).startswith("Unknown task") and all(
            known in str(refusal.value) for known in [*TASKS, *ALIASES]
        )


def test_arguments_of_torch_code_are_taken_and_unknown_ones_are_not(bert: Path) -> None:
    pipe = pipeline(TEXT, bert, device="cuda:0", device_map="auto", framework="pt", torch_dtype=torch.float32)
    assert str(pipe.model.dtype) == "mlx.core.float32"
    assert str(pipeline(TEXT, bert, torch_dtype="float16").model.dtype) == "mlx.core.float16"
    assert str(pipeline(TEXT, bert, dtype="float32", torch_dtype="float16").model.dtype) == "mlx.core.float32"
    with pytest.raises(errors.ArgumentTypeError, match="got use_slow, which it does not take"):
        pipeline(TEXT, bert, use_slow=False)


WITHOUT_TORCH = """
import sys
from importlib.machinery import ModuleSpec

class Blocked:
    # Found, as where it is installed, but never loaded.
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "torch" else None

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is blocked")

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Blocked())
import mlx_hf_bridge

pipe = mlx_hf_bridge.pipeline("zero-shot-classification", model=sys.argv[1])
print(pipe("the cat sat", ["cat", "dog"])["labels"])
print(mlx_hf_bridge.pipeline("sentiment-analysis", pipe.model)("a good film")[0]["label"])
assert "torch" not in sys.modules
"""


def test_runs_where_torch_cannot_be_imported(bert: Path) -> None:
    wanted = theirs_of(ZERO_SHOT, bert)("the cat sat", ["cat", "dog"])["labels"]
    label = theirs_of(TEXT, bert)("a good film")[0]["label"]
    assert finished(WITHOUT_TORCH, bert).splitlines() == [str(wanted), label]
