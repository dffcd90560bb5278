"""Pointers of git-lfs, cut files, other libraries' weights and adapters are named as what they are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from checkpoints import make_checkpoint
from tokenizers import Tokenizer

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.tokenizer_files import build_tokenizer, load_tokenizer
from mlx_hf_bridge.errors import (
    BridgeError,
    CheckpointError,
    ConfigError,
    MissingConfigError,
    RepositoryError,
    UnsupportedModelError,
)
from mlx_hf_bridge.models import family_for

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 438955944\n"
BERT = family_for({"model_type": "bert"})
COMMIT = "0123" * 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("content", "said"), [(POINTER, "is a pointer of git-lfs"), ("", "is empty")])
@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "config.json", "modules.json"])
def test_pointers_and_empty_files_are_named(name: str, content: str, said: str, folder: Path) -> None:
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{name} {said}"):
        MLXAutoModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "spm.model"])
def test_pointers_in_place_of_vocabularies_are_named(name: str, folder: Path) -> None:
    checkpoint = read_checkpoint(locate(folder, HubOptions()))
    (folder / name).write_text(POINTER)
    for read in (
        lambda: build_tokenizer(checkpoint, BERT),
        lambda: load_tokenizer(folder, BERT, checkpoint.config),
    ):
        with pytest.raises(CheckpointError, match=rf"{name} is a pointer of git-lfs, not its content"):
            read()


def test_a_vocabulary_that_is_not_there_is_no_tokenizer_of_unknown_words(folder: Path) -> None:
    """transformers builds BertTokenizer without a vocab.txt, and reads every word as [UNK]."""
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    (folder / "spm.model").write_bytes(b"a vocabulary that BertTokenizer does not read")
    checkpoint = read_checkpoint(locate(folder, HubOptions()))
    with pytest.raises(RepositoryError, match="has no vocabulary for BertTokenizer, which then reads every word"):
        build_tokenizer(checkpoint, BERT)


def test_cut_vocabularies_are_named(folder: Path) -> None:
    checkpoint = read_checkpoint(locate(folder, HubOptions()))
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"tokenizer\.json is not JSON or is truncated"):
        build_tokenizer(checkpoint, BERT)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"<s>": 0, "a')
    with pytest.raises(BridgeError, match=r"vocab\.json is (truncated or damaged|not JSON or is truncated)"):
        build_tokenizer(checkpoint, family_for({"model_type": "roberta"}))
    (folder / "vocab.json").unlink()
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    deberta = {"model_type": "deberta-v2"}
    (folder / "spm.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15")
    with pytest.raises(CheckpointError, match=r"spm\.model is truncated or damaged \(SentencePiece cannot read it\)"):
        build_tokenizer(replace(checkpoint, config=deberta), family_for(deberta))


OTHERS = {
    "tf_model.h5": r"It has TensorFlow files \(tf_model\.h5\), .*refs/pr/1.*from_tf=True",
    "flax_model.msgpack": r"It has Flax files .*from_flax=True",
    "model-q4_0.gguf": r"It has GGUF files .*made from, org/base.*gguf_file=",
    "onnx/model_quantized.onnx": r"It has ONNX files .*exported from, org/base\.",
    "openvino/openvino_model.xml": r"It has OpenVINO files .*exported from, org/base\.",
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("has_config", [True, False])
def test_weights_of_other_libraries_are_named_with_the_way_to_others(
    name: str, has_config: bool, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "README.md").write_text("---\nbase_model: org/base\n---\n")
    if has_config:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 9}))
    with pytest.raises(RepositoryError if has_config else MissingConfigError, match=OTHERS[name]):
        MLXAutoModel.from_pretrained(tmp_path)


def test_the_files_of_a_hub_repo_are_listed_for_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of other formats are not downloaded, so they are not in the folder."""
    repo = tmp_path / "models--org--name"
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "snapshots" / COMMIT / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 9}))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RepositoryError, match=r"has none of .* Give a folder or repo with weights\."):
        MLXAutoModel.from_pretrained("org/name")
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(repo / "snapshots" / COMMIT))
    asked: list[Any] = []

    def files(self: Any, repo_id: str, revision: str) -> list[str]:
        asked.append((repo_id, revision))
        return ["config.json", "onnx/model.onnx"]

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", files)
    with pytest.raises(RepositoryError, match=r"It has ONNX files \(onnx/model\.onnx\)"):
        MLXAutoModel.from_pretrained("org/name")
    assert asked == [("org/name", COMMIT)]

    def refused(self: Any, repo_id: str, revision: str) -> list[str]:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", refused)
    with pytest.raises(RepositoryError, match=r"Give a folder or repo with weights\."):
        MLXAutoModel.from_pretrained("org/name")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"reduction_factor": 16, "output_adapter": True},
            r"is a bottleneck adapter of the adapters library .* on torch, or load allenai/specter2_base here without",
        ),
        (
            {"architecture": "lora", "r": 8, "alpha": 8, "use_gating": True},
            r"is a lora adapter of the adapters library .*model\.merge_adapter",
        ),
        ({"architecture": "prefix_tuning"}, "is a prefix_tuning adapter of the adapters library"),
    ],
)
def test_adapters_of_adapterhub_are_refused_by_name(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = {
        "config": settings,
        "hidden_size": 768,
        "model_class": "BertAdapterModel",
        "model_name": "allenai/specter2_base",
        "model_type": "bert",
        "name": "[PRX]",
        "version": "0.1.1",
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=said):
        MLXAutoModel.from_pretrained(tmp_path)


def test_a_tokenizer_that_is_whole_is_still_read(folder: Path) -> None:
    checkpoint = read_checkpoint(locate(folder, HubOptions()))
    assert isinstance(build_tokenizer(checkpoint, BERT).backend_tokenizer, Tokenizer)
