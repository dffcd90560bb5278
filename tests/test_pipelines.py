"""pipeline() matches transformers' pipelines on torch in structure, labels, order, scores and errors."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import WITH_TOKEN_TYPES, Row, make_wordpiece
from pipeline_calls import LABELS, LONG, TEXT, TEXTS, ZERO_SHOT, Call
from safetensors.torch import load_file, save_file
from three_pipelines import (
    ABSOLUTE,
    NLI,
    ROWS,
    ThreePipelines,
    assert_same,
    build_three_pipelines,
    edit_json,
    make_labelled,
    torch_pipeline,
)

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, errors, pipeline
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.pipelines import ALIASES, TASKS
from mlx_hf_bridge.pipelines.base import STREAM_SEQUENCES


@pytest.fixture(scope="module", params=ROWS)
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreePipelines]:
    yield from build_three_pipelines(request.param, (ZERO_SHOT, TEXT), tmp_path_factory)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_labelled(tmp_path / "bert", ROWS["bert"])


def test_scores_depend_on_the_text(three: ThreePipelines) -> None:
    """Guard against a constant or saturated model, on which the comparisons above would pass trivially."""
    scores = [answer["score"] for answer in three.mlx[TEXT](TEXTS)]
    assert max(scores) - min(scores) > 100 * ABSOLUTE and min(scores) < 0.95
    answers = three.mlx[ZERO_SHOT](TEXTS, LABELS)
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
    assert_same(call(pipeline(task, bert, **defaults)), call(torch_pipeline(task, bert, **defaults)))


PROBLEMS = [None, "regression", "multi_label_classification"]


# transformers itself rejects single_label_classification with one label.
@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [*((kind, labels) for kind in PROBLEMS for labels in (1, 2, 4)), ("single_label_classification", 4)],
)
def test_the_function_follows_problem_type_and_number_of_labels(tmp_path: Path, problem_type: str, labels: int) -> None:
    folder = make_labelled(tmp_path, ROWS["bert"], {number: f"LABEL_{number}" for number in range(labels)}, 5.0)
    edit_json(folder / "config.json", problem_type=problem_type)
    mlx_model, torch_model = pipeline("sentiment-analysis", folder), torch_pipeline("sentiment-analysis", folder)
    assert_same(mlx_model(TEXTS), torch_model(TEXTS))
    assert_same(mlx_model(TEXTS, top_k=None), torch_model(TEXTS, top_k=None))


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
    folder = make_labelled(tmp_path, ROWS["bert"], names)
    mlx_model, torch_model = pipeline(ZERO_SHOT, folder), torch_pipeline(ZERO_SHOT, folder)
    assert mlx_model.entailment_id == torch_model.entailment_id
    for multi_label in (False, True):
        assert_same(
            mlx_model(TEXTS, LABELS, multi_label=multi_label), torch_model(TEXTS, LABELS, multi_label=multi_label)
        )


def test_a_model_without_entailment_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_labelled(tmp_path, ROWS["bert"], {0: "spam", 1: "ham"})
    with caplog.at_level(logging.WARNING, "mlx_hf_bridge"):
        pipeline(ZERO_SHOT, folder)
    assert "no label starts with 'entail'" in caplog.text


def test_an_overlong_text_is_refused_where_transformers_fails(three: ThreePipelines) -> None:
    for call in (lambda pipe: pipe(LONG * 2), lambda pipe: pipe(["a", LONG * 2], truncation=True, max_length=400)):
        with pytest.raises((RuntimeError, IndexError)):
            call(three.torch[TEXT])
        with pytest.raises(errors.TokenRangeError, match=r"the model takes at most \d+. Pass truncation=True"):
            call(three.mlx[TEXT])


def test_a_label_too_long_for_the_model_is_refused(three: ThreePipelines) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        three.torch[ZERO_SHOT]("a cat", ["dog", LONG])
    with pytest.raises(errors.TokenRangeError, match="Shorten the label"):
        three.mlx[ZERO_SHOT]("a cat", ["dog", LONG])


def test_a_label_that_leaves_the_text_no_room_is_read_whole_as_in_transformers(bert: Path) -> None:
    edit_json(bert / "tokenizer_config.json", model_max_length=12)
    labels = ["cat", "the cat sat on the mat on the dog"]
    assert_same(pipeline(ZERO_SHOT, bert)(TEXTS, labels), torch_pipeline(ZERO_SHOT, bert)(TEXTS, labels))


# Calls for which transformers processes only part of the input, or silently ignores an argument.
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
        "always truncates the text",
    ),
    "a template with two labels": (
        ZERO_SHOT,
        lambda pipe: pipe("a", LABELS, hypothesis_template="{} {}"),
        "Put {} once",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_dropped_in_silence_is_refused(three: ThreePipelines, name: str) -> None:
    task, call, message = REFUSED[name]
    with pytest.raises(errors.BridgeError) as refusal:
        call(three.mlx[task])
    assert message in str(refusal.value)


def test_zero_shot_does_not_overflow_where_transformers_does(tmp_path: Path) -> None:
    folder = make_labelled(tmp_path, ROWS["bert"], NLI, 30_000.0)
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
    """Record the shape (rows, tokens) of each batch that runs through a model, with a single stream."""
    monkeypatch.setattr("mlx_hf_bridge.inference.batching.STREAMS", 1)
    shapes: list[tuple[int, ...]] = []
    original = Model.__call__

    def counted(self: Model, batch: Any, *args: Any, **options: Any) -> Any:
        shapes.append(tuple(batch.ids.shape))
        return original(self, batch, *args, **options)

    monkeypatch.setattr(Model, "__call__", counted)
    monkeypatch.setattr("mlx_hf_bridge.inference.batching.STREAMS", 1)
    return shapes


def test_all_labels_of_all_texts_share_one_batch(bert: Path, forwards: list[tuple[int, ...]]) -> None:
    pipeline(ZERO_SHOT, bert)(TEXTS, LABELS)
    assert sum(rows for rows, _ in forwards) == len(TEXTS) * len(LABELS)
    assert len(forwards) <= 2


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
def test_a_stream_is_read_in_chunks_and_answered_lazily(three: ThreePipelines, task: str) -> None:
    labels = (LABELS,) if task == ZERO_SHOT else ()
    ahead = STREAM_SEQUENCES // len(LABELS) if task == ZERO_SHOT else STREAM_SEQUENCES
    read: list[str] = []
    stream = three.mlx[task](counting(read, 10 * STREAM_SEQUENCES), *labels)
    assert len(read) == 1
    first = next(stream)
    assert len(read) == ahead
    assert_same([first], three.mlx[task](TEXTS[:1], *labels))
    assert len([next(stream) for _ in range(ahead)]) == ahead
    assert len(read) == 2 * ahead


def test_batch_size_1_answers_a_stream_text_by_text(three: ThreePipelines) -> None:
    read: list[str] = []
    for number, answer in enumerate(three.mlx[TEXT](counting(read, 3), batch_size=1)):
        assert len(read) == number + 1
        assert_same([answer], three.mlx[TEXT]([TEXTS[number]]))


def test_a_long_list_is_answered_in_order_across_chunks(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline(ZERO_SHOT, bert)
    expected = [pipe(text, LABELS) for text in TEXTS]
    monkeypatch.setattr(type(pipe), "sequences_at_once", 11)
    assert_same(pipe(TEXTS * 3, LABELS), expected * 3)


def test_iterators_and_datasets_stream_too(three: ThreePipelines) -> None:
    class Rows(torch.utils.data.Dataset[str]):
        def __len__(self) -> int:
            return len(TEXTS)

        def __getitem__(self, index: int) -> str:
            return TEXTS[index]

    expected = three.mlx[TEXT](TEXTS)
    for inputs in (Rows(), iter(TEXTS), np.array(TEXTS)):
        assert_same(list(three.mlx[TEXT](inputs)), expected)
    assert_same(list(three.torch[TEXT](Rows())), expected)


def test_threads_get_the_answers_of_the_main_thread(three: ThreePipelines) -> None:
    pipe, answers = three.mlx[ZERO_SHOT], {}

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


def test_a_tokenizer_without_limit_is_cut_at_the_model_s(three: ThreePipelines, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(three.folders[TEXT])
    limited = three.mlx[ZERO_SHOT](LONG, LABELS)
    tokenizer.model_max_length = int(1e30)
    assert_same(pipeline(ZERO_SHOT, three.folders[TEXT], tokenizer)(LONG, LABELS), limited)
    assert_same(
        pipeline(TEXT, three.folders[TEXT], tokenizer)(LONG, truncation=True),
        three.mlx[TEXT](LONG, truncation=True),
    )


def test_a_tokenizer_of_transformers_is_read_with_as_it_is(bert: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert, model_max_length=20, truncation_side="left")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    mlx_model, torch_model = (
        pipeline(ZERO_SHOT, bert, tokenizer=tokenizer),
        torch_pipeline(ZERO_SHOT, bert, tokenizer=tokenizer),
    )
    assert_same(mlx_model([LONG, "a dog"], LABELS), torch_model([LONG, "a dog"], LABELS))
    assert mlx_model.tokenizer.model_max_length == 20
    assert tokenizer.model_max_length == 20


def test_a_tokenizer_may_come_from_another_folder(bert: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_wordpiece(other)
    edit_json(other / "tokenizer_config.json", model_max_length=9)
    tokenizer = transformers.AutoTokenizer.from_pretrained(other)
    expected = torch_pipeline(TEXT, bert, tokenizer=tokenizer)(LONG, truncation=True)
    assert_same(pipeline(TEXT, bert, tokenizer=str(other))(LONG, truncation=True), expected)
    with pytest.raises(errors.RepositoryError, match="has no tokenizer"):
        pipeline(TEXT, bert, tokenizer=tmp_path)
    with pytest.raises(errors.ArgumentTypeError, match="tokenizer is a int, expected"):
        pipeline(TEXT, bert, tokenizer=5)


def test_segments_are_given_only_if_the_tokenizer_s_config_says_so(bert: Path) -> None:
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    with_segments = pipeline(TEXT, bert)(pair, top_k=None)
    edit_json(bert / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    without = pipeline(TEXT, bert)(pair, top_k=None)
    assert_same(without, torch_pipeline(TEXT, bert)(pair, top_k=None))
    assert without != with_segments


def test_a_quantised_model_answers_nearly_as_the_float_one(tmp_path: Path) -> None:
    wide = {**WITH_TOKEN_TYPES, "hidden_size": 64, "intermediate_size": 128}
    folder = make_labelled(tmp_path, Row("bert", "Bert", transformers.BertConfig(**wide), token_types=3), NLI, 3.0)
    packed = pipeline(ZERO_SHOT, folder, quantization_config="q8")
    assert packed.model.quantization_config.bits == 8
    for mlx_value, torch_value in zip(
        packed(TEXTS, LABELS), torch_pipeline(ZERO_SHOT, folder)(TEXTS, LABELS), strict=True
    ):
        scores = dict(zip(mlx_value["labels"], mlx_value["scores"], strict=True))
        assert [scores[label] for label in torch_value["labels"]] == pytest.approx(torch_value["scores"], abs=0.03)


def test_a_loaded_model_serves_several_pipelines(bert: Path) -> None:
    model = MLXAutoModelForSequenceClassification.from_pretrained(bert)
    pipe = pipeline(TEXT, model)
    assert pipe.model is model and pipeline(ZERO_SHOT, model=model).model is model
    assert_same(pipe(TEXTS), torch_pipeline(TEXT, bert)(TEXTS))
    assert repr(pipe).startswith("TextClassificationPipeline('text-classification', BertForSequenceClassification on")
    with pytest.raises(errors.ArgumentTypeError, match="already loaded"):
        pipeline(TEXT, model, quantization_config="q8")


def test_what_is_no_classifier_is_refused(bert: Path) -> None:
    for model in (MLXAutoModel.from_pretrained(bert), object()):
        with pytest.raises(errors.ArgumentTypeError, match="MLXAutoModelForSequenceClassification"):
            pipeline(TEXT, model)


def test_an_unknown_task_is_a_key_error_that_names_the_known(bert: Path) -> None:
    with pytest.raises(KeyError):
        torch_pipeline("text-ranking-ish", bert)
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


class Column:
    """A column of a table, such as pandas.Series, which is neither a list nor a tuple."""

    def __init__(self, *values: str) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> str:
        return self.values[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)


def test_numbers_of_numpy_and_columns_are_taken(three: ThreePipelines) -> None:
    classify, zero_shot = three.mlx[TEXT], three.mlx[ZERO_SHOT]
    assert classify(TEXTS[0], top_k=np.int64(2), batch_size=np.int32(1)) == classify(TEXTS[0], top_k=2)
    found = zero_shot(TEXTS[0], Column("cat", "dog"), multi_label=np.bool_(True))
    assert_same(found, three.torch[ZERO_SHOT](TEXTS[0], Column("cat", "dog"), multi_label=True))


@pytest.mark.parametrize(
    "text", ["a\ud800b", ["fine", "a\ud800b"], [{"text": "fine", "text_pair": "\udfff"}]], ids=ascii
)
def test_half_of_a_surrogate_pair_is_a_clear_error(three: ThreePipelines, text: Any) -> None:
    with pytest.raises(errors.InputError, match=r"text \d is .* not a text in Unicode"):
        three.mlx[TEXT](text)
    if isinstance(text, str):
        with pytest.raises(errors.InputError, match="not a text in Unicode"):
            three.mlx[ZERO_SHOT](text, LABELS)


GROUPS: list[Any] = [
    [["the cat", "a dog"]],
    ("the cat", "a dog"),
    [["the cat", "a dog"], "the cat sat", ("a dog",)],
    [[["the cat", "sat"], ["a dog", "sat"]]],
]


@pytest.mark.parametrize("texts", GROUPS, ids=str)
def test_a_list_in_place_of_a_text_has_a_row_for_each(texts: Any, bert: Path) -> None:
    task = "feature-extraction"
    found, expected = (make(task, str(bert))(texts) for make in (pipeline, transformers.pipeline))
    assert_same(found, expected)


def test_such_a_list_is_padded_where_asked_and_refused_otherwise(bert: Path) -> None:
    texts, options = [["the cat", "a dog sat on the mat"]], {"tokenize_kwargs": {"padding": True}}
    extract, reference = pipeline("feature-extraction", bert), transformers.pipeline("feature-extraction", str(bert))
    assert_same(extract(texts, **options), reference(texts, **options))
    with pytest.raises(
        errors.InputError, match=r"count as one, and have \[.*\] tokens, expected the same number\. Pass"
    ):
        extract(texts)
    for other in ([[]], [[5]], [{"a": 1}], [("a", ["b"])]):
        with pytest.raises(errors.InputError, match="expected a string, or a list of strings"):
            extract(other)


@pytest.mark.parametrize("task", [TEXT, ZERO_SHOT])
def test_scores_that_are_no_numbers_are_an_error(task: str, bert: Path) -> None:
    tensors = load_file(str(bert / "model.safetensors"))
    tensors["bert.embeddings.word_embeddings.weight"][id_of(bert, "dog")] = torch.inf
    save_file(tensors, str(bert / "model.safetensors"), metadata={"format": "pt"})
    classify = pipeline(task, bert, **({"candidate_labels": "cat, mat"} if task == ZERO_SHOT else {}))
    assert len(classify(["the cat", "sat"])) == 2
    with pytest.raises(errors.NonFiniteError, match=r"computed NaN or infinity for text 1\. Load it with dtype"):
        classify(["the cat", "the dog", "sat"])


def id_of(folder: Path, word: str) -> int:
    """Return the id of a word."""
    return int(transformers.AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(word))
