"""Files of a stranger's repo run no code, read no foreign memory, and end in one short error.

tests/test_torch_file.py has the .bin files.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint
from safetensors.numpy import save_file

from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer
from mlx_hf_bridge.checkpoints import card
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint, read_modules
from mlx_hf_bridge.checkpoints.safetensors_file import SafetensorsFile
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion import tokenizer_files
from mlx_hf_bridge.errors import (
    BridgeError,
    CheckpointError,
    ConfigError,
    RepositoryError,
    UnsupportedModelError,
    WeightsError,
)
from mlx_hf_bridge.models import family_for


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Save a tiny BERT with a tokenizer."""
    make_checkpoint(tmp_path / "repo")
    return tmp_path / "repo"


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize(
    "name", ["AutoFeatureExtractor", "AutoTokenizer", "AutoProcessor", "AutoModel", "Trainer", "pipeline", "AddedToken"]
)
def test_a_tokenizer_class_that_is_none_is_never_looked_up(
    name: str, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Auto class would ask on the terminal whether to run the repo's code."""
    expected = MLXSentenceTransformer(repo).encode("the cat")
    (repo / "evil.py").write_text("raise SystemExit('the code of a repo ran')")
    code = {"auto_map": {name: "evil.Evil"}}
    change(repo / "tokenizer_config.json", tokenizer_class=name, **code)
    change(repo / "preprocessor_config.json", **code)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    assert tokenizer_files._class_of(transformers, name) is transformers.PreTrainedTokenizerFast
    np.testing.assert_allclose(MLXSentenceTransformer(repo).encode("the cat"), expected, rtol=0, atol=1e-6)
    assert "evil" not in sys.modules


def test_every_tokenizer_class_of_the_families_is_found() -> None:
    for row in FAMILIES:
        name = family_for({"model_type": row.model_type}).tokenizer
        found = tokenizer_files._class_of(transformers, name)
        assert found is getattr(transformers, name), name


@pytest.mark.parametrize("token_id", [2**31 - 5, 2**22 + 1, -1, 1.5, "7", None])
def test_an_absurd_token_id_is_refused_before_a_tokenizer_is_built(token_id: Any, repo: Path) -> None:
    tokenizer = json.loads((repo / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["far"] = token_id
    (repo / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"tokenizer\.json has the token id .*expected an integer from 0 to 4194304"):
        MLXSentenceTransformer(repo).encode("the cat")


DEEP = "[" * 100_000


@pytest.mark.parametrize("name", ["config.json", "modules.json", "tokenizer_config.json", "adapter_config.json"])
def test_json_of_a_hundred_thousand_brackets_is_an_error(name: str, repo: Path) -> None:
    (repo / name).write_text(DEEP)
    if name == "adapter_config.json":
        (repo / "config.json").unlink()
    with pytest.raises(BridgeError, match=rf"{name} is not JSON"):
        MLXSentenceTransformer(repo).encode("the cat")


def with_header(path: Path, header: Any, data: int = 16) -> Path:
    """Write a safetensors file with any header, followed by zeros."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(data))
    return path


def entry(start: Any, end: Any, dtype: Any = "F32", shape: Any = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "two tensors of the same bytes": {"a": entry(0, 8), "b": entry(0, 8)},
    "a gap": {"a": entry(0, 8), "b": entry(12, 20)},
    "bytes that no tensor has": {"a": entry(0, 8)},
    "an unknown dtype": {"a": entry(0, 16, "F128")},
    "a dtype of a megabyte": {"a": entry(0, 16, "x" * 2**20)},
    "offsets that are booleans": {"a": entry(False, True, "U8", (1,))},
    "metadata that is no text": {"__metadata__": {"n": 5}, "a": entry(0, 16, shape=(4,))},
    "a negative shape": {"a": entry(0, 16, shape=(-2, -2))},
    "an entry that is a list": {"a": [0, 16]},
    "UTF-16": json.dumps({"a": entry(0, 16, shape=(4,))}).encode("utf-16"),
    "brackets": DEEP.encode(),
    "NaN": b'{"__metadata__": NaN}',
    "a name of a megabyte": {"x" * 2**20: entry(0, 99)},
}


@pytest.mark.parametrize("name", HEADERS)
def test_what_the_safetensors_library_refuses_is_refused(name: str, tmp_path: Path) -> None:
    path = with_header(tmp_path / "model.safetensors", HEADERS[name])
    with pytest.raises(CheckpointError) as raised:
        dict(SafetensorsFile(path).arrays())
    assert len(str(raised.value)) < 600 + len(str(path))


LORA = {
    "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight": np.ones((2, 24), np.float32),
    "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight": np.ones((24, 2), np.float32),
}


def adapter(folder: Path, repo: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir()
    save_file(LORA if tensors is None else tensors, folder / "adapter_model.safetensors")
    base = {"peft_type": "LORA", "base_model_name_or_path": str(repo), "lora_alpha": 2, "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps({**base, **config}))
    return folder


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"alpha_pattern": {"((.*)*)*Q": 5}}, UnsupportedModelError),
        ({"alpha_pattern": {".*.*.*.*.*.*Q": 5}}, UnsupportedModelError),
        ({"alpha_pattern": {"q" * 10**6: 5}}, UnsupportedModelError),
        ({"alpha_pattern": {"(": 5}}, ConfigError),
        ({"alpha_pattern": {"query": float("nan")}}, ConfigError),
        ({"lora_alpha": float("nan")}, ConfigError),
        ({"lora_alpha": float("inf")}, ConfigError),
        ({"lora_alpha": 10**400}, ConfigError),
        ({"lora_alpha": 1e308}, ConfigError),
        ({"lora_alpha": True}, ConfigError),
        ({"base_model_name_or_path": "x" * 10**5}, BridgeError),
        ({"base_model_name_or_path": "a\0b"}, BridgeError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_adapter_config_is_bounded(config: Any, error: type[Exception], repo: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", repo, **config)
    with pytest.raises(error) as raised:
        MLXAutoModel.from_pretrained(folder)
    assert len(str(raised.value)) < 800 + len(str(folder))


@pytest.mark.parametrize("pattern", ["query", "layer.0.attention.self.query", r"layer\.\d+\.attention.*", "key|query"])
def test_patterns_that_peft_users_write_are_read(pattern: str, repo: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", repo, alpha_pattern={pattern: 4})
    plain = adapter(tmp_path / "plain", repo, lora_alpha=4)
    one, other = (MLXAutoModel.from_pretrained(path)([[5, 6]]).last_hidden_state for path in (folder, plain))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shapes", [((0, 24), (24, 0)), ((2, 24), (24, 3)), ((24,), (24, 2))])
def test_factors_without_a_common_rank_are_refused(shapes: Any, repo: Path, tmp_path: Path) -> None:
    tensors = {name: np.ones(shape, np.float32) for name, shape in zip(LORA, shapes, strict=True)}
    with pytest.raises(WeightsError, match=r"have ranks \d and \d, expected one of 1 or more"):
        MLXAutoModel.from_pretrained(adapter(tmp_path / "adapter", repo, tensors))


def test_an_adapter_without_tensors_and_a_circle_of_adapters_are_refused(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no tensors, so it changes nothing"):
        MLXAutoModel.from_pretrained(adapter(tmp_path / "empty", repo, {}))
    one, other = adapter(tmp_path / "one", tmp_path / "other"), adapter(tmp_path / "other", tmp_path / "one")
    for folder in (one, other):
        with pytest.raises(UnsupportedModelError, match="which is an adapter too"):
            read_checkpoint(locate(folder, HubOptions()))


def test_a_file_of_torch_is_no_safetensors_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="too few for a safetensors header"):
        SafetensorsFile(tmp_path / "model.safetensors")


def test_only_what_is_kept_of_a_model_card_is_read_as_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of results are long, and PyYAML takes minutes for some megabytes."""
    kept = "license: mit\nbase_model:\n- a/b\n"
    (tmp_path / "README.md").write_text(f"---\n{kept}{'a: b' + chr(10)}---\n# T\n".replace("a: b\n", "a: b\n" * 10**5))
    read: list[str] = []
    monkeypatch.setattr(card, "load_yaml", lambda text: read.append(text) or {})
    card.read_card_metadata(tmp_path)
    assert read == [kept]


def test_a_list_of_modules_is_bounded_and_no_link_to_nowhere(tmp_path: Path) -> None:
    entry = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    path = tmp_path / "modules.json"
    path.write_text(json.dumps([{**entry, "name": str(index)} for index in range(1001)]))
    with pytest.raises(ConfigError, match="lists 1001 modules, expected 1000 at most"):
        read_modules(tmp_path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(RepositoryError, match="a link to a missing file"):
        read_modules(tmp_path)
