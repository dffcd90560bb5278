"""Faults of clients and of the process, caused on purpose against a server: what was tried and what survived.

python -m benchmarks.serving_faults [--model FOLDER] [--share 1.0] [--output faults.json]

The server is a process of its own, as `mlx-hf-bridge serve` starts it. After every case it must still answer with the
vectors of `encode`, and no case may be answered with a status of 500. Prints a table in Markdown.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.faults.outcome import Outcome
from benchmarks.models import parser
from mlx_hf_bridge import MLXSentenceTransformer

KEY = "right-key"
TEXTS = ["The cat sleeps.", "A dog barks at the mailman.", "Stocks fell sharply today."]
_SECONDS = 60
_TOLERANCE = 1e-5


class Process:
    """A server on a port of its own.

    Args:
        model: The folder of an embedding model.
        *options: Further options of `mlx-hf-bridge serve`.
    """

    def __init__(self, model: str, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        command = [sys.executable, "-m", "mlx_hf_bridge", "serve", f"small={model}", "--port", str(self.port), *options]
        environment = {**os.environ, "MLX_HF_BRIDGE_API_KEY": KEY}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=_SECONDS
        )

    def wait(self) -> None:
        """Return when it answers."""
        end = time.monotonic() + 180
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(httpx.TransportError):
                if self.client.get("/health").status_code == 200:
                    return
            time.sleep(0.1)
        raise SystemExit("the server did not start")

    def embed(self, texts: Any, **options: Any) -> httpx.Response:
        """Ask for embeddings."""
        return self.client.post("/v1/embeddings", json={"model": "small", "input": texts, **options})

    def send(self, data: bytes, seconds: float = _SECONDS) -> bytes:
        """Send bytes, and return what comes until the connection is closed or nothing came for some seconds."""
        with socket.create_connection(("127.0.0.1", self.port), seconds) as connection:
            connection.sendall(data)
            found = b""
            with suppress(TimeoutError, ConnectionError):
                while part := connection.recv(65536):
                    found += part
            return found

    def request(self, body: bytes, length: int | None = None, key: str = KEY, close: bool = True) -> bytes:
        """Return the bytes of a request for embeddings."""
        size = len(body) if length is None else length
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {size}\r\n"
        return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + body

    def stop(self) -> None:
        """Kill it if it still runs."""
        self.client.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


@contextmanager
def running(model: str, *options: str) -> Iterator[Process]:
    """Run a server in the `with` block."""
    server = Process(model, *options)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def body_of(texts: Any) -> bytes:
    """Return the body of a request for embeddings."""
    return json.dumps({"model": "small", "input": texts}).encode()


def status_of(answer: bytes) -> int:
    """Return the status of an answer; 0 for none."""
    parts = answer.split(b" ", 2)
    return int(parts[1]) if len(parts) > 2 and parts[1].isdigit() else 0


class Campaign:
    """The cases against one server.

    Args:
        server: The server.
        expected: The embeddings of TEXTS.
    """

    def __init__(self, server: Process, expected: np.ndarray) -> None:
        self.server, self.expected = server, expected

    def still_right(self) -> str | None:
        """Return what is wrong with the server after a fault; None for nothing."""
        answer = self.server.embed(TEXTS)
        if answer.status_code != 200:
            return f"status {answer.status_code} afterwards"
        rows = np.array([one["embedding"] for one in answer.json()["data"]])
        return None if np.abs(rows - self.expected).max() < _TOLERANCE else "other vectors afterwards"

    def repeat(self, fault: str, count: int, case: Callable[[int], str | None]) -> Outcome:
        """Cause a fault some times, and check after each that the server is well."""
        outcome = Outcome(fault)
        with outcome.timed():
            for number in range(count):
                outcome.record(case(number) or self.still_right(), str(number))
        sys.stderr.write(f"{fault}: {outcome.survived} of {outcome.tried}\n")
        return outcome

    def leave(self, number: int) -> str | None:
        """Close the connection after a part of a request, or while its answer is computed."""
        data = self.server.request(body_of(["a long text of many words " * 8] * 200))
        part = data[: len(data) * (number % 4 + 1) // 4]
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.sendall(part)
            time.sleep(0.02 * (number % 5))
        return None

    def expect(self, data: bytes, *statuses: int) -> str | None:
        """Send bytes, and return what is wrong with the status of the answer."""
        status = status_of(self.server.send(data))
        return None if status in statuses else f"status {status}, expected {statuses}"

    def large_text(self, number: int) -> str | None:
        """A text of 10 MB, with its length named or in chunks."""
        body = body_of("word " * 2_000_000)
        if number % 2:
            chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
            headers = {"Content-Type": "application/json"}
            with suppress(httpx.TransportError):
                status = self.server.client.post("/v1/embeddings", content=chunks, headers=headers).status_code
                return None if status == 413 else f"status {status}, expected 413"
            return None
        return self.expect(self.server.request(body[:100_000], len(body)), 413)

    def bad_bytes(self, number: int) -> str | None:
        """A body that is no UTF-8, or no JSON."""
        bodies = (
            b'{"input": "\xff\xfe"}',
            b"\xc3\x28",
            b'{"input": "a"',
            b"[" * 50_000,
            b'{"input": NaN}',
            b"\x00" * 20,
        )
        return self.expect(self.server.request(bodies[number % len(bodies)]), 400)

    def wrong_key(self, number: int) -> str | None:
        """No key, or one that is wrong."""
        keys = ("", "wrong", KEY + "x", KEY[:-1], KEY.upper(), "\u00e9")
        return self.expect(self.server.request(body_of(TEXTS), key=keys[number % len(keys)]), 401)

    def slow(self, number: int) -> str | None:
        """Headers that arrive byte by byte: the connection is closed, and others are answered meanwhile."""
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            started = time.monotonic()
            try:
                while time.monotonic() - started < 30:
                    connection.sendall(b"P" if number % 2 else b"GET / HTTP/1.1\r\nX: "[:1])
                    connection.settimeout(0.5)
                    with suppress(TimeoutError):
                        if not connection.recv(100):
                            return None
            except ConnectionError:
                return None
        return "the connection was kept for 30 seconds"

    def pipelined(self, number: int) -> str | None:
        """Several requests at once on one connection: answered in their order."""
        one, last = self.server.request(body_of(TEXTS), close=False), self.server.request(body_of(TEXTS))
        answers = self.server.send(one * (number % 3 + 1) + last).count(b"HTTP/1.1 200")
        return None if answers == number % 3 + 2 else f"{answers} answers"


def overflow(model: str, count: int, expected: np.ndarray) -> Outcome:
    """More requests at once than the server takes: each is answered rightly or refused with Retry-After."""
    outcome = Outcome("queue full: 64 requests at once, of which the server takes 4")
    with running(model, "--max-concurrent-requests", "4") as server, outcome.timed():

        def ask(_: int) -> str | None:
            with httpx.Client(base_url=server.client.base_url, headers=server.client.headers, timeout=60) as client:
                answer = client.post("/v1/embeddings", json={"model": "small", "input": TEXTS})
            if answer.status_code == 429:
                return None if int(answer.headers["retry-after"]) >= 1 else "no Retry-After"
            rows = np.array([one["embedding"] for one in answer.json()["data"]])
            return None if np.abs(rows - expected).max() < _TOLERANCE else "another vector"

        for _ in range(count):
            with ThreadPoolExecutor(64) as pool:
                for failure in pool.map(ask, range(64)):
                    outcome.record(failure)
    return outcome


def terminate(model: str, count: int, expected: np.ndarray) -> Outcome:
    """SIGTERM under load: what was accepted is answered, and the process ends with 0."""
    outcome = Outcome("kill -TERM while 16 clients send requests")
    for number in range(count):
        with running(model) as server, outcome.timed():
            outcome.record(_terminated(server, expected, 0.2 + 0.2 * number), str(number))
    return outcome


def _terminated(server: Process, expected: np.ndarray, after: float) -> str | None:
    wrong: list[str] = []
    answered = [0]
    stopped = threading.Event()

    def load() -> None:
        # A connection for each request, so that one that was accepted is one that was sent.
        while not stopped.is_set():
            try:
                answer = server.send(server.request(body_of(TEXTS)))
            except ConnectionRefusedError:
                return
            except OSError:
                # Connected, and closed by the system before the server took it.
                continue
            status = status_of(answer)
            if status == 200:
                rows = json.loads(answer.partition(b"\r\n\r\n")[2])["data"]
                answered[0] += 1
                if np.abs(np.array([one["embedding"] for one in rows]) - expected).max() > _TOLERANCE:
                    wrong.append("another vector")
            elif status not in (0, 503):
                wrong.append(f"status {status}")

    threads = [threading.Thread(target=load) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(after)
    server.process.send_signal(signal.SIGTERM)
    try:
        code = server.process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        code = -1
    stopped.set()
    for thread in threads:
        thread.join()
    if code:
        wrong.append(f"exit code {code}")
    return wrong[0] if wrong else None


def run_campaign(model: str, share: float) -> list[Outcome]:
    """Cause all faults.

    Args:
        model: The folder of an embedding model.
        share: The share of the cases.

    Returns:
        What was tried of each, and what survived.
    """

    def count(number: int) -> int:
        return max(1, round(number * share))

    expected = np.asarray(MLXSentenceTransformer(model).encode(TEXTS))
    with running(model) as server:
        campaign = Campaign(server, expected)
        outcomes = [
            campaign.repeat("client gone in the middle of a request or of its answer", count(60), campaign.leave),
            campaign.repeat("a text of 10 MB, with Content-Length or in chunks", count(10), campaign.large_text),
            campaign.repeat("a body that is not UTF-8 or not JSON", count(60), campaign.bad_bytes),
            campaign.repeat("a wrong key, or none", count(60), campaign.wrong_key),
            campaign.repeat("slow loris: headers byte by byte", count(3), campaign.slow),
            campaign.repeat("pipelined requests on one connection", count(30), campaign.pipelined),
        ]
    return [*outcomes, overflow(model, count(10), expected), terminate(model, count(8), expected)]


def main() -> None:
    """Run the campaign and print its table."""
    arguments = parser("Faults of clients and of the process.")
    arguments.add_argument("--share", type=float, default=1.0, help="share of the cases; default: %(default)s")
    arguments.add_argument("--output", help="a JSON file for the figures")
    given: argparse.Namespace = arguments.parse_args()
    outcomes = run_campaign(str(given.model), given.share)
    print("| fault | tried | survived |\n| --- | ---: | ---: |")
    for one in outcomes:
        print(f"| {one.fault} | {one.tried} | {one.survived} |")
        for failure in one.failures[:5]:
            print(f"  {failure}")
    if given.output:
        figures = {one.fault: {"tried": one.tried, "survived": one.survived} for one in outcomes}
        Path(given.output).write_text(json.dumps(figures, indent=2))
    raise SystemExit(any(one.failures for one in outcomes))


if __name__ == "__main__":
    main()
