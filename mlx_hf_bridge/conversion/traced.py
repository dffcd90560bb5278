"""Conversion of checkpoints without a native model: transformers' module is traced to a graph; such folders are loaded.

torch is imported here only, and only to convert.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.architecture.unsupported import LORA_KEY, UNSUPPORTED, UNTRACEABLE
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, open_weight_files, read_json
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo
from mlx_hf_bridge.conversion.plan import QUANTIZED_DTYPE, Plan, TensorPlan, most_common
from mlx_hf_bridge.conversion.tokenizer_class import AS_IT_STANDS
from mlx_hf_bridge.errors import BackendError, ConfigError, QuantizationError, UnsupportedModelError, WeightsError
from mlx_hf_bridge.layers.linear import QuantizedEmbedding
from mlx_hf_bridge.models import is_native
from mlx_hf_bridge.quantization.methods import AUTO
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.tracing.family import TracedConfig, family_of
from mlx_hf_bridge.tracing.fused_linear import fuse_linear_layers
from mlx_hf_bridge.tracing.graph import TENSOR_OPS, WEIGHT, Graph, Node
from mlx_hf_bridge.tracing.model import TracedModel
from mlx_hf_bridge.tracing.serial import GRAPH_FILE, MAX_BYTES, from_json, to_json
from mlx_hf_bridge.weights.name_mapping import summarize
from mlx_hf_bridge.weights.quantized import read_packing, recipe_from_packing
from mlx_hf_bridge.weights.sizes import check_raw_sizes

TRACE = ("auto", "never", "always")


def is_traced(checkpoint: Checkpoint) -> bool:
    """Whether a converted folder has a traced graph."""
    return (checkpoint.folder / GRAPH_FILE).is_file()


def wants_tracing(checkpoint: Checkpoint, trace: str) -> bool:
    """Return whether a checkpoint is to be traced, or was.

    Args:
        checkpoint: The checkpoint or converted folder.
        trace: "auto" traces model types that are not native, "never" none, "always" all.

    Raises:
        ConfigError: If `trace` is none of these, or contradicts what a converted folder is.
        UnsupportedModelError: If the model type is known not to be traceable.
    """
    if trace not in TRACE:
        raise ConfigError(f"trace={trace!r}, expected {', '.join(map(repr, TRACE))}.")
    if checkpoint.is_converted:
        if trace == "never" and is_traced(checkpoint):
            raise ConfigError(
                f"{checkpoint.source.name} has a traced graph, and trace='never' was asked for. Leave it out."
            )
        if trace == "always" and not is_traced(checkpoint):
            raise ConfigError(
                f"{checkpoint.source.name} is already converted, without a graph, and trace='always' was asked for. "
                "Give the original checkpoint."
            )
        return is_traced(checkpoint)
    model_type = checkpoint.config.get("model_type")
    if model_type in UNTRACEABLE and trace != "never":
        raise UnsupportedModelError(
            f"config.json has model_type={model_type!r}, which is neither native nor traceable: "
            f"{UNTRACEABLE[model_type]}. Use transformers on torch for this one."
        )
    if checkpoint.config.get(LORA_KEY):
        return False  # refused later with its reason: the repo's own code would change the embeddings
    return trace == "always" or (trace == "auto" and not is_native(checkpoint.config) and _is_known(model_type))


def _is_known(model_type: Any) -> bool:
    """Whether transformers has a config of that model_type, by itself or because it was registered."""
    # Imported late: models with a file in models/ never get here, and load without transformers.
    known = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    return isinstance(model_type, str) and model_type in known


class ModuleTensors:
    """A torch module's tensors as a weight file; each is freed once it has been read."""

    def __init__(self, path: Path, tensors: Mapping[str, mx.array]) -> None:
        self.path = path
        self._tensors = dict(tensors)
        self.tensor_infos = {name: TensorInfo(_DTYPES[array.dtype], array.shape) for name, array in tensors.items()}

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the name and array of every tensor, once."""
        for name in sorted(self._tensors):
            yield name, self._tensors.pop(name)


_DTYPES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.int64: "I64", mx.int32: "I32"}
_DTYPES |= {mx.bool_: "BOOL", mx.uint8: "U8", mx.int8: "I8", mx.int16: "I16"}


def plan_traced(
    checkpoint: Checkpoint, task: str, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None
) -> Plan:
    """Trace the checkpoint's module and plan the conversion with its graph.

    Args:
        checkpoint: The source.
        task: The task of transformers' class to trace.
        recipe: The recipe, None for float weights; only plain ones ("minmax", the same bits for all modules).
        dtype: Dtype of unquantized tensors, scales and biases; None for the default.

    Returns:
        The plan.

    Raises:
        BackendError: If torch is not installed.
        QuantizationError: If the recipe is calibrated or differs by module.
        UnsupportedModelError: If the module cannot be traced, or has no hidden states.
        WeightsError: If config.json has sizes that the files do not have.
    """
    _check_plain_recipe(recipe)
    model_type = checkpoint.config.get("model_type")
    conversion, modules = _tracer(str(model_type))
    # Downloads the weights, which transformers then finds in the folder.
    tensor_infos = {name: info for file in open_weight_files(checkpoint) for name, info in file.tensor_infos.items()}
    check_raw_sizes(checkpoint.config, tensor_infos, str(checkpoint.model_folder))
    try:
        module, lost_pooler = modules.load_module(checkpoint.model_folder, task)
        found = conversion.trace_module(module, task, excluded_outputs=("pooler_output",) if lost_pooler else ())
        if task == BASE_TASK and "last_hidden_state" not in found.graph.outputs:
            raise UnsupportedModelError(
                f"{found.graph.facts.model_class} returns {', '.join(found.graph.outputs)} and no hidden states. "
                "Convert the encoder inside it, or use transformers on torch."
            )
    except UnsupportedModelError as error:
        if model_type not in UNSUPPORTED:
            raise
        raise UnsupportedModelError(
            f"config.json has model_type={model_type!r}, which has no native model here "
            f"({UNSUPPORTED[model_type]}), and cannot be traced: {error}"
        ) from error
    float_dtype = dtype or (QUANTIZED_DTYPE if recipe else _file_dtype(checkpoint))
    file = ModuleTensors(checkpoint.model_folder, found.tensors)
    quantized = {
        name
        for name in found.packable
        if recipe and found.tensors[name].shape[-1] % recipe.group_size == 0 and not recipe.skips(_module_of(name))
    }
    # All of a fused layer's weights or none, since they are concatenated when loaded.
    quantized -= {name for group in _fused(found.graph) if not quantized.issuperset(group) for name in group}
    tensors = {
        name: TensorPlan(
            name,
            info,
            float_dtype if name in found.parameters else info.mlx_dtype or mx.float32,
            recipe if name in quantized else None,
        )
        for name, info in file.tensor_infos.items()
    }
    kept_in_float = tuple(sorted(found.packable - quantized)) if recipe else ()
    graph = found.graph
    config, extra_files = TracedConfig.of(graph, checkpoint.config), {GRAPH_FILE: to_json(graph)}
    family = replace(family_of(graph), tokenizer=_registered_tokenizer(model_type))
    return Plan(checkpoint, family, config, task, recipe, float_dtype, (file,), tensors, kept_in_float, (), extra_files)


def _registered_tokenizer(model_type: Any) -> str:
    """Return the tokenizer class that transformers has for a model type; "" if it has none."""
    auto = importlib.import_module("transformers.models.auto.tokenization_auto")
    name: str = auto.TOKENIZER_MAPPING_NAMES.get(model_type) or ""
    # What needs another package (Mistral's) is read from tokenizer.json here.
    return AS_IT_STANDS if name in ("TokenizersBackend", "MistralCommonBackend") else name.removesuffix("Fast")


def _fused(graph: Graph) -> list[set[str]]:
    """Return the weights of each fused linear layer."""
    return [{weight.args[0] for weight in node.args[1]} for node in graph.nodes if node.op == "bridge.linears"]


def _check_plain_recipe(recipe: MLXQuantizationConfig | None) -> None:
    if recipe is None:
        return
    plain = MLXQuantizationConfig(recipe.bits, recipe.group_size, recipe.mode, recipe.modules_to_not_convert)
    # "auto" rounds each weight of a traced model by itself.
    if recipe not in (plain, replace(plain, method=AUTO)):
        raise QuantizationError(
            f"quantization_config={recipe!r} is calibrated or differs by module, and a traced model is quantized by "
            "mx.quantize with the same bits for all modules. Give bits, group_size, mode and "
            "modules_to_not_convert only."
        )


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _file_dtype(checkpoint: Checkpoint) -> mx.Dtype:
    """Return the most common dtype of the source's float tensors."""
    tensor_infos = [
        info for file in open_weight_files(checkpoint) for info in file.tensor_infos.values() if info.is_float
    ]
    return most_common([info.mlx_dtype for info in tensor_infos if info.mlx_dtype is not None])


def _tracer(model_type: str) -> tuple[Any, Any]:
    try:
        return (
            # Imported late, because only these files import torch.
            importlib.import_module("mlx_hf_bridge.tracing.conversion"),
            importlib.import_module("mlx_hf_bridge.tracing.module"),
        )
    except ImportError as error:
        raise BackendError(
            f"model_type {model_type!r} has no native model here, so transformers' module is traced once, which needs "
            f"torch, and torch cannot be imported ({error}). pip install torch to convert it; the converted folder "
            "(save_pretrained, or mlx-hf-bridge convert) runs without."
        ) from error


def read_graph(folder: Path) -> Graph:
    """Read and check graph.json; raise UnsupportedModelError for one that no conversion writes."""
    # Before reading: a folder may come from anyone.
    size = (folder / GRAPH_FILE).stat().st_size
    if size > MAX_BYTES:
        raise UnsupportedModelError(
            f"{folder / GRAPH_FILE} has {size} bytes, expected {MAX_BYTES} at most. Convert the model again."
        )
    try:
        return from_json(read_json(folder / GRAPH_FILE))
    except RecursionError as error:
        raise UnsupportedModelError(f"{folder / GRAPH_FILE} is nested too deeply. Convert the model again.") from error


def read_model(checkpoint: Checkpoint, graph: Graph, dtype: mx.Dtype, pooler: bool) -> TracedModel:
    """Load the model of a folder with a graph, its weights evaluated.

    Args:
        checkpoint: The converted folder.
        graph: Its graph.
        dtype: Dtype of the activations.
        pooler: Whether to compute pooler_output.

    Raises:
        WeightsError: If the folder lacks a tensor that the graph reads.
    """
    arrays = {name: array for file in open_weight_files(checkpoint) for name, array in file.arrays()}
    if missing := [name for name in graph.weights() if name not in arrays]:
        raise WeightsError(
            f"{checkpoint.folder} lacks {len(missing)} tensors that its graph reads: {summarize(missing)}. "
            "Convert it again."
        )
    table = {
        node.args[0]: _load_tensor(node, arrays, recipe_from_packing(read_packing(checkpoint.config)), dtype)
        for node in _tensor_nodes(graph)
    }
    model = TracedModel(fuse_linear_layers(graph, table), table, dtype, pooler)
    mx.eval(model.parameters())
    return model


def _tensor_nodes(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op in TENSOR_OPS]


def _load_tensor(
    node: Node, arrays: Mapping[str, mx.array], recipe: MLXQuantizationConfig | None, dtype: mx.Dtype
) -> mx.array | QuantizedEmbedding:
    """Return a tensor as the graph reads it: parameters in `dtype`, constants in theirs, quantized ones as a table."""
    name = node.args[0]
    array, scales = arrays[name], arrays.get(f"{_module_of(name)}.scales")
    if recipe is not None and scales is not None and name.endswith(".weight"):
        width = scales.shape[-1] * recipe.group_size
        table = QuantizedEmbedding(mx.zeros((array.shape[0], width)), recipe.group_size, recipe.bits, recipe.mode)
        table.weight, table.scales, table.dtype = array, scales, dtype
        if recipe.mode == "affine":
            table.biases = arrays[f"{_module_of(name)}.biases"]
        return table
    return array.astype(dtype) if node.op == WEIGHT and mx.issubdtype(array.dtype, mx.floating) else array


def stored_dtype(checkpoint: Checkpoint) -> mx.Dtype:
    """Return the dtype of the unquantized parameters, as config.json names it."""
    named = {"float16": mx.float16, "bfloat16": mx.bfloat16}
    return named.get(str(checkpoint.config.get("dtype")), mx.float32)
