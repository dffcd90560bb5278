"""Tiny models and an HTTP client for the tests of serving."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import httpx
from checkpoints import make_checkpoint
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.serving import AsyncEngine, Limits, Settings, create_app

TEXTS = ["the cat sat on the mat.", "a dog", "stock market rose today!", "i love this film, i hate news ?", "cats"]
# The most tokens of the tiny models, special ones included, are 40.
OVERLONG = "the cat " * 40


def make_embedder(folder: Path) -> MLXSentenceTransformer:
    """Save a tiny embedding model with prompts, whose embeddings have length 1, and load it."""
    make_checkpoint(folder / "source")
    modules = [Transformer(str(folder / "source")), Pooling(24, "mean"), Normalize()]
    prompts = {"query": "the ", "document": "a dog "}
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(str(folder / "embedder"))
    return MLXSentenceTransformer(folder / "embedder")


def make_classifiers(folder: Path) -> dict[str, str]:
    """Save a tiny reranker, a classifier by NLI and a token classifier, and return their folders by name."""
    make_checkpoint(folder / "reranker", head="ForSequenceClassification", labels=1)
    nli = make_checkpoint(folder / "nli", head="ForSequenceClassification", labels=3)
    nli.config.id2label = {0: "contradiction", 1: "neutral", 2: "entailment"}
    nli.config.label2id = {label: number for number, label in nli.config.id2label.items()}
    nli.config.save_pretrained(folder / "nli")
    make_checkpoint(folder / "tagger", head="ForTokenClassification", labels=3)
    return {name: str(folder / name) for name in ("reranker", "nli", "tagger")}


def with_engine(models: Any, work: Any, *, task: Any = None, **limits: Any) -> Any:
    """Run `await work(engine)` with a new engine, and close it."""

    async def main() -> Any:
        async with AsyncEngine(models, task=task, limits=Limits(**limits)) as engine:
            return await work(engine)

    return asyncio.run(main())


class Server:
    """An app in this process, and a client of it: each call starts an engine, sends requests, and closes it."""

    def __init__(self, models: Any, settings: Settings | None = None, **options: Any) -> None:
        self.models, self.settings, self.options = models, settings, options

    def talk(self, work: Any) -> Any:
        """Run `await work(client)`."""

        async def main(engine: AsyncEngine) -> Any:
            app: Any = create_app(engine, self.settings)
            # An app answers unforeseen errors and raises them for the log.
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await work(client)

        return with_engine(self.models, main, **self.options)

    def send(self, *requests: tuple[str, Any], headers: dict[str, str] | None = None) -> list[httpx.Response]:
        """Send POST requests (path, JSON) at once, and return the responses in their order; GET for None."""

        def start(client: httpx.AsyncClient, path: str, body: Any) -> Coroutine[Any, Any, httpx.Response]:
            if body is None:
                return client.get(path, headers=headers)
            return client.post(path, json=body, headers=headers)

        async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
            return await asyncio.gather(*(start(client, path, body) for path, body in requests))

        found: list[httpx.Response] = self.talk(work)
        return found

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """Send one POST request."""
        return self.send((path, body), **options)[0]


@contextmanager
def on_loopback(models: Any, settings: Settings | None = None, **options: Any) -> Iterator[str]:
    """Serve models by uvicorn in another thread of this process in the `with` block, at the address that is given."""
    from mlx_hf_bridge.serving.server import Server as Uvicorn

    task = options.pop("task", None)
    server = Uvicorn(AsyncEngine(models, task=task, limits=Limits(**options)), settings or Settings(), "127.0.0.1", 0)
    thread = Thread(target=server.run)
    thread.start()
    while not server.started:
        sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
