"""A loaded model can be used, cast to half precision, saved and pushed to the Hub like a transformers model."""

import contextlib
import copy
import importlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint, ragged_inputs, row_name, save_model
from huggingface_hub import ModelCard
from weight_files import max_difference, output_array

from mlx_hf_bridge import (
    MLXAutoModel,
    MLXAutoModelForMaskedLM,
    MLXAutoModelForSequenceClassification,
    MLXSentenceTransformer,
    errors,
)
from mlx_hf_bridge.conversion.integrity import is_complete
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.pretrained.saving import parse_size
from mlx_hf_bridge.runtime import atomic_folder

BERT = FAMILIES[0]
ABSOLUTE = 2e-5  # as in tests/test_parity.py
HALF = 2e-2  # float16 rounding of weights of magnitude 0.3 through three layers; worst observed 4e-3


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    make_checkpoint(folder, BERT, "ForSequenceClassification")
    return folder


@pytest.fixture(scope="module")
def torch_model(classifier: Path) -> Any:
    return transformers.BertForSequenceClassification.from_pretrained(classifier).eval()


@pytest.fixture
def mlx_model(classifier: Path) -> Any:
    return MLXAutoModelForSequenceClassification.from_pretrained(classifier)


def logits(model: Any) -> np.ndarray:
    return output_array(model, ragged_inputs(BERT), "logits")


def reloaded(folder: Path, **given: Any) -> Any:
    return MLXAutoModelForSequenceClassification.from_pretrained(folder, **given)


# The config ---------------------------------------------------------------------------------------------------------


ATTRIBUTES = (
    *("id2label", "label2id", "num_labels", "problem_type", "hidden_size", "num_hidden_layers", "vocab_size"),
    *("output_attentions", "output_hidden_states", "return_dict", "is_decoder", "is_encoder_decoder", "model_type"),
    *("hidden_dropout_prob", "pad_token_id", "max_position_embeddings", "hidden_act", "chunk_size_feed_forward"),
)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_config_answers_as_transformers_does(name: str, mlx_model: Any, torch_model: Any) -> None:
    assert getattr(mlx_model.config, name) == getattr(torch_model.config, name)


def test_the_config_gives_itself_as_json(mlx_model: Any, torch_model: Any, tmp_path: Path) -> None:
    found = json.loads(mlx_model.config.to_json_string())
    expected = json.loads(torch_model.config.to_json_string())
    assert {key: found.get(key) for key in ("id2label", "label2id", "hidden_size")} == {
        key: expected[key] for key in ("id2label", "label2id", "hidden_size")
    }
    mlx_model.config.save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).id2label == torch_model.config.id2label
    assert mlx_model.config.get_text_config() is mlx_model.config
    assert copy.deepcopy(mlx_model.config) == mlx_model.config


def test_the_config_may_be_changed_and_is_saved_so(mlx_model: Any, tmp_path: Path) -> None:
    mlx_model.config.id2label = {0: "x", 1: "y", 2: "z"}
    mlx_model.config.update({"output_hidden_states": True})
    assert mlx_model(**ragged_inputs(BERT)).hidden_states is not None
    mlx_model.save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).id2label == {0: "x", 1: "y", 2: "z"}
    assert reloaded(tmp_path).config.id2label[2] == "z"


def test_num_labels_renumbers_as_transformers_does(mlx_model: Any, torch_model: Any) -> None:
    expected = copy.deepcopy(torch_model.config)
    for config in (mlx_model.config, expected):
        config.num_labels = 5
    assert (mlx_model.config.id2label, mlx_model.config.label2id) == (expected.id2label, expected.label2id)
    with pytest.raises(ValueError, match=r"num_labels=0, expected an integer"):
        mlx_model.config.num_labels = 0
    with pytest.raises(AttributeError, match=r"config\.json has no 'foo'"):
        _ = mlx_model.config.foo


# The torch.nn.Module API --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", FAMILIES[:12], ids=row_name)
def test_parameters_are_counted_as_transformers_counts_them(row: Any, tmp_path: Path) -> None:
    model = save_model(tmp_path, row)
    found = MLXAutoModel.from_pretrained(tmp_path)
    for options in ({}, {"only_trainable": True}, {"exclude_embeddings": True}):
        assert found.num_parameters(**options) == model.num_parameters(**options)


def test_packed_weights_count_as_what_they_stand_for_and_take_less(tmp_path: Path) -> None:
    config = type(BERT.config).from_dict({**BERT.config.to_dict(), **BERT.wide})
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path)
    packed = MLXAutoModel.from_pretrained(tmp_path, quantization_config="q4-rtn")
    assert packed.num_parameters() == model.num_parameters()
    assert packed.get_memory_footprint() < 0.5 * MLXAutoModel.from_pretrained(tmp_path).get_memory_footprint()


CASTS: dict[str, tuple[Callable[[Any], Any], mx.Dtype]] = {
    "half": (lambda model: model.half(), mx.float16),
    "bfloat16": (lambda model: model.bfloat16(), mx.bfloat16),
    "float": (lambda model: model.float(), mx.float32),
    "to torch dtype": (lambda model: model.to(torch.float16), mx.float16),
    "to device and dtype": (lambda model: model.to("cuda", dtype=torch.bfloat16), mx.bfloat16),
}


@pytest.mark.parametrize("name", CASTS)
def test_a_cast_rounds_the_weights_as_loading_in_that_dtype_does(name: str, classifier: Path, tmp_path: Path) -> None:
    change, dtype = CASTS[name]
    model = reloaded(classifier)
    assert change(model) is model
    assert model.dtype == dtype
    assert np.array_equal(logits(model), logits(reloaded(classifier, dtype=dtype)))
    model.save_pretrained(tmp_path)
    saved = reloaded(tmp_path)
    assert saved.dtype == dtype
    assert np.array_equal(logits(saved), logits(model))
    assert np.array_equal(logits(pickle.loads(pickle.dumps(model))), logits(model))


def test_a_dtype_that_is_none_is_refused(mlx_model: Any) -> None:
    with pytest.raises(ValueError, match=r"dtype=torch\.int8 is not supported"):
        mlx_model.to(torch.int8)


def test_moves_change_nothing(mlx_model: Any) -> None:
    assert (
        mlx_model.cpu()
        is mlx_model.cuda()
        is mlx_model.to("mps")
        is mlx_model.eval()
        is mlx_model.train(False)
        is mlx_model
    )
    assert mlx_model.requires_grad_(False) is mlx_model


@pytest.mark.parametrize("use", ["train", "parameters", "named_parameters", "state_dict", "requires_grad_"])
def test_what_only_torch_serves_says_what_to_use(use: str, mlx_model: Any) -> None:
    with pytest.raises(NotImplementedError, match=rf"{use}\(\) was called on .* use device, dtype and num_parameters"):
        getattr(mlx_model, use)()


# Saving -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [None, {"bits": 8, "group_size": 32}])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}, {"variant": "fp16"}, {"max_shard_size": 9000}])
def test_a_save_loads_back_here_and_in_transformers(options: dict[str, Any], recipe: Any, tmp_path: Path) -> None:
    config = type(BERT.config).from_dict({**BERT.config.to_dict(), "hidden_size": 32, "num_labels": 3})
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "source")
    model = reloaded(tmp_path / "source", quantization_config=recipe)
    model.save_pretrained(tmp_path / "saved", **options)
    given = {"variant": options["variant"]} if "variant" in options else {}
    assert np.array_equal(logits(reloaded(tmp_path / "saved", **given)), logits(model))
    files = sorted((tmp_path / "saved").glob("*.safetensors"))
    assert (len(files) > 1) == ("max_shard_size" in options)
    if recipe is None:
        read = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved", **given)
        assert max_difference(logits(read), logits(model), ragged_inputs(BERT)) < ABSOLUTE


def test_the_metadata_of_a_save_lists_its_files(mlx_model: Any, tmp_path: Path) -> None:
    mlx_model.half().save_pretrained(tmp_path, max_shard_size="20KB")
    files = json.loads((tmp_path / "conversion_metadata.json").read_text())["files"]
    assert {name: (tmp_path / name).stat().st_size for name in files} == files
    written = {path.name for path in tmp_path.iterdir()} - {"conversion_metadata.json"}
    assert set(files) == written


def test_a_save_leaves_no_earlier_shards(mlx_model: Any, tmp_path: Path) -> None:
    mlx_model.save_pretrained(tmp_path, max_shard_size="20KB")
    mlx_model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    mlx_model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_save_into_its_own_folder_that_is_killed_leaves_a_whole_model(
    steps: int, mlx_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is replaced by one rename, so that the folder is a model before and after each of them."""
    mlx_model.save_pretrained(tmp_path)
    model, real, left = reloaded(tmp_path), os.replace, [None] * steps

    class Killed(BaseException):
        pass

    def replace(source: Any, target: Any) -> None:
        if not left:
            raise Killed
        left.pop()
        real(source, target)

    monkeypatch.setattr(atomic_folder.os, "replace", replace)
    model.save_pretrained(tmp_path)
    assert len(left) == steps, "a config that did not change is not written"
    model.config.id2label = {0: "x", 1: "y", 2: "z"}
    with contextlib.suppress(Killed):
        model.save_pretrained(tmp_path)
    assert reloaded(tmp_path).config.id2label[2] == ("z" if steps else "class 2")
    assert is_complete(tmp_path) == (steps != 1)
    assert not list(tmp_path.glob(".*"))


def test_arguments_of_save_pretrained_are_honoured_or_refused(mlx_model: Any, tmp_path: Path) -> None:
    mlx_model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()
    for given in ({"safe_serialization": False}, {"state_dict": {}}, {"foo": 1}):
        with pytest.raises(TypeError, match=rf"save_pretrained\(\) got {next(iter(given))}"):
            mlx_model.save_pretrained(tmp_path / "other", **given)
    with pytest.raises(ValueError, match=r"max_shard_size='big', expected a number of bytes as an integer"):
        mlx_model.save_pretrained(tmp_path / "other", max_shard_size="big")
    assert not (tmp_path / "other").exists()
    assert (parse_size("5MB"), parse_size("1.5 GiB"), parse_size(7)) == (5_000_000, 1_610_612_736, 7)


def test_a_head_drawn_at_random_is_not_saved_or_copied(classifier: Path, tmp_path: Path) -> None:
    initialized = reloaded(classifier, num_labels=5, ignore_mismatched_sizes=True)
    for use in (lambda: initialized.save_pretrained(tmp_path / "x"), lambda: pickle.dumps(initialized)):
        with pytest.raises(errors.UnservedUseError, match=r"randomly initialized weights .*, which are not on disk"):
            use()
    assert not (tmp_path / "x").exists()


def test_a_copy_has_the_config_that_was_asked_for(classifier: Path) -> None:
    model = reloaded(classifier, output_hidden_states=True, id2label={0: "x", 1: "y", 2: "z"})
    twin = pickle.loads(pickle.dumps(model))
    assert twin.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert twin(**ragged_inputs(BERT)).hidden_states is not None


# The Hub ------------------------------------------------------------------------------------------------------------


class FakeHub:
    """HfApi stand-in that records calls and copies uploaded folders."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.calls: dict[str, Any] = {}
        self.folder = folder
        monkeypatch.setattr("huggingface_hub.HfApi", self._api)

    def _api(self, token: Any = None) -> Any:
        self.calls["token"] = token
        return SimpleNamespace(create_repo=self.create_repo, upload_folder=self.upload_folder)

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.calls["create"] = options
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> Any:
        shutil.copytree(folder_path, self.folder)
        self.calls["upload"] = {"repo_id": repo_id, **options}
        return SimpleNamespace(commit_url="https://hub/commit", pr_url=None)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    return FakeHub(monkeypatch, tmp_path / "hub")


CARD = """---
language: [en, de]
license: apache-2.0
pipeline_tag: text-classification
tags: [torch]
---
# A model
"""


def from_hub(classifier: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> Any:
    """Load the classifier as if from a Hub repo with a model card."""
    shutil.copytree(classifier, folder)
    (folder / "README.md").write_text(CARD)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    return MLXAutoModelForSequenceClassification.from_pretrained("org/original", **given)


def test_a_push_uploads_what_loads_back(
    classifier: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = from_hub(classifier, tmp_path / "0123456789abcdef", monkeypatch)
    answered = model.push_to_hub(
        "mine", token="hf_x", private=True, commit_message="first", revision="dev", create_pr=True, tags=["news"]
    )
    assert answered.commit_url == "https://hub/commit"
    assert hub.calls["token"] == "hf_x"
    assert hub.calls["create"] == {"private": True, "exist_ok": True}
    upload = {"commit_message": "first", "commit_description": None, "revision": "dev", "create_pr": True}
    assert hub.calls["upload"] == {"repo_id": "me/mine", **upload}
    assert np.array_equal(logits(reloaded(hub.folder)), logits(model))


def test_the_card_holds_the_figures_of_a_verification_that_was_kept(
    classifier: Path, hub: FakeHub, tmp_path: Path
) -> None:
    MLXAutoModelForSequenceClassification.from_pretrained(classifier).save_pretrained(tmp_path / "saved")
    model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    (model.folder / "verification.json").write_text(json.dumps({"figures": {"cosine_mean": 0.99123, "none": None}}))
    model.push_to_hub("me/mine")
    card = (hub.folder / "README.md").read_text()
    assert "| cosine_mean | 0.99123 |" in card
    assert "none" not in card


def test_the_card_says_what_it_was_made_from_and_how(
    classifier: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = from_hub(classifier, tmp_path / "0123456789abcdef", monkeypatch)
    model.push_to_hub("me/mine", tags=["news"], fidelity={"cosine": 0.99986})
    card = ModelCard.load(hub.folder / "README.md")
    found = card.data.to_dict()
    assert found["base_model"] == "org/original"
    assert found["language"] == ["en", "de"]
    assert found["license"] == "apache-2.0"
    assert found["library_name"] == "mlx"
    assert found["pipeline_tag"] == "text-classification"
    assert found["tags"] == ["mlx", "mlx-hf-bridge", "news"]
    assert "base_model_relation" not in found
    assert "[org/original](https://huggingface.co/org/original) (commit 0123456789ab)" in card.text
    assert 'MLXAutoModelForSequenceClassification.from_pretrained("me/mine")' in card.text
    assert "| cosine | 0.99986 |" in card.text


def test_a_quantised_card_says_so_and_its_example_runs(hub: FakeHub, tmp_path: Path) -> None:
    config = type(BERT.config).from_dict({**BERT.config.to_dict(), "hidden_size": 64})
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "source")
    model = MLXAutoModelForMaskedLM.from_pretrained(tmp_path / "source", quantization_config="q4-rtn")
    model.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/mine", private=False)
    card = ModelCard.load(hub.folder / "README.md")
    assert card.data.pipeline_tag == "fill-mask"
    assert card.data.base_model is None
    assert "quantized to 4 bits in groups of 64 (affine)" in card.text
    code = card.text.split("```python\n")[1].split("```")[0].replace("me/mine", str(hub.folder))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["model"].quantization_config.bits == 4


@pytest.mark.parametrize("broken", ["---\n: [\n---\n", "no metadata", "---\nlicense: {a: 1}\n---\n"])
def test_a_card_that_cannot_be_read_is_left_out(
    broken: str, classifier: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_saved_models.CARD", broken)
    from_hub(classifier, tmp_path / "commit", monkeypatch).push_to_hub("me/mine")
    assert ModelCard.load(hub.folder / "README.md").data.license is None


def test_a_hub_that_refuses_is_an_os_error(mlx_model: Any) -> None:
    with pytest.raises(OSError, match=r"'me/mine' could not be written to the Hub .* Log in"):
        mlx_model.push_to_hub("me/mine")
    with pytest.raises(TypeError, match=r"got foo, which it does not take"):
        mlx_model.push_to_hub("me/mine", foo=1)


@pytest.mark.parametrize("kind", [MLXAutoModel.from_pretrained, MLXSentenceTransformer])
def test_a_hub_that_is_not_reached_is_a_repository_error(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = importlib.import_module(type(huggingface_hub.get_session()).__module__.partition(".")[0])
    make_checkpoint(tmp_path)
    model = kind(str(tmp_path))
    offline = huggingface_hub.errors.OfflineModeIsEnabled("offline")
    for error in (http.ConnectError("refused"), ConnectionError("reset"), offline):

        def fail(*arguments: Any, error: Exception = error, **options: Any) -> None:
            raise error

        monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
        with pytest.raises(RepositoryError, match=r"'me/mine' could not be written to the Hub .* the connection and"):
            model.push_to_hub("me/mine")


def test_sentence_models_are_pushed_with_a_card_of_their_own(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "source")
    (tmp_path / "source" / "README.md").write_text(CARD.replace("pipeline_tag: text-classification\n", ""))
    monkeypatch.setattr("huggingface_hub.HfApi", hub._api)
    model = MLXSentenceTransformer(str(tmp_path / "source"))
    assert model.push_to_hub("me/mine", exist_ok=True) == "https://hub/commit"
    card = ModelCard.load(hub.folder / "README.md")
    assert (card.data.pipeline_tag, card.data.license, card.data.library_name) == (
        "sentence-similarity",
        "apache-2.0",
        "mlx",
    )
    assert "sentence-transformers" in card.data.tags
    assert 'MLXSentenceTransformer("me/mine")' in card.text
    again = MLXSentenceTransformer(str(hub.folder))
    assert np.array_equal(again.encode(["the cat"]), model.encode(["the cat"]))
