"""A transformers module becomes a graph with its weights, compared with the module before anyone may use it.

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

# Of the largest answer: float32 on other kernels through a whole model; a wrong graph is off by more than 1e-2.
RELATIVE = 1e-3
# Texts and tokens of the trials; none is that of the trace.
TRIALS = ((2, 17), (1, 9), (4, 6))


@dataclass(frozen=True)
class TracedModule:
    """A graph, its tensors by name, those of them that are parameters, and those that a recipe may pack."""

    graph: Graph
    tensors: Mapping[str, mx.array]
    parameters: frozenset[str]
    packable: frozenset[str]


def trace_module(
    module: Any, task: str = BASE_TASK, extra_inputs: ExtraInputs | None = None, excluded_outputs: tuple[str, ...] = ()
) -> TracedModule:
    """transformers' module in eval mode, float32 -> its graph.

    extra: further inputs of (texts, tokens). without: answers that are left out.

    UnsupportedModelError where torch.export has no graph, an operation is missing, the graph holds for one length
    alone, or its answers are not the module's.
    """
    module = _without_branches(module.eval())
    extra_inputs = extra_inputs or _extra_of(module)
    reasons = []
    for attention in _attentions(module):
        _set_attention(module, attention)
        try:
            found = _converted(module, task, extra_inputs, excluded_outputs)
            _set_attention(module, "eager")
            return _verified(found, module, task, extra_inputs)
        except UnsupportedModelError as error:
            reasons.append(error)
    raise reasons[-1]


def _without_branches(module: Any) -> Any:
    """Experts as batched products: transformers' other ways loop over those that were hit."""
    if hasattr(module, "set_experts_implementation"):
        with contextlib.suppress(ValueError), suppress_output():
            module.set_experts_implementation("batched_mm")
    return module


def _attentions(module: Any) -> tuple[str, ...]:
    return ("sdpa", "eager") if getattr(module, "_supports_sdpa", False) else ("eager",)


def _set_attention(module: Any, name: str) -> None:
    if hasattr(module, "set_attn_implementation"):
        with suppress_output():
            module.set_attn_implementation(name)


def _extra_of(module: Any) -> ExtraInputs:
    """Segments and boxes, where the module's forward takes them."""
    takes = inspect.signature(module.forward).parameters
    # XLNet and XLM read segments without a table of their own that config.json would count.
    kinds = getattr(module.config, "type_vocab_size", 2)
    edge = min(40, getattr(module.config, "max_2d_position_embeddings", 40))

    def extra_inputs(texts: int, tokens: int) -> Inputs:
        random = torch.Generator().manual_seed(texts * tokens)
        found = {}
        if TOKEN_TYPE_IDS in takes and isinstance(kinds, int) and kinds > 0:
            found[TOKEN_TYPE_IDS] = torch.randint(0, min(kinds, 2), (texts, tokens), generator=random)
        if "bbox" in takes:
            corners = torch.randint(0, edge, (texts, tokens, 2, 2), generator=random).sort(dim=2).values
            found["bbox"] = corners.flatten(2)
        return found

    return extra_inputs


def _converted(module: Any, task: str, extra_inputs: ExtraInputs, excluded_outputs: tuple[str, ...]) -> TracedModule:
    inputs = example_inputs(module, extra_inputs(EXAMPLE_TEXTS, EXAMPLE_TOKENS))
    if task == MULTIPLE_CHOICE:
        inputs = {name: tensor[:, None] for name, tensor in inputs.items()}
    table = token_embedding(module)
    program = _exported(module, inputs)
    translation = Translation(program, inputs)
    spec = {name: GraphInput(axis_names(tensor), _dtype(tensor), True) for name, tensor in inputs.items()}
    outputs = {name: node for name, node in translation.outputs.items() if name not in excluded_outputs}
    raw = Graph(
        _facts(module, task),
        tuple(translation.nodes),
        spec,
        outputs,
        translation.axes,
        collect_guards(program, inputs),
    )
    tensors = {name: to_mlx(tensor) for name, tensor in translation.tensors.items()}
    graph, tensors = optimize(raw, tensors)
    words = next(
        (
            name
            for name, tensor in translation.tensors.items()
            if table is not None and tensor.data_ptr() == table.data_ptr()
        ),
        None,
    )
    kept = {name: tensors[name] for name in graph.weights()}
    return TracedModule(
        graph, kept, frozenset(translation.parameters & set(kept)), _packable(graph, words, module, task, kept)
    )


def _exported(module: Any, inputs: Inputs) -> Any:
    limit = min(max_positions(module) or MAX_TRIED_LENGTH, MAX_TRIED_LENGTH)
    try:
        return export_program(module, inputs, limit)
    except UnsupportedModelError:
        return export_program(module, inputs, limit, states=False)


def _dtype(tensor: torch.Tensor) -> str:
    return "float32" if tensor.is_floating_point() else "int64"


def _facts(module: Any, task: str) -> Facts:
    config = module.config
    kinds = getattr(config, "type_vocab_size", 0)
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
        type_vocab_size=kinds if isinstance(kinds, int) else 0,
        max_length=NO_POSITIONS,
        pad_token_id=pad if isinstance(pad, int) and pad >= 0 else None,
        length_dependent=False,
    )


def _packable(
    graph: Graph, words: str | None, module: Any, task: str, tensors: Mapping[str, mx.array]
) -> frozenset[str]:
    """Weights of products, and the word table; not a pooler's or a head's (quantization/policy.py)."""
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    in_head = task != BASE_TASK and any(name.startswith(prefix) for name in tensors)
    uses: dict[str, set[str]] = {}
    for node in graph.nodes:
        for place, arg in enumerate(node.args):
            for read in iterate_nodes(arg):
                if read.op == WEIGHT:
                    uses.setdefault(read.args[0], set()).add(f"{node.op}:{place}")
    products = {"linear:1", "bridge.linears:1"}
    return frozenset(
        name
        for name, found in uses.items()
        if tensors[name].ndim == 2
        and "pooler" not in name.split(".")
        and (name == words or not in_head or name.startswith(prefix))
        and (found <= products or (name == words and found <= {*products, "embedding:0"}))
    )


def _verified(found: TracedModule, module: Any, task: str, extra_inputs: ExtraInputs) -> TracedModule:
    """The graph with what trials say of it; UnsupportedModelError where it answers otherwise than the module."""
    graph = replace(found.graph, inputs=mark_optional_inputs(found.graph, module, task, extra_inputs))
    graph = replace(graph, facts=replace(graph.facts, max_length=find_max_length(graph, found.tensors, module)))
    model = build_model(graph, found.tensors)
    allowed = [shape for shape in TRIALS if model.allows(*shape) and shape[1] <= graph.facts.max_length]
    if len(allowed) < 2:
        raise UnsupportedModelError(
            f"the graph of {graph.facts.model_class} holds for the traced length alone, since its forward branches on "
            f"the length ({'; '.join(graph.guards[:3]):.200}). Use transformers on torch for this one."
        )
    worst = 0.0
    for texts, tokens in allowed:
        inputs = trial_inputs(graph, module, texts, tokens, extra_inputs, task)
        worst = max(worst, largest_difference(model, module, inputs))
    if not worst <= RELATIVE:
        raise UnsupportedModelError(
            f"the graph of {graph.facts.model_class} answers otherwise than the module (by {worst:.1e} of the largest "
            f"value, allowed are {RELATIVE:.0e}). Use transformers on torch for this one."
        )
    shows = is_length_dependent(model, graph, module, extra_inputs, task)
    logger.info("traced %s: %d nodes, %.1e off", graph.facts.model_class, len(graph.nodes), worst)
    return replace(found, graph=replace(graph, facts=replace(graph.facts, length_dependent=shows)))
