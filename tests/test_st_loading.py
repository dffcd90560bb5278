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
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from st_checkpoints import TEXTS, TOLERANCE, randomized, transformer

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, InputError, UnsupportedModelError
from mlx_hf_bridge.pretrained.arguments import note_custom_code


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


@pytest.fixture(scope="module")
def two_weights(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a copy of the repo with other weights in pytorch_model.bin."""
    folder = tmp_path_factory.mktemp("two") / "repo"
    shutil.copytree(repo, folder)
    weights = {name: tensor.clone() * 0.5 for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_kwargs": {"use_safetensors": False}},
        {"model_kwargs": {"add_pooling_layer": False, "low_cpu_mem_usage": True, "ignore_mismatched_sizes": False}},
        {"model_kwargs": {"revision": "x", "token": "x", "local_files_only": True, "code_revision": "x"}},
        {"processor_kwargs": {"do_lower_case": False}},
        {"processor_kwargs": {"do_lower_case": True, "truncation_side": "left", "model_max_length": 5}},
        {"config_kwargs": {"attention_probs_dropout_prob": 0.5, "unpad_inputs": True, "use_cache": False}},
        {"config_kwargs": {"hidden_act": "relu", "layer_norm_eps": 0.1}},
    ],
    ids=str,
)
def test_dicts_of_options_are_taken_as_sentence_transformers_takes_them(
    arguments: dict[str, Any], two_weights: Path
) -> None:
    assert_same(two_weights, ["The CAT sat on the mat", "a dog"], **arguments)


@pytest.mark.parametrize(
    "saved",
    [
        {"model_args": {"use_safetensors": False}},
        {"tokenizer_args": {"model_max_length": 5, "truncation_side": "left"}, "unpad_inputs": None},
        {"config_kwargs": {"hidden_act": "relu", "revision": "x", "trust_remote_code": True}},
    ],
    ids=str,
)
def test_sentence_bert_config_holds_options_too(saved: dict[str, Any], two_weights: Path, tmp_path: Path) -> None:
    folder = rewrite(two_weights, tmp_path, "sentence_bert_config.json", lambda _: saved)
    assert_same(folder, TEXTS[:2])
    kwargs = {"processor_kwargs": {"model_max_length": 4}}
    assert_same(folder, TEXTS[:2], **kwargs)


@pytest.mark.parametrize(
    ("saved", "error", "message"),
    [
        ({"max_sequence_length": 5}, ConfigError, "has max_sequence_length, which is not an argument"),
        ({"model_kwargs": [1]}, ConfigError, r"has model_kwargs=\[1\], expected an object"),
        ({"tokenizer_name_or_path": "org/x"}, UnsupportedModelError, "another repo's tokenizer"),
    ],
)
def test_settings_that_would_be_ignored_are_errors(
    saved: Any, error: type, message: str, repo: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        MLXSentenceTransformer(rewrite(repo, tmp_path, "sentence_bert_config.json", lambda _: saved))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_kwargs": {"subfolder": "x"}}, "model_kwargs has subfolder='x'.*Give the path"),
        ({"model_kwargs": {"gguf_file": "x"}}, "model_kwargs has gguf_file.*Load the original checkpoint"),
        ({"model_kwargs": {"frobnicate": 1}}, "model_kwargs has frobnicate, which is not supported here. Leave it out"),
        ({"processor_kwargs": {"frobnicate": 1}}, "processor_kwargs has frobnicate"),
        ({"config_kwargs": {"cross_attention_hidden_size": 1, "chunk_size": 1}}, None),
        ({"processor_kwargs": [1]}, "processor_kwargs is a list, expected a dict"),
    ],
)
def test_options_that_would_be_ignored_are_named(arguments: Any, message: str | None, repo: Path) -> None:
    if message is None:
        # transformers' config class does not have them, and AutoConfig drops them.
        assert_same(repo, TEXTS[:1], **arguments)
        return
    with pytest.raises(ArgumentTypeError, match=message):
        MLXSentenceTransformer(repo, **arguments)


def test_another_revision_in_a_dict_is_refused(repo: Path, tmp_path: Path) -> None:
    """sentence-transformers takes weights of that revision, and everything else of the constructor's."""
    first, second = "a" * 40, "b" * 40
    base = tmp_path / "models--org--m"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(first)
    for commit in (first, second):
        shutil.copytree(repo, base / "snapshots" / commit)
    options: dict[str, Any] = {"cache_folder": str(tmp_path), "local_files_only": True}
    for kind in ("model_kwargs", "processor_kwargs", "config_kwargs"):
        with pytest.raises(ArgumentTypeError, match=rf"{kind} has revision='b+', .* Pass revision='b+' to the constr"):
            MLXSentenceTransformer("org/m", **options, **{kind: {"revision": second}})
    loaded = MLXSentenceTransformer("org/m", revision=second, model_kwargs={"revision": second}, **options)
    assert loaded[0].loaded.source.revision == second
    kwargs = {"model_kwargs": {"cache_dir": str(tmp_path), "local_files_only": True}}
    assert MLXSentenceTransformer("org/m", **kwargs)[0].loaded.source.revision == first


@pytest.mark.parametrize("arguments", [{"trust_remote_code": True}, {"model_kwargs": {"trust_remote_code": True}}])
def test_a_repos_own_code_is_named_if_it_is_asked_for(
    arguments: Any, repo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = rewrite(repo, tmp_path, "config.json", lambda config: {**config, "auto_map": {"AutoModel": "code.Model"}})
    MLXSentenceTransformer(folder)
    assert not caplog.records
    MLXSentenceTransformer(folder, **arguments)
    MLXSentenceTransformer(folder, **arguments)
    assert [record.message.partition(" has ")[2] for record in caplog.records] == [
        "custom modeling code, which is not run"
    ]


@pytest.mark.parametrize(("is_causal", "said"), [(None, True), (True, True), (False, False)])
def test_code_that_may_undo_a_causal_mask_is_named_with_the_difference(
    is_causal: bool | None, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """gte-Qwen2's own code attends in both directions."""
    config = {"model_type": "qwen2", "auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}
    config |= {} if is_causal is None else {"is_causal": is_causal}
    note_custom_code(f"org/gte-Qwen2-{is_causal}", config, True)
    assert ("attends to earlier ones only, as in transformers' own class" in caplog.text) is said
    assert "which is not run" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokenizer_config.json", {"pad_token": 5}, "pad_token=5, expected a text"),
        ("1_Pooling/config.json", {"pooling_mode": [["mean"]]}, "pooling_mode="),
        ("config_sentence_transformers.json", {"prompts": {"query": 5}}, "prompts={'query': 5}, expected texts"),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": [1]},
            r"similarity_fn_name=\[1\], expected a text",
        ),
        ("config_sentence_transformers.json", {"default_prompt_name": ["x"]}, "default_prompt_name="),
        ("2_Dense/config.json", {"module_output_name": [5]}, r"module_output_name=\[5\], expected a text"),
        ("3_Normalize/config.json", {"module_input_name": [5]}, "module_input_name="),
        ("sentence_bert_config.json", {"modality_config": {"text": 5}}, "another type or form than expected"),
        ("sentence_bert_config.json", {"query_expansion": 5}, "another type or form than expected"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": 5}}, "processing_kwargs="),
    ],
)
def test_values_of_wrong_types_are_errors_when_they_are_read(
    name: str, value: Any, message: str, repo: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        MLXSentenceTransformer(rewrite(repo, tmp_path, name, lambda content: {**content, **value}))


@pytest.mark.parametrize(
    "arguments",
    [{"prompts": {"a": 5}}, {"prompts": ["a"]}, {"default_prompt_name": ["a"]}, {"similarity_fn_name": [1]}],
)
def test_arguments_of_wrong_types_are_named(arguments: dict[str, Any], repo: Path) -> None:
    with pytest.raises((InputError, ConfigError), match=next(iter(arguments))):
        MLXSentenceTransformer(repo, **arguments)
    mlx_model = MLXSentenceTransformer(repo)
    mlx_model.prompts["a"] = arguments
    with pytest.raises(InputError, match=r"prompts\['a'\] is .*, expected a text"):
        mlx_model.encode(TEXTS, prompt_name="a")
