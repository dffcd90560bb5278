"""Trace a transformers module into a graph with its weights, and check the graph against the module before it is used.

Imports torch; nothing that runs a converted model imports this file. B texts, L tokens.
"""

import contextlib
import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import torch

from mlx_hf_bridge.architecture.config import NO_POSITIONS
from mlx_hf_bridge.architecture.family import BASE_TASK, MULTIPLE_CHOICE
from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.export import (
    EXAMPLE_TEXTS,
    EXAMPLE_TOKENS,
    Inputs,
    axis_names,
    example_inputs,
    export_program,
    suppress_output,
    token_embedding,
    vocab_size_of,
)
from mlx_hf_bridge.tracing.graph import WEIGHT, Facts, Graph, GraphInput, iterate_nodes
from mlx_hf_bridge.tracing.model import TOKEN_TYPE_IDS
from mlx_hf_bridge.tracing.passes import optimize
from mlx_hf_bridge.tracing.sizes import collect_guards
from mlx_hf_bridge.tracing.translate import Translation
from mlx_hf_bridge.tracing.trials import (
    MAX_TRIED_LENGTH,
    ExtraInputs,
    build_model,
    find_max_length,
    is_length_dependent,
    largest_difference,
    mark_optional_inputs,
    max_positions,
    to_mlx,
    trial_inputs,
)

logger = logging.getLogger(__name__)

# Relative to the largest output value. Other float32 kernels through a whole model stay below it; a graph that is
# wrong differs by more than 1e-2.
TOLERANCE = 1e-3
# (texts, tokens) of the trials; none is the shape that was traced.
TRIAL_SHAPES = ((2, 17), (1, 9), (4, 6))
# Model types whose boxes are shares of the page, from 0 to 1; other types look integers up in tables.
_FLOAT_BOXES = ("bros", "udop")


@dataclass(frozen=True)
class TracedModule:
    """The result of tracing a module.

    Args:
        graph: The graph.
        tensors: All tensors that the graph reads, by name.
        parameters: Names of those that are parameters, not buffers or constants.
        packable: Names of those that a recipe may quantize: linear layers and the token embedding.
    """

    graph: Graph
    tensors: Mapping[str, mx.array]
    parameters: frozenset[str]
    packable: frozenset[str]


def trace_module(
    module: Any, task: str = BASE_TASK, extra_inputs: ExtraInputs | None = None, excluded_outputs: tuple[str, ...] = ()
) -> TracedModule:
    """Trace a transformers module into a graph, and check its outputs against those of the module.

    Args:
        module: A transformers module in float32; it is set to eval mode.
        task: The task whose outputs the graph has.
        extra_inputs: Returns further inputs for (texts, tokens); None for token type ids and boxes where forward has
            them.
        excluded_outputs: Outputs that the graph leaves out.

    Returns:
        The graph with its tensors.

    Raises:
        UnsupportedModelError: If torch.export cannot trace the module, an operation is missing here, the graph is valid
            for one length only, or its outputs differ from those of the module.
    """
    # eval() turns dropout off, which a graph would otherwise keep.
    module = _use_batched_experts(module.eval())
    extra_inputs = extra_inputs or _default_extra_inputs(module)
    errors = []
    # Each attempt traces again, since the implementation of attention is chosen before tracing.
    for attention in _attentions(module):
        # sdpa is one operation of the graph; where a module cannot be traced with it, eager attention is tried.
        _set_attention(module, attention)
        try:
            found = _convert(module, task, extra_inputs, excluded_outputs)
            _set_attention(module, "eager")  # the reference that the graph is checked against
            return _verify(found, module, task, extra_inputs)
        except UnsupportedModelError as error:
            errors.append(error)
    raise errors[-1]


def _use_batched_experts(module: Any) -> Any:
    """Compute mixture-of-experts layers as batched matmuls, since transformers' other ways loop over experts."""
    if hasattr(module, "set_experts_implementation"):
        # ValueError: modules without such layers; they stay as they are.
        with contextlib.suppress(ValueError), suppress_output():
            module.set_experts_implementation("batched_mm")
    return module


def _attentions(module: Any) -> tuple[str, ...]:
    return ("sdpa", "eager") if getattr(module, "_supports_sdpa", False) else ("eager",)


def _set_attention(module: Any, name: str) -> None:
    if hasattr(module, "set_attn_implementation"):
        with suppress_output():
            module.set_attn_implementation(name)


def _default_extra_inputs(module: Any) -> ExtraInputs:
    """Return a function of (texts, tokens) that makes token type ids and boxes, where the module's forward has them."""
    accepted = inspect.signature(module.forward).parameters
    # XLNet and XLM take token type ids without a type_vocab_size in their config.
    type_count = getattr(module.config, "type_vocab_size", 2)
    # Any box inside the table of 2D positions, which is as wide as the config says.
    edge = min(40, getattr(module.config, "max_2d_position_embeddings", 40))
    is_float = module.config.model_type in _FLOAT_BOXES

    def extra_inputs(texts: int, tokens: int) -> Inputs:
        # Seeded by the shape, so that a conversion is repeatable.
        random = torch.Generator().manual_seed(texts * tokens)
        found = {}
        if TOKEN_TYPE_IDS in accepted and isinstance(type_count, int) and type_count > 0:
            found[TOKEN_TYPE_IDS] = torch.randint(0, min(type_count, 2), (texts, tokens), generator=random)
        if "bbox" in accepted:
            # Sorted corners, because LayoutLM looks up widths and heights, which must not be negative.
            corners = torch.randint(0, edge, (texts, tokens, 2, 2), generator=random).sort(dim=2).values
            found["bbox"] = corners.flatten(2) / edge if is_float else corners.flatten(2)
        return found

    return extra_inputs


def _convert(module: Any, task: str, extra_inputs: ExtraInputs, excluded_outputs: tuple[str, ...]) -> TracedModule:
    """Export the module, translate the program into a graph, and run the passes over it."""
    inputs = example_inputs(module, extra_inputs(EXAMPLE_TEXTS, EXAMPLE_TOKENS))
    if task == MULTIPLE_CHOICE:
        # Multiple choice has an axis of choices, (B, 1, L) here: the forward flattens it.
        inputs = {name: tensor[:, None] for name, tensor in inputs.items()}
    table = token_embedding(module)
    program = _export(module, inputs)
    translation = Translation(program, inputs)
    graph_inputs = {name: GraphInput(axis_names(tensor), _dtype(tensor), True) for name, tensor in inputs.items()}
    outputs = {name: node for name, node in translation.outputs.items() if name not in excluded_outputs}
    raw = Graph(
        _facts(module, task),
        tuple(translation.nodes),
        graph_inputs,
        outputs,
        translation.axes,
        collect_guards(program, inputs),
    )
    tensors = {name: to_mlx(tensor) for name, tensor in translation.tensors.items()}
    graph, tensors = optimize(raw, tensors)
    table_name = next(
        (
            name
            for name, tensor in translation.tensors.items()
            # By memory and not by name: a tied table has several names.
            if table is not None and tensor.data_ptr() == table.data_ptr()
        ),
        None,
    )
    kept = {name: tensors[name] for name in graph.weights()}
    return TracedModule(
        graph, kept, frozenset(translation.parameters & set(kept)), _packable(graph, table_name, module, task, kept)
    )


def _export(module: Any, inputs: Inputs) -> Any:
    """Export the module with its hidden states, or without them where it has none."""
    limit = min(max_positions(module) or MAX_TRIED_LENGTH, MAX_TRIED_LENGTH)
    try:
        return export_program(module, inputs, limit)
    except UnsupportedModelError:
        return export_program(module, inputs, limit, states=False)


def _dtype(tensor: torch.Tensor) -> str:
    return "float32" if tensor.is_floating_point() else "int64"


def _facts(module: Any, task: str) -> Facts:
    config = module.config
    type_count = getattr(config, "type_vocab_size", 0)
    pad = getattr(config, "pad_token_id", None)
    return Facts(
        model_class=type(module).__name__,
        model_type=str(config.model_type),
        task=task,
        base_prefix=str(getattr(module, "base_model_prefix", "")),
        vocab_size=vocab_size_of(module),
        hidden_size=int(getattr(config, "hidden_size", 0) or 0),
        layers=int(getattr(config, "num_hidden_layers", 0) or 0),
        heads=int(getattr(config, "num_attention_heads", 0) or 0),
        type_vocab_size=type_count if isinstance(type_count, int) else 0,
        # Found by trials later, as is length_dependent.
        max_length=NO_POSITIONS,
        pad_token_id=pad if isinstance(pad, int) and pad >= 0 else None,
        length_dependent=False,
    )


def _packable(
    graph: Graph, table_name: str | None, module: Any, task: str, tensors: Mapping[str, mx.array]
) -> frozenset[str]:
    """Return the names of weights that may be quantized: those of linear layers, and the token embedding.

    Poolers and heads are excluded, as in native families (quantization/policy.py).
    """
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    # Parameters of a task model whose names lack the base model's prefix are its head's.
    in_head = task != BASE_TASK and any(name.startswith(prefix) for name in tensors)
    uses: dict[str, set[str]] = {}
    for node in graph.nodes:
        for index, arg in enumerate(node.args):
            for read in iterate_nodes(arg):
                if read.op == WEIGHT:
                    uses.setdefault(read.args[0], set()).add(f"{node.op}:{index}")
    linear_weights = {"linear:1", "bridge.linears:1"}
    return frozenset(
        name
        for name, found in uses.items()
        if tensors[name].ndim == 2
        and "pooler" not in name.split(".")
        and (name == table_name or not in_head or name.startswith(prefix))
        # Every use counts: a weight that anything else reads, such as an addition, could not be read packed.
        and (found <= linear_weights or (name == table_name and found <= {*linear_weights, "embedding:0"}))
    )


def _verify(found: TracedModule, module: Any, task: str, extra_inputs: ExtraInputs) -> TracedModule:
    """Return the graph with what trials showed of it: optional inputs, maximum length, length dependence.

    Raises:
        UnsupportedModelError: If the graph is valid for one length only, or its outputs differ from the module's.
    """
    graph = replace(found.graph, inputs=mark_optional_inputs(found.graph, module, task, extra_inputs))
    graph = replace(graph, facts=replace(graph.facts, max_length=find_max_length(graph, found.tensors, module)))
    model = build_model(graph, found.tensors)
    allowed = [shape for shape in TRIAL_SHAPES if model.allows(*shape) and shape[1] <= graph.facts.max_length]
    # With fewer shapes than two, nothing would show that the graph is right for other lengths.
    if len(allowed) < 2:
        raise UnsupportedModelError(
            f"the graph of {graph.facts.model_class} is valid for the traced length only: its forward branches on "
            f"the length ({'; '.join(graph.guards[:3]):.200}). Use transformers on torch for this one."
        )
    worst = 0.0
    for texts, tokens in allowed:
        inputs = trial_inputs(graph, module, texts, tokens, extra_inputs, task)
        worst = max(worst, largest_difference(model, module, inputs))
    # Written this way so that NaN is refused too.
    if not worst <= TOLERANCE:
        raise UnsupportedModelError(
            f"the graph of {graph.facts.model_class} differs from the module (by {worst:.1e} of the largest output "
            f"value; {TOLERANCE:.0e} is allowed). Use transformers on torch for this one."
        )
    length_dependent = is_length_dependent(model, graph, module, extra_inputs, task)
    logger.info(
        "traced %s: %d nodes, largest relative difference %.1e", graph.facts.model_class, len(graph.nodes), worst
    )
    return replace(found, graph=replace(graph, facts=replace(graph.facts, length_dependent=length_dependent)))
