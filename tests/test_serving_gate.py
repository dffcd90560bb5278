"""What passes before a request is answered: keys, sizes, slow and vanished clients, bad bytes; and what is logged."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from serving_models import TEXTS, Server, make_embedder, with_engine

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.serving import AsyncEngine, Limits, Settings, create_app
from mlx_hf_bridge.serving.gate import Gate
from mlx_hf_bridge.serving.server import Server as Uvicorn

PATHS = ("/v1/embeddings", "/embed", "/v2/rerank")
BODY = {"model": "tiny", "input": "cats"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MLXSentenceTransformer:
    return make_embedder(tmp_path_factory.mktemp("serving"))


def message_of(response: httpx.Response) -> str:
    content = response.json()
    error = content.get("error", content.get("message"))
    return str(error["message"] if isinstance(error, dict) else error)


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer ", "secret", "Basic secret", "Bearer secret2"])
def test_a_wrong_key_is_refused_in_the_form_of_each_protocol(model: MLXSentenceTransformer, given: str | None) -> None:
    server = Server({"tiny": model}, Settings(api_key="secret"))
    headers = {"Authorization": given} if given else {}
    for response in server.send(*((path, BODY) for path in PATHS), ("/metrics", None), headers=headers):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "no valid API key" in message_of(response)
        assert "secret" not in response.text
    assert [one.status_code for one in server.send(("/health", None), ("/health/live", None))] == [200, 200]


def test_the_right_key_is_let_in(model: MLXSentenceTransformer) -> None:
    server = Server({"tiny": model}, Settings(api_key="secret"))
    assert server.post(PATHS[0], BODY, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert "secret" not in repr(Settings(api_key="secret"))


def test_bodies_that_are_too_large_or_not_utf8_or_not_json_are_refused(model: MLXSentenceTransformer) -> None:
    async def work(client: httpx.AsyncClient) -> Any:
        async def chunks() -> Any:
            for _ in range(5):
                yield b" " * 300

        headers = {"Content-Type": "application/json"}
        bodies: tuple[Any, ...] = (b"x" * 1001, chunks(), b'{"input": "\xff\xfe"}', b"{", b'"text"', b"")
        return [await client.post(path, content=body, headers=headers) for path in PATHS[:1] for body in bodies]

    found = Server({"tiny": model}, max_body_bytes=1000).talk(work)
    assert [one.status_code for one in found] == [413, 413, 400, 400, 400, 400]
    for response, part in zip(found, ("more than 1000", "more than 1000", "not valid UTF-8", "not JSON"), strict=False):
        assert part in message_of(response)


def test_a_body_that_does_not_arrive_in_time_is_refused(model: MLXSentenceTransformer) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(*_: Any) -> None:
        raise AssertionError("the request was passed on")

    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": [], "client": None}
    asyncio.run(Gate(app, Settings(), Limits(body_seconds=0.001))(scope, receive, send))
    assert sent[0]["status"] == 408
    assert "did not arrive within 0.001 seconds" in json.loads(sent[1]["body"])["error"]


def test_the_work_of_a_client_that_has_gone_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mlx_hf_bridge.serving.access")
    cancelled: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    messages = iter([{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there to be answered")

    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": [], "client": ("10.0.0.9", 5)}
    asyncio.run(Gate(app, Settings(), Limits())(scope, receive, send))
    assert cancelled == [True]
    logged = json.loads(caplog.messages[-1])
    assert (logged["status"], logged["client"], logged["path"]) == (499, "10.0.0.9", "/embed")


def test_requests_have_ids_and_the_log_has_no_texts(
    model: MLXSentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mlx_hf_bridge.serving.access")
    server = Server({"tiny": model})
    own = server.post(PATHS[0], {**BODY, "input": "a dog"}, headers={"X-Request-ID": "abc-1"})
    other = server.post(PATHS[0], {**BODY, "input": ["a dog", ""]}, headers={"X-Request-ID": "a\x7f<script>"})
    assert own.headers["x-request-id"] == "abc-1"
    assert len(other.headers["x-request-id"]) == 32
    lines = [json.loads(record.message) for record in caplog.records if record.name.endswith("serving.access")]
    assert [line["request_id"] for line in lines] == ["abc-1", other.headers["x-request-id"]]
    assert [line["status"] for line in lines] == [200, 400]
    assert (lines[0]["model"], lines[0]["tokens"]) == ("tiny", 4)
    assert "dog" not in caplog.text


def test_origins_and_hosts_are_refused_unless_they_are_named(model: MLXSentenceTransformer) -> None:
    headers = {"Origin": "https://other.example"}
    plain = Server({"tiny": model}).post(PATHS[0], BODY, headers=headers)
    named = Server({"tiny": model}, Settings(cors_origins=["https://other.example"])).post(
        PATHS[0], BODY, headers=headers
    )
    assert "access-control-allow-origin" not in plain.headers
    assert named.headers["access-control-allow-origin"] == "https://other.example"
    local = Server({"tiny": model}, Settings(allowed_hosts=("localhost", "127.0.0.1")))
    assert local.post(PATHS[0], BODY).status_code == 200
    assert local.post(PATHS[0], BODY, headers={"Host": "evil.example"}).status_code == 400


def test_a_full_server_says_when_to_try_again(model: MLXSentenceTransformer) -> None:
    found = Server({"tiny": model}, max_concurrent_requests=1).send(*[(path, BODY) for path in PATHS[:1] * 3])
    assert sorted(one.status_code for one in found) == [200, 429, 429]
    refused = next(one for one in found if one.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_exceeded"


def test_a_server_that_shuts_down_is_not_ready(model: MLXSentenceTransformer) -> None:
    async def work(engine: AsyncEngine) -> Any:
        app: Any = create_app(engine)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            await engine.close()
            return [
                await client.get("/health"),
                await client.get("/health/live"),
                await client.post("/embed", json={"inputs": "a"}),
            ]

    ready, live, refused = with_engine(model, work)
    assert [ready.status_code, live.status_code, refused.status_code] == [503, 200, 503]
    assert refused.headers["retry-after"] == "10"
    assert refused.headers["connection"] == "close"
    assert ready.json()["error_type"] == "Unhealthy"


def test_uvicorn_answers_on_a_socket_and_closes_connections_that_send_no_headers(
    model: MLXSentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_hf_bridge.serving.server.HEADER_SECONDS", 0.05)

    async def work(engine: AsyncEngine) -> Any:
        server = Uvicorn(engine, Settings(), "127.0.0.1", 0)
        running = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /embed HTTP/1.1\r\nHost: local")
        # The server closes it; nothing was answered.
        assert await reader.read() == b""
        writer.close()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            found = await client.post("/embed", json={"inputs": TEXTS})
        server.should_exit = True
        await running
        assert engine.closed
        return found

    assert len(with_engine(model, work).json()) == len(TEXTS)


def test_the_page_needs_no_key_and_loads_nothing_from_elsewhere(model: MLXSentenceTransformer) -> None:
    server = Server({"tiny": model}, Settings(api_key="secret"))
    page, style, script = server.send(("/", None), ("/page.css", None), ("/page.js", None))
    assert [one.status_code for one in (page, style, script)] == [200, 200, 200]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<h1>mlx-hf-bridge</h1>" in page.text
    # The namespace of SVG is a name, and comments of the script begin with slashes.
    written = (page.text + style.text + script.text).replace("http://www.w3.org/2000/svg", "").replace("// ", "")
    assert "//" not in written
