"""Sizes of config.json that no file of the checkpoint has are refused before anything is built of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import FAMILIES, make_checkpoint

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo
from mlx_hf_bridge.conversion import plan
from mlx_hf_bridge.errors import BridgeError, ConfigError, WeightsError
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.weights.sizes import check_raw_sizes


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    make_checkpoint(folder)
    return folder


def with_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a model is built, which would take the memory of the sizes."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(plan, "build_model", fail)


@pytest.mark.parametrize("value", [2**31 - 1, 2**31, 10**12, 10**30, -1, -(10**30), 1e30, True, "3"])
@pytest.mark.parametrize(
    "key",
    [
        *("num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size"),
        *("max_position_embeddings", "type_vocab_size", "num_attention_heads"),
    ],
)
def test_an_absurd_size_is_refused_before_the_model_is_built(
    key: str, value: Any, not_built: None, bert: Path, tmp_path: Path
) -> None:
    for path in bert.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises((ConfigError, WeightsError), match=rf"config\.json has .*{key}="):
        MLXAutoModel.from_pretrained(tmp_path)


def test_more_layers_than_tensors_are_refused_before_the_model_is_built(
    not_built: None, bert: Path, tmp_path: Path
) -> None:
    for path in bert.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with_config(tmp_path, num_hidden_layers=9999)
    with pytest.raises(WeightsError, match=r"has 9999 layers \(num_hidden_layers=9999\), and .* has \d+ tensors"):
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.model_type)
def test_a_million_layers_are_refused_in_every_family(row: Any) -> None:
    config = row.config.to_dict()
    family = family_for(config)
    key = family.config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    absurd = {key: 10**12, "layer_types": None}
    # T5Gemma's encoder has a config of its own.
    nested = {"encoder": config["encoder"] | absurd} if isinstance(config.get("encoder"), dict) else {}
    with pytest.raises(
        BridgeError, match=rf"config\.json has {key}=1000000000000, expected an integer of 10000 or less"
    ):
        family.config.from_json(config | absurd | nested)


def test_labels_are_counted_up_to_a_million(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    config.pop("id2label", None)
    with pytest.raises(ConfigError, match="num_labels=1000000000000, expected an integer of 1 or more"):
        family_for(config).config.from_json(config | {"num_labels": 10**12})


def test_fewer_layers_and_a_new_head_are_no_absurd_sizes(bert: Path) -> None:
    short = MLXAutoModel.from_pretrained(bert, num_hidden_layers=1)
    assert short.config.num_hidden_layers == 1
    assert np.isfinite(np.array(short(input_ids=np.array([[1, 2, 3]])).last_hidden_state)).all()


def test_a_size_that_overflows_only_when_doubled_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, next(row for row in FAMILIES if row.model_type == "deberta"))
    with_config(tmp_path, max_relative_positions=2**31 - 1)
    with pytest.raises(ConfigError, match="a size that no array can have"):
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        *({"num_hidden_layers": 10**6}, {"n_layer": 101}, {"vocab_size": 2**31}, {"d_model": 3, "d_dim": 10**30}),
        *({"text_config": {"num_layers": 10**6}}, {"encoder": {"hidden_size": 1281}}),
    ],
    ids=str,
)
def test_sizes_of_a_model_that_is_to_be_traced_are_checked_by_their_names(raw: dict[str, Any]) -> None:
    tensor_infos = {"a": TensorInfo("F32", (5, 8))}
    with pytest.raises(WeightsError, match="Check that the two belong together"):
        check_raw_sizes(raw, tensor_infos, "folder")
    check_raw_sizes({"num_layers": 100, "hidden_size": 1280, "max_position_embeddings": 10**9}, tensor_infos, "folder")
