"""Fields of a repo's small JSON files set to wrong values; `python tests/json_fields.py` is the whole sweep."""

from pathlib import Path

import json_fields
import numpy as np
import pytest
from json_fields import ERROR, SAME, Case, encode, make_repos, outcome, share_of

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_repos(tmp_path_factory.mktemp("repos"))


@pytest.fixture(scope="module")
def unchanged(repos: dict[str, Path]) -> dict[str, np.ndarray]:
    return {name: encode(folder) for name, folder in repos.items()}


def check(cases: list[Case], repos: dict[str, Path], unchanged: dict[str, np.ndarray]) -> None:
    found = {case.name: outcome(case, repos, unchanged) for case in cases}
    assert {name: result for name, result in found.items() if result not in (SAME, ERROR)} == {}


@pytest.mark.slow
@pytest.mark.parametrize("index", range(2))
def test_a_wrong_value_gives_the_references_result_or_an_error(
    index: int, repos: dict[str, Path], unchanged: dict[str, np.ndarray]
) -> None:
    check(share_of(repos, index, 30), repos, unchanged)


@pytest.mark.parametrize(
    ("file", "place", "value"),
    [
        ("sentences/2_Dense/config.json", ("bias",), "zero"),
        ("sentences/config_sentence_transformers.json", ("prompts",), "null"),
        ("sentences/config_sentence_transformers.json", ("prompts",), "empty list"),
        ("weighted/1_Pooling/config.json", (), "empty dict"),
        ("words/whitespacetokenizer_config.json", ("stop_words",), "absent"),
        ("bag/0_BoW/config.json", ("word_weights",), "null"),
        ("bag/0_BoW/config.json", ("word_weights", "cat"), "huge"),
        ("adapter/adapter_config.json", ("lora_alpha",), "text"),
        ("graph/graph.json", ("facts", "max_length"), "null"),
    ],
)
def test_a_value_that_would_change_the_result_is_an_error(
    file: str,
    place: tuple[str, ...],
    value: str,
    repos: dict[str, Path],
    unchanged: dict[str, np.ndarray],
) -> None:
    repo, _, file = file.partition("/")
    assert value in json_fields.VALUES
    assert outcome(Case(repo, file, place, value), repos, unchanged) == ERROR
