"""AsyncEngine: results of encode, shared batches, order and fairness, limits, cancellation, faults of one request."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from serving_models import OVERLONG, TEXTS, make_classifiers, make_embedder, with_engine

from mlx_hf_bridge import MLXCrossEncoder, MLXSentenceTransformer, pipeline
from mlx_hf_bridge.errors import (
    ArgumentTypeError,
    InputError,
    NonFiniteError,
    OverlongTextError,
    QueueFullError,
    RequestLimitError,
    RequestTimeoutError,
    ShuttingDownError,
    UnservedModelError,
)
from mlx_hf_bridge.inference.batching import BatchPipeline, to_float_rows
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.serving import AsyncEngine, Limits
from mlx_hf_bridge.serving.computing import Computer
from mlx_hf_bridge.serving.queue import Request, WorkQueue
from mlx_hf_bridge.serving.registry import ModelRegistry
from mlx_hf_bridge.serving.tasks.base import Prepared, Task

# A text's batch may have other neighbors than in encode, whose padding moves the last bits.
CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MLXSentenceTransformer:
    return make_embedder(tmp_path_factory.mktemp("serving"))


def tokens(*lengths: int) -> list[Tokens]:
    return [Tokens(np.full(length, 7, np.int32), None) for length in lengths]


def request(lane: str, *lengths: int, pipeline: Any = None) -> Request:
    return Request(lane, "model", tokens(*lengths), pipeline, lambda result, error: None)


def turns(queue: WorkQueue, budget: int) -> list[list[tuple[Request, int, int]]]:
    found = []
    while parts := queue.take(budget):
        found.append([(part.request, part.start, part.stop) for part in parts])
    return found


def queue_of(*requests: Request) -> WorkQueue:
    queue = WorkQueue()
    for one in requests:
        queue.put(one)
    return queue


def test_requests_of_a_lane_share_a_turn_in_order_of_arrival() -> None:
    first, second, third = request("a", 5, 5), request("a", 5), request("a", 5, 5)
    queue = queue_of(first, second, third)
    assert queue.tokens == 25
    assert turns(queue, 100) == [[(first, 0, 2), (second, 0, 1), (third, 0, 2)]]
    assert (len(queue), queue.tokens) == (0, 0)


def test_a_large_request_leaves_small_ones_their_share_of_each_turn() -> None:
    large, small = request("a", *[10] * 100), request("a", 10, 10)
    assert turns(queue_of(large, small), 100)[0] == [(large, 0, 8), (small, 0, 2)]


def test_lanes_take_turns() -> None:
    first, second, other = request("a", *[10] * 20), request("a", 10), request("b", 10)
    found = turns(queue_of(first, second, other), 100)
    assert [part[0] for turn in found[:2] for part in turn] == [first, second, other]


def test_every_turn_makes_progress_and_nothing_is_lost_or_taken_twice() -> None:
    random = np.random.default_rng(0)
    requests = [request("ab"[number % 2], *random.integers(0, 60, 1 + number)) for number in range(30)]
    queue = queue_of(*requests)
    taken: dict[int, int] = {}
    for turn in turns(queue, 50):
        assert sum(max(1, len(one)) for r, start, stop in turn for one in r.tokens[start:stop]) <= 60
        for one, start, stop in turn:
            assert taken.get(id(one), 0) == start < stop
            taken[id(one)] = stop
    assert taken == {id(one): len(one.tokens) for one in requests}
    assert queue.tokens == 0


def test_a_removed_request_is_not_computed() -> None:
    first, second = request("a", *[10] * 10), request("a", 10)
    queue = queue_of(first, second)
    queue.take(40)
    queue.remove(first)
    assert queue.tokens == 0 if second.remaining == 0 else 10
    queue.remove(first)
    queue.remove(second)
    assert queue.take(40) == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt_name": "query"},
        {"prompt": "cats "},
        {"truncate_dim": 7},
        {"truncate_dim": 7, "normalize_embeddings": True},
        {"overlong": "truncate"},
    ],
    ids=str,
)
def test_embeddings_are_those_of_encode(model: MLXSentenceTransformer, options: dict[str, Any]) -> None:
    found = with_engine(model, lambda engine: engine.encode(TEXTS, **options))
    expected = model.encode(TEXTS, **options)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, **CLOSE)


def test_tasks_are_those_of_encode_query_and_encode_document(model: MLXSentenceTransformer) -> None:
    for task, encode in (("query", model.encode_query), ("document", model.encode_document)):
        found = with_engine(model, lambda engine, task=task: engine.encode("cats", task=task))
        np.testing.assert_allclose(found, encode("cats"), **CLOSE)


def test_clients_that_call_at_once_get_their_own_embeddings(model: MLXSentenceTransformer) -> None:
    expected = {text: model.encode(text) for text in TEXTS}
    sizes: list[int] = []

    async def work(engine: AsyncEngine) -> list[Any]:
        engine.observer.turn = lambda model, texts, tokens, seconds: sizes.append(texts)  # type: ignore[method-assign]
        return await asyncio.gather(*(engine.encode([TEXTS[n % 5], TEXTS[-1 - n % 3]]) for n in range(40)))

    for number, (first, second) in enumerate(with_engine(model, work)):
        np.testing.assert_allclose(first, expected[TEXTS[number % 5]], **CLOSE)
        np.testing.assert_allclose(second, expected[TEXTS[-1 - number % 3]], **CLOSE)
    assert sum(sizes) == 80
    assert max(sizes) > 2, "requests did not share batches"


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((["the cat", OVERLONG],), {}, OverlongTextError),
        ((["the cat"],), {"prompt_name": "nope"}, InputError),
        ((["the cat"],), {"truncate_dim": 25}, InputError),
        ((["a\ud800"],), {}, InputError),
        ((5,), {}, InputError),
        ((["the cat"], "nope"), {}, UnservedModelError),
        ((["x" * 2_000_000],), {}, RequestLimitError),
        ((["x"] * 3000,), {}, RequestLimitError),
    ],
)
def test_a_bad_request_fails_with_its_own_error(
    model: MLXSentenceTransformer, arguments: Any, options: Any, error: type[Exception]
) -> None:
    async def work(engine: AsyncEngine) -> Any:
        good, bad = await asyncio.gather(
            engine.encode(TEXTS), engine.encode(*arguments, **options), return_exceptions=True
        )
        assert engine.active == 0
        return good, bad

    good, bad = with_engine(model, work)
    np.testing.assert_allclose(good, model.encode(TEXTS), **CLOSE)
    assert isinstance(bad, error), bad


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_classifiers(tmp_path_factory.mktemp("classifiers"))


def test_scores_are_those_of_predict_and_rank(classifiers: dict[str, str]) -> None:
    model = MLXCrossEncoder(classifiers["reranker"])

    async def work(engine: AsyncEngine) -> Any:
        pairs = [("a dog", text) for text in TEXTS]
        return await engine.predict(pairs), await engine.rank("a dog", TEXTS, top_k=3), await engine.predict([])

    scores, ranked, nothing = with_engine(model, work)
    np.testing.assert_allclose(scores, model.predict([("a dog", text) for text in TEXTS]), **CLOSE)
    assert [one["corpus_id"] for one in ranked] == [one["corpus_id"] for one in model.rank("a dog", TEXTS, top_k=3)]
    assert nothing.shape == (0,)
    with pytest.raises(OverlongTextError):
        with_engine(model, lambda engine: engine.predict([("a dog", OVERLONG)]))
    [score] = with_engine(model, lambda engine: engine.predict([("a dog", OVERLONG)], overlong="truncate"))
    np.testing.assert_allclose(score, model.predict([("a dog", OVERLONG)])[0], **CLOSE)


def rounded(result: Any) -> Any:
    """Return a result with its numbers rounded to five digits."""
    if isinstance(result, dict):
        return {key: rounded(value) for key, value in result.items()}
    if isinstance(result, list):
        return [rounded(one) for one in result]
    return round(float(result), 5) if isinstance(result, (float, np.floating)) else result


def test_labels_and_entities_are_those_of_the_pipelines(classifiers: dict[str, str]) -> None:
    async def work(engine: AsyncEngine) -> Any:
        # At once, so that requests of both kinds are in the queue.
        return await asyncio.gather(
            engine.classify(TEXTS, model="nli"),
            engine.classify(TEXTS, ["dog", "film"], "nli", multi_label=True),
            engine.find_entities(TEXTS, aggregation_strategy="simple"),
            engine.classify([*TEXTS, OVERLONG], ["dog"], overlong="truncate"),
            engine.classify([OVERLONG], ["dog"]),
            engine.classify([OVERLONG]),
            engine.find_entities([OVERLONG]),
            return_exceptions=True,
        )

    found = with_engine({name: classifiers[name] for name in ("nli", "tagger")}, work)
    labels = pipeline("text-classification", model=classifiers["nli"])
    zero_shot = pipeline("zero-shot-classification", model=classifiers["nli"])
    entities = pipeline("token-classification", model=classifiers["tagger"])
    expected = [
        labels(TEXTS, top_k=None),
        zero_shot(TEXTS, candidate_labels=["dog", "film"], multi_label=True),
        entities(TEXTS, aggregation_strategy="simple"),
        zero_shot([*TEXTS, OVERLONG], candidate_labels=["dog"]),
    ]
    assert rounded(found[:4]) == rounded(expected)
    assert [isinstance(one, InputError) for one in found[4:]] == [True] * 3, found[4:]


def test_a_classifier_that_knows_no_entailment_takes_no_labels(model: MLXSentenceTransformer, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, head="ForSequenceClassification")
    with pytest.raises(UnservedModelError, match="needs a model trained on NLI"):
        with_engine(tmp_path, lambda engine: engine.classify(TEXTS, ["dog"]))
    with pytest.raises(UnservedModelError, match="No model here is of the kind classifier"):
        with_engine(model, lambda engine: engine.classify(TEXTS))


@dataclass(frozen=True)
class Poisoned(Task):
    """Computes rows by a function of the ids, in a lane that all of these share."""

    ids: tuple[int, ...]
    compute: Callable[[list[Tokens]], Any]
    kinds = ("embedding",)

    def prepare(self, model: Any, limits: Limits) -> Prepared:
        one = [Tokens(np.array([number], np.int32), None) for number in self.ids]
        return Prepared(one, "poisoned", BatchPipeline(list, self.compute, to_float_rows), partial(np.stack, axis=0))


def test_a_text_that_cannot_be_computed_fails_its_own_request_only(model: MLXSentenceTransformer) -> None:
    def compute(batch: list[Tokens]) -> np.ndarray:
        values = np.array([float(one.ids[0]) for one in batch])
        if 13.0 in values:
            raise RuntimeError("unlucky")
        return np.where(values == 14, np.nan, values)[:, None]

    async def work(engine: AsyncEngine) -> Any:
        tasks = [Poisoned((number, number), compute) for number in range(10, 20)]
        return await asyncio.gather(*(engine.run(task) for task in tasks), return_exceptions=True)

    found = with_engine(model, work)
    assert isinstance(found[3], RuntimeError)
    assert isinstance(found[4], NonFiniteError)
    assert [int(one.result[0, 0]) for one in found if not isinstance(one, Exception)] == [10, 11, 12, *range(15, 20)]


def test_a_cancelled_request_leaves_the_queue(model: MLXSentenceTransformer) -> None:
    async def work(engine: AsyncEngine) -> Any:
        # 300 texts of one token, one in each turn.
        gone = asyncio.ensure_future(
            engine.run(Poisoned(tuple(range(20, 320)), lambda batch: np.ones((len(batch), 1))))
        )
        while not engine.waiting[0]:
            await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert engine.waiting == (0, 0)
        assert engine.active == 0
        return await engine.encode("cats")

    np.testing.assert_allclose(with_engine(model, work, max_batch_tokens=1), model.encode("cats"), **CLOSE)


def test_a_full_queue_refuses_and_says_when_to_try_again(model: MLXSentenceTransformer) -> None:
    async def work(engine: AsyncEngine) -> Any:
        return await asyncio.gather(*(engine.encode("cats") for _ in range(5)), return_exceptions=True)

    found = with_engine(model, work, max_concurrent_requests=3)
    assert [isinstance(one, QueueFullError) for one in found] == [False] * 3 + [True] * 2
    assert found[3].retry_after >= 1

    computer = Computer(Limits(max_queued_tokens=10))
    computer._started = True  # no thread: nothing is taken
    computer.submit(request("a", 30))
    with pytest.raises(QueueFullError, match="30 tokens wait to be computed"):
        computer.submit(request("a", 1))


def test_a_request_that_takes_too_long_is_given_up(model: MLXSentenceTransformer) -> None:
    async def work(engine: AsyncEngine) -> None:
        with pytest.raises(RequestTimeoutError, match="not answered within 1e-06 seconds"):
            await engine.encode(TEXTS)
        assert engine.waiting == (0, 0)

    with_engine(model, work, request_seconds=1e-6)


def test_closing_answers_what_was_accepted_and_refuses_the_rest(model: MLXSentenceTransformer) -> None:
    async def work() -> Any:
        engine = AsyncEngine(model)
        accepted = [asyncio.ensure_future(engine.encode(TEXTS)) for _ in range(3)]
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(ShuttingDownError):
            await engine.encode("cats")
        return await asyncio.gather(*accepted)

    assert len(asyncio.run(work())) == 3


def test_models_are_found_by_id_alias_and_kind_and_leave_memory_in_turn(
    model: MLXSentenceTransformer, tmp_path: Path
) -> None:
    for name in ("b", "c"):
        make_embedder(tmp_path / name)
    folders = {name: str(tmp_path / name / "embedder") for name in ("b", "c")}
    registry = ModelRegistry({"a": model, **folders}, max_models=1)
    assert registry.load("a").loaded.model is model
    first = registry.load("b")
    assert registry.find("b") is first is registry.load(folders["b"])
    registry.load("c")
    assert [one.spec.names[-1] for one in registry.in_memory] == ["a", "c"]
    assert registry.load("b").key != first.key
    assert registry.load("b").loaded.nbytes > 1000
    with pytest.raises(UnservedModelError, match="The model 'd' does not exist here; there are a, b, c"):
        registry.find("d")
    with pytest.raises(UnservedModelError, match=r"No model here is of the kind reranker"):
        registry.load(None, ("reranker",))


@pytest.mark.parametrize(
    ("models", "error"),
    [([], InputError), ({"a": 5}, ArgumentTypeError), (["x/y", "x/y"], InputError), ({"a": "x/y", "b": "z/a"}, None)],
    ids=str,
)
def test_what_is_no_model_is_refused(models: Any, error: type[Exception] | None) -> None:
    if error is None:
        ModelRegistry(models)
    else:
        with pytest.raises(error):
            ModelRegistry(models)


@pytest.mark.parametrize("limits", [{"max_client_batch_size": 0}, {"request_seconds": "5"}, {"max_body_bytes": True}])
def test_a_limit_that_is_none_is_refused(limits: Any) -> None:
    with pytest.raises(InputError, match=next(iter(limits))):
        Limits(**limits)
