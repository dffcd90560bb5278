"""AsyncEngine: models for asyncio programs, where the requests of all callers share batches.

A request goes through three places: threads that tokenize, the queue, and the one thread that computes.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError, QueueFullError, RequestTimeoutError, ShuttingDownError
from mlx_hf_bridge.runtime.boundary import PublicAPI
from mlx_hf_bridge.sentence_transformers.encoding.inputs import check_optional_count
from mlx_hf_bridge.serving.computing import Computer
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.observers import Observer
from mlx_hf_bridge.serving.queue import Request
from mlx_hf_bridge.serving.registry import ModelLike, ModelRegistry, ServedModel
from mlx_hf_bridge.serving.tasks.base import ERROR, Answer, Prepared, Task
from mlx_hf_bridge.serving.tasks.classification import ClassifyTexts, ClassifyZeroShot, FindEntities
from mlx_hf_bridge.serving.tasks.embedding import EmbedSparse, EmbedTexts, EmbedTokens
from mlx_hf_bridge.serving.tasks.scoring import ScorePairs

# Threads that tokenize; the tokenizers library releases the interpreter meanwhile.
_TOKENIZATION_WORKERS = 2


class AsyncEngine(PublicAPI):
    """Models for asyncio programs: requests of all callers share batches, and one thread computes.

    Its methods may be awaited from any number of tasks, and of event loops in several threads. A task that is cancelled
    takes its texts out of the queue.

    Args:
        models: Models by name: each a Hub id, a folder, or a loaded model of MLXSentenceTransformer, MLXCrossEncoder,
            MLXSparseEncoder, MLXMultiVectorEncoder or a pipeline. A single one, or a list, is named after its id.
        quantization_config: How weights of models given by name are quantized, such as "q8". Default: None, not at all.
        limits: What is accepted. Default: Limits().
        max_models: How many models given by name are in memory at a time; the one that was not used for longest makes
            room. Default: None, all.
        max_model_bytes: How many bytes the weights of models in memory may have, as `max_models`. Default: None.
        observer: Is notified of what is computed, for metrics. Default: nothing is.

    Example:
        >>> engine = AsyncEngine("sentence-transformers/all-MiniLM-L6-v2", quantization_config="q8")
        >>> async with engine:
        ...     vectors = await engine.encode(["The cat sleeps.", "A dog barks."])
        >>> vectors.shape
        (2, 384)
    """

    tokenization_workers = _TOKENIZATION_WORKERS

    def __init__(
        self,
        models: ModelLike | Sequence[ModelLike] | Mapping[str, ModelLike],
        *,
        quantization_config: Any = None,
        limits: Limits | None = None,
        max_models: int | None = None,
        max_model_bytes: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        if not isinstance(limits, Limits | None):
            raise ArgumentTypeError(f"limits is a {type(limits).__name__}, expected Limits.")
        self.limits = limits or Limits()
        self.observer = observer or Observer()
        self.models = ModelRegistry(
            models,
            quantization_config,
            check_optional_count("max_models", max_models),
            check_optional_count("max_model_bytes", max_model_bytes),
        )
        self._computer = Computer(self.limits, lambda *turn: self.observer.turn(*turn))
        self._tokenizing = ThreadPoolExecutor(_TOKENIZATION_WORKERS, thread_name_prefix="mlx-hf-bridge-tokenizing")
        # Apart from those that tokenize: loading a model takes long, and other models go on.
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="mlx-hf-bridge-loading")
        self._active = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def closed(self) -> bool:
        """Whether no new requests are taken."""
        return self._closed

    @property
    def active(self) -> int:
        """How many requests are accepted and not yet answered."""
        return self._active

    @property
    def waiting(self) -> tuple[int, int]:
        """How many requests and tokens wait in the queue."""
        return self._computer.waiting

    async def load(self, model: str | None = None, kinds: Sequence[str] = ()) -> ServedModel:
        """Return a model, loaded if it is not in memory.

        Args:
            model: Its name. Default: None, the first one of the kinds.
            kinds: The kinds of models that will do. Default: any.

        Returns:
            The model.

        Raises:
            UnservedModelError: If there is no such model.
            BridgeError: Whatever loading it raises.
        """
        if (found := self.models.find(model, kinds)) is not None:
            return found
        return await asyncio.get_running_loop().run_in_executor(self._loading, self.models.load, model, tuple(kinds))

    async def run(self, task: Task, model: str | None = None) -> Answer:
        """Do a task with a model.

        Args:
            task: What to do.
            model: The name of the model. Default: None, the first one that can do it.

        Returns:
            The answer.

        Raises:
            QueueFullError: If too many requests wait.
            RequestTimeoutError: If it takes longer than `limits.request_seconds`.
            UnservedModelError: If there is no such model, or it cannot do this.
            ShuttingDownError: If the engine is closed.
            BridgeError: What the model raises for these texts.
        """
        if self._closed:
            raise ShuttingDownError("the server is shutting down. Send the request to another one, or later.")
        if self._active >= self.limits.max_concurrent_requests:
            raise QueueFullError(
                f"{self._active} requests are being answered, as many as this server takes. Try again later.",
                retry_after=self._computer.retry_after(),
            )
        self._active += 1
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                return await self._run(task, model)
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"the request was not answered within {self.limits.request_seconds:g} seconds. Send fewer texts."
            ) from error
        finally:
            self._active -= 1

    async def _run(self, task: Task, name: str | None) -> Answer:
        model = await self.load(name, task.kinds)
        started = time.monotonic()
        prepared: Prepared = await self.in_thread(task.prepare, model.model_of(task.kinds), self.limits)
        tokenized = begun = time.monotonic()
        rows: list[Any] = []
        if prepared.tokens:
            request, rows = await self._compute(model, prepared)
            begun = request.started_at or tokenized
        result = await self.in_thread(prepared.finish, rows)
        return Answer(
            result,
            model.id,
            sum(map(len, prepared.tokens)),
            prepared.truncated,
            tokenized - started,
            begun - tokenized,
            time.monotonic() - begun,
        )

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run what uses the processor for longer, outside of the event loop and of the thread that computes.

        Args:
            function: A function that computes nothing on MLX.
            *arguments: Its arguments.

        Returns:
            Its result.
        """
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, function, *arguments)

    async def _compute(self, model: ServedModel, prepared: Prepared) -> tuple[Request, Any]:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if waiter.done():
                return
            if error is None:
                waiter.set_result(result)
            else:
                waiter.set_exception(error)

        request = Request(
            (model.key, prepared.lane),
            model.id,
            prepared.tokens,
            prepared.pipeline,
            lambda result, error: loop.call_soon_threadsafe(settle, result, error) and None,
        )
        self._computer.submit(request)
        try:
            return request, await waiter
        finally:
            # Does nothing if it is answered.
            self._computer.cancel(request)

    async def encode(
        self,
        texts: str | Sequence[str],
        model: str | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        task: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        overlong: str = ERROR,
    ) -> np.ndarray:
        """Return the embeddings of texts, as MLXSentenceTransformer.encode does.

        Args:
            texts: A text, or several.
            model: The name of an embedding model. Default: None, the first one.
            prompt_name: The name of the prompt to put before every text. Default: None, the model's default.
            prompt: A text to put before every text. Default: None.
            task: "query" or "document", with their prompts. Default: None.
            truncate_dim: How many dimensions are kept. Default: None, the model's own number.
            normalize_embeddings: Scale embeddings to length 1. Default: False.
            overlong: What happens to texts of more tokens than the model takes: "truncate" or "error". Default:
                "error".

        Returns:
            float32 (N, V), or (V,) for a single text.

        Raises:
            BridgeError: As `run`.
        """
        given = as_list(texts)
        if not given:
            return np.array([])
        options: dict[str, Any] = {"prompt_name": prompt_name, "prompt": prompt, "task": task, "overlong": overlong}
        request = EmbedTexts(texts=given, truncate_dim=truncate_dim, normalize=normalize_embeddings, **options)
        rows: np.ndarray = (await self.run(request, model)).result
        return rows[0] if isinstance(texts, str) else rows

    async def encode_tokens(self, texts: Sequence[str], model: str | None = None, **options: Any) -> list[np.ndarray]:
        """Return an embedding for each token of texts, as MLXMultiVectorEncoder.encode does.

        Args:
            texts: The texts.
            model: The name of a multi-vector or embedding model. Default: None, the first one.
            options: prompt_name, prompt, task and overlong, as of `encode`.

        Returns:
            Arrays (tokens, D) float32.

        Raises:
            BridgeError: As `run`.
        """
        found: list[np.ndarray] = (await self.run(EmbedTokens(texts=as_list(texts), **options), model)).result
        return found

    async def encode_sparse(
        self, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the sparse embeddings of texts, as MLXSparseEncoder.encode does.

        Args:
            texts: The texts.
            model: The name of a sparse model. Default: None, the first one.
            options: prompt_name, prompt, task and overlong, as of `encode`.

        Returns:
            For each text its nonzero dimensions and their values.

        Raises:
            BridgeError: As `run`.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = (
            await self.run(EmbedSparse(texts=as_list(texts), **options), model)
        ).result
        return found

    async def predict(
        self, pairs: Sequence[tuple[str, str]], model: str | None = None, *, overlong: str = ERROR
    ) -> np.ndarray:
        """Return the scores of pairs of texts, as MLXCrossEncoder.predict does.

        Args:
            pairs: Pairs of texts.
            model: The name of a reranker. Default: None, the first one.
            overlong: What happens to pairs of more tokens than the model takes: "truncate" or "error". Default:
                "error".

        Returns:
            float32 (N,).

        Raises:
            BridgeError: As `run`.
        """
        task = ScorePairs(pairs=[tuple(pair) for pair in pairs], overlong=overlong)
        scores: np.ndarray = (await self.run(task, model)).result
        return scores

    async def rank(
        self,
        query: str,
        documents: Sequence[str],
        model: str | None = None,
        *,
        top_k: int | None = None,
        overlong: str = ERROR,
    ) -> list[dict[str, Any]]:
        """Return documents in the order of their scores for a query, as MLXCrossEncoder.rank does.

        Args:
            query: The query.
            documents: The documents.
            model: The name of a reranker. Default: None, the first one.
            top_k: How many are returned. Default: None, all.
            overlong: As of `predict`. Default: "error".

        Returns:
            A dict for each document, highest score first: "corpus_id" and "score".

        Raises:
            BridgeError: As `run`.
        """
        scores = await self.predict([(query, document) for document in documents], model, overlong=overlong)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"corpus_id": int(index), "score": float(scores[index])} for index in order]

    async def classify(
        self,
        texts: Sequence[str],
        labels: Sequence[str] | None = None,
        model: str | None = None,
        *,
        overlong: str = ERROR,
        **options: Any,
    ) -> list[Any]:
        """Return labels of texts with their scores: the model's own, or (zero-shot) those that are given.

        Args:
            texts: The texts.
            labels: Labels to choose from, for a model trained on NLI. Default: None, the model's own.
            model: The name of a classifier. Default: None, the first one.
            overlong: What happens to texts of more tokens than the model takes: "truncate" or "error". Default:
                "error".
            options: top_k and function_to_apply of the pipeline text-classification, or hypothesis_template and
                multi_label of zero-shot-classification.

        Returns:
            For each text a list of {"label", "score"}, best first; with labels {"sequence", "labels", "scores"}.

        Raises:
            BridgeError: As `run`.
        """
        given = as_list(texts)
        task: Task = ClassifyTexts(texts=given, options=options, overlong=overlong)
        if labels is not None:
            task = ClassifyZeroShot(texts=given, labels=list(labels), options=options, overlong=overlong)
        found: list[Any] = (await self.run(task, model)).result
        return found

    async def find_entities(
        self, texts: Sequence[str], model: str | None = None, *, overlong: str = ERROR, **options: Any
    ) -> list[Any]:
        """Return the labeled tokens or words of texts, as the pipeline token-classification does.

        Args:
            texts: The texts.
            model: The name of a token classifier. Default: None, the first one.
            overlong: What happens to texts of more tokens than the model takes: "truncate" or "error". Default:
                "error".
            options: aggregation_strategy, ignore_labels and stride of the pipeline.

        Returns:
            For each text a list of dicts, as of the pipeline.

        Raises:
            BridgeError: As `run`.
        """
        found: list[Any] = (
            await self.run(FindEntities(texts=as_list(texts), options=options, overlong=overlong), model)
        ).result
        return found

    def refuse(self) -> None:
        """Take no new requests; those that were accepted are still answered."""
        self._closed = True

    async def close(self) -> None:
        """Take no new requests, and return when those that were accepted have been answered."""
        self.refuse()
        while self._active:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self._computer.close)
        self._tokenizing.shutdown()
        self._loading.shutdown()


def as_list(texts: str | Sequence[str]) -> list[str]:
    """Return one text, or several, as a list."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, (list, tuple)):
        raise InputError(f"got a {type(texts).__name__}, expected a text or a list of texts.")
    return list(texts)
