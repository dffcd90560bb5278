"""Requests that no client should send: each is answered, or refused in the form of its protocol, and never by a 5xx."""

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_models import OVERLONG, TEXTS, Server, make_classifiers, make_embedder, on_loopback

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.serving.failures import protocol_of

# A request of each route that is answered.
VALID: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "tiny", "input": ["cats"], "dimensions": 5, "encoding_format": "float", "user": "me"}
    | {"input_type": "query", "truncate": True},
    "/embed": {"inputs": ["cats"], "normalize": True, "prompt_name": "query", "truncate": True, "dimensions": 5},
    "/embed_all": {"inputs": ["cats"], "prompt_name": "query", "truncate": False, "truncation_direction": "Right"},
    "/similarity": {"inputs": {"source_sentence": "a dog", "sentences": ["cats"]}, "parameters": {"truncate": True}},
    "/rerank": {"query": "a dog", "texts": ["cats"], "raw_scores": False, "return_text": True, "truncate": True},
    "/predict": {"inputs": [["cats"]], "raw_scores": True, "truncate": True},
    "/tokenize": {"inputs": ["cats"], "add_special_tokens": True},
    "/decode": {"ids": [[5, 6]], "skip_special_tokens": True},
    "/v1/rerank": {"model": "reranker", "query": "a dog", "documents": ["cats"], "top_n": 1, "return_documents": True},
    "/v2/rerank": {"model": "reranker", "query": "a dog", "documents": ["cats"], "max_tokens_per_doc": 5},
    "/v1/classify": {"model": "nli", "input": ["cats"], "labels": ["dog", "film"], "multi_label": True, "top_k": 1}
    | {"hypothesis_template": "This is {}."},
    "/v1/ner": {"model": "tagger", "input": ["cats"], "aggregation_strategy": "simple", "stride": 1},
    "/v1/map": {"input": ["cats", "a dog"], "method": "pca"},
}
WRONG: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**30, 1.5, "", " ", "\ud800", "\x00", [], [None], [[]], [[[1]]], {}, {"a": 1}, ["a", 1]),
    *(
        [True],
        [1.5],
        [-1],
        [10**12],
        [10**30],
        [5, 10**6],
        {"source_sentence": 1},
        "nope",
        ["\ud800"],
        [{}],
        ["a"] * 3000,
    ),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    return {"tiny": make_embedder(folder), **make_classifiers(folder)}


def check_form(path: str, response: httpx.Response) -> None:
    """Assert that an error has the form of its protocol."""
    content = response.json()
    forms = {"openai": {"error"}, "tei": {"error", "error_type"}, "cohere": {"message"}}
    assert set(content) == forms[protocol_of(path)], response.text
    if "error_type" in content:
        assert content["error_type"] in ("Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty")


def test_each_valid_request_is_answered_and_each_wrong_value_of_each_field_is_no_error_of_the_server(
    served: dict[str, Any],
) -> None:
    cases = list(VALID.items())
    for path, body in VALID.items():
        cases += [(path, {**body, field: value}) for field in body for value in WRONG]
        cases += [(path, {name: value for name, value in body.items() if name != field}) for field in body]
        cases += [(path, {**body, "no_such_field": 1}), (path, []), (path, "text"), (path, None)]

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {"Content-Type": "application/json"}
        return [await client.post(path, content=json.dumps(body), headers=headers) for path, body in cases]

    responses, failures = Server(served).talk(work), []
    for number, ((path, body), response) in enumerate(zip(cases, responses, strict=True)):
        if response.status_code >= 500:
            failures.append(f"{path} {str(body)[:200]}: {response.text[:300]}")
        elif number < len(VALID):
            assert response.status_code == 200, response.text
        elif response.status_code != 200:
            check_form(path, response)
            assert len(response.text) < 700
    assert failures == []
    refused = [response for (_, body), response in zip(cases, responses, strict=True) if body in ([], "text", None)]
    assert {response.status_code for response in refused} <= {400, 422}


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b'{"model": "tiny", "input": "a", "input": "b"}', {}, 400, "the key 'input' more than once"),
        (b'{"model": "tiny", "input": "a", "dimensions": NaN}', {}, 400, "NaN, which is no number in JSON"),
        (b'{"model": "tiny", "input": "a", "dimensions": 1e999}', {}, 400, "dimensions: "),
        (b'{"model": "tiny", "input": "a", "dimensions": ' + b"9" * 5000 + b"}", {}, 400, "not JSON"),
        (b'{"model": "tiny", "input": ' + b"[" * 100_000, {}, 400, "not JSON"),
        (b"[" * 500 + b"]" * 500, {}, 400, "the body: "),
        (b"\xef\xbb\xbf{}", {}, 400, "input: Field required"),
        (
            gzip.compress(b'{"model": "tiny", "input": "a"}', mtime=0),
            {"Content-Encoding": "gzip"},
            415,
            "Send it uncompressed",
        ),
        (b'{"model": "tiny", "input": "a"}', {"Content-Encoding": "identity"}, 200, ""),
        (b'{"model": "tiny", "input": "a"}', {"Content-Type": "text/plain"}, 415, "expected application/json"),
        (b'{"model": "tiny", "input": "a"}', {"Content-Type": ""}, 415, "expected application/json"),
        (b'{"model": "tiny", "input": "a"}', {"Content-Type": "application/json; charset=utf-8"}, 200, ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bodies_that_parsers_disagree_on_are_refused(
    served: dict[str, Any], content: bytes, headers: Any, status: int, message: str
) -> None:
    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        given = {"Content-Type": "application/json", **headers}
        return [await client.post(path, content=content, headers=given) for path in ("/v1/embeddings", "/")]

    openai, root = Server(served).talk(work)
    assert openai.status_code == status, openai.text
    if status != 200:
        assert message in openai.json()["error"]["message"]
        assert root.status_code in (415, 422), root.text
        check_form("/", root)


def test_methods_and_routes_that_do_not_exist_are_refused(served: dict[str, Any]) -> None:
    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await client.head("/health"),
            await client.head("/"),
            await client.request("OPTIONS", "/embed"),
            await client.get("/v1/embeddings"),
            await client.post("/v1/completions", json={}),
            await client.put("/embed", json={"inputs": "a"}),
            await client.get("/v1/models/" + "x" * 5000),
            await client.get("/%00%ff"),
            await client.get("/info?model=nope"),
        ]

    found = Server({"tiny": served["tiny"]}).talk(work)
    assert [one.status_code for one in found] == [200, 200, 405, 405, 404, 405, 404, 404, 424]
    assert found[2].headers["allow"] == "POST"
    assert found[3].json()["error"]["message"].startswith("Method Not Allowed (GET /v1/embeddings)")


@pytest.mark.parametrize("count", [100_000, 400_000])
def test_texts_of_very_many_tokens_are_refused_or_truncated(served: dict[str, Any], count: int) -> None:
    long = "cats " * (count // 5)
    refused, cut, ids = Server({"tiny": served["tiny"]}).send(
        ("/v1/embeddings", {"model": "tiny", "input": long}),
        ("/embed", {"inputs": long, "truncate": True}),
        ("/embed", {"inputs": [5] * 100_000}),
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    np.testing.assert_allclose(cut.json()[0], served["tiny"].encode(long, normalize_embeddings=True), rtol=0, atol=1e-6)
    assert ids.status_code in (413, 422)


def test_requests_are_answered_in_their_order_on_one_connection_and_in_chunks(served: dict[str, Any]) -> None:
    model: MLXSentenceTransformer = served["tiny"]
    body = json.dumps({"inputs": TEXTS[0]}).encode()
    other = json.dumps({"inputs": TEXTS[1]}).encode()

    def request(content: bytes, extra: str = "") -> bytes:
        head = f"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{extra}"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    names = "Host: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    head = f"POST /embed HTTP/1.1\r\n{names}\r\n\r\n".encode()
    chunked = head + b"".join(b"1\r\n%c\r\n" % letter for letter in body) + b"0\r\n\r\n"
    smuggled = request(body, "Transfer-Encoding: chunked\r\n")

    async def talk(address: str) -> tuple[list[Any], bytes]:
        host, _, port = address.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request(body) + request(other) + chunked)
        found = []
        for _ in range(3):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
            found.append(json.loads(await reader.readexactly(length)))
        writer.write(smuggled)
        answer = await reader.read()
        writer.close()
        return found, answer

    with on_loopback({"tiny": model}) as address:
        found, answer = asyncio.run(asyncio.wait_for(talk(address), 60))
    expected = model.encode([TEXTS[0], TEXTS[1], TEXTS[0]], normalize_embeddings=True)
    np.testing.assert_allclose([one[0] for one in found], expected, rtol=0, atol=1e-6)
    # Two lengths: refused, or the connection is closed after one answer.
    assert answer.count(b"HTTP/1.1") <= 1


def test_many_models_are_loaded_at_once_within_the_bound(tmp_path: Path) -> None:
    from mlx_hf_bridge.serving import AsyncEngine

    folders = {}
    for name in "abc":
        make_embedder(tmp_path / name)
        folders[name] = tmp_path / name / "embedder"
    expected = MLXSentenceTransformer(folders["a"]).encode(TEXTS)

    async def work() -> None:
        async with AsyncEngine(folders, max_models=2) as engine:
            found = await asyncio.gather(*(engine.encode(TEXTS, "abc"[number % 3]) for number in range(12)))
            assert len(engine.models.in_memory) == 2
        for rows in found:
            np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)

    asyncio.run(work())


def test_an_alias_that_two_models_have_is_refused(tmp_path: Path) -> None:
    from mlx_hf_bridge.cli.serve import dict_of
    from mlx_hf_bridge.errors import InputError

    with pytest.raises(InputError, match="have one name"):
        dict_of(["x=a/b", "x=c/d"])


def test_overlong_texts_are_an_error_on_every_route_that_does_not_say_otherwise(served: dict[str, Any]) -> None:
    for response in Server(served).send(
        ("/embed", {"inputs": ["a", OVERLONG]}),
        ("/embed_all", {"inputs": OVERLONG}),
        ("/similarity", {"inputs": {"source_sentence": OVERLONG, "sentences": ["a"]}}),
        ("/rerank", {"query": "a", "texts": [OVERLONG]}),
        ("/predict", {"inputs": OVERLONG}),
        ("/v1/classify", {"model": "nli", "input": OVERLONG}),
        ("/v1/classify", {"model": "nli", "input": OVERLONG, "labels": ["dog"]}),
        ("/v1/ner", {"model": "tagger", "input": OVERLONG}),
    ):
        assert response.status_code in (400, 413), response.text
        assert "tokens" in response.text
