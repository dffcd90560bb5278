"""pipeline() for token-level tasks, and what all pipelines share: batching, streaming, saving, isinstance checks."""

import dataclasses
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from checkpoints import (
    FAMILIES,
    Row,
    heads_of,
    make_checkpoint,
    make_wordpiece,
    ragged_inputs,
    row_name,
    save_model,
)
from pipeline_calls import FEATURES, FILL, LABELS, LONG, NER, TEXT, TEXTS, ZERO_SHOT
from subprocesses import run_python
from three_pipelines import (
    HEADS,
    ROWS,
    ThreePipelines,
    assert_same,
    build_three_pipelines,
    make_for,
    torch_pipeline,
    transformers_pipeline_on_mlx,
)

from mlx_hf_bridge import MLXAutoModelForMaskedLM, errors, pipeline
from mlx_hf_bridge.inference.batching import make_batch
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.pipelines.base import STREAM_SEQUENCES
from mlx_hf_bridge.pretrained.arrays import match_array_type
from mlx_hf_bridge.pretrained.model import create_model

# Logits computed at masked positions only versus at all positions: equal sums over different shapes.
AT_SLOTS = 2e-5


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreePipelines]:
    yield from build_three_pipelines("bert", tuple(HEADS), tmp_path_factory)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the shape (rows, tokens) of each batch that runs through a model."""
    shapes: list[tuple[int, ...]] = []
    original = Model.__call__

    def counted(self: Model, batch: Any, *args: Any, **options: Any) -> Any:
        shapes.append(tuple(batch.ids.shape))
        return original(self, batch, *args, **options)

    monkeypatch.setattr(Model, "__call__", counted)
    monkeypatch.setattr("mlx_hf_bridge.inference.batching.STREAMS", 1)
    return shapes


def test_labels_words_and_vectors_depend_on_the_text(three: ThreePipelines) -> None:
    """Guard against a constant model, on which the comparisons with transformers would pass trivially."""
    labels = {one["entity"] for text in three.mlx[NER](TEXTS, ignore_labels=[]) for one in text}
    assert len(labels) > 3 and "O" in labels
    groups = three.mlx[NER](TEXTS, aggregation_strategy="simple")
    assert len({one["entity_group"] for text in groups for one in text}) > 1
    assert max(one["end"] - one["start"] for text in groups for one in text) > 4
    best = [one[0] for one in three.mlx[FILL](["the [MASK] sat.", "[MASK] news", "i [MASK] this film"])]
    assert len({one["token"] for one in best}) > 1
    assert max(one["score"] for one in best) > 0.1


def test_all_texts_of_a_list_share_batches(three: ThreePipelines, forwards: list[tuple[int, ...]]) -> None:
    three.mlx[NER](TEXTS)
    three.mlx[FEATURES](TEXTS)
    assert [rows for rows, _ in forwards] == [len(TEXTS)] * 2


def test_windows_of_long_texts_share_batches(three: ThreePipelines, forwards: list[tuple[int, ...]]) -> None:
    three.mlx[NER]([LONG, LONG + "cat"], stride=5, aggregation_strategy="simple")
    windows = sum(rows for rows, _ in forwards)
    assert windows > 4 and len(forwards) < windows


def test_equal_texts_are_computed_once(three: ThreePipelines, forwards: list[tuple[int, ...]]) -> None:
    three.mlx[FEATURES]([TEXTS[0]] * 5)
    assert [rows for rows, _ in forwards] == [1]


@pytest.mark.parametrize("row", [row for row in FAMILIES if "ForMaskedLM" in heads_of(row)], ids=row_name)
def test_words_are_scored_at_masked_slots_alone_in_every_family(row: Row, tmp_path: Path) -> None:
    """`logits_at` the given positions equals the full logits gathered at those positions."""
    save_model(tmp_path, row, "ForMaskedLM")
    loaded = MLXAutoModelForMaskedLM.from_pretrained(tmp_path).loaded
    inputs = ragged_inputs(row)
    batch = make_batch(loaded.config, inputs["input_ids"], inputs["attention_mask"], inputs.get("token_type_ids"))
    slots = np.array([[3, 11], [8, 0], [2, 3]])
    whole = np.array(loaded.model(batch).logits.astype(mx.float32))
    expected = np.take_along_axis(whole, slots[:, :, None], axis=1)
    found = np.array(loaded.model.logits_at(batch, mx.array(slots)).astype(mx.float32))
    np.testing.assert_allclose(found, expected, rtol=0, atol=AT_SLOTS * max(1.0, np.abs(expected).max()))


class Whole:
    """A model that can only compute logits at all positions, like a traced graph."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, batch: Any) -> Any:
        return self.model(batch)


def test_words_of_a_model_that_answers_for_all_slots_are_the_same(three: ThreePipelines) -> None:
    """fill-mask gives equal results with a model that only computes logits at all positions."""
    pipe = three.mlx[FILL]
    loaded = pipe.model.loaded
    whole = type(pipe)(create_model(dataclasses.replace(loaded, model=Whole(loaded.model))), pipe.tokenizer)
    for text in ("the [MASK] sat", ["a [MASK] is [MASK]", "[MASK] news"]):
        assert_same(whole(text), pipe(text))


def test_a_text_s_vectors_do_not_depend_on_its_batch(three: ThreePipelines) -> None:
    """transformers pads the features of a batch to its longest text."""
    together = three.mlx[FEATURES]([*TEXTS, "cat"], batch_size=8)
    assert_same(together, [three.torch[FEATURES](text) for text in [*TEXTS, "cat"]])


def test_vectors_at_padding_are_given_where_they_are_asked_for(three: ThreePipelines) -> None:
    options: dict[str, Any] = {"tokenize_kwargs": {"padding": "max_length", "max_length": 12}, "return_tensors": True}
    mlx_value, torch_value = (pipes[FEATURES]("the cat", **options) for pipes in (three.mlx, three.torch))
    assert mlx_value.shape == tuple(torch_value.shape) == (1, 12, 24)
    np.testing.assert_allclose(mlx_value[:, :4], torch_value[:, :4], rtol=0, atol=1e-4)


def test_equal_ids_with_other_masks_get_vectors_of_their_own(three: ThreePipelines) -> None:
    """Both texts have the ids of `the cat` and ten [PAD]s, but the second text contains the first [PAD] as a token."""
    texts = ["the cat", "the cat [PAD]"]
    options = {"padding": "max_length", "max_length": 12, "add_special_tokens": False}
    actual = three.mlx[FEATURES](texts, tokenize_kwargs=options)
    expected = three.torch[FEATURES](texts, tokenize_kwargs=options)
    for found, reference, tokens in zip(actual, expected, (2, 3), strict=True):
        np.testing.assert_allclose(found[0][:tokens], reference[0][:tokens], rtol=0, atol=1e-4)
    assert np.abs(np.subtract(expected[0][0][:2], expected[1][0][:2])).max() > 0.01


def test_padding_on_the_left_moves_places_as_in_transformers(three: ThreePipelines) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(three.folders[TEXT], padding_side="left")
    options: dict[str, Any] = {"padding": "max_length", "max_length": 20, "truncation": True, "top_k": None}
    mlx_model, torch_model = (
        pipeline(TEXT, three.folders[TEXT], tokenizer),
        torch_pipeline(TEXT, three.folders[TEXT], tokenizer=tokenizer),
    )
    assert_same(mlx_model(TEXTS, **options), torch_model(TEXTS, **options))
    assert mlx_model(TEXTS, **options) != three.mlx[TEXT](TEXTS, **options)


def test_texts_cut_unasked_are_reported_once_with_their_count(
    three: ThreePipelines, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = pipeline(NER, three.mlx[NER].model)
    with caplog.at_level(logging.WARNING, "mlx_hf_bridge"):
        pipe([*TEXTS, LONG])
        pipe(LONG, stride=4, aggregation_strategy="simple")
        pipe([LONG])
    [record] = caplog.records
    assert record.getMessage().startswith("1 of 5 texts have more tokens than the limit of 44")
    assert record.getMessage().endswith("Pass stride and an aggregation_strategy to have every part read.")


@pytest.mark.parametrize("task", [FILL, FEATURES])
def test_an_overlong_text_is_refused(three: ThreePipelines, task: str) -> None:
    text = f"{three.mlx[FILL].tokenizer.mask_token} {LONG}"
    with pytest.raises((RuntimeError, IndexError)):
        three.torch[task](text)
    with pytest.raises(errors.TokenRangeError, match=r"the model takes at most 44\. Pass .*truncation"):
        three.mlx[task](text)


def test_a_tokenizer_without_limit_is_cut_at_the_model_s(three: ThreePipelines) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(three.folders[NER])
    tokenizer.model_max_length = int(1e30)
    pipe = pipeline(NER, three.folders[NER], tokenizer)
    for options in ({}, {"stride": 5, "aggregation_strategy": "simple"}):
        assert_same(pipe(LONG, **options), three.mlx[NER](LONG, **options))
    assert tokenizer.model_max_length == int(1e30)


def test_a_stream_is_read_in_chunks_and_answered_lazily(three: ThreePipelines) -> None:
    read: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(3 * STREAM_SEQUENCES):
            read.append(number)
            yield TEXTS[number % len(TEXTS)]

    stream = three.mlx[NER](texts(), aggregation_strategy="simple")
    assert len(read) == 1
    first = next(stream)
    assert len(read) == STREAM_SEQUENCES
    assert_same(first, three.mlx[NER](TEXTS[0], aggregation_strategy="simple"))


@pytest.mark.parametrize("task", [NER, FEATURES, TEXT])
def test_columns_and_data_sets_stream(three: ThreePipelines, task: str) -> None:
    class Rows(torch.utils.data.Dataset[str]):
        def __len__(self) -> int:
            return len(TEXTS)

        def __getitem__(self, index: int) -> str:
            return TEXTS[index]

    expected = three.mlx[task](TEXTS)
    assert_same(list(three.torch[task](Rows())), expected)
    for inputs in (Rows(), iter(TEXTS), np.array(TEXTS)):
        assert_same(list(three.mlx[task](inputs)), expected)


def test_threads_get_the_answers_of_the_main_thread(three: ThreePipelines) -> None:
    calls = [
        lambda: three.mlx[NER]([*TEXTS, LONG]),
        lambda: three.mlx[NER](LONG, stride=5, aggregation_strategy="max"),
    ]
    expected, found = [call() for call in calls], {}

    def work(number: int) -> None:
        for _ in range(3):
            found[number] = calls[number % 2]()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert_same(found[number], expected[number % 2])


@pytest.mark.parametrize(
    ("task", "defaults"),
    [
        (NER, {"aggregation_strategy": "max"}),
        (FILL, {"top_k": 2, "targets": ["cat", "dog", "a"]}),
        (FEATURES, {"return_tensors": True}),
        (NER, {"stride": 4, "aggregation_strategy": "first", "batch_size": 2}),
    ],
)
def test_defaults_of_the_pipeline_hold_until_a_call_says_otherwise(
    three: ThreePipelines, task: str, defaults: dict[str, Any]
) -> None:
    mlx_model, torch_model = (
        pipeline(task, three.folders[task], **defaults),
        torch_pipeline(task, three.folders[task], **defaults),
    )
    for text in ("the [MASK] sat on the mat", ["[MASK] news", "a [MASK]"]):
        assert_same(mlx_model(text), torch_model(text))
    assert_same(
        mlx_model("a [MASK]", **dict.fromkeys(["top_k"] if task == FILL else [], 1)),
        torch_model("a [MASK]", **dict.fromkeys(["top_k"] if task == FILL else [], 1)),
    )


@pytest.mark.parametrize("task", HEADS)
def test_isinstance_says_that_it_is_a_pipeline_of_transformers(three: ThreePipelines, task: str) -> None:
    mlx_value, others = three.mlx[task], [other for other in HEADS if other != task]
    assert isinstance(mlx_value, transformers.Pipeline)
    assert isinstance(mlx_value, type(three.torch[task]))
    assert not any(isinstance(mlx_value, type(three.torch[other])) for other in others)
    assert isinstance(mlx_value.tokenizer, transformers.BertTokenizer)
    assert "pipeline" in str(type(mlx_value))


KINSHIP = """
import sys
from mlx_hf_bridge import pipeline
pipe = pipeline("ner", sys.argv[1])
assert "torch" not in sys.modules
import transformers
print(isinstance(pipe, transformers.Pipeline), isinstance(pipe, transformers.pipelines.base.ChunkPipeline))
print(isinstance(pipe, transformers.TokenClassificationPipeline), isinstance(pipe, transformers.FillMaskPipeline))
"""


@pytest.mark.slow
def test_isinstance_holds_where_transformers_comes_later(three: ThreePipelines) -> None:
    assert run_python(KINSHIP, three.folders[NER]) == "True True\nTrue False"


@pytest.mark.parametrize("task", HEADS)
def test_a_saved_pipeline_is_one_again_here_and_in_transformers(
    three: ThreePipelines, task: str, tmp_path: Path
) -> None:
    options = {"candidate_labels": LABELS} if task == ZERO_SHOT else {}
    text = "the [MASK] sat on the mat"
    expected = three.mlx[task](text, **options)
    three.mlx[task].save_pretrained(tmp_path)
    assert_same(pipeline(task, tmp_path)(text, **options), expected)
    assert_same(torch_pipeline(task, tmp_path)(text, **options), expected)


@pytest.mark.parametrize("task", HEADS)
def test_transformers_pipelines_say_and_save_what_they_hold(three: ThreePipelines, task: str, tmp_path: Path) -> None:
    hosted, torch_model = three.transformers_on_mlx[task], three.torch[task]
    assert repr(hosted) == repr(torch_model)
    options = {"candidate_labels": LABELS} if task == ZERO_SHOT else {}
    hosted.save_pretrained(tmp_path)
    assert_same(torch_pipeline(task, tmp_path)("the [MASK] sat", **options), torch_model("the [MASK] sat", **options))
    assert_same(
        transformers_pipeline_on_mlx(task, tmp_path)("the [MASK] sat", **options),
        torch_model("the [MASK] sat", **options),
    )


def test_a_transformers_pipeline_on_another_device_gets_its_answers_there() -> None:
    """On a Mac, the pipeline moves inputs to mps and expects outputs there; this test uses meta instead of mps."""
    assert match_array_type(mx.array([1.0]), torch.empty(1, device="meta")).device == torch.device("meta")


def test_what_pipelines_are_asked_by_other_code(three: ThreePipelines) -> None:
    pipe = three.mlx[NER]
    assert pipe.task == NER
    assert pipe.device == torch.device("cpu")
    assert str(pipe.dtype) == "mlx.core.float32"
    assert_same(pipe.predict(TEXTS), pipe(TEXTS))
    assert_same(pipe.transform(TEXTS), pipe(TEXTS))
    assert repr(pipe).startswith(
        "TokenClassificationPipeline('token-classification', BertForTokenClassification on MLX"
    )
    with pytest.raises(errors.InputError, match=r"got the positional arguments \('b',\) after the texts"):
        three.mlx[FEATURES]("a", "b")


def test_quantised_and_half_models_answer_nearly_the_same(tmp_path: Path) -> None:
    folder = make_for(tmp_path, ROWS["bert"], "ForMaskedLM")
    [expected] = [{one["token"]: one["score"] for one in pipeline(FILL, folder)("the [MASK] sat", top_k=101)}]
    half = pipeline(FILL, folder, dtype="float16")
    assert str(half.dtype) == "mlx.core.float16"
    for one in half("the [MASK] sat"):
        assert one["score"] == pytest.approx(expected[one["token"]], abs=0.02)


def test_names_of_repos_and_settings_for_loading_are_handed_on(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, head="ForTokenClassification")
    pipe = pipeline("ner", str(tmp_path), model_kwargs={"id2label": {0: "O", 1: "B-X", 2: "I-X"}}, device=-1)
    assert {one["entity"] for one in pipe("the cat", ignore_labels=[])} <= {"O", "B-X", "I-X"}
    assert isinstance(json.dumps(pipe("the cat", ignore_labels=[])[0]["index"]), str)
    make_wordpiece(tmp_path / "words only")
    with pytest.raises(errors.BridgeError, match=r"config\.json"):
        pipeline("ner", tmp_path / "words only")
