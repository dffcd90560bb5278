"""Quantized weights: what is quantized, how it is stored, and that outputs match the dequantized weights."""

import copy
import json
import math
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from checkpoints import (
    FAMILIES,
    FIRST_ROWS,
    Row,
    make_model,
    mlx_class,
    plainest_head,
    ragged_inputs,
    row_name,
    save_model,
)
from tolerances import tolerance
from weight_files import edit_config, max_difference, output_array, read_tensors, rewrite, write_tensors

from mlx_hf_bridge import MLXAutoModel, MLXQuantizationConfig
from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.plan import plan_conversion
from mlx_hf_bridge.errors import ConfigError, QuantizationError, WeightsError
from mlx_hf_bridge.layers import linear
from mlx_hf_bridge.loading import load as load_module
from mlx_hf_bridge.quantization.recipes import BITS, GROUP_SIZES, RECIPES, recipe_from, recipe_name
from mlx_hf_bridge.runtime import device
from mlx_hf_bridge.runtime.device import activation_dtype
from mlx_hf_bridge.weights.name_mapping import KEEP_FILE_DTYPE

# Hidden states of magnitude 1 to 4.
SIZE = 4.0
# float32 dot products of 128 terms on different kernels; worst observed 4e-6.
ABSOLUTE = tolerance(2e-5, SIZE)
# Identical weights through MLX's quantized matmul and through dequantization; worst observed 3e-6.
BETWEEN_PATHS = tolerance(1e-5, SIZE)
# Hidden states of magnitude 1 to 4 after three layers in half precision (11 bits of significand, or 8 in bfloat16).
HALF = {mx.float16: 0.02, mx.bfloat16: 0.15}

# Allowed error in half precision as a multiple of transformers' error in that dtype, for rows where the latter is
# itself large; worst observed 3.5, with quantized weights.
SHARPER = 4


def half_precision_error_of_torch(torch_model: Any, dtype: mx.Dtype, inputs: dict[str, np.ndarray]) -> float:
    """Return the maximum difference between transformers in half precision and in float32."""
    half = copy.deepcopy(torch_model).to(getattr(torch, str(dtype).rpartition(".")[2]))
    return max_difference(*(output_array(model, inputs, "last_hidden_state") for model in (half, torch_model)), inputs)


def widened(row: Row) -> Row:
    """Return a row whose widths are divisible by every group size."""
    sizes = {"embedding_size": 128, **row.wide} if hasattr(row.config, "embedding_size") else row.wide
    return replace(row, config=type(row.config)(**{**row.config.to_dict(), **sizes}))


def wide_name(row: Row) -> str:
    return row_name(FAMILIES[ROWS.index(row)])


ROWS = [widened(row) for row in FAMILIES]
BERT = ROWS[0]
# Other methods store weights in the same format and only choose the values differently: test_calibration.py.
PLAIN = [name for name, recipe in RECIPES.items() if recipe.method == "minmax" and not recipe.has_target]
# How a recipe quantizes a matrix does not depend on the model, and which matrices of a family are quantized does not
# depend on the recipe. So every family runs with one of the two common recipes, in turn, and every other recipe on T5,
# whose unscaled attention scores leave the least room for errors.
COMMON = ("q8", "q4-rtn")
FIRST = [ROWS[FAMILIES.index(row)] for row in FIRST_ROWS]
T5 = next(row for row in ROWS if row.model_type == "t5")
EVERY_PACKING = [
    MLXQuantizationConfig(bits, group, mode) for mode in BITS for bits in BITS[mode] for group in GROUP_SIZES[mode]
]


def allowed(
    row: Row, expected: np.ndarray, torch_model: Any, inputs: dict[str, np.ndarray], stored: mx.Dtype = mx.float16
) -> float:
    """Return the largest allowed difference, relative to the values for rows whose values are large."""
    in_float32 = max(2e-5, row.relative * float(np.abs(expected).max()))
    if (row.exceeds_float16 and stored == mx.float16) or activation_dtype(stored) == mx.float32:
        return in_float32
    if row.inaccurate_in_half:
        return SHARPER * half_precision_error_of_torch(torch_model.base_model, stored, inputs)
    return tolerance(in_float32, expected, stored)


def header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: entry for name, entry in content.items() if name != "__metadata__"}


def unpacked(folder: Path, **packing: Any) -> dict[str, torch.Tensor]:
    """Load the tensors of a folder as float32, dequantizing with nothing but mx.dequantize."""
    file = mx.load(str(folder / "model.safetensors"))
    result = {}
    for name, array in file.items():
        module, _, leaf = name.rpartition(".")
        if leaf in ("scales", "biases"):
            continue
        if leaf == "weight" and f"{module}.scales" in file:
            scales, biases = file[f"{module}.scales"], file.get(f"{module}.biases")
            if biases is not None:
                scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
            array = mx.dequantize(array, scales, biases, dtype=mx.float32, **packing)
        result[name] = torch.tensor(np.array(array.astype(mx.float32)))
    return result


def reference(row: Row, head: str, mlx_model: Any) -> Any:
    """Return the transformers model with the dequantized weights of an MLX model."""
    recipe = mlx_model.quantization_config
    packing = {"group_size": recipe.group_size, "bits": recipe.bits, "mode": recipe.mode}
    # Load from a checkpoint, since tensor names in files can differ from parameter names in classes.
    with tempfile.TemporaryDirectory() as folder:
        torch_model = save_model(Path(folder), row, head)
        write_tensors(Path(folder), unpacked(mlx_model.folder, **packing))
        read, report = type(torch_model).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["unexpected_keys"]
    missing = {name for name in report["missing_keys"] if not any(word in name for word in row.not_converted)}
    assert missing <= set(torch_model.all_tied_weights_keys)
    return read


@pytest.mark.parametrize(
    ("row", "recipe"),
    [
        *((row, COMMON[number % 2]) for number, row in enumerate(FIRST)),
        *((T5, recipe) for recipe in PLAIN if recipe not in COMMON),
    ],
    ids=lambda value: value if isinstance(value, str) else wide_name(value),
)
def test_every_recipe_computes_what_its_unpacked_weights_compute(row: Row, recipe: str, tmp_path: Path) -> None:
    head, name = plainest_head(row)
    save_model(tmp_path, row, head)
    mlx_model = mlx_class(head).from_pretrained(tmp_path, quantization_config=recipe)
    assert mlx_model.quantization_config == RECIPES[recipe]
    inputs = ragged_inputs(row)
    torch_model = reference(row, head, mlx_model)
    actual, expected = output_array(mlx_model, inputs, name), output_array(torch_model, inputs, name)
    assert max_difference(actual, expected, inputs) < allowed(row, expected, torch_model, inputs)
    base = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    actual, expected = (
        output_array(base, inputs, "last_hidden_state"),
        output_array(torch_model.base_model, inputs, "last_hidden_state"),
    )
    assert max_difference(actual, expected, inputs) < allowed(row, expected, torch_model.base_model, inputs)


@pytest.mark.parametrize("recipe", EVERY_PACKING, ids=lambda r: f"{r.mode}-{r.bits}-{r.group_size}")
def test_every_mode_bits_and_group_packs_on_disk_and_loads(recipe: MLXQuantizationConfig, tmp_path: Path) -> None:
    save_model(tmp_path, BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    inputs = ragged_inputs(BERT)
    torch_model = reference(BERT, "Model", mlx_model)
    hidden = output_array(mlx_model, inputs, "last_hidden_state")
    assert max_difference(hidden, output_array(torch_model, inputs, "last_hidden_state"), inputs) < ABSOLUTE
    assert recipe_from(recipe_name(recipe)) == recipe if recipe_name(recipe) in RECIPES else True
    entries = header(mlx_model.folder / "model.safetensors")
    packed = entries["encoder.layer.1.intermediate.dense.weight"]
    assert packed["dtype"] == "U32"
    assert packed["shape"] == [256, 128 * recipe.bits // 32]
    assert entries["encoder.layer.1.intermediate.dense.scales"] == {
        "dtype": "F16" if recipe.mode == "affine" else "U8",
        "shape": [256, 128 // recipe.group_size],
        "data_offsets": entries["encoder.layer.1.intermediate.dense.scales"]["data_offsets"],
    }
    assert ("encoder.layer.1.intermediate.dense.biases" in entries) == (recipe.mode == "affine")
    packing = {"group_size": recipe.group_size, "bits": recipe.bits, "mode": recipe.mode}
    config = json.loads((mlx_model.folder / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"] == packing


@pytest.mark.parametrize("row", ROWS, ids=wide_name)
def test_products_and_the_word_table_are_packed_and_nothing_else(row: Row, tmp_path: Path) -> None:
    """Token type and position embeddings, poolers and heads are small, and quantizing them costs accuracy."""
    head, _ = plainest_head(row)
    save_model(tmp_path, row, head)
    mlx_model = mlx_class(head).from_pretrained(tmp_path, quantization_config="q4-rtn")
    entries = header(mlx_model.folder / "model.safetensors")
    packed = {name.removesuffix(".scales") for name in entries if name.endswith(".scales")}
    kept = (
        "position", "token_type", "norm", "LayerNorm", "pooler", "classifier", "relative", "attention_bias",
        "rel_embeddings", ".conv.", "conv_attn_layer", "head_logits", "head_weights",
    )  # fmt: skip
    prefix = mlx_model.loaded.family.prefix
    for name, tensor in read_tensors(tmp_path).items():
        if any(word in name for word in row.not_converted):
            assert name not in entries
            continue
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        module, _, leaf = name.rpartition(".")
        never_quantized = any(
            word in name.removeprefix(prefix) for word in (*kept, *row.never_quantized)
        ) or leaf.endswith("bias")
        assert (module in packed and leaf == "weight") != never_quantized, name
        stored = ("F32", 32) if leaf in KEEP_FILE_DTYPE else ("F16", 16) if never_quantized else ("U32", 4)
        assert entries[name]["dtype"] == stored[0], name
        bits = stored[1]
        start, end = entries[name]["data_offsets"]
        assert end - start == tensor.numel() * bits // 8, name


def test_cuda_multiplies_by_cublas_where_it_has_no_tensor_core_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = linear.Linear(128, 128).to_quantized(64, 8), mx.ones((32, 128))
    cases = [(x.astype(mx.float16), 8, 128), (x, 8, 128), (x.astype(mx.float16), 3, 128), (x.astype(mx.float16), 8, 96)]
    layers = [linear.Linear(128, outputs).to_quantized(64, bits) for _, bits, outputs in cases]
    monkeypatch.setattr(device, "DEQUANTIZATION_ROWS", math.inf)
    for backend in ("metal", "cuda"):
        monkeypatch.setattr(device, "BACKEND", backend)
        found = [one.dequantizes(rows) for (rows, _, _), one in zip(cases, layers, strict=True)]
        assert found == ([False] * 4 if backend == "metal" else [False, True, True, True])
        assert not layer.dequantizes(x[:31])
        assert layer.dequantizes(x.astype(mx.float16), transpose=False) == (backend == "cuda")
    bare = mx.matmul(x, layer.dequantize(mx.float32).T)
    np.testing.assert_allclose(layer(x), bare, rtol=0, atol=1e-5)
    monkeypatch.setenv("MLX_HF_BRIDGE_UNPACK", "never")
    assert not layer.dequantizes(x)


@pytest.mark.parametrize("recipe", PLAIN)
def test_packed_and_unpacking_products_agree(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quantized matmul and dequantization followed by a matmul agree."""
    # A compiled model would keep the matmuls that it was compiled with.
    monkeypatch.setattr(load_module, "COMPILES_GRAPHS", False)
    save_model(tmp_path, BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    inputs = ragged_inputs(BERT)
    answers = []
    for unpacks in (False, True):
        monkeypatch.setattr(linear, "dequantizes_weights", lambda rows, unpacks=unpacks: unpacks)
        answers.append(output_array(mlx_model, inputs, "last_hidden_state"))
    assert not np.array_equal(*answers)
    assert max_difference(*answers, inputs) < BETWEEN_PATHS
    monkeypatch.setattr(linear, "KEEPS_DEQUANTIZED", True)
    for _ in range(2):
        np.testing.assert_array_equal(output_array(mlx_model, inputs, "last_hidden_state"), answers[1])


@pytest.mark.parametrize("recipe", ["q8", "q4-rtn", "mxfp4"])
def test_a_text_alone_answers_as_in_a_batch_when_packed(recipe: str, tmp_path: Path) -> None:
    """On a CPU, small batches use the quantized matmul and large batches dequantize first."""
    save_model(tmp_path, BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    inputs = ragged_inputs(BERT, (17, 9, 3, 1))
    batch = output_array(mlx_model, inputs, "last_hidden_state")
    for index, length in enumerate((17, 9, 3, 1)):
        alone = output_array(
            mlx_model, {key: value[index : index + 1, :length] for key, value in inputs.items()}, "last_hidden_state"
        )
        np.testing.assert_allclose(alone[0], batch[index, :length], rtol=0, atol=BETWEEN_PATHS)


def test_an_indivisible_width_stays_in_float_and_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A weight whose width is not divisible by the group size stays in float; it is not an error."""
    config = transformers.ElectraConfig(**{**ROWS[7].config.to_dict(), "embedding_size": 48, "intermediate_size": 100})
    row = replace(ROWS[7], config=config)
    save_model(tmp_path, row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config="q8")
    left = {"embeddings.word_embeddings.weight", "embeddings_project.weight"}
    left |= {f"encoder.layer.{layer}.output.dense.weight" for layer in range(3)}
    metadata = json.loads((mlx_model.folder / "conversion_metadata.json").read_text())
    assert set(metadata["left_in_float"]) == left
    assert "5 weights stay in float16" in caplog.text
    assert all(name in caplog.text for name in left)
    entries = header(mlx_model.folder / "model.safetensors")
    assert {entries[name]["dtype"] for name in left} == {"F16"}
    assert metadata["bits"]["encoder.layer.0.output.dense.weight"] == "float16"
    assert metadata["bits"]["encoder.layer.0.intermediate.dense.weight"] == 8
    inputs = ragged_inputs(row)
    packed = reference(row, "Model", mlx_model)
    assert (
        max_difference(*(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, packed)), inputs)
        < ABSOLUTE
    )


NOT_CONVERTED = {
    "a leaf name": (["intermediate.dense"], "intermediate.dense"),
    "a whole path": (["encoder.layer.1.output.dense"], "encoder.layer.1.output.dense"),
    "a prefixed path": (["bert.encoder.layer.1.output.dense"], "encoder.layer.1.output.dense"),
    "the word table": (["word_embeddings"], "embeddings.word_embeddings"),
    "one of three that are joined": (["query"], "attention.self."),
}


@pytest.mark.parametrize("case", NOT_CONVERTED)
def test_modules_to_not_convert_stay_in_float(case: str, tmp_path: Path) -> None:
    modules, part = NOT_CONVERTED[case]
    save_model(tmp_path, BERT)
    recipe = MLXQuantizationConfig(bits=8, modules_to_not_convert=modules)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    whole = MLXAutoModel.from_pretrained(tmp_path, quantization_config="q8")
    entries, all_packed = (header(model.folder / "model.safetensors") for model in (mlx_model, whole))
    dropped = {name for name in all_packed if name.endswith(".scales")} - set(entries)
    assert dropped == {name for name in all_packed if name.endswith(".scales") and part in name}
    assert dropped
    inputs = ragged_inputs(BERT)
    packed = reference(BERT, "Model", mlx_model)
    assert (
        max_difference(*(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, packed)), inputs)
        < ABSOLUTE
    )


def test_a_name_in_modules_to_not_convert_that_is_no_module_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, BERT)
    recipe = {"bits": 8, "modules_to_not_convert": ["quary", "pooler.dense"]}
    MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    assert "modules_to_not_convert names ['quary'], which the checkpoint does not have" in caplog.text


IMPOSSIBLE = [
    ({"bits": 7}, r"bits=7 is not packed by MLX in mode 'affine'; use 2 or 3 or 4 or 5 or 6 or 8\."),
    ({"bits": 8.0}, r"bits=8\.0 is not packed"),
    ({"bits": True}, r"bits=True is not packed"),
    ({"bits": "8"}, r"bits='8' is not packed"),
    ({"group_size": 48}, r"group_size=48 is not packed by MLX in mode 'affine'; use 32 or 64 or 128\."),
    ({"group_size": 0}, r"group_size=0 is not packed"),
    ({"mode": "mxfp4", "bits": 8}, r"bits=8 is not packed by MLX in mode 'mxfp4'; use 4\."),
    ({"mode": "mxfp8", "group_size": 64}, r"group_size=64 is not packed by MLX in mode 'mxfp8'; use 32\."),
    ({"mode": "nvfp4", "group_size": 32}, r"use 16\."),
    ({"mode": "int4"}, r"mode='int4' is not packed by MLX; use one of affine, mxfp4, mxfp8, nvfp4\."),
    ({"mode": ["affine"]}, r"mode=\['affine'\] is not packed"),
    ({"modules_to_not_convert": "pooler"}, r"modules_to_not_convert='pooler', expected a list of module names\."),
    ({"modules_to_not_convert": [1]}, r"modules_to_not_convert=\[1\], expected a list of module names\."),
    ({"load_in_8bit": True}, r"has the keys \['load_in_8bit'\], which are not known; use bits, group_size, mode"),
    ("q7", r"quantization_config='q7' is not a recipe; use one of q8, q6"),
    (8, r"quantization_config is a int, expected a recipe's name"),
]


@pytest.mark.parametrize(("given", "message"), IMPOSSIBLE, ids=str)
def test_an_impossible_recipe_is_refused(given: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=message):
        MLXAutoModel.from_pretrained(tmp_path, quantization_config=given)


def test_names_dicts_and_configs_say_the_same(tmp_path: Path) -> None:
    forms = ["q4-rtn", {"bits": 4}, {"bits": 4, "group_size": 64, "mode": "affine"}, MLXQuantizationConfig(bits=4)]
    forms += [MLXQuantizationConfig(), {"bits": None, "modules_to_not_convert": None}]
    assert {recipe_from(form) for form in forms} == {RECIPES["q4-rtn"]}
    assert recipe_from(None) is None
    assert recipe_from({"mode": "nvfp4"}) == RECIPES["nvfp4"] == MLXQuantizationConfig(4, 16, "nvfp4")
    assert recipe_from(RECIPES["q3"].to_dict()) == RECIPES["q3"]


DTYPES: list[tuple[Any, str]] = [
    ("auto", "F32"),
    (None, "F32"),
    ("float16", "F16"),
    ("bfloat16", "BF16"),
    (mx.float16, "F16"),
    (mx.bfloat16, "BF16"),
    (torch.float16, "F16"),
    (torch.bfloat16, "BF16"),
    (np.float16, "F16"),
    (np.dtype("float32"), "F32"),
    ("torch.float16", "F16"),
]


@pytest.mark.parametrize(("dtype", "stored"), DTYPES, ids=str)
def test_dtype_is_what_is_stored(dtype: Any, stored: str, tmp_path: Path) -> None:
    save_model(tmp_path, BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert {entry["dtype"] for entry in header(mlx_model.folder / "model.safetensors").values()} == {stored}
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    assert json.loads((mlx_model.folder / "config.json").read_text())["dtype"] == names[stored]
    assert mlx_model.dtype == getattr(mx, names[stored])


@pytest.mark.parametrize(("dtype", "stored"), [("auto", "F16"), ("bfloat16", "BF16"), ("float32", "F32")])
def test_dtype_beside_packed_weights(dtype: str, stored: str, tmp_path: Path) -> None:
    save_model(tmp_path, BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, dtype=dtype, quantization_config="q4-rtn")
    assert {entry["dtype"] for entry in header(mlx_model.folder / "model.safetensors").values()} == {stored, "U32"}
    inputs = ragged_inputs(BERT)
    packed = reference(BERT, "Model", mlx_model)
    assert (
        max_difference(*(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, packed)), inputs)
        < ABSOLUTE
    )


@pytest.mark.parametrize("dtype", ["float64", "float8", "int8", torch.float64, 16, mx.int32, "torch"])
def test_a_dtype_that_is_not_stored_is_refused(dtype: Any, tmp_path: Path) -> None:
    save_model(tmp_path, BERT)
    with pytest.raises(ConfigError, match=r"is not supported; use 'auto' or one of float32, float16, bfloat16"):
        MLXAutoModel.from_pretrained(tmp_path, dtype=dtype)


NAMES = ["embeddings.LayerNorm.weight", "embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"]


@pytest.mark.parametrize("value", [1e9, float("inf"), float("nan")])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "options", [{"dtype": "float16"}, {"quantization_config": "q4-rtn"}, {"quantization_config": "q8"}]
)
def test_values_that_float16_cannot_hold_are_an_error_that_names_the_tensor(
    options: dict[str, str], name: str, value: float, tmp_path: Path
) -> None:
    save_model(tmp_path, BERT)

    def overflow(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        changed = tensors[name].clone()
        changed.view(-1)[3] = value
        return {**tensors, name: changed}

    rewrite(tmp_path, overflow)
    with pytest.raises(
        WeightsError, match=rf"{name} (has values beyond float16's 65504.*Pass dtype='bfloat16'|contains inf or nan)"
    ):
        MLXAutoModel.from_pretrained(tmp_path, **options)


@pytest.mark.parametrize("recipe", ["q4-rtn", "mxfp4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_packed_weight_that_is_not_finite_is_an_error(recipe: str, dtype: str, tmp_path: Path) -> None:
    save_model(tmp_path, BERT)
    name = NAMES[2]
    rewrite(tmp_path, lambda tensors: {**tensors, name: tensors[name] * torch.inf})
    with pytest.raises(WeightsError, match=rf"{name} contains inf or nan"):
        MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe, dtype=dtype)


@pytest.mark.parametrize("asked", ["q8", "mxfp4", {"bits": 4, "group_size": 32}, {"modules_to_not_convert": ["query"]}])
def test_a_packed_folder_asked_for_another_recipe_is_an_error(asked: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "source", BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path / "source", quantization_config="q4-rtn")
    with pytest.raises(
        QuantizationError, match=r"is already converted with .*'bits': 4.* was asked\. Leave quantization_c"
    ):
        MLXAutoModel.from_pretrained(mlx_model.folder, quantization_config=asked)
    with pytest.raises(
        ConfigError, match=r"is already converted to float16, and .*bfloat16 was requested\. Omit dtype"
    ):
        MLXAutoModel.from_pretrained(mlx_model.folder, dtype="bfloat16")
    MLXAutoModel.from_pretrained(mlx_model.folder, dtype="float16", quantization_config="q4-rtn")


FOREIGN = {"group_size": 64, "bits": 4}


def make_mlx_checkpoint(folder: Path, prefix: str = "", overrides: dict[str, Any] | None = None) -> Any:
    """Write a checkpoint as mlx-embeddings does: every matrix quantized, no `mode` in the config.

    Returns:
        The transformers model with the dequantized weights.
    """
    torch_model = save_model(folder, BERT)
    tensors: dict[str, mx.array] = {}
    plain = {}
    for name, tensor in torch_model.state_dict().items():
        array = mx.array(tensor.numpy()).astype(mx.float16)
        module = name.rpartition(".")[0]
        if array.ndim == 2:
            packing = {**FOREIGN, **((overrides or {}).get(prefix + module) or {})}
            packed = mx.quantize(array, **packing)
            tensors |= {
                f"{prefix}{module}.{key}": value
                for key, value in zip(("weight", "scales", "biases"), packed, strict=True)
            }
            array = mx.dequantize(*(packed[0], packed[1].astype(mx.float32), packed[2].astype(mx.float32)), **packing)
        else:
            tensors[prefix + name] = array
        plain[name] = torch.tensor(np.array(array.astype(mx.float32)))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    edit_config(folder, quantization={**FOREIGN, **(overrides or {})})
    torch_model.load_state_dict(plain)
    return torch_model


@pytest.mark.parametrize("prefix", ["", "model.", "bert."])
def test_a_folder_of_mlx_embeddings_loads_in_place(prefix: str, tmp_path: Path, bridge_cache: Path) -> None:
    torch_model = make_mlx_checkpoint(tmp_path, prefix)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert mlx_model.folder == tmp_path
    assert not (bridge_cache / "converted").exists()
    inputs = ragged_inputs(BERT)
    for name in ("last_hidden_state", "pooler_output"):
        assert (
            max_difference(*(output_array(model, inputs, name) for model in (mlx_model, torch_model)), inputs)
            < ABSOLUTE
        )
    assert mlx_model.quantization_config == RECIPES["q4-rtn"]
    assert MLXAutoModel.from_pretrained(tmp_path, quantization_config="q4-rtn").folder == tmp_path
    with pytest.raises(QuantizationError, match="is already converted with"):
        MLXAutoModel.from_pretrained(tmp_path, quantization_config="q8")


@pytest.mark.parametrize("prefix", ["", "model.", "bert."])
def test_a_packing_of_its_own_for_one_path_is_read(prefix: str, tmp_path: Path) -> None:
    """mlx-lm's mixed recipes map a module path to its own settings, or to false."""
    own = {f"{prefix}encoder.layer.{layer}.output.dense": {"group_size": 32, "bits": 8} for layer in (0, 2)}
    torch_model = make_mlx_checkpoint(tmp_path, prefix, {**own, "classifier": False})
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    inputs = ragged_inputs(BERT)
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
        )
        < ABSOLUTE
    )


def test_parts_packed_differently_cannot_be_joined(tmp_path: Path) -> None:
    """Query, key and value with different quantization settings cannot be fused."""
    make_mlx_checkpoint(tmp_path, "", {"encoder.layer.1.attention.self.key": {"group_size": 32, "bits": 8}})
    with pytest.raises(QuantizationError, match=r"packs the slices of encoder\.layers\.1\.attention\.qkv differently"):
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_either_key_of_config_json_tells_of_packing(key: str, tmp_path: Path) -> None:
    torch_model = make_mlx_checkpoint(tmp_path)
    edit_config(tmp_path, **{"quantization": ..., key: FOREIGN})
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    inputs = ragged_inputs(BERT)
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
        )
        < ABSOLUTE
    )


def test_transformers_metal_packing_is_read(tmp_path: Path) -> None:
    """transformers/integrations/metal_quantization.py uses the MLX format but names the biases `qbiases`."""
    torch_model = make_mlx_checkpoint(tmp_path)
    tensors = mx.load(str(tmp_path / "model.safetensors"))
    renamed = {name.replace(".biases", ".qbiases"): array for name, array in tensors.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), renamed)
    edit_config(tmp_path, quantization=..., quantization_config={"quant_method": "metal", **FOREIGN})
    inputs = ragged_inputs(BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert (
        max_difference(
            *(output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)), inputs
        )
        < ABSOLUTE
    )


OTHER_TOOLS = [
    {"quant_method": "bitsandbytes", "load_in_8bit": True},
    {"quant_method": "gptq", "bits": 4, "group_size": 64},
    {"quant_method": "awq", "bits": 4, "group_size": 64},
    {"quant_method": "fp8"},
    ["q4-rtn"],
]


@pytest.mark.parametrize("packing", OTHER_TOOLS, ids=str)
def test_another_tools_quantisation_is_refused(packing: Any, tmp_path: Path) -> None:
    save_model(tmp_path, BERT)
    edit_config(tmp_path, quantization_config=packing)
    with pytest.raises(QuantizationError, match=r"which is not MLX's packing .* Use the unquantized checkpoint"):
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("recipe", [None, *PLAIN])
@pytest.mark.parametrize("dtype", [None, mx.float16])
def test_planned_bytes_are_those_of_the_file(recipe: str | None, dtype: mx.Dtype | None, tmp_path: Path) -> None:
    """The size that the plan predicts equals the size of the written weights."""
    config = {**BERT.config.to_dict(), "vocab_size": 5000, "num_hidden_layers": 1}
    row = replace(BERT, config=transformers.BertConfig(**config))
    save_model(tmp_path, row, "ForSequenceClassification")
    checkpoint = read_checkpoint(locate(tmp_path, HubOptions()))
    plan = plan_conversion(checkpoint, BASE_TASK, recipe_from(recipe), dtype)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe, dtype=dtype)
    file = mlx_model.folder / "model.safetensors"
    data = max(entry["data_offsets"][1] for entry in header(file).values())
    assert plan.weight_bytes == data
    assert plan.weight_bytes == pytest.approx(file.stat().st_size, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "dtype"),
    [(row, list(HALF)[number % 2]) for number, row in enumerate(FIRST)],
    ids=lambda value: str(value) if isinstance(value, mx.Dtype) else wide_name(value),
)
def test_half_checkpoints_of_every_family_answer_as_their_float32_reading(
    row: Row, dtype: mx.Dtype, tmp_path: Path
) -> None:
    """Half-precision checkpoints match the reference computed in float32 or float64."""
    torch_model = make_model(row)
    torch_model.to(getattr(torch, str(dtype).rpartition(".")[2])).save_pretrained(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert mlx_model.dtype == dtype
    inputs = ragged_inputs(row)
    # Reload, since .float() would leave rotary frequencies, which are not parameters, rounded to half precision.
    # Without norms, values exceed the precision of float32 in both torch and MLX, so the reference is float64.
    torch_model = type(torch_model).from_pretrained(tmp_path, dtype=torch.float64 if row.relative else torch.float32)
    hidden = [output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)]
    assert max_difference(*hidden, inputs) < allowed(row, hidden[1], torch_model, inputs, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "dtype"),
    [(row, mx.float16 if row.exceeds_float16 else list(HALF)[number % 2]) for number, row in enumerate(FIRST)],
    ids=lambda value: str(value) if isinstance(value, mx.Dtype) else wide_name(value),
)
def test_quantized_models_in_half_precision_are_neither_promoted_nor_nan(
    row: Row, dtype: mx.Dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compute in the stored dtype, as on a GPU: -1e9 overflows float16, and a float32 mask promotes the result.

    test_half_precision.py tests models without quantization.
    """
    monkeypatch.setattr(load_module, "activation_dtype", lambda stored: stored)
    save_model(tmp_path, row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, dtype=dtype, quantization_config="q8")
    torch_model = reference(row, "Model", mlx_model)
    inputs = {**ragged_inputs(row, (17, 9, 4, 1))}
    output = mlx_model(
        **{name: mx.array(value) for name, value in inputs.items()}, output_hidden_states=True, output_attentions=True
    )
    recorded = (one for value in output.values() if isinstance(value, tuple) for one in value)
    for array in (output.last_hidden_state, *recorded):
        assert array.dtype == (mx.float32 if row.exceeds_float16 and dtype == mx.float16 else dtype)
        assert mx.isfinite(array).all()
    inputs["attention_mask"][3] = 0
    assert np.isfinite(np.asarray(mlx_model(**inputs).last_hidden_state, np.float32)).all()
    inputs["attention_mask"][3, 0] = 1
    in_float32 = row.exceeds_float16 and dtype == mx.float16
    hidden = [output_array(model, inputs, "last_hidden_state") for model in (mlx_model, torch_model)]
    off = max_difference(*hidden, inputs)
    if in_float32:
        assert off < max(2e-5, row.relative * float(np.abs(hidden[1]).max()))
        return
    bound = SHARPER * half_precision_error_of_torch(torch_model, dtype, inputs) if row.inaccurate_in_half else 0
    assert off < max(bound, HALF[dtype])


def test_float_weights_have_no_packing_in_config_json(tmp_path: Path) -> None:
    save_model(tmp_path, BERT)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    config = json.loads((mlx_model.folder / "config.json").read_text())
    assert not {"quantization", "quantization_config"} & set(config)
    assert mlx_model.quantization_config is None
    assert "not quantized" in repr(mlx_model)
    assert "4 bits, groups of 64, affine" in repr(MLXAutoModel.from_pretrained(tmp_path, quantization_config="q4-rtn"))


def test_packed_tensors_without_a_word_in_config_json_are_an_error(tmp_path: Path) -> None:
    """Quantized tensors without quantization settings in config.json raise an error."""
    make_mlx_checkpoint(tmp_path)
    edit_config(tmp_path, quantization=...)
    with pytest.raises(WeightsError, match=r"no parameter for: embeddings\.position_embeddings\.biases"):
        MLXAutoModel.from_pretrained(tmp_path)
    write_tensors(tmp_path, {})
