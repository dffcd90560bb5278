"""Every tensor of a checkpoint is assigned, kept unused, ignored by name, or named in an error."""

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from checkpoints import (
    FAMILIES,
    Row,
    make_checkpoint,
    make_model,
    mlx_class,
    plainest_head,
    ragged_inputs,
    row_name,
    save_model,
)
from weight_files import edit_config, max_difference, output_array, read_tensors, rename, rewrite, write_tensors

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification
from mlx_hf_bridge.architecture.family import BASE_TASK, HF_SUFFIXES
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.checkpoints.torch_file import TorchFile
from mlx_hf_bridge.errors import CheckpointError, WeightsError
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.weights.name_mapping import NameMapping

BERT, ROBERTA = FAMILIES[0], FAMILIES[2]
# float32 tolerance across kernels; worst observed 1e-6 (tests/test_parity.py).
ABSOLUTE = 2e-5


def hidden_differs_by(torch_model: Any, folder: Path, row: Row = BERT) -> float:
    inputs = ragged_inputs(row)
    mlx_model = MLXAutoModel.from_pretrained(folder)
    expected = output_array(torch_model, inputs, "last_hidden_state")
    return max_difference(output_array(mlx_model, inputs, "last_hidden_state"), expected, inputs)


SPELLINGS = {
    "prefixed": lambda name: f"bert.{name}",
    "data parallel": lambda name: f"module.{name}",
    "data parallel, prefixed": lambda name: f"module.bert.{name}",
    "mlx-embeddings": lambda name: f"model.{name}",
    "gamma and beta": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
        "LayerNorm.bias", "LayerNorm.beta"
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_known_spelling_of_names_loads(spelling: str, tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path)
    rename(tmp_path, SPELLINGS[spelling])
    assert hidden_differs_by(torch_model, tmp_path) < ABSOLUTE


@pytest.mark.parametrize(
    ("row", "wrapped"),
    [(row, ("module.", "model.")[number % 2]) for number, row in enumerate(FAMILIES)],
    ids=lambda value: value if isinstance(value, str) else row_name(value),
)
def test_a_wrapped_prefixed_checkpoint_of_every_family_loads(row: Row, wrapped: str, tmp_path: Path) -> None:
    head, name = plainest_head(row)
    torch_model = save_model(tmp_path, row, head)
    rename(tmp_path, lambda name: wrapped + name)
    inputs = ragged_inputs(row)
    mlx_model = mlx_class(head).from_pretrained(tmp_path)
    assert (
        max_difference(output_array(mlx_model, inputs, name), output_array(torch_model, inputs, name), inputs)
        < ABSOLUTE
    )


@pytest.mark.parametrize("row", FAMILIES, ids=row_name)
def test_every_name_that_transformers_writes_has_a_place(row: Row, tmp_path: Path) -> None:
    head, _ = plainest_head(row)
    save_model(tmp_path, row, head)
    raw = json.loads((tmp_path / "config.json").read_text())
    [task] = [task for task, suffix in HF_SUFFIXES.items() if suffix == head]
    names = NameMapping(family_for(raw), family_for(raw).config.from_json(raw), task)
    not_converted = {name for name in read_tensors(tmp_path) if any(word in name for word in row.not_converted)}
    assert all(names.is_ignored(name) for name in not_converted)
    places = {name: names.resolve(name) for name in read_tensors(tmp_path) if name not in not_converted}
    carried = {name for name, place in places.items() if place and place.path is None and place.is_base}
    assert not [name for name, place in places.items() if place is None or (place.path is None and name not in carried)]
    used = [place for name, place in places.items() if place and name not in carried]
    assert len({(place.path, place.leaf, place.slice_index) for place in used}) == len(used)


def test_a_missing_pooler_costs_only_the_pooler_output(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch_model = make_checkpoint(tmp_path)
    rewrite(tmp_path, lambda tensors: {name: t for name, t in tensors.items() if "pooler" not in name})
    inputs = ragged_inputs(BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    output = mlx_model(**inputs)
    assert list(output) == ["last_hidden_state"]
    assert output.pooler_output is None
    expected = output_array(torch_model, inputs, "last_hidden_state")
    assert max_difference(output.last_hidden_state, expected, inputs) < ABSOLUTE
    assert "pooler_output is absent" in caplog.text


def test_add_pooling_layer_false_leaves_the_pooler_out(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert list(mlx_model(**ragged_inputs(BERT))) == ["last_hidden_state"]


def test_a_classifier_that_reads_the_pooler_does_not_load_without_it(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, BERT, "ForSequenceClassification")
    rewrite(tmp_path, lambda tensors: {name: t for name, t in tensors.items() if "pooler" not in name})
    with pytest.raises(WeightsError, match=r"lacks 2 tensors that the model needs: pooler\.dense\.(bias|weight)"):
        MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)


HEADS_OF_OTHERS = [
    (BERT, "ForMaskedLM"),
    (BERT, "ForPreTraining"),
    (BERT, "ForTokenClassification"),
    (BERT, "ForQuestionAnswering"),
    (BERT, "ForNextSentencePrediction"),
    (BERT, "ForMultipleChoice"),
    (ROBERTA, "ForMaskedLM"),
    (ROBERTA, "ForQuestionAnswering"),
    (FAMILIES[3], "ForMaskedLM"),
    (FAMILIES[4], "ForTokenClassification"),
    (FAMILIES[5], "ForMaskedLM"),
    (FAMILIES[5], "ForQuestionAnswering"),
    (FAMILIES[6], "ForMaskedLM"),
    (FAMILIES[6], "ForMultipleChoice"),
    (FAMILIES[7], "ForMaskedLM"),
    (FAMILIES[7], "ForPreTraining"),
    (FAMILIES[7], "ForMultipleChoice"),
    (FAMILIES[9], "ForMaskedLM"),
    (FAMILIES[9], "ForPreTraining"),
]


@pytest.mark.parametrize(("row", "head"), HEADS_OF_OTHERS, ids=lambda value: getattr(value, "model_type", value))
def test_heads_of_other_tasks_are_carried_along(row: Row, head: str, tmp_path: Path) -> None:
    """Masked language models with tied weights, and checkpoints whose names have a prefix, load for any task."""
    torch_model = save_model(tmp_path, row, head, labels=2 if head == "ForQuestionAnswering" else 3)
    assert hidden_differs_by(torch_model.base_model, tmp_path, row) < ABSOLUTE
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert set(mx.load(str(mlx_model.folder / "model.safetensors"))) == set(read_tensors(tmp_path))


@pytest.mark.parametrize("first", [MLXAutoModel, MLXAutoModelForSequenceClassification])
def test_base_and_classifier_come_from_one_conversion(first: Any, tmp_path: Path, bridge_cache: Path) -> None:
    torch_model = make_checkpoint(tmp_path, BERT, "ForSequenceClassification")
    second = {MLXAutoModel: MLXAutoModelForSequenceClassification}.get(first, MLXAutoModel)
    inputs = ragged_inputs(BERT)
    for auto in (first, second):
        mlx_model = auto.from_pretrained(tmp_path)
        base = auto is MLXAutoModel
        name, reference = ("last_hidden_state", torch_model.bert) if base else ("logits", torch_model)
        assert (
            max_difference(output_array(mlx_model, inputs, name), output_array(reference, inputs, name), inputs)
            < ABSOLUTE
        )
    assert len([path for path in (bridge_cache / "converted").iterdir() if path.is_dir()]) == 1


def without(name: str) -> Any:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_extra(name: str) -> Any:
    return lambda tensors: {**tensors, name: torch.ones(24)}


def reshaped(name: str) -> Any:
    return lambda tensors: {**tensors, name: torch.ones(23, 24)}


QUERY = "encoder.layer.1.attention.self.query.weight"
FAULTS = {
    "missing": (without(QUERY), rf"lacks 1 tensors that the model needs: {QUERY}\. Give a checkpoint that has"),
    "unexpected module": (
        with_extra("encoder.adapter.weight"),
        r"1 tensors .*no parameter for: encoder\.adapter\.weight\. ",
    ),
    "unexpected leaf": (with_extra("embeddings.LayerNorm.offset"), r"no parameter for: embeddings\.LayerNorm"),
    "layer too many": (with_extra("encoder.layer.3.output.dense.bias"), r"no parameter for: encoder\.layer\.3\.output"),
    "wrong shape": (reshaped(QUERY), rf"{QUERY} has \(23, 24\), expected \(24, 24\)\. Check that the two belong"),
    "wrong rank": (lambda t: {**t, QUERY: torch.ones(24)}, rf"{QUERY} has \(24,\), expected \(24, 24\)"),
    "whole numbers": (
        lambda t: {**t, QUERY: torch.ones(24, 24, dtype=torch.int8)},
        rf"{QUERY} in .* has the dtype I8, expected a float one",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_that_does_not_fit_is_named_in_the_error(fault: str, tmp_path: Path, bridge_cache: Path) -> None:
    make_checkpoint(tmp_path)
    change, message = FAULTS[fault]
    rewrite(tmp_path, change)
    with pytest.raises(WeightsError, match=message):
        MLXAutoModel.from_pretrained(tmp_path)
    assert not [path for path in (bridge_cache / "converted").iterdir() if path.suffix != ".lock"]


def test_two_spellings_of_one_tensor_are_an_error(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    rewrite(tmp_path, lambda tensors: {**tensors, f"bert.{QUERY}": torch.ones(24, 24)})
    with pytest.raises(WeightsError, match=rf"bert\.{QUERY} and {QUERY}|{QUERY} and bert\.{QUERY}"):
        MLXAutoModel.from_pretrained(tmp_path)


def test_buffers_that_transformers_makes_anew_are_ignored(tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path)
    buffers = {f"embeddings.{name}": torch.arange(44)[None] for name in ("position_ids", "token_type_ids")}
    rewrite(tmp_path, lambda tensors: {**tensors, **buffers})
    rename(tmp_path, lambda name: f"bert.{name}")
    assert hidden_differs_by(torch_model, tmp_path) < ABSOLUTE


def test_shards_load_as_one_file(tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path / "whole", BERT)
    torch_model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    assert hidden_differs_by(torch_model, tmp_path / "shards") < ABSOLUTE


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    make_model(BERT).save_pretrained(tmp_path, max_shard_size="20KB")
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=rf"index\.json names \['{gone.name}'\], which are not there"):
        MLXAutoModel.from_pretrained(tmp_path)


def test_weights_in_subfolders_do_not_confuse(tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path)
    for folder in ("2_Dense", "onnx"):
        (tmp_path / folder).mkdir()
        write_tensors(tmp_path / folder, {"linear.weight": torch.ones(3, 24)})
    assert hidden_differs_by(torch_model, tmp_path) < ABSOLUTE


def as_bin(folder: Path, dtype: torch.dtype, shards: int = 1, **options: Any) -> None:
    """Replace model.safetensors with a file written by torch.save."""
    tensors = {name: t.to(dtype) for name, t in read_tensors(folder).items()}
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(OrderedDict(tensors), folder / "pytorch_model.bin", **options)
        return
    weight_map = {}
    for shard in range(shards):
        name = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        part = dict(list(tensors.items())[shard::shards])
        torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("form", ["one", "shards", "before torch 1.6"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_bin_files_load_as_the_same_tensors(dtype: torch.dtype, form: str, tmp_path: Path) -> None:
    save_model(tmp_path, BERT)
    options = {"_use_new_zipfile_serialization": False} if form == "before torch 1.6" else {}
    as_bin(tmp_path, dtype, 3 if form == "shards" else 1, **options)
    edit_config(tmp_path, dtype=str(dtype).removeprefix("torch."))
    kept = torch.float32 if dtype == torch.float64 else dtype
    torch_model = transformers.BertModel.from_pretrained(tmp_path, dtype=kept).float()
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert str(mlx_model.dtype) == str(kept).replace("torch", "mlx.core")
    inputs = ragged_inputs(BERT)
    expected = output_array(torch_model, inputs, "last_hidden_state")
    assert max_difference(output_array(mlx_model, inputs, "last_hidden_state"), expected, inputs) < ABSOLUTE


@pytest.mark.parametrize("others", [torch.float32, torch.bfloat16])
def test_a_tensor_of_float64_in_a_safetensors_file_is_cast(others: torch.dtype, tmp_path: Path) -> None:
    """Also one that nothing reads, and a dtype of 8 bits; mx.load refuses the whole file."""
    save_model(tmp_path, BERT)
    edit_config(tmp_path, dtype=str(others).removeprefix("torch."))
    tensors = {name: tensor.to(others) for name, tensor in read_tensors(tmp_path).items()}
    tensors["embeddings.LayerNorm.weight"] = tensors["embeddings.LayerNorm.weight"].double()
    tensors["embeddings.position_ids"] = torch.arange(44).double()[None]
    tensors["classifier.weight"] = torch.zeros(2, 24).to(torch.float8_e5m2)
    write_tensors(tmp_path, tensors)
    torch_model = transformers.BertModel.from_pretrained(tmp_path, dtype=others).float()
    inputs = ragged_inputs(BERT)
    expected = output_array(torch_model, inputs, "last_hidden_state")
    found = output_array(MLXAutoModel.from_pretrained(tmp_path), inputs, "last_hidden_state")
    assert max_difference(found, expected, inputs) < (ABSOLUTE if others == torch.float32 else 0.05)


def test_bin_tensors_that_are_views_parameters_or_scalars_are_read_as_torch_does(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "slice": base[1:3, 2:5],
        "expanded": base[:1].expand(3, 6),
        "parameter": torch.nn.Parameter(base * 2),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "half": base.half(),
        "brain": base.bfloat16(),
        "long": torch.arange(5),
        "flags": torch.tensor([True, False]),
    }
    torch.save(tensors, tmp_path / "views.bin")
    for name, array in TorchFile(tmp_path / "views.bin").arrays():
        expected = tensors[name].detach()
        assert array.shape == tuple(expected.shape), name
        np.testing.assert_array_equal(np.array(array.astype(mx.float32)), expected.float().numpy(), err_msg=name)


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_runs_code_is_refused_unrun(nested: bool, tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    witness = tmp_path / "witness"
    trap = Malicious(witness)
    torch.save({"x": [trap]} if nested else trap, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"asks for posix\.system, which describes no tensor.*safetensors"):
        MLXAutoModel.from_pretrained(tmp_path)
    assert not witness.exists()


def pickled(content: Any, folder: Path, name: str = "archive/data.pkl") -> Path:
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content if isinstance(content, bytes) else pickle.dumps(content))
    return path


NO_CHECKPOINTS = {
    "a list": [1, 2],
    "a number": 3,
    "nothing": b"",
    "cut short": pickle.dumps({"weight": [1, 2, 3]})[:-4],
    "noise": b"\x80\x04\xff\xfe\x00",
    "empty stack": b"..",
    "memo": b"g0\n.",
}


@pytest.mark.parametrize("content", NO_CHECKPOINTS)
def test_a_bin_file_that_holds_no_tensors_by_name_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a torch checkpoint of plain tensors"):
        TorchFile(pickled(NO_CHECKPOINTS[content], tmp_path))


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(0, (3, 3), (3, 1)), (-4, (8,), (1,)), (0, (-2, -2), (1, 1)), (0, (4,), (-1,)), (0, (2, 2), (1,))],
)
def test_a_bin_tensor_that_leaves_its_storage_is_refused(
    offset: int, shape: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    """as_strided would read out of bounds."""
    rebuild = torch._utils._rebuild_tensor_v2

    class Forged:
        def __reduce__(self) -> Any:
            return rebuild, (storage, offset, shape, stride, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if value is storage else None

    storage = object()
    with zipfile.ZipFile(tmp_path / "forged.bin", "w") as archive, archive.open("a/data.pkl", "w") as file:
        Pickler(file, 2).dump({"weight": Forged()})
    with zipfile.ZipFile(tmp_path / "forged.bin", "a") as archive:
        archive.writestr("a/data/0", np.zeros(4, np.float32).tobytes())
    with pytest.raises(CheckpointError, match=r"'weight' reaches past its storage|a tensor has offset"):
        dict(TorchFile(tmp_path / "forged.bin").arrays())


def test_bin_bytes_beyond_the_archive_are_a_checkpoint_error(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    as_bin(tmp_path, torch.float32)
    path = tmp_path / "pytorch_model.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is broken at"):
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("recipe", [None, "q8", "mxfp4"])
def test_joined_queries_keys_and_values_equal_separate_ones(recipe: str | None, tmp_path: Path) -> None:
    """The rows of the fused QKV weight, quantized or not, equal those of the three weights in the file."""
    config = transformers.BertConfig(**{**BERT.config.to_dict(), "hidden_size": 64, "intermediate_size": 64})
    make_checkpoint(tmp_path, Row("bert", "Bert", config, token_types=3))
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    file = mx.load(str(mlx_model.folder / "model.safetensors"))
    qkv = mlx_model.loaded.model.encoder.layers[1].attention.qkv
    parts = [f"encoder.layer.1.attention.self.{part}" for part in ("query", "key", "value")]
    leaves = {leaf for name in file for module, _, leaf in [name.rpartition(".")] if module == parts[0]}
    assert leaves == {None: {"weight", "bias"}, "q8": {"weight", "bias", "scales", "biases"}}.get(
        recipe, {"weight", "bias", "scales"}
    )
    for leaf in leaves:
        separate = mx.concatenate([file[f"{part}.{leaf}"] for part in parts])
        joined = qkv[leaf]
        assert mx.array_equal(joined.astype(mx.float32), separate.astype(mx.float32)), leaf
    x = mx.random.normal((5, 64))
    one_by_one = [x @ weight.T for weight in mx.split(unpacked(qkv), 3)]
    product = qkv(x) - qkv["bias"].astype(mx.float32)
    np.testing.assert_allclose(np.array(product), np.concatenate(one_by_one, axis=1), atol=1e-4)


def unpacked(linear: Any) -> mx.array:
    return linear.dequantize(mx.float32) if "scales" in linear else linear.weight


def test_read_checkpoint_prefers_files_as_transformers_does(tmp_path: Path) -> None:
    save_model(tmp_path, BERT, seed=1)
    as_bin(tmp_path, torch.float32)
    torch_model = make_checkpoint(tmp_path, BERT, seed=2)
    assert hidden_differs_by(torch_model, tmp_path) < ABSOLUTE
    assert read_checkpoint(locate(tmp_path, HubOptions())).config["model_type"] == "bert"


def test_a_head_that_the_family_lacks_names_those_it_has() -> None:
    family = family_for({"model_type": "bert"})
    config = family.config.from_json(BERT.config.to_dict())
    with pytest.raises(ValueError, match=r"'bert' has no head for 'poetry' here; it has fill-mask, multiple-choice"):
        NameMapping(family, config, "poetry")
    NameMapping(family, config, BASE_TASK)


def test_num_labels_beyond_the_classifier_is_a_shape_error(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, BERT, "ForSequenceClassification")
    edit_config(tmp_path, id2label={str(number): str(number) for number in range(5)}, label2id=...)
    with pytest.raises(WeightsError, match=r"classifier\.weight has \(3, 24\), expected \(5, 24\)"):
        MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("row", [row for row in FAMILIES if row.model_type in ("mpnet", "distilbert")], ids=row_name)
def test_a_segment_count_in_the_config_of_a_family_without_segments_has_no_effect(row: Row, tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path, row)
    edit_config(tmp_path, type_vocab_size=2)
    assert hidden_differs_by(torch_model, tmp_path, row) < ABSOLUTE
