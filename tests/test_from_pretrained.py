"""Tests that every argument of from_pretrained works as in transformers or raises a clear error, one test per case.

The cases are the situations of transformers' AutoModel.from_pretrained that affect the result. The name of each test
states the expected behavior; where the result can be compared, transformers itself provides the reference.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, make_checkpoint, ragged_inputs, save_model
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from weight_files import edit_config, max_difference, output_array, rename, rewrite

from mlx_hf_bridge import (
    MLXAutoModel,
    MLXAutoModelForMaskedLM,
    MLXAutoModelForSequenceClassification,
    MLXAutoModelForTokenClassification,
    MLXQuantizationConfig,
    errors,
)
from mlx_hf_bridge.pretrained import arguments
from mlx_hf_bridge.pretrained.arguments import NO_EFFECT, REFUSED

BERT = FAMILIES[0]
ABSOLUTE = 2e-5  # as in test_parity.py
HEAD = "ForSequenceClassification"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    make_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    make_checkpoint(folder, BERT, HEAD)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a checkpoint wide enough for quantization in groups of 64."""
    folder = tmp_path_factory.mktemp("wide")
    row = replace(BERT, config=type(BERT.config).from_dict({**BERT.config.to_dict(), **BERT.wide}))
    make_checkpoint(folder, row)
    return folder


@pytest.fixture
def copy(bare: Path, tmp_path: Path) -> Path:
    """Return a copy of the bare checkpoint that a test may change."""
    return Path(shutil.copytree(bare, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def nothing_warned() -> None:
    """Forget which warnings were already given."""
    arguments._warned.clear()


def hidden(model: Any, name: str = "last_hidden_state") -> np.ndarray:
    """Return one output of a model as an array."""
    return output_array(model, ragged_inputs(BERT), name)


def same(mlx_model: Any, torch_model: Any, name: str = "last_hidden_state") -> bool:
    """Return whether two models have the same output within the tolerance."""
    return max_difference(hidden(mlx_model, name), hidden(torch_model, name), ragged_inputs(BERT)) < ABSOLUTE


def conversions(cache: Path) -> int:
    """Return the number of conversions in the cache."""
    return len(list((cache / "converted").glob("*/config.json")))


# Hub arguments ------------------------------------------------------------------------------------------------------


HUB = {
    "revision": "v1",
    "token": "hf_x",
    "cache_dir": "elsewhere",
    "local_files_only": True,
    "force_download": True,
}


@pytest.mark.parametrize("name", HUB)
def test_a_hub_argument_reaches_huggingface_hub(name: str, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def download(repo: str, **options: Any) -> str:
        seen.append(options)
        return str(bare)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    MLXAutoModel.from_pretrained("org/model", **{name: HUB[name]})
    assert seen[0][name] == HUB[name]


def test_subfolder_is_where_the_model_is(bare: Path, tmp_path: Path) -> None:
    shutil.copytree(bare, tmp_path / "inner")
    assert same(MLXAutoModel.from_pretrained(tmp_path, subfolder="inner"), transformers.BertModel.from_pretrained(bare))


def test_proxies_are_said_not_to_be_passed_on(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    MLXAutoModel.from_pretrained(bare, proxies={"https": "127.0.0.1:1"})
    assert "proxies are not passed on: huggingface_hub reads HTTP_PROXY" in caplog.text


def answered(kind: type[Exception]) -> Exception:
    """Return an exception of huggingface_hub with a response of status 404."""
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind("refused", response=response)  # type: ignore[call-arg]


HUB_ERRORS: dict[str, tuple[Callable[[], Exception], str]] = {
    "wrong id or private": (lambda: answered(RepositoryNotFoundError), r"not a repo on the Hub that you may read"),
    "gated": (lambda: answered(GatedRepoError), r"is gated\. Accept its terms"),
    "bad revision": (lambda: answered(RevisionNotFoundError), r"has no revision 'v9'"),
    "no connection": (lambda: ConnectionError("no route"), r"no route"),
}


@pytest.mark.parametrize("fault", HUB_ERRORS)
def test_what_the_hub_refuses_is_an_os_error(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = HUB_ERRORS[fault]

    def download(*_: Any, **__: Any) -> str:
        raise make()

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(OSError, match=message) as caught:
        MLXAutoModel.from_pretrained("org/model", revision="v9")
    assert isinstance(caught.value, errors.RepositoryError)


def test_offline_and_not_cached_is_an_os_error() -> None:
    assert huggingface_hub.constants.is_offline_mode()
    with pytest.raises(OSError, match=r"is not in the Hub's cache on this machine"):
        MLXAutoModel.from_pretrained("org/model")


def test_a_bad_path_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"is neither a folder on this machine nor a Hub id"):
        MLXAutoModel.from_pretrained("./x/y")


def test_the_same_commit_under_another_revision_is_one_conversion(
    copy: Path, bridge_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(copy))
    for revision in ("main", "v1", copy.name):
        MLXAutoModel.from_pretrained("org/model", revision=revision)
    assert conversions(bridge_cache) == 1


# Contents of the folder ---------------------------------------------------------------------------------------------


def test_an_empty_folder_is_both_a_value_error_and_an_os_error(tmp_path: Path) -> None:
    """transformers raises ValueError ("Unrecognized model") here, and OSError for a missing file."""
    for kind in (ValueError, OSError):
        with pytest.raises(kind, match=r"has no config\.json"):
            MLXAutoModel.from_pretrained(tmp_path)


def test_an_unknown_model_type_is_a_value_error(copy: Path) -> None:
    edit_config(copy, model_type="no_such_type")
    for trace in ("never", "auto"):
        with pytest.raises(ValueError, match="no_such_type"):
            MLXAutoModel.from_pretrained(copy, trace=trace)


def test_a_head_that_the_model_type_lacks_is_a_value_error_that_lists_those_that_have_it(tmp_path: Path) -> None:
    row = next(row for row in FAMILIES if row.model_type == "longt5")
    save_model(tmp_path, row)
    with pytest.raises(ValueError, match=r"'longt5' has no head for 'text-classification' here.*albert, bart, bert"):
        MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_folder_without_weights_is_an_os_error(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"has none of model\.safetensors"):
        MLXAutoModel.from_pretrained(copy)


def test_a_bin_file_alone_is_read(copy: Path) -> None:
    torch_model = transformers.BertModel.from_pretrained(copy)
    torch.save(torch_model.state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert same(MLXAutoModel.from_pretrained(copy), torch_model)


def test_use_safetensors_chooses_between_two_files(copy: Path) -> None:
    torch_model = transformers.BertModel.from_pretrained(copy)
    torch.save({name: tensor * 0.5 for name, tensor in torch_model.state_dict().items()}, copy / "pytorch_model.bin")
    for choice in (None, True, False):
        given = transformers.BertModel.from_pretrained(copy, use_safetensors=choice)
        assert same(MLXAutoModel.from_pretrained(copy, use_safetensors=choice), given)


def test_use_safetensors_without_such_a_file_is_an_os_error(copy: Path) -> None:
    with pytest.raises(OSError, match=r"has none of pytorch_model\.bin.*It has model\.safetensors: omit use_safe"):
        MLXAutoModel.from_pretrained(copy, use_safetensors=False)


@pytest.mark.parametrize("shard_size", ["50GB", "20KB"])
def test_variant_reads_the_files_of_its_name(shard_size: str, bare: Path, tmp_path: Path) -> None:
    torch_model = transformers.BertModel.from_pretrained(bare)
    torch_model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: {name: tensor * 0.5 for name, tensor in tensors.items()})
    torch_model.half().save_pretrained(tmp_path, variant="fp16", max_shard_size=shard_size)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, variant="fp16")
    assert same(mlx_model, transformers.BertModel.from_pretrained(tmp_path, variant="fp16", dtype="float32"))
    assert not same(mlx_model, MLXAutoModel.from_pretrained(tmp_path))


def test_a_variant_that_is_not_there_is_an_os_error(copy: Path) -> None:
    with pytest.raises(OSError, match=r"has none of model\.fp16\.safetensors.*It has .*: omit variant"):
        MLXAutoModel.from_pretrained(copy, variant="fp16")


def test_a_sharded_checkpoint_is_read(bare: Path, tmp_path: Path) -> None:
    torch_model = transformers.BertModel.from_pretrained(bare)
    torch_model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same(MLXAutoModel.from_pretrained(tmp_path), torch_model)


def test_transformers_weights_in_the_config_names_the_file(copy: Path) -> None:
    torch_model = transformers.BertModel.from_pretrained(copy)
    rewrite(copy, lambda tensors: {name: tensor * 0.5 for name, tensor in tensors.items()})
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    torch_model.save_pretrained(copy)
    edit_config(copy, transformers_weights="other.safetensors")
    assert same(MLXAutoModel.from_pretrained(copy), transformers.BertModel.from_pretrained(copy))
    edit_config(copy, transformers_weights="../other.safetensors")
    with pytest.raises(ValueError, match=r"transformers_weights='\.\./other\.safetensors', expected the name of"):
        MLXAutoModel.from_pretrained(copy)


@pytest.mark.parametrize("prefix", ["bert.", "module.", ""])
def test_prefixed_and_old_names_are_read(prefix: str, copy: Path) -> None:
    torch_model = transformers.BertModel.from_pretrained(copy)
    rename(copy, lambda name: prefix + name.replace("LayerNorm.weight", "LayerNorm.gamma"))
    assert same(MLXAutoModel.from_pretrained(copy), torch_model)


# dtype, device, attention -------------------------------------------------------------------------------------------


DTYPES: dict[str, Any] = {
    "name": "float16",
    "torch": torch.float16,
    "mlx": mx.float16,
    "numpy": np.float16,
    "prefixed name": "torch.float16",
}


@pytest.mark.parametrize("spelled", DTYPES)
@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
def test_dtype_is_taken_in_every_spelling(
    argument: str, spelled: str, bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mlx_model = MLXAutoModel.from_pretrained(bare, **{argument: DTYPES[spelled]})
    assert mlx_model.dtype == mx.float16
    assert ("torch_dtype is deprecated" in caplog.text) == (argument == "torch_dtype")


@pytest.mark.parametrize("asked", ["auto", None])
@pytest.mark.parametrize("declared", ["float32", "float16", ...])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_without_a_dtype_the_config_decides_and_then_the_file(
    stored: torch.dtype, declared: Any, asked: str | None, copy: Path
) -> None:
    rewrite(copy, lambda tensors: {name: tensor.to(stored) for name, tensor in tensors.items()})
    edit_config(copy, dtype=declared)
    torch_model = transformers.BertModel.from_pretrained(copy, dtype=asked)
    assert (
        str(MLXAutoModel.from_pretrained(copy, dtype=asked).dtype).split(".")[-1]
        == str(torch_model.dtype).split(".")[-1]
    )


@pytest.mark.parametrize("asked", ["float64", torch.float8_e4m3fn, "int8"])
def test_a_dtype_that_is_not_stored_is_a_value_error(asked: Any, bare: Path) -> None:
    with pytest.raises(ValueError, match=r"is not supported; use 'auto' or one of float32, float16, bfloat16"):
        MLXAutoModel.from_pretrained(bare, dtype=asked)


def test_a_word_that_is_no_dtype_is_an_attribute_error_too(bare: Path) -> None:
    for model in (transformers.AutoModel, MLXAutoModel):
        with pytest.raises(AttributeError):
            model.from_pretrained(bare, dtype="junk")


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", {"": "cpu"}, "cuda", "cuda:0", 0, torch.device("cuda")])
def test_device_map_is_accepted_and_another_device_said_once(
    device: Any, bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        MLXAutoModel.from_pretrained(bare, device_map=device)
    foreign = "cuda" in str(device) or device == 0
    assert caplog.text.count("is not used: MLX runs on this machine's own device") == int(foreign)


@pytest.mark.parametrize("attention", ["eager", "sdpa", None, "flash_attention_2", {"": "eager"}, "org/kernel"])
def test_attn_implementation_is_accepted_and_another_said_once(
    attention: Any, bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        MLXAutoModel.from_pretrained(bare, attn_implementation=attention)
    assert caplog.text.count("MLX computes attention itself") == int(attention in ("flash_attention_2", "org/kernel"))


def test_an_attention_that_nobody_knows_is_a_value_error(bare: Path) -> None:
    for model in (transformers.AutoModel, MLXAutoModel):
        with pytest.raises(ValueError, match="junk"):
            model.from_pretrained(bare, attn_implementation="junk")


@pytest.mark.parametrize("argument", sorted(NO_EFFECT))
def test_an_argument_that_changes_nothing_is_accepted(argument: str, bare: Path) -> None:
    value = {"a": 1} if argument in ("max_memory", "kernel_config", "fusion_config") else True
    assert MLXAutoModel.from_pretrained(bare, **{argument: value}).config.model_type == "bert"


@pytest.mark.parametrize("argument", sorted(REFUSED))
def test_an_argument_that_is_refused_says_what_to_do(argument: str, bare: Path) -> None:
    with pytest.raises(TypeError, match=rf"got {argument}, which is not supported\. [A-Z]") as caught:
        MLXAutoModel.from_pretrained(bare, **{argument: {"x": 1}})
    assert isinstance(caught.value, errors.ArgumentTypeError)
    MLXAutoModel.from_pretrained(bare, **{argument: None})


def test_every_argument_that_transformers_names_is_sorted() -> None:
    """The names are read from the source of transformers' from_pretrained, so that a new one fails the test."""
    import inspect
    import re

    source = inspect.getsource(transformers.PreTrainedModel.from_pretrained)
    source += inspect.getsource(transformers.models.auto.auto_factory._BaseAutoModelClass.from_pretrained)
    named = set(re.findall(r'kwargs\.(?:pop|get)\(\s*"(\w+)"', source))
    named |= set(inspect.signature(transformers.PreTrainedModel.from_pretrained).parameters)
    served = set(re.findall(r'"(\w+)"', inspect.getsource(arguments)))
    assert named - {"cls", "pretrained_model_name_or_path", "model_args", "kwargs"} <= served


def test_an_unknown_argument_is_a_type_error(bare: Path) -> None:
    for model in (transformers.AutoModel, MLXAutoModel):
        with pytest.raises(TypeError, match="foo"):
            model.from_pretrained(bare, foo=1)


# quantization_config ------------------------------------------------------------------------------------------------


RECIPES: dict[str, dict[str, Any]] = {
    "name": {"quantization_config": "q8"},
    "dict": {"quantization_config": {"bits": 8, "group_size": 64}},
    "config": {"quantization_config": MLXQuantizationConfig(bits=8)},
    "bits": {"bits": 8},
    "metal": {"quantization_config": transformers.MetalConfig(bits=8)},
    "metal dict": {"quantization_config": {"quant_method": "metal", "bits": 8, "group_size": 64}},
}


@pytest.mark.parametrize("spelled", RECIPES)
def test_quantization_config_is_taken_in_every_spelling(spelled: str, wide: Path) -> None:
    recipe = MLXAutoModel.from_pretrained(wide, **RECIPES[spelled]).quantization_config
    assert recipe is not None
    assert (recipe.bits, recipe.group_size, recipe.mode) == (8, 64, "affine")


def test_another_tools_quantization_config_is_refused_by_its_method(bare: Path) -> None:
    with pytest.raises(ValueError, match=r"quant_method='bitsandbytes', which needs its own backend\. Pass 'q8'"):
        MLXAutoModel.from_pretrained(bare, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(ValueError, match=r"got quantization_config='q8' and bits; give one"):
        MLXAutoModel.from_pretrained(bare, quantization_config="q8", bits=4)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "torchao", "hqq"])
def test_a_checkpoint_of_another_quantiser_is_refused_by_its_method(method: str, copy: Path) -> None:
    edit_config(copy, quantization_config={"quant_method": method, "bits": 4, "group_size": 128})
    with pytest.raises(errors.QuantizationError, match=rf"packed by '{method}', which is not MLX's.*Use the unquant"):
        MLXAutoModel.from_pretrained(copy)


# The config and keys that override it -------------------------------------------------------------------------------


def test_output_attentions_over_the_config_gives_them(bare: Path, bridge_cache: Path) -> None:
    MLXAutoModel.from_pretrained(bare)
    mlx_model = MLXAutoModel.from_pretrained(bare, output_attentions=True, output_hidden_states=True)
    torch_model = transformers.BertModel.from_pretrained(bare, output_attentions=True, output_hidden_states=True)
    with torch.no_grad():
        expected = torch_model(**{name: torch.tensor(value) for name, value in ragged_inputs(BERT).items()})
    found = mlx_model(**ragged_inputs(BERT))
    mask = ragged_inputs(BERT)["attention_mask"].astype(bool)
    for mlx_value, their in zip(found.attentions, expected.attentions, strict=True):
        assert np.abs(mlx_value - their.numpy()).transpose(0, 2, 1, 3)[mask].max() < ABSOLUTE
    assert len(found.hidden_states) == len(expected.hidden_states) == 4
    assert conversions(bridge_cache) == 1


def test_return_dict_over_the_config_gives_a_tuple(bare: Path) -> None:
    found = MLXAutoModel.from_pretrained(bare, return_dict=False)(**ragged_inputs(BERT))
    assert type(found) is tuple
    assert len(found) == 2


OVERRIDES: dict[str, dict[str, Any]] = {
    "id2label alone": {"id2label": {0: "a", 1: "b", 2: "c"}},
    "both label maps": {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}},
    "the same num_labels": {"num_labels": 3},
    "problem_type": {"problem_type": "multi_label_classification"},
    "dropout": {"hidden_dropout_prob": 0.5, "classifier_dropout": 0.25},
}


@pytest.mark.parametrize("asked", OVERRIDES)
def test_a_key_over_the_config_is_set_as_transformers_sets_it(asked: str, classifier: Path, bridge_cache: Path) -> None:
    torch_model = transformers.BertForSequenceClassification.from_pretrained(classifier, **OVERRIDES[asked])
    mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(classifier, **OVERRIDES[asked])
    for key in ("id2label", "label2id", "num_labels", "problem_type", "hidden_dropout_prob", "classifier_dropout"):
        assert getattr(mlx_model.config, key) == getattr(torch_model.config, key)
    assert same(mlx_model, torch_model, "logits")
    MLXAutoModelForSequenceClassification.from_pretrained(classifier)
    assert conversions(bridge_cache) == 1


def test_a_later_load_without_the_key_has_the_files_own(classifier: Path) -> None:
    before = MLXAutoModelForSequenceClassification.from_pretrained(classifier, id2label={0: "a", 1: "b", 2: "c"})
    after = MLXAutoModelForSequenceClassification.from_pretrained(classifier)
    assert before.config.id2label[0] == "a"
    assert after.config.id2label[0] == "class 0"


def test_num_labels_and_id2label_that_contradict_each_other_are_a_value_error(classifier: Path) -> None:
    with pytest.raises(ValueError, match=r"num_labels=3 and id2label=\{0: 'a'\} contradict each other"):
        MLXAutoModelForSequenceClassification.from_pretrained(classifier, num_labels=3, id2label={0: "a"})


@pytest.mark.parametrize("given", ["object", "dict", "folder", "file", "mlx config"])
def test_config_takes_the_place_of_the_file(given: str, bare: Path, tmp_path: Path, bridge_cache: Path) -> None:
    config = transformers.BertConfig.from_pretrained(bare, hidden_act="relu")
    config.save_pretrained(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(bare, hidden_act="relu").config
    spelled = {
        "object": config, "dict": config.to_dict(), "folder": tmp_path, "file": str(tmp_path / "config.json"),
        "mlx config": mlx_model,
    }[given]  # fmt: skip
    found = MLXAutoModel.from_pretrained(bare, config=spelled)
    assert same(found, transformers.BertModel.from_pretrained(bare, config=config))
    assert not same(MLXAutoModel.from_pretrained(bare), found)


def test_the_config_object_of_the_file_itself_is_the_same_conversion(bare: Path, bridge_cache: Path) -> None:
    MLXAutoModel.from_pretrained(bare)
    MLXAutoModel.from_pretrained(bare, config=transformers.AutoConfig.from_pretrained(bare))
    assert conversions(bridge_cache) == 1


def test_config_serves_a_folder_without_one(copy: Path) -> None:
    torch_model = transformers.BertModel.from_pretrained(copy)
    (copy / "config.json").unlink()
    assert same(MLXAutoModel.from_pretrained(copy, config=torch_model.config), torch_model)


def test_a_config_of_another_type_is_a_type_error(bare: Path) -> None:
    with pytest.raises(TypeError, match=r"config is a int, expected a config object, a dict, or the path"):
        MLXAutoModel.from_pretrained(bare, config=3)


@pytest.mark.parametrize("recipe", [None, "q8"])
def test_fewer_layers_leave_the_others_out_and_say_so(recipe: str | None, wide: Path) -> None:
    torch_model, told = transformers.BertModel.from_pretrained(wide, num_hidden_layers=1, output_loading_info=True)
    for _ in range(2):
        mlx_model, info = MLXAutoModel.from_pretrained(
            wide, num_hidden_layers=1, quantization_config=recipe, output_loading_info=True
        )
        assert info["unexpected_keys"] == set(told["unexpected_keys"])
    assert recipe or same(mlx_model, torch_model)


def test_add_pooling_layer_is_taken_by_name_and_by_position(bare: Path) -> None:
    for mlx_model in (
        MLXAutoModel.from_pretrained(bare, False),
        MLXAutoModel.from_pretrained(bare, add_pooling_layer=False),
    ):
        assert list(mlx_model(**ragged_inputs(BERT))) == ["last_hidden_state"]
    with pytest.raises(TypeError, match=r"got \(True, 3\) by position, expected at most add_pooling_layer"):
        MLXAutoModel.from_pretrained(bare, True, 3)
    for given in ((True,), ()):
        with pytest.raises(TypeError, match=r"by position, expected nothing|which a head decides for itself"):
            MLXAutoModelForMaskedLM.from_pretrained(bare, *given, **({} if given else {"add_pooling_layer": True}))


# The load report ----------------------------------------------------------------------------------------------------


def report_of(model: Any, folder: Path, **given: Any) -> dict[str, Any]:
    """Return the loading info with sets of strings."""
    _, info = model.from_pretrained(folder, output_loading_info=True, **given)
    return {key: set(map(str, value)) for key, value in info.items()}


def test_output_loading_info_is_transformers_for_a_whole_checkpoint(classifier: Path) -> None:
    given = report_of(MLXAutoModelForSequenceClassification, classifier)
    assert given == report_of(transformers.AutoModelForSequenceClassification, classifier)
    assert not any(given.values())


def test_output_loading_info_is_transformers_for_another_tasks_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, BERT, "ForMaskedLM")
    assert report_of(MLXAutoModel, tmp_path) == report_of(transformers.AutoModel, tmp_path)
    assert "BertModel LOAD REPORT from:" in caplog.text
    assert "cls.predictions.bias" in caplog.text
    assert "UNEXPECTED" in caplog.text


def test_a_head_that_is_missing_is_an_error_unless_asked_for(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers initializes it at random with or without the argument."""
    with pytest.raises(RuntimeError, match=r"lacks 2 tensors that the model needs: classifier"):
        MLXAutoModelForSequenceClassification.from_pretrained(bare)
    given = report_of(MLXAutoModelForSequenceClassification, bare, ignore_mismatched_sizes=True)
    assert given == report_of(transformers.AutoModelForSequenceClassification, bare)
    assert "A HEAD IS INITIALIZED AT RANDOM" in caplog.text


def test_a_base_that_is_missing_stays_an_error(copy: Path) -> None:
    rewrite(copy, lambda tensors: {name: tensor for name, tensor in tensors.items() if "layer.1." not in name})
    with pytest.raises(RuntimeError, match=r"lacks 16 tensors"):
        MLXAutoModel.from_pretrained(copy, ignore_mismatched_sizes=True)


def test_another_number_of_labels_is_an_error_unless_asked_for(
    classifier: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for model in (transformers.AutoModelForSequenceClassification, MLXAutoModelForSequenceClassification):
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            model.from_pretrained(classifier, num_labels=5)
    asked = {"num_labels": 5, "ignore_mismatched_sizes": True}
    given = report_of(MLXAutoModelForSequenceClassification, classifier, **asked)
    assert given["mismatched_keys"] == {
        str((name, tuple(file), tuple(model)))
        for name, file, model in transformers.AutoModelForSequenceClassification.from_pretrained(
            classifier, output_loading_info=True, **asked
        )[1]["mismatched_keys"]
    }
    mlx_model = MLXAutoModelForSequenceClassification.from_pretrained(classifier, **asked)
    assert hidden(mlx_model, "logits").shape[-1] == mlx_model.config.num_labels == len(mlx_model.config.label2id) == 5
    assert "initialized AT RANDOM" in caplog.text


def test_a_drawn_head_stands_on_the_checkpoints_own_encoder(bare: Path) -> None:
    mlx_model = MLXAutoModelForTokenClassification.from_pretrained(
        bare, ignore_mismatched_sizes=True, output_hidden_states=True
    )
    last = mlx_model(**ragged_inputs(BERT)).hidden_states[-1]
    assert max_difference(last, hidden(transformers.BertModel.from_pretrained(bare)), ragged_inputs(BERT)) < ABSOLUTE


# Custom code in the repo, transformers' AutoModel, and unsupported uses ---------------------------------------------


def test_code_of_the_repos_own_is_never_run(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_config(copy, auto_map={"AutoModel": "modeling_evil.Evil"})
    (copy / "modeling_evil.py").write_text("raise SystemExit('ran')")
    assert MLXAutoModel.from_pretrained(copy, trust_remote_code=True).config.model_type == "bert"
    assert "has custom modeling code, which is not run" in caplog.text
    edit_config(copy, model_type="evil")
    with pytest.raises(ValueError, match=r"model_type='evil'.*auto_map .*code of the repo, which is never run"):
        MLXAutoModel.from_pretrained(copy, trust_remote_code=True)


def test_a_registered_class_takes_what_auto_model_passes(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Registered(MLXAutoModel):
        config_class = transformers.BertConfig

        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
            seen.update(kwargs)
            return super().from_pretrained(*args, **kwargs)

    mapping = transformers.AutoModel._model_mapping
    monkeypatch.setattr(mapping, "_extra_content", {transformers.BertConfig: Registered})
    config = transformers.AutoConfig.from_pretrained(bare, output_attentions=True)
    mlx_model = transformers.AutoModel.from_pretrained(bare, config=config, dtype="float16", device_map=None)
    assert {"_from_auto", "trust_remote_code", "adapter_kwargs", "config", "dtype", "device_map"} <= set(seen)
    assert mlx_model.dtype == mx.float16
    assert mlx_model(**ragged_inputs(BERT)).attentions is not None


def test_an_auto_class_is_not_made_directly() -> None:
    for model in (transformers.AutoModel, MLXAutoModel):
        with pytest.raises(OSError, match="is designed to be instantiated"):
            model()


def test_a_model_of_a_config_alone_is_refused(bare: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"from_config\(\) would make a model of random weights"):
        MLXAutoModel.from_config(transformers.BertConfig.from_pretrained(bare))
