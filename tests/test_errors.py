"""Tests that bad input raises one clear error (given, expected, what to do) of the type that HF raises."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, Row, make_checkpoint, row_name, save_model
from weight_files import edit_config, max_difference, output_array, read_tensors, rewrite

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, errors
from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.models import family_for, model_types

BERT = FAMILIES[0]
QUERY = "encoder.layer.1.attention.self.query.weight"
ABSOLUTE = 2e-5  # as in test_parity.py


def cut_in_half(folder: Path) -> None:
    """Truncate the weight file to half its size."""
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def with_header(header: Any, length: int | None = None) -> Callable[[Path], None]:
    """Return a change that writes a weight file with this safetensors header."""

    def write(folder: Path) -> None:
        content = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(content) if length is None else length
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + content + bytes(64))

    return write


def entry(**changes: Any) -> Callable[[Path], None]:
    """Return a change that writes a weight file with one tensor, whose header entry is altered."""
    return with_header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}})


def config(**values: Any) -> Callable[[Path], None]:
    """Return a change that sets keys of config.json."""
    return lambda folder: edit_config(folder, **values)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Return a change that writes a file."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def removed(name: str) -> Callable[[Path], None]:
    """Return a change that deletes a file."""
    return lambda folder: (folder / name).unlink()


def changed(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    """Return a change that rewrites the tensors."""
    return lambda folder: rewrite(folder, change)


def modules(**changes: Any) -> Callable[[Path], None]:
    """Return a change that writes a modules.json of one module; a value of `...` removes its key."""
    entry = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer", **changes}
    return text("modules.json", json.dumps([{key: value for key, value in entry.items() if value is not ...}]))


# name -> (change to a valid folder, class of the error, type that HF raises there, regular expression for the message).
FOLDERS: dict[str, tuple[Callable[[Path], Any], type, type, str]] = {
    "no config": (
        removed("config.json"),
        errors.MissingConfigError,
        OSError,
        r"has no config\.json\. Give the folder or repo",
    ),
    "config not JSON": (
        text("config.json", "{"),
        errors.ConfigError,
        ValueError,
        r"config\.json is not JSON .* Take the fil",
    ),
    "config not text": (text("config.json", b"\xff\xfe"), errors.ConfigError, ValueError, r"is not JSON"),
    "config not an object": (
        text("config.json", "[]"),
        errors.ConfigError,
        ValueError,
        r"is not a JSON object\. Take the",
    ),
    "no weights": (
        removed("model.safetensors"),
        errors.RepositoryError,
        OSError,
        r"has none of model\.safetensors, .*\.bin",
    ),
    "another tool's weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "weights.npz"),
        errors.RepositoryError,
        OSError,
        r"Its weights\.npz is another tool's float32 output; convert the original checkpoint",
    ),
    "unknown model_type": (
        config(model_type="no_such_model"),
        errors.UnsupportedModelError,
        ValueError,
        rf"model_type='no_such_model'; supported are {', '.join(model_types())}\. Use a checkpoint",
    ),
    "no model_type": (
        config(model_type=...),
        errors.UnsupportedModelError,
        ValueError,
        r"model_type=None; supported are",
    ),
    "model_type a number": (
        config(model_type=3),
        errors.ConfigError,
        ValueError,
        r"model_type=3, expected a string such as 'bert'",
    ),
    "model_type a path": (
        config(model_type="../bert"),
        errors.UnsupportedModelError,
        ValueError,
        r"model_type='\.\./bert'",
    ),
    "truncated weights": (
        cut_in_half,
        errors.CheckpointError,
        OSError,
        r"is truncated: .* ends at byte \d+ of \d+\. Delete",
    ),
    "empty weights": (
        text("model.safetensors", b""),
        errors.CheckpointError,
        OSError,
        r"is empty. Download it aga",
    ),
    "garbage header": (
        with_header(b"\xff{}{"),
        errors.CheckpointError,
        OSError,
        r"no readable safetensors header .* Delete",
    ),
    "header too long": (with_header({}, 10**9), errors.CheckpointError, OSError, r"too few for a safetensors header"),
    "header a list": (with_header([]), errors.CheckpointError, OSError, r"has no readable safetensors header"),
    "header a list in an entry": (
        with_header({"x": []}),
        errors.CheckpointError,
        OSError,
        r"no readable safetensors header",
    ),
    "header without offsets": (
        with_header({"x": {"dtype": "F32", "shape": []}}),
        errors.CheckpointError,
        OSError,
        r"header",
    ),
    "header with a dtype of its own": (
        entry(dtype="F13"),
        errors.CheckpointError,
        OSError,
        r"x with the unknown dtype 'F13'",
    ),
    "header with a negative shape": (
        entry(shape=[-2]),
        errors.CheckpointError,
        OSError,
        r"no readable safetensors header",
    ),
    "header with a wrong size": (entry(shape=[3]), errors.CheckpointError, OSError, r"is truncated|no readable"),
    "header with a negative offset": (entry(data_offsets=[-8, 0]), errors.CheckpointError, OSError, r"header"),
    "header with three offsets": (entry(data_offsets=[0, 4, 8]), errors.CheckpointError, OSError, r"header"),
    "header with text for a shape": (entry(shape="22"), errors.CheckpointError, OSError, r"header"),
    "wrong shape": (
        changed(lambda tensors: {**tensors, QUERY: torch.ones(3, 24)}),
        errors.WeightsError,
        RuntimeError,
        rf"{QUERY} has \(3, 24\), expected \(24, 24\)\. Check that the two belong together",
    ),
    "missing tensor": (
        changed(lambda tensors: {name: tensor for name, tensor in tensors.items() if name != QUERY}),
        errors.WeightsError,
        RuntimeError,
        rf"lacks 1 tensors that the model needs: {QUERY}\. Give a checkpoint that has them",
    ),
    "many missing": (
        changed(lambda tensors: {name: tensor for name, tensor in tensors.items() if "encoder" not in name}),
        errors.WeightsError,
        RuntimeError,
        r"lacks 48 tensors .* and 40 more\. Give",
    ),
    "unexpected tensor": (
        changed(lambda tensors: {**tensors, "adapter.weight": torch.ones(2)}),
        errors.WeightsError,
        RuntimeError,
        r"has 1 tensors that the model has no parameter for: adapter\.weight\. Its architecture is not the one",
    ),
    "relative positions": (
        config(position_embedding_type="relative_key"),
        errors.ConfigError,
        ValueError,
        r"position_embedding_type='relative_key', which 'bert' does not support here; .* Use a checkpoint without it",
    ),
    "decoder": (
        config(is_decoder=True),
        errors.ConfigError,
        ValueError,
        r"is_decoder=True, which 'bert' does not support",
    ),
    "cross attention": (config(add_cross_attention=True), errors.ConfigError, ValueError, r"add_cross_attention=True"),
    "unknown activation": (
        config(hidden_act="swiglu"),
        errors.ConfigError,
        ValueError,
        r"hidden_act='swiglu'; known are gelu, .*relu.*\. Take the file of the original checkpoint, or use tr",
    ),
    "activation a list": (
        config(hidden_act=["gelu"]),
        errors.ConfigError,
        ValueError,
        r"hidden_act=\['gelu'\]; known are",
    ),
    "no hidden_size": (
        config(hidden_size=...),
        errors.WeightsError,
        RuntimeError,
        r"tensors of another shape than config\.json says: .* expected \(.*768\)",
    ),
    "hidden_size null": (
        config(hidden_size=None),
        errors.ConfigError,
        ValueError,
        r"hidden_size=None, expected an integer",
    ),
    "vocab_size text": (
        config(vocab_size="101"),
        errors.ConfigError,
        ValueError,
        r"vocab_size='101', expected an integer",
    ),
    "layers a fraction": (
        config(num_hidden_layers=2.5),
        errors.ConfigError,
        ValueError,
        r"num_hidden_layers=2\.5, expected",
    ),
    "layers negative": (
        config(num_hidden_layers=-1),
        errors.ConfigError,
        ValueError,
        r"num_hidden_layers=-1, expected an integer",
    ),
    "layers a truth": (
        config(num_hidden_layers=True),
        errors.ConfigError,
        ValueError,
        r"num_hidden_layers=True, expected",
    ),
    "no heads": (
        config(num_attention_heads=0),
        errors.ConfigError,
        ValueError,
        r"num_attention_heads=0, expected an integer",
    ),
    "eps text": (
        config(layer_norm_eps="1e-5"),
        errors.ConfigError,
        ValueError,
        r"layer_norm_eps='1e-5', expected a number",
    ),
    "padding id text": (
        config(pad_token_id="0"),
        errors.ConfigError,
        ValueError,
        r"pad_token_id='0', expected an integer",
    ),
    "padding id negative": (
        config(pad_token_id=-2),
        errors.ConfigError,
        ValueError,
        r"pad_token_id=-2, expected an integer",
    ),
    "uneven heads": (
        config(num_attention_heads=5),
        errors.ConfigError,
        ValueError,
        r"hidden_size=24 and num_attention_heads=5; the first must be a multiple of the second",
    ),
    "labels a list": (config(id2label=["a", "b"]), errors.ConfigError, ValueError, r"id2label=\['a', 'b'\], expected"),
    "labels under words": (config(id2label={"a": 0}), errors.ConfigError, ValueError, r"id2label=\{'a': 0\}, expected"),
    "num_labels text": (
        config(id2label=..., num_labels="3"),
        errors.ConfigError,
        ValueError,
        r"num_labels='3', expected",
    ),
    "label2id a list": (config(label2id=[1]), errors.ConfigError, ValueError, r"label2id=\[1\], expected"),
    "modules.json not JSON": (text("modules.json", "["), errors.ConfigError, ValueError, r"modules\.json is not JSON"),
    "modules.json an object": (
        text("modules.json", "{}"),
        errors.ConfigError,
        ValueError,
        r"modules\.json is not a list of",
    ),
    "modules.json of words": (
        text("modules.json", '["a"]'),
        errors.ConfigError,
        ValueError,
        r"modules\.json is not a list of",
    ),
    "module without type": (modules(type=...), errors.ConfigError, ValueError, r"modules\.json is not a list of"),
    "module path a number": (modules(path=3), errors.ConfigError, ValueError, r"has the path 3, expected a text"),
    "module path up": (
        modules(path="../other"),
        errors.ConfigError,
        ValueError,
        r"the path '\.\./other', which is outside the folder",
    ),
    "module path up inside": (
        modules(path="a/../../b"),
        errors.ConfigError,
        ValueError,
        r"which is outside the folder",
    ),
    "module path absolute": (
        modules(path="/etc"),
        errors.ConfigError,
        ValueError,
        r"the path '/etc', which is outside the folder",
    ),
    "index not JSON": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.safetensors.index.json"),
        errors.CheckpointError,
        OSError,
        r"index\.json is not a weight index with a weight_map\. Delete",
    ),
    "index of numbers": (
        lambda folder: (
            removed("model.safetensors")(folder),
            text("model.safetensors.index.json", '{"weight_map": {"a": 1}}')(folder),
        ),
        errors.CheckpointError,
        OSError,
        r"is not a weight index with a weight_map",
    ),
    "adapter of another kind": (
        lambda folder: text("adapter_config.json", '{"peft_type": "IA3"}')(folder),
        errors.UnsupportedModelError,
        ValueError,
        r"adapter_config\.json has peft_type='IA3'; only LORA is merged\. Merge it with peft",
    ),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_bad_folder_is_one_clear_error_and_leaves_nothing(fault: str, tmp_path: Path, bridge_cache: Path) -> None:
    make_checkpoint(tmp_path)
    spoil, kind, torch_model, message = FOLDERS[fault]
    spoil(tmp_path)
    with pytest.raises(BridgeError, match=message) as caught:
        MLXAutoModel.from_pretrained(tmp_path)
    assert type(caught.value) is kind
    assert isinstance(caught.value, torch_model)
    left = bridge_cache / "converted"
    assert not left.exists() or all(path.suffix == ".lock" for path in left.iterdir())


NO_REPOS: dict[str, str] = {
    "org/nothing": r"'org/nothing' \(revision 'main'\) is not in the Hub's cache on this machine.*or give a folder\.",
    "nothing": r"'nothing' \(revision 'main'\) is not in the Hub's cache",
    "./no/such/folder": r"is neither a folder on this machine nor a Hub id .* Check the path, or give the id of a rep",
    "/no/such/folder": r"is neither a folder on this machine nor a Hub id",
    "a/b/c": r"is neither a folder on this machine nor a Hub id",
    "with space": r"is neither a folder on this machine nor a Hub id",
    "org/a..b": r"is not a valid Hub id|is not in the Hub's cache",
    "-dash/name": r"is not a valid Hub id",
    "": r"'' is neither a folder on this machine nor a Hub id",
}


@pytest.mark.parametrize("name", NO_REPOS)
def test_a_name_that_is_no_repo_is_one_clear_error(name: str, tmp_path: Path, bridge_cache: Path) -> None:
    with pytest.raises(errors.RepositoryError, match=NO_REPOS[name]) as caught:
        MLXAutoModel.from_pretrained(name, cache_dir=tmp_path)
    assert isinstance(caught.value, OSError)
    assert not bridge_cache.exists()


@pytest.mark.parametrize("name", [None, 3, ["a"]])
def test_a_name_of_another_type_is_a_type_error(name: Any) -> None:
    with pytest.raises(errors.ArgumentTypeError, match=r"expected a folder or a Hub id as text"):
        MLXAutoModel.from_pretrained(name)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises(errors.RepositoryError, match=r"model\.safetensors' is neither a folder"):
        MLXAutoModel.from_pretrained(tmp_path / "model.safetensors")


@pytest.mark.parametrize("argument", ["foo", "trust_remote_cod", "quantisation"])
def test_an_unknown_argument_is_a_type_error(argument: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    message = rf"from_pretrained\(\) got {argument}, which is neither an argument nor a key .* Omit it"
    with pytest.raises(errors.ArgumentTypeError, match=message) as caught:
        MLXAutoModel.from_pretrained(tmp_path, **{argument: True})
    assert isinstance(caught.value, TypeError)


def test_an_auto_class_is_not_made_directly() -> None:
    with pytest.raises(
        OSError, match=r"MLXAutoModel is designed to be instantiated using `MLXAutoModel\.from_pretrained"
    ):
        MLXAutoModel()


def test_a_missing_head_names_it(tmp_path: Path, bridge_cache: Path) -> None:
    make_checkpoint(tmp_path)
    for _ in range(2):
        with pytest.raises(
            errors.WeightsError, match=r"lacks 2 tensors .*: classifier\.weight, classifier\.bias\. Give"
        ):
            MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bert")
    make_checkpoint(folder)
    patch = pytest.MonkeyPatch()
    patch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield MLXAutoModel.from_pretrained(folder)
    patch.undo()


IDS = np.array([[2, 6, 7, 3]])
CALLS: dict[str, tuple[dict[str, Any], type, type, str]] = {
    "no ids": (
        {},
        errors.InputError,
        ValueError,
        r"got neither of input_ids and inputs_embeds, expected one of them\. Pass token ids \(B, L\)",
    ),
    "ids beyond the vocabulary": (
        {"input_ids": IDS + 95},
        errors.TokenRangeError,
        IndexError,
        r"input_ids has values from 97 to 102, and the model's table has 0 to 100 \(vocab_size\)\. Check that",
    ),
    "negative ids": ({"input_ids": -IDS}, errors.TokenRangeError, IndexError, r"input_ids has values from -7 to -2"),
    "flat ids": (
        {"input_ids": IDS[0]},
        errors.InputError,
        ValueError,
        r"has the shape \(4,\), expected \(texts, tokens\)",
    ),
    "no tokens": ({"input_ids": IDS[:, :0]}, errors.InputError, ValueError, r"has the shape \(1, 0\), expected"),
    "no texts": ({"input_ids": IDS[:0]}, errors.InputError, ValueError, r"has the shape \(0, 4\), expected"),
    "ids that are fractions": (
        {"input_ids": IDS + 0.5},
        errors.ArgumentTypeError,
        TypeError,
        r"input_ids .* float64, expec",
    ),
    "ids that are words": (
        {"input_ids": np.array([["a"]])},
        errors.ArgumentTypeError,
        TypeError,
        r"expected integers",
    ),
    "ids that are text": (
        {"input_ids": "the cat"},
        errors.ArgumentTypeError,
        TypeError,
        r"got a str, expected an mlx, numpy",
    ),
    "ragged lists": ({"input_ids": [[1, 2], [3]]}, errors.InputError, ValueError, r"input_ids .* of different lengths"),
    "token types outside": (
        {"input_ids": IDS, "token_type_ids": np.array([[0, 1, 2, 3]])},
        errors.TokenRangeError,
        IndexError,
        r"token_type_ids has values from 0 to 3, and the model's table has 0 to 2 \(type_vocab_size\)",
    ),
    "token types negative": (
        {"input_ids": IDS, "token_type_ids": -IDS},
        errors.TokenRangeError,
        IndexError,
        r"from -7 to -2",
    ),
    "a mask of another shape": (
        {"input_ids": IDS, "attention_mask": np.ones((1, 5))},
        errors.InputError,
        ValueError,
        r"attention_mask has the shape \(1, 5\), expected that of input_ids, \(1, 4\)",
    ),
    "a mask for each query": (
        {"input_ids": IDS, "attention_mask": np.ones((1, 4, 4))},
        errors.InputError,
        ValueError,
        r"attention_mask has the shape \(1, 4, 4\)",
    ),
    "places outside": (
        {"input_ids": IDS, "position_ids": IDS + 40},
        errors.TokenRangeError,
        IndexError,
        r"reach position 47, and the model has positions 0 to 43",
    ),
    "places negative": ({"input_ids": IDS, "position_ids": -IDS}, errors.TokenRangeError, IndexError, r"position -7"),
    "too long": (
        {"input_ids": np.full((1, 45), 6)},
        errors.TokenRangeError,
        IndexError,
        r"45 tokens reach position 44, and the model has positions 0 to 43 \(at most 44 tokens\)\. Truncate the texts",
    ),
}


@pytest.mark.parametrize("kind", ["numpy", "torch", "mlx"])
@pytest.mark.parametrize("call", CALLS)
def test_a_bad_call_is_one_clear_error(call: str, kind: str, bert: Any) -> None:
    """MLX itself would read past the end of an embedding table for ids, token types and positions out of range."""
    arguments, own, torch_model, message = CALLS[call]
    made = {"numpy": np.asarray, "torch": torch.tensor, "mlx": mx.array}[kind]
    convertible = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    if any(value.dtype.kind == "U" for value in convertible.values()) or len(convertible) != len(arguments):
        convertible, made = {}, np.asarray
    if kind == "mlx" and call == "ids that are fractions":
        message = r"input_ids .* float32, expected integers"
    with pytest.raises(own, match=message) as caught:
        bert(**{**arguments, **{name: made(value) for name, value in convertible.items()}})
    assert isinstance(caught.value, torch_model)


@pytest.mark.parametrize("row", [row for row in FAMILIES if row.has_position_table], ids=row_name)
def test_the_longest_text_works_as_in_transformers_and_one_more_token_raises(row: Row, tmp_path: Path) -> None:
    """RoBERTa accepts texts of up to max_position_embeddings - pad_token_id - 1 tokens."""
    torch_model = save_model(tmp_path, row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    kind = family_for({"model_type": row.model_type}).config
    first = row.pad_token_id + 1 if issubclass(kind, OffsetPositionsConfig) else 0
    longest = 44 - first
    ids = np.random.default_rng(0).integers(5, 101, (2, longest + 1))
    inputs = {"input_ids": ids[:, :longest], "attention_mask": np.ones((2, longest), np.int64)}
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
        )
        < ABSOLUTE
    )
    with pytest.raises((IndexError, RuntimeError, ValueError)), torch.no_grad():
        torch_model(input_ids=torch.tensor(ids))
    message = rf"{longest + 1} tokens reach position 44, .* \(at most {longest} tokens\)\. Truncate the texts"
    with pytest.raises(errors.TokenRangeError, match=message):
        mlx_model(ids)
    if first:
        padded = np.concatenate([ids[:, :longest], np.full((2, 5), row.pad_token_id)], axis=1)
        inputs = {"input_ids": padded, "attention_mask": (padded != row.pad_token_id).astype(np.int64)}
        assert (
            max_difference(
                *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
            )
            < ABSOLUTE
        )


@pytest.mark.parametrize(
    "row", [row for row in FAMILIES if not row.token_types and not row.ignores_token_types], ids=row_name
)
def test_segments_for_a_family_without_them_are_ignored_as_in_transformers(row: Row, tmp_path: Path) -> None:
    """AutoTokenizer returns token type ids for DistilBERT pairs, and transformers' model silently ignores them."""
    save_model(tmp_path, row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        mlx_model(IDS, token_type_ids=IDS).last_hidden_state, mlx_model(IDS).last_hidden_state
    )


def test_every_error_is_a_bridge_error_and_one_of_pythons() -> None:
    tree = [value for value in vars(errors).values() if isinstance(value, type) and value is not BridgeError]
    assert all(issubclass(kind, BridgeError) for kind in tree)
    ordinary = (OSError, ValueError, RuntimeError, TypeError, ImportError, KeyError, ArithmeticError)
    assert all(issubclass(kind, ordinary) for kind in tree)


def test_transformers_refuses_the_same_names_with_the_same_type(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("org/nothing", str(tmp_path / "empty")):
        with pytest.raises((OSError, ValueError)) as transformers_error:
            transformers.AutoModel.from_pretrained(name)
        with pytest.raises((OSError, ValueError)) as bridge_error:
            MLXAutoModel.from_pretrained(name)
        assert isinstance(bridge_error.value, OSError) or isinstance(transformers_error.value, ValueError)


def test_the_tensors_of_a_good_folder_are_untouched_by_all_this(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    before = read_tensors(tmp_path)
    MLXAutoModel.from_pretrained(tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in read_tensors(tmp_path).items())
