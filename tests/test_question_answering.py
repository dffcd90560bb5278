"""pipeline("question-answering") matches results recorded from transformers 4.57 (goldens/question_answering.py)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from three_pipelines import assert_same

from mlx_hf_bridge import MLXAutoModelForQuestionAnswering, errors, pipeline
from mlx_hf_bridge.inference.model import Model

GOLDENS = Path(__file__).parent / "goldens"
sys.path.insert(0, str(GOLDENS))

from tiny import MAKERS  # noqa: E402

GOLDEN = json.loads((GOLDENS / "question_answering.json").read_text("utf-8"))["calls"]
TASK = "question-answering"
QUESTION, CONTEXT = "who sat on the mat?", "The cat sat on the mat, the dog went home."
LONG = f"{CONTEXT} " * 12


@pytest.fixture(scope="module", params=MAKERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path_factory.mktemp("module_cache")))
        folder = tmp_path_factory.mktemp(family)
        MAKERS[family](folder)
        yield pipeline(TASK, folder)


@pytest.mark.parametrize("number", range(len(GOLDEN["bert"])))
def test_answers_are_those_of_transformers_4(number: int, family: str, pipe: Any) -> None:
    call = GOLDEN[family][number]
    if "error" in call:
        with pytest.raises(errors.BridgeError) as error:
            pipe(*call["args"], **call["options"])
        assert call["error"] in [kind.__name__ for kind in type(error.value).__mro__]
    else:
        actual, expected = pipe(*call["args"], **call["options"]), call["result"]
        assert_same(without_ties_at_zero(actual), without_ties_at_zero(expected))


def without_ties_at_zero(result: Any) -> Any:
    """Drop answers whose score is exactly 0.

    Which of them are returned depends on how numpy's argsort orders ties, which differs between CPUs with and without
    AVX-512, in transformers too.
    """
    if not isinstance(result, list) or not all(isinstance(answer, dict) for answer in result):
        return result
    return [answer for answer in result if answer["score"] > 0] or result


def flat(call: dict[str, Any]) -> list[dict[str, Any]]:
    return call["result"] if isinstance(call["result"], list) else [call["result"]]


def test_the_goldens_are_not_all_alike() -> None:
    for calls in GOLDEN.values():
        results = [call["result"] for call in calls if "result" in call]
        alone = [answer for answer in results if isinstance(answer, dict)]
        several = [answer for call in calls if call["options"].get("handle_impossible_answer") for answer in flat(call)]
        assert len({answer["answer"] for answer in alone}) > 7
        assert max(answer["score"] for answer in alone) > 0.1
        assert 0 < sum(answer["answer"] == "" for answer in several) < len(several)


def test_a_list_is_answered_as_its_examples_alone(pipe: Any) -> None:
    examples = [{"question": QUESTION, "context": context} for context in (CONTEXT, LONG, "A dog.", CONTEXT)]
    alone = [pipe(example, top_k=2) for example in examples]
    assert_same(pipe(examples, top_k=2), alone)
    assert_same(pipe(examples, top_k=2, batch_size=1), alone)
    assert_same(list(pipe((example for example in examples), top_k=2)), alone)
    assert_same(pipe(question=[QUESTION] * 4, context=[one["context"] for one in examples], top_k=2), alone)


def test_the_windows_of_all_contexts_share_batches(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    original = Model.__call__

    def counted(self: Model, batch: Any, *args: Any, **options: Any) -> Any:
        shapes.append(tuple(batch.ids.shape))
        return original(self, batch, *args, **options)

    monkeypatch.setattr(Model, "__call__", counted)
    monkeypatch.setattr("mlx_hf_bridge.inference.batching.STREAMS", 1)
    pipe(question=[QUESTION, QUESTION], context=[LONG, LONG.replace("cat", "dog")])
    windows = sum(rows for rows, _ in shapes)
    assert windows > 3 and len(shapes) < windows


def test_windows_too_small_for_the_question_are_refused(pipe: Any) -> None:
    example = {"question": QUESTION, "context": LONG}
    with pytest.raises(errors.InputError, match=r"doc_stride=25, and next to the question a window of 30 tokens has"):
        pipe(example, max_seq_len=30, doc_stride=25)
    with pytest.raises(errors.InputError, match=r"nothing of the context fits\. Shorten the question"):
        pipe(example, max_seq_len=6)
    with pytest.raises(errors.InputError, match=r"nothing of the context fits"):
        pipe({"question": QUESTION * 20, "context": CONTEXT})


def test_a_stride_that_nobody_chose_leaves_room_for_the_context(pipe: Any) -> None:
    """transformers fails inside tokenizers here: the stride must be less than what a window leaves for the context."""
    question = QUESTION * 3 if pipe.model.config.model_type == "bert" else QUESTION * 2
    assert pipe({"question": question, "context": LONG})["answer"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"top_k": 0}, ValueError, "top_k=0, expected 1 or more"),
        ({"max_answer_len": -1}, ValueError, "max_answer_len=-1, expected 1 or more"),
        ({"doc_stride": -1}, ValueError, "doc_stride=-1, expected 0 or more"),
        ({"top_k": "2"}, TypeError, "top_k='2', expected an integer"),
        ({"topk": 2}, TypeError, "got topk, which it does not take; it takes top_k, max_answer_len"),
    ],
)
def test_impossible_numbers_are_refused(pipe: Any, options: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=message) as refusal:
        pipe(question=QUESTION, context=CONTEXT, **options)
    assert isinstance(refusal.value, errors.BridgeError)


def test_a_model_without_the_head_is_refused(tmp_path: Path) -> None:
    MAKERS["bert"](tmp_path)
    model = MLXAutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert pipeline(TASK, model)(question=QUESTION, context=CONTEXT)["score"] > 0
    with pytest.raises(errors.ArgumentTypeError, match="MLXAutoModelForMaskedLM"):
        pipeline("fill-mask", model)
