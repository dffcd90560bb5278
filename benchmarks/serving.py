"""Load test of the server: many clients, mixed sizes, every answer checked; latency, throughput and memory.

python -m benchmarks.serving [--clients 64] [--minutes 10] [--model FOLDER] [--quantization q8] [--output serving.json]

The server is a process of its own. In the same run: one client that sends one text at a time, `encode` of the same
texts in one call, and sentence-transformers on torch behind FastAPI, one request at a time, if it is installed.
Needs pip install -e '.[cpu,bench,serve]' httpx.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import texts
from benchmarks.models import parser

_TOLERANCE = 1e-5
# Texts of a request, with the share of requests that have so many.
_SIZES = ((1, 0.6), (4, 0.2), (16, 0.15), (64, 0.05))
_RIVAL = """
import sys, threading, uvicorn
from fastapi import FastAPI
from sentence_transformers import SentenceTransformer
model, lock, app = SentenceTransformer(sys.argv[1], device="cpu"), threading.Lock(), FastAPI()
@app.get("/health")
def health(): return {}
@app.post("/embed")
def embed(body: dict):
    with lock: return model.encode(body["inputs"]).tolist()
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


@dataclass
class Load:
    """What a load test found: seconds of each request, texts and wrong answers, and memory of the server in MiB."""

    seconds: list[float] = field(default_factory=list)
    texts: int = 0
    wrong: int = 0
    refused: int = 0
    memory: list[float] = field(default_factory=list)
    wall: float = 0.0

    def figures(self) -> dict[str, float]:
        """Return the figures that are reported."""
        p50, p95, p99 = np.percentile(self.seconds or [0.0], [50, 95, 99])
        steady = self.memory[len(self.memory) // 5 :] or [0.0]
        return {
            "requests": len(self.seconds),
            "texts_per_second": round(self.texts / max(self.wall, 1e-9), 1),
            "wrong": self.wrong,
            "refused": self.refused,
            "p50_ms": round(p50 * 1000, 1),
            "p95_ms": round(p95 * 1000, 1),
            "p99_ms": round(p99 * 1000, 1),
            "memory_mib_after_warm_up": round(steady[0], 1),
            "memory_mib_at_the_end": round(steady[-1], 1),
        }


def main() -> None:
    arguments = parser("Load test of the server.")
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--texts", type=int, default=2000)
    arguments.add_argument("--file", help="a CSV file of class, title, article")
    arguments.add_argument("--quantization", help="a recipe, such as q8")
    arguments.add_argument("--output", type=Path, default=Path("serving.json"))
    given = arguments.parse_args()
    corpus = texts.mixed(given.texts, given.file)
    expected, encode_speed = _encode(given, corpus)
    results: dict[str, Any] = {"encode, texts per second": round(encode_speed, 1)}
    options = ["--quantization", given.quantization] if given.quantization else []
    command = [sys.executable, "-m", "mlx_hf_bridge", "serve", f"model={given.model}", "--no-access-log"]
    with _Process([*command, "--auto-truncate", *options]) as server:
        results["one client, one text at a time"] = _run(server, corpus, expected, 1, given.minutes / 10, ((1, 1.0),))
        results[f"{given.clients} clients"] = _run(server, corpus, expected, given.clients, given.minutes, _SIZES)
        results["one request of all texts, texts per second"] = _bulk(server, corpus)
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        results["sentence-transformers"] = "not installed"
    else:
        with _Process([sys.executable, "-c", _RIVAL, given.model], positional_port=True) as rival:
            # Its embeddings are those of float weights, and are not compared.
            found = _run(rival, corpus, None, given.clients, given.minutes / 5, _SIZES)
            results[f"sentence-transformers behind FastAPI, {given.clients} clients"] = found
    given.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def _encode(given: argparse.Namespace, corpus: list[str]) -> tuple[np.ndarray, float]:
    """Return the embeddings of all texts and the speed of one call; in a process of its own, which ends."""
    script = (
        "import sys, time, json, numpy as np\n"
        "from mlx_hf_bridge import MLXSentenceTransformer\n"
        "model = MLXSentenceTransformer(sys.argv[1], quantization_config=sys.argv[2] or None)\n"
        "texts = json.load(sys.stdin)\n"
        "model.encode(texts[:200])\n"
        "start = time.perf_counter(); vectors = model.encode(texts, normalize_embeddings=True)\n"
        "print(time.perf_counter() - start, file=sys.stderr)\n"
        "np.save(sys.stdout.buffer, vectors)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, given.model, given.quantization or ""],
        input=json.dumps(corpus).encode(),
        capture_output=True,
        check=True,
    )
    seconds = float(done.stderr.decode().strip().splitlines()[-1])
    import io

    return np.load(io.BytesIO(done.stdout)), len(corpus) / seconds


class _Process:
    """A server in a process, from when it answers /health."""

    def __init__(self, command: list[str], positional_port: bool = False) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        port = [str(self.port)] if positional_port else ["--port", str(self.port)]
        self._command = [*command, *port]

    def __enter__(self) -> "_Process":
        self._process = subprocess.Popen(self._command)
        for _ in range(600):
            try:
                if httpx.get(f"{self.address}/health").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise SystemExit("the server did not start")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _run(
    server: _Process,
    corpus: list[str],
    expected: np.ndarray | None,
    clients: int,
    minutes: float,
    sizes: tuple[tuple[int, float], ...],
) -> dict[str, float]:
    found = Load()

    async def client(number: int, connection: httpx.AsyncClient, end: float) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            [size] = rng.choices([one for one, _ in sizes], [share for _, share in sizes])
            chosen = rng.sample(range(len(corpus)), size)
            start = time.monotonic()
            response = await connection.post("/embed", json={"inputs": [corpus[index] for index in chosen]})
            if response.status_code == 429:
                found.refused += 1
                await asyncio.sleep(float(response.headers["retry-after"]))
                continue
            found.seconds.append(time.monotonic() - start)
            found.texts += size
            rows = np.array(response.raise_for_status().json(), np.float32)
            if expected is not None and np.abs(rows - expected[chosen]).max() > _TOLERANCE:
                found.wrong += 1

    async def watch(end: float) -> None:
        while time.monotonic() < end:
            found.memory.append(server.memory)
            await asyncio.sleep(1)

    async def everything() -> None:
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=server.address, timeout=600, limits=limits) as connection:
            end = time.monotonic() + minutes * 60
            await asyncio.gather(watch(end), *(client(number, connection, end) for number in range(clients)))

    start = time.monotonic()
    asyncio.run(everything())
    found.wall = time.monotonic() - start
    return found.figures()


def _bulk(server: _Process, corpus: list[str]) -> float:
    """Return texts per second of one request of all texts, to compare with encode of all texts."""
    start = time.monotonic()
    body = {"model": "model", "input": corpus, "encoding_format": "base64"}
    httpx.post(f"{server.address}/v1/embeddings", json=body, timeout=600).raise_for_status()
    return round(len(corpus) / (time.monotonic() - start), 1)


if __name__ == "__main__":
    main()
