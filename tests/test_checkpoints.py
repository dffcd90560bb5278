"""Replicas of public checkpoints load and answer as their references, or are refused with the true reason."""

import importlib.util
import json
from pathlib import Path

import pytest
from remote_code_repos import as_hub_cache
from replicas.build import build
from replicas.compare import outcome
from replicas.table import Replica, listed, replicas

from mlx_hf_bridge.cli import checkpoints

ROWS = replicas()
# Every fifth row is loaded by its id from a fabricated cache of the Hub.
SHARE = 5


def _parameters() -> list[object]:
    """Return the rows, of which the first of each layout are not slow."""
    seen: set[str] = set()
    found = []
    for number, row in enumerate(ROWS):
        slow = row.slow or row.layout in seen
        seen.add(row.layout)
        marks = [pytest.mark.slow] if slow else []
        found.append(pytest.param(number, row, id=f"{row.repo} {row.entry}", marks=marks))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("number", "row"), _parameters())
def test_a_replica_answers_as_its_reference(
    number: int, row: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in row.needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"transformers' tokenizer needs {package}")
    build(tmp_path / "repo", row)
    name = ""
    if number % SHARE == 0:
        as_hub_cache(tmp_path / "repo", tmp_path / "hub", row.repo)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        name = row.repo
    found, text = outcome(tmp_path / "repo", row, name)
    assert found == ("refused" if row.refused else "same"), text


def test_the_table_has_every_row() -> None:
    assert [listed(row) for row in ROWS] == json.loads(checkpoints.TABLE.read_text(encoding="utf-8"))
    assert len(ROWS) >= 200
    assert len({(row.repo, row.entry) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert bool(row.refused) == bool(row.why), row.repo


def test_the_page_is_printed_from_the_table() -> None:
    page = Path(__file__).parent.parent / "docs" / "checkpoints.md"
    assert page.read_text(encoding="utf-8") == checkpoints.as_markdown()
