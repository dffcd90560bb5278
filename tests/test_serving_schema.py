"""The server's own description of its API, attacked by schemathesis: nothing that it sends may end in a status of 5xx.

`pytest -m integrations` runs a short part of it. `python tests/test_serving_schema.py [EXAMPLES]` runs more, and prints
how many requests of each route were sent and how they were answered.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from serving_models import make_classifiers, make_embedder, on_loopback

# Warnings of schemathesis cannot be fixed here.
pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

EXAMPLES = 15


def attack(address: str, examples: int) -> dict[str, Counter[int]]:
    """Send requests that the description of the API allows, and others that it does not.

    Args:
        address: The address of a server.
        examples: How many of each kind are sent to each route.

    Returns:
        For each route how many requests were answered by each status.
    """
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode

    description = httpx.get(f"{address}/openapi.json").json()
    # Bodies that miss the schema, and those that fit it.
    found: dict[str, Counter[int]] = {}
    with httpx.Client(base_url=address, timeout=60) as client:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            schema = schemathesis.openapi.from_dict(description)
            for result in schema.get_all_operations():
                operation = result.ok()
                counts = found.setdefault(f"{operation.method.upper()} {operation.path}", Counter())

                strategy = operation.as_strategy(generation_mode=mode)
                run = settings(
                    max_examples=examples,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )(given(strategy)(_sender(client, counts)))
                try:
                    run()
                except schemathesis.errors.SchemathesisError:
                    continue  # a route without parameters has no requests that miss its schema
                except Exception as error:
                    if "negative" not in str(error).lower() and "Unsatisfiable" not in type(error).__name__:
                        raise
    return found


def _sender(client: httpx.Client, counts: Counter[int]) -> Any:
    def send(case: Any) -> None:
        counts[_status(client, case)] += 1

    return send


def _status(client: httpx.Client, case: Any) -> int:
    given = case.as_transport_kwargs(base_url=str(client.base_url).rstrip("/"))
    headers = {name: str(value) for name, value in given.get("headers", {}).items() if str(value).isascii()}
    arguments = {name: given[name] for name in ("json", "params") if given.get(name) is not None}
    if given.get("data") is not None:
        arguments["content"] = given["data"]
    try:
        return client.request(given["method"], given["url"], headers=headers, **arguments).status_code
    except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeEncodeError, ValueError, TypeError):
        return 0  # not a request that can be sent


def _models(folder: Path) -> dict[str, Any]:
    return {"tiny": make_embedder(folder), **make_classifiers(folder)}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with on_loopback(_models(tmp_path_factory.mktemp("schema"))) as found:
        yield found


def test_no_request_that_schemathesis_makes_ends_in_an_error_of_the_server(address: str) -> None:
    found = attack(address, EXAMPLES)
    assert sum(sum(counts.values()) for counts in found.values()) > 10 * EXAMPLES
    assert {route: dict(counts) for route, counts in found.items() if any(status >= 500 for status in counts)} == {}


if __name__ == "__main__":
    with TemporaryDirectory() as folder, on_loopback(_models(Path(folder))) as at:
        results = attack(at, int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    for name, counts in results.items():
        sys.stdout.write(f"{name:30s} {sum(counts.values()):6d}  {dict(sorted(counts.items()))}\n")
    total = sum((counts for counts in results.values()), Counter())
    sys.stdout.write(f"{'total':30s} {sum(total.values()):6d}  5xx: {sum(total[s] for s in total if s >= 500)}\n")
