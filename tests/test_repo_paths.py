"""Paths that a repo's files give stay inside its folder, and links bring nothing of another folder along."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from checkpoints import make_checkpoint
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import mlx_hf_bridge
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint, read_json, read_modules
from mlx_hf_bridge.checkpoints.paths import copy_file, copy_folder, is_inside, relative_path
from mlx_hf_bridge.checkpoints.safetensors_file import shards
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.tokenizer_files import write_tokenizer
from mlx_hf_bridge.errors import CheckpointError, ConfigError, RepositoryError
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.pretrained import hub
from mlx_hf_bridge.sentence_transformers.modules import router as mlx_router
from mlx_hf_bridge.sentence_transformers.modules.vectors import Normalize

OUTSIDE = (
    *("../x", "a/../../x", "/x", "C:x", "C:\\x", "\\\\host\\x", "a\\..\\..\\x", "..", "a\0b", "\ud800"),
    *("x" * 256, "é" * 128, "a/" * 600, "/".join("a" * 40), 3, None, ["a"]),
)


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: ascii(path)[:20])
def test_a_path_outside_the_folder_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match=r"config\.json has the path"):
        relative_path(path, "config.json")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", ""), (".", ""), ("./a//b/", "a/b"), ("a..b", "a..b"), ("é" * 127, "é" * 127), ("a\\b", "a\\b")],
)
def test_a_path_inside_the_folder_is_taken(path: str, expected: str) -> None:
    assert relative_path(path, "config.json") == expected


def test_an_index_names_files_of_its_folder_and_of_those_in_it(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "parts/one.safetensors"}}))
    assert shards(index) == [tmp_path / "one.safetensors", tmp_path / "parts" / "one.safetensors"]
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(ConfigError, match="outside the folder"):
        shards(index)
    index.write_text(json.dumps({"weight_map": 3}))
    with pytest.raises(CheckpointError, match="not a weight index"):
        shards(index)


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Router of two StaticEmbeddings."""
    folder = tmp_path_factory.mktemp("routed")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0, "[UNK]": 1}, unk_token="[UNK]"))
    parts = [StaticEmbedding(words, torch.ones(2, 4) * (1 + number)) for number in range(2)]
    router = Router.for_query_document([parts[0]], [parts[1]])
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(str(folder))
    return folder


def changed(routed: Path, folder: Path, change: Any) -> Path:
    """A copy of the Router with links to its module folders, and with another router_config.json."""
    copy_folder(routed, folder, routed)
    config = json.loads((folder / "router_config.json").read_text())
    change(config)
    (folder / "router_config.json").write_text(json.dumps(config))
    return folder


def rename_route(name: str) -> Any:
    return lambda config: config["structure"].update({name: config["structure"].pop("query")})


@pytest.mark.parametrize("name", ["../../out/x", "a.b", "", ".", "/x", "x" * 250, "a\0b", "\ud800", "C:x"], ids=ascii)
def test_a_route_that_would_be_written_elsewhere_is_refused(name: str, routed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"route|path"):
        MLXSentenceTransformer(changed(routed, tmp_path / "repo", rename_route(name)))


def rename_module(name: str, kind: str | None = None) -> Any:
    def change(config: dict[str, Any]) -> None:
        old = config["structure"]["query"][0]
        config["types"][name] = kind or config["types"][old]
        config["structure"]["query"] = [name]

    return change


@pytest.mark.parametrize("name", ["../other", "/etc", "a\0b", "x" * 256])
def test_a_module_of_a_route_that_lies_elsewhere_is_refused(name: str, routed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"router_config\.json has the path"):
        MLXSentenceTransformer(changed(routed, tmp_path / "repo", rename_module(name)))


@pytest.mark.parametrize("name", ["", ".", "./", "itself"])
def test_a_router_that_is_its_own_module_is_refused(name: str, routed: Path, tmp_path: Path) -> None:
    folder = changed(routed, tmp_path / "repo", rename_module(name, "sentence_transformers.models.Router"))
    (folder / "itself").symlink_to(".")
    with pytest.raises(ConfigError, match="a Router that is a module of itself"):
        MLXSentenceTransformer(folder)


def test_a_router_made_by_hand_has_names_that_can_be_saved() -> None:
    with pytest.raises(ConfigError, match="without dots"):
        mlx_router.Router({"a.b": [Normalize()]})


def test_links_that_leave_a_folder_are_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    repo = tmp_path / "repo"
    (repo / "1_Pooling" / "deep").mkdir(parents=True)
    (repo / "1_Pooling" / "config.json").write_text("{}")
    (repo / "1_Pooling" / "deep" / "inside").symlink_to("../config.json")
    (repo / "1_Pooling" / "up").symlink_to("..")
    (repo / "1_Pooling" / "zero").symlink_to("/dev/zero")
    (repo / "1_Pooling" / "circle").symlink_to("circle")
    os.mkfifo(repo / "1_Pooling" / "pipe")
    copy_folder(repo / "1_Pooling", tmp_path / "copy", repo)
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert copied == {"config.json", "deep", "deep/inside"}
    assert {name for name in ("up", "zero", "circle", "pipe") if f"/{name} is " in caplog.text} == {
        *("up", "zero", "circle", "pipe")
    }
    (tmp_path / "secret").write_text("a key")
    (repo / "1_Pooling" / "x.json").symlink_to(tmp_path / "secret")
    with pytest.raises(RepositoryError, match=r"is a link to .*secret, which is outside the model's folder"):
        copy_folder(repo / "1_Pooling", tmp_path / "copy", repo)
    with pytest.raises(RepositoryError, match="outside the model's folder"):
        hub.push(lambda folder, repo: None, "name", folder=repo)
    for name in ("pipe", "zero", "deep"):
        with pytest.raises(RepositoryError, match="not a plain file"):
            read_json(repo / "1_Pooling" / name)


def test_a_file_that_is_longer_than_any_weights_is_not_copied(tmp_path: Path) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(2**37)
    with pytest.raises(RepositoryError, match=r"bytes, expected 68719476736 at most"):
        copy_file(tmp_path / "long", tmp_path / "copy", tmp_path)


def test_files_of_the_hubs_cache_are_links_to_the_blobs_of_their_repo(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    for folder in (snapshot, tmp_path / "models--a--b" / "blobs", tmp_path / "models--c--d" / "blobs"):
        folder.mkdir(parents=True)
        (folder / "x").write_text("x")
    (snapshot / "own").symlink_to("../../blobs/x")
    (snapshot / "other").symlink_to("../../../models--c--d/blobs/x")
    assert is_inside(snapshot / "own", snapshot)
    assert not is_inside(snapshot / "other", snapshot)
    (tmp_path / "name").symlink_to(snapshot)
    assert copy_file(tmp_path / "name" / "own", tmp_path / "copy", tmp_path / "name")


def test_a_module_folder_that_is_a_link_elsewhere_is_refused(tmp_path: Path) -> None:
    for folder in ("repo", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "repo" / "1_Pooling").symlink_to(tmp_path / "other")
    entries = [{"idx": 0, "name": "0", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (tmp_path / "repo" / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(RepositoryError, match=r"is a link to .*other"):
        read_modules(tmp_path / "repo")
    (tmp_path / "repo" / "modules.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"modules\.json is not JSON"):
        read_modules(tmp_path / "repo")


def test_a_card_that_is_a_link_elsewhere_is_not_saved(routed: Path, tmp_path: Path) -> None:
    folder = changed(routed, tmp_path / "repo", lambda config: None)
    model = MLXSentenceTransformer(folder)
    (tmp_path / "secret").write_text("a key")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    model.save_pretrained(tmp_path / "saved")
    assert not [path for path in (tmp_path / "saved").rglob("README.md") if path.read_text() == "a key"]
    with pytest.raises(RepositoryError, match=r"README\.md is a link to .*secret, which is outside"):
        MLXSentenceTransformer(folder)


def names_in_the_package() -> list[str]:
    """Return the names of files that the package's code has as texts."""
    name = r"[\w-][\w.-]*\.(?:bin|bpe|codes|jinja|json|md|model|safetensors|spm|tiktoken|txt)"
    sources = [path.read_text(encoding="utf-8") for path in Path(mlx_hf_bridge.__file__).parent.rglob("*.py")]
    return sorted({found for source in sources for found in re.findall(f'"({name})"', source)} - set(OF_OTHERS))


# Names of the package's own files.
OF_OTHERS = ("calibration_texts.txt", "minilm_vectors.json", "texts.txt", "sentence_transformers.base.model")
INSTEAD: dict[str, Callable[[Path, Path], Any]] = {
    "a link to nothing": lambda path, other: path.symlink_to("nowhere"),
    "a link to itself": lambda path, other: path.symlink_to(path.name),
    "a link elsewhere": lambda path, other: path.symlink_to(other),
    "a link to a device": lambda path, other: path.symlink_to("/dev/zero"),
    "a pipe": lambda path, other: os.mkfifo(path),
    "a folder": lambda path, other: path.mkdir(),
}


@pytest.mark.parametrize("place", ["", "1_Module"])
@pytest.mark.parametrize(
    "name", [*names_in_the_package(), "model-00001-of-00002.safetensors", "generation_config.json"]
)
def test_what_stands_where_a_file_should_is_refused(name: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("{}")
    for number, make in enumerate(INSTEAD.values()):
        folder = tmp_path / str(number) / place
        folder.mkdir(parents=True)
        make(folder / name, tmp_path / "other")
        with pytest.raises(RepositoryError, match=rf"{re.escape(name)} is (not a plain file|a link to)"):
            locate(tmp_path / str(number), HubOptions())
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "real").write_text("{}")
    (tmp_path / "inside" / name).symlink_to("real")
    assert locate(tmp_path / "inside", HubOptions()).folder == tmp_path / "inside"


@pytest.mark.parametrize("kind", ["a link to nothing", "a link elsewhere", "a pipe"])
def test_what_stands_where_the_folder_of_chat_templates_should_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "other").mkdir()
    INSTEAD[kind](tmp_path / "repo" / "additional_chat_templates", tmp_path / "other")
    with pytest.raises(RepositoryError, match=r"chat_templates is (not a folder|a link to)"):
        locate(tmp_path / "repo", HubOptions())


def test_links_within_a_repo_and_to_blobs_of_the_hubs_cache_are_files(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "models--a--b" / "blobs", tmp_path / "repo"
    (folder / "inner").mkdir(parents=True)
    blobs.mkdir(parents=True)
    for path in (blobs / ("0" * 64), blobs / "name", folder / "tokenizer.json"):
        path.write_text("{}")
    (folder / "model.safetensors").symlink_to(blobs / ("0" * 64))
    (folder / "inner" / "tokenizer.json").symlink_to("../tokenizer.json")
    (folder / "results.txt").symlink_to("nowhere")
    assert locate(folder, HubOptions(subfolder="inner")).folder == folder / "inner"
    (folder / "config.json").symlink_to(blobs / "name")
    with pytest.raises(RepositoryError, match="outside the model's folder"):
        locate(folder, HubOptions())


@pytest.mark.parametrize("name", ["../../out", "/out", "a/b", "a\0b"])
def test_a_chat_template_of_another_folder_is_not_written(name: str, words: Path, tmp_path: Path) -> None:
    config = json.loads((words / "tokenizer_config.json").read_text())
    copy_folder(words, tmp_path / "repo", words, skip=("*.safetensors",))
    templates = {"chat_template": [{"name": "default", "template": "a"}, {"name": name, "template": "b"}]}
    (tmp_path / "repo" / "tokenizer_config.json").write_text(json.dumps(config | templates))
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json has"):
        _write_tokenizer(tmp_path / "repo", tmp_path / "new")


def test_a_chat_template_that_is_a_link_elsewhere_is_not_written(words: Path, tmp_path: Path) -> None:
    copy_folder(words, tmp_path / "repo", words, skip=("*.safetensors",))
    (tmp_path / "secret").write_text("a key")
    (tmp_path / "repo" / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(RepositoryError, match="outside the model's folder"):
        _write_tokenizer(tmp_path / "repo", tmp_path / "new")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    make_checkpoint(folder)
    return folder


def _write_tokenizer(folder: Path, target: Path) -> None:
    target.mkdir()
    checkpoint = read_checkpoint(locate(folder, HubOptions()))
    write_tokenizer(checkpoint, family_for(checkpoint.config), target)
