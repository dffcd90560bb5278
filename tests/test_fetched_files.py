"""Every file that decides a result is downloaded from the Hub, so that a repo answers as its folder does."""

import ast
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers
from checkpoints import make_checkpoint
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

import mlx_hf_bridge
from mlx_hf_bridge import MLXCrossEncoder
from mlx_hf_bridge.checkpoints.sources import OTHER_RUNTIMES, SMALL_FILES

ROOT = Path(mlx_hf_bridge.__file__).parent
# Rooms that read a model's files.
READERS = ("architecture", "checkpoints", "conversion", "inference", "loading", "pipelines", "pretrained",
           "sentence_transformers", "weights")  # fmt: skip
FILE_NAME = re.compile(
    r"\w[\w-]*(\.[\w-]+)*\.(bpe|codes|jinja|json|metadata|model|spm|tiktoken|tokenizer|txt|vocab|md|yaml|cfg)"
)


def is_fetched(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in SMALL_FILES)


def names_in_code() -> set[str]:
    """Return the file names that occur as texts in the rooms that read files."""
    found: set[str] = set()
    for room in READERS:
        for path in (ROOT / room).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            found |= {text for text in texts if FILE_NAME.fullmatch(text)}
    return found


def names_in_transformers() -> set[str]:
    """Return the vocabulary files of every tokenizer class that AutoTokenizer knows."""
    found: set[str] = set()
    for entry in TOKENIZER_MAPPING_NAMES.values():
        for name in (entry,) if isinstance(entry, str) else entry or ():
            files = getattr(getattr(transformers, name or "", None), "vocab_files_names", {})
            found |= {file for value in files.values() for file in ((value,) if isinstance(value, str) else value)}
    return found


def test_every_file_that_is_read_is_fetched() -> None:
    read = names_in_code() | names_in_transformers()
    assert {"config.json", "chat_template.jinja", "bpe.codes", "artifact.metadata", "spm.model"} <= read
    assert {name for name in read if not is_fetched(name)} == set()


def test_a_chat_template_of_the_hub_decides_as_that_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "repo", None, "ForSequenceClassification", 1)
    (tmp_path / "repo" / "chat_template.jinja").write_text("{{ messages }}")

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], ignore_patterns: list[str], **_: Any) -> str:
        target = tmp_path / "cache" / ("a" * 40)
        target.mkdir(parents=True, exist_ok=True)
        assert ignore_patterns == list(OTHER_RUNTIMES)
        for path in (tmp_path / "repo").iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, target / path.name)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    scores = [MLXCrossEncoder(name).predict([("a", "cat")]) for name in (str(tmp_path / "repo"), "org/name")]
    (tmp_path / "repo" / "chat_template.jinja").unlink()
    assert scores[0] == scores[1] != MLXCrossEncoder(tmp_path / "repo").predict([("a", "cat")])
