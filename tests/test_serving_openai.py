"""OpenAI's routes: shapes, token ids, base64, dimensions, errors; embeddings equal to encode."""

import base64
from typing import Any

import numpy as np
import pytest
from serving_models import OVERLONG, TEXTS, Server, make_embedder

from mlx_hf_bridge import MLXSentenceTransformer

CLOSE = {"rtol": 0, "atol": 1e-6}
PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MLXSentenceTransformer:
    return make_embedder(tmp_path_factory.mktemp("serving"))


def ask(served: Any, **body: Any) -> Any:
    return Server({"tiny": served}).post(PATH, {"model": "tiny", **body})


def vectors(response: Any) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.array([one["embedding"] for one in response.json()["data"]], np.float32)


def test_the_response_has_openais_shape(model: MLXSentenceTransformer) -> None:
    response = ask(model, input=TEXTS, user="someone")
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    count = sum(len(model.tokenizer(text)["input_ids"]) for text in TEXTS)
    assert {**content, "data": None} == {
        "object": "list",
        "data": None,
        "model": "tiny",
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
    assert [{**one, "embedding": None} for one in content["data"]] == [
        {"object": "embedding", "index": index, "embedding": None} for index in range(len(TEXTS))
    ]
    np.testing.assert_allclose(vectors(response), model.encode(TEXTS), **CLOSE)


def test_one_text_token_ids_and_lists_of_them_are_read(model: MLXSentenceTransformer) -> None:
    expected, ids = model.encode(TEXTS), model.tokenizer(TEXTS)["input_ids"]
    for given, rows in ((TEXTS[0], expected[:1]), (ids[0], expected[:1]), (ids, expected)):
        np.testing.assert_allclose(vectors(ask(model, input=given)), rows, **CLOSE)


def test_base64_has_the_same_numbers(model: MLXSentenceTransformer) -> None:
    data = ask(model, input=TEXTS, encoding_format="base64").json()["data"]
    found = np.stack([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data])
    np.testing.assert_allclose(found, model.encode(TEXTS), **CLOSE)


def test_dimensions_truncate_and_scale_to_length_1_again(model: MLXSentenceTransformer) -> None:
    expected = model.encode(TEXTS, truncate_dim=10, normalize_embeddings=True)
    np.testing.assert_allclose(vectors(ask(model, input=TEXTS, dimensions=10)), expected, **CLOSE)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"input_type": "search_query"}, {"prompt_name": "query"}),
        ({"input_type": "document"}, {"prompt_name": "document"}),
        ({"prompt_name": "query"}, {"prompt_name": "query"}),
        ({"truncate": True}, {}),
    ],
    ids=str,
)
def test_prompts_and_truncation(model: MLXSentenceTransformer, options: Any, expected: Any) -> None:
    texts = [*TEXTS, OVERLONG] if "truncate" in options else TEXTS
    response = ask(model, input=texts, **options)
    np.testing.assert_allclose(vectors(response), model.encode(texts, **expected), **CLOSE)
    assert response.headers.get("x-truncated-texts") == ("1" if "truncate" in options else None)


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({"input": ["a", OVERLONG]}, 400, "context_length_exceeded", "1 of 2 texts have more than 44 tokens"),
        ({"input": OVERLONG}, 400, "context_length_exceeded", '"truncate": true in a request'),
        ({"input": [50, 60]}, 400, None, "check_embedding_ctx_length=False"),
        ({"input": [[5, 10**6]]}, 400, None, "expected one or more from 0 to 100"),
        ({"input": ""}, 400, None, "empty text"),
        ({"input": ["a", ""]}, 400, None, "empty text"),
        ({"input": []}, 400, None, "input: "),
        ({"input": {"a": 1}}, 400, None, "input: "),
        ({"input": ["a", 5]}, 400, None, "input: "),
        ({"input": [[]]}, 400, None, "empty text"),
        ({}, 400, None, "input: Field required."),
        ({"input": "a", "model": "other"}, 404, "model_not_found", "'other' does not exist"),
        ({"input": "a", "dimensions": 25}, 400, None, "dimensions=25, expected 1 to 24"),
        ({"input": "a", "dimensions": 0}, 400, None, "dimensions: "),
        ({"input": "a", "encoding_format": "hex"}, 400, None, "encoding_format: "),
        ({"input": "a", "normalise": True}, 400, None, "normalise: "),
        ({"input": "a", "prompt_name": "nope"}, 400, None, "prompt_name='nope'"),
        ({"input": "a", "prompt_name": "query", "input_type": "query"}, 400, None, "got both"),
        ({"input": [5, 6], "prompt_name": "query"}, 400, None, "a prompt cannot be put before token ids"),
    ],
    ids=str,
)
def test_errors_have_openais_form(
    model: MLXSentenceTransformer, body: Any, status: int, code: str | None, message: str
) -> None:
    response = ask(model, **body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert message in error["message"]


def test_models_are_listed_by_all_names(model: MLXSentenceTransformer) -> None:
    listed, one, none, nowhere = Server({"tiny": model}).send(
        ("/v1/models", None), ("/v1/models/tiny", None), ("/v1/models/no/such", None), ("/v1/nothing", None)
    )
    assert [item["id"] for item in listed.json()["data"]] == ["tiny"]
    assert one.json() == listed.json()["data"][0]
    assert set(one.json()) == {"id", "object", "created", "owned_by"}
    assert (none.status_code, none.json()["error"]["code"]) == (404, "model_not_found")
    assert nowhere.status_code == 404
