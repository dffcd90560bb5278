"""AsyncEngine: models for asyncio programs, where the requests of all callers share batches.

A request goes through three places: threads that tokenize, the queue, and the one thread that computes.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from mlx_hf_bridge.errors import ArgumentTypeError, QueueFullError, RequestTimeoutError, ShuttingDownError
from mlx_hf_bridge.sentence_transformers.encoding.inputs import check_optional_count
from mlx_hf_bridge.serving.calls import Calls
from mlx_hf_bridge.serving.computing import Computer
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.observers import Observer
from mlx_hf_bridge.serving.queue import Request
from mlx_hf_bridge.serving.registry import ModelRegistry, ServedModel
from mlx_hf_bridge.serving.specs import ModelLike
from mlx_hf_bridge.serving.tasks.base import Answer, Prepared, Task

# Threads that tokenize; the tokenizers library releases the interpreter meanwhile.
_TOKENIZATION_WORKERS = 2


class AsyncEngine(Calls):
    """Models for asyncio programs: requests of all callers share batches, and one thread computes.

    Its methods may be awaited from any number of tasks, and of event loops in several threads. A task that is cancelled
    takes its texts out of the queue.

    Args:
        models: Models by name: each a Hub id, a folder, or a loaded model of MLXSentenceTransformer, MLXCrossEncoder,
            MLXSparseEncoder, MLXMultiVectorEncoder, MLXGLiNER or a pipeline. A single one, or a list, is named after
            its id.
        task: What models given by name are for: "embed", "sparse", "multi-vector", "rerank", "classify", "ner" or
            "zero-shot-ner"; a dict has the tasks of some of them by name. Default: None, what their files say.
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
        task: str | Mapping[str, str] | None = None,
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
            task,
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
            ModelLoadError: If it cannot be loaded.
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
            ModelLoadError: If the model cannot be loaded.
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
