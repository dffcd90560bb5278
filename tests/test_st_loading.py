"""modules.json, saved settings and constructor arguments are read as sentence-transformers reads them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from st_checkpoints import TEXTS, TOLERANCE, randomized, transformer

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import ConfigError


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a Transformer, Pooling, Dense and Normalize; tests that change files take a copy."""
    folder = tmp_path_factory.mktemp("loading")
    dense = randomized(Dense(24, 10, activation_function=torch.nn.Tanh()))
    modules = [transformer(folder / "source"), Pooling(24), dense, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "repo"))
    return folder / "repo"


def rewrite(repo: Path, folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Return a copy of the repo in which a JSON file is what `change` returns for its content."""
    shutil.copytree(repo, folder / "copy")
    path = folder / "copy" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()) if path.is_file() else {})))
    return folder / "copy"


def assert_same(folder: Path, texts: Any = TEXTS, **arguments: Any) -> None:
    """Assert that both libraries load the folder and return the same embeddings."""
    expected = SentenceTransformer(str(folder), device="cpu", **arguments).encode(texts)
    np.testing.assert_allclose(MLXSentenceTransformer(folder, **arguments).encode(texts), expected, **TOLERANCE)


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: [{**entry, "idx": 9 - entry["idx"]} for entry in entries],
        lambda entries: [{**entry, "idx": str(entry["idx"] + 8)} for entry in entries],
        lambda entries: [{key: entry[key] for key in ("name", "path", "type")} for entry in entries],
        lambda entries: [*entries[:2], entries[3], entries[2]],
        lambda entries: [*entries[:2], {**entries[2], "name": "2"}, {**entries[3], "name": "2"}],
        lambda entries: [{**entry, "unknown": 1, "idx": None} for entry in entries],
    ],
    ids=["reversed idx", "idx as text", "no idx", "another order", "one name twice", "unknown key"],
)
def test_modules_run_in_the_order_of_the_file(change: Any, repo: Path, tmp_path: Path) -> None:
    """sentence-transformers reads name, path and type, and never idx."""
    assert_same(rewrite(repo, tmp_path, "modules.json", change), TEXTS[:3])


def test_a_list_without_modules_is_an_error_when_it_is_loaded(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"modules\.json lists no modules"):
        MLXSentenceTransformer(rewrite(repo, tmp_path, "modules.json", lambda _: []))


def test_saved_settings_are_not_read_without_modules(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    settings = {"prompts": {"query": "news "}, "default_prompt_name": "query", "truncate_dim": 5}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert_same(tmp_path, TEXTS[:3])
