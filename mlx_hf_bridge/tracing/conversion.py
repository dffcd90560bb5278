"""A transformers module becomes a graph with its weights, compared with the module before anyone may use it.

Imports torch; nothing that runs a converted model imports this file. B texts, L tokens.
"""

import contextlib
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.encoder_config import NO_POSITIONS
from mlx_hf_bridge.errors import InputError, TokenRangeError, UnsupportedModelError
from mlx_hf_bridge.family import BASE_TASK, MULTIPLE_CHOICE
from mlx_hf_bridge.tracing.export import (
    TEXTS,
    TOKENS,
    Inputs,
    axes_of,
    example,
    exported,
    quiet,
    vocabulary_of,
    word_table,
)
from mlx_hf_bridge.tracing.graph import WEIGHT, Facts, Graph, Taken, nodes_in
from mlx_hf_bridge.tracing.joined import join_products
from mlx_hf_bridge.tracing.model import IDS, MASK, SEGMENTS, TracedModel
from mlx_hf_bridge.tracing.passes import optimised
from mlx_hf_bridge.tracing.serial import from_json, to_json
from mlx_hf_bridge.tracing.sizes import guards_of
from mlx_hf_bridge.tracing.translate import Translation

logger = logging.getLogger(__name__)

# Of the largest answer: float32 on other kernels through a whole model; a wrong graph is off by more than 1e-2.
RELATIVE = 1e-3
# Texts and tokens of the trials; none is that of the trace.
TRIALS = ((2, 17), (1, 9), (4, 6))
# The longest text that is tried on a model without positions, and where its config says no less.
_FAR = 4_096

Words = Callable[[int, int], Inputs]


@dataclass(frozen=True)
class Traced:
    """A graph, its tensors by name, those of them that are parameters, and those that a recipe may pack."""

    graph: Graph
    tensors: Mapping[str, mx.array]
    parameters: frozenset[str]
    packable: frozenset[str]


def traced(module: Any, task: str = BASE_TASK, extra: Words | None = None, without: tuple[str, ...] = ()) -> Traced:
    """transformers' module in eval mode, float32 -> its graph.

    extra: further inputs of (texts, tokens). without: answers that are left out.

    UnsupportedModelError where torch.export has no graph, an operation is missing, the graph holds for one length
    alone, or its answers are not the module's.
    """
    module = _without_branches(module.eval())
    extra = extra or _extra_of(module)
    reasons = []
    for attention in _attentions(module):
        _set_attention(module, attention)
        try:
            found = _converted(module, task, extra, without)
            _set_attention(module, "eager")
            return _verified(found, module, task, extra)
        except UnsupportedModelError as error:
            reasons.append(error)
    raise reasons[-1]


def _without_branches(module: Any) -> Any:
    """Experts as batched products: transformers' other ways loop over those that were hit."""
    if hasattr(module, "set_experts_implementation"):
        with contextlib.suppress(ValueError), quiet():
            module.set_experts_implementation("batched_mm")
    return module


def _attentions(module: Any) -> tuple[str, ...]:
    return ("sdpa", "eager") if getattr(module, "_supports_sdpa", False) else ("eager",)


def _set_attention(module: Any, name: str) -> None:
    if hasattr(module, "set_attn_implementation"):
        with quiet():
            module.set_attn_implementation(name)


def _extra_of(module: Any) -> Words:
    """Segments and boxes, where the module's forward takes them."""
    takes = inspect.signature(module.forward).parameters
    # XLNet and XLM read segments without a table of their own that config.json would count.
    kinds = getattr(module.config, "type_vocab_size", 2)
    edge = min(40, getattr(module.config, "max_2d_position_embeddings", 40))

    def extra(texts: int, tokens: int) -> Inputs:
        random = torch.Generator().manual_seed(texts * tokens)
        found = {}
        if SEGMENTS in takes and isinstance(kinds, int) and kinds > 0:
            found[SEGMENTS] = torch.randint(0, min(kinds, 2), (texts, tokens), generator=random)
        if "bbox" in takes:
            corners = torch.randint(0, edge, (texts, tokens, 2, 2), generator=random).sort(dim=2).values
            found["bbox"] = corners.flatten(2)
        return found

    return extra


def _converted(module: Any, task: str, extra: Words, without: tuple[str, ...]) -> Traced:
    inputs = example(module, extra(TEXTS, TOKENS))
    if task == MULTIPLE_CHOICE:
        inputs = {name: tensor[:, None] for name, tensor in inputs.items()}
    table = word_table(module)
    program = _exported(module, inputs)
    translation = Translation(program, inputs)
    taken = {name: Taken(axes_of(tensor), _dtype(tensor), True) for name, tensor in inputs.items()}
    outputs = {name: node for name, node in translation.outputs.items() if name not in without}
    raw = Graph(
        _facts(module, task),
        tuple(translation.nodes),
        taken,
        outputs,
        translation.axes,
        guards_of(program, inputs),
    )
    tensors = {name: _array(tensor) for name, tensor in translation.tensors.items()}
    graph, tensors = optimised(raw, tensors)
    words = next(
        (
            name
            for name, tensor in translation.tensors.items()
            if table is not None and tensor.data_ptr() == table.data_ptr()
        ),
        None,
    )
    kept = {name: tensors[name] for name in graph.weights()}
    return Traced(
        graph, kept, frozenset(translation.parameters & set(kept)), _packable(graph, words, module, task, kept)
    )


def _exported(module: Any, inputs: Inputs) -> Any:
    limit = min(_positions(module) or _FAR, _FAR)
    try:
        return exported(module, inputs, limit)
    except UnsupportedModelError:
        return exported(module, inputs, limit, states=False)


def _dtype(tensor: torch.Tensor) -> str:
    return "float32" if tensor.is_floating_point() else "int64"


def _array(tensor: torch.Tensor) -> mx.array:
    if tensor.dtype in (torch.bfloat16, torch.float64):
        tensor = tensor.float()
    return mx.array(tensor.detach().contiguous().numpy())


def _facts(module: Any, task: str) -> Facts:
    config = module.config
    kinds = getattr(config, "type_vocab_size", 0)
    pad = getattr(config, "pad_token_id", None)
    return Facts(
        model_class=type(module).__name__,
        model_type=str(config.model_type),
        task=task,
        base_prefix=str(getattr(module, "base_model_prefix", "")),
        vocab_size=vocabulary_of(module),
        hidden_size=int(getattr(config, "hidden_size", 0) or 0),
        layers=int(getattr(config, "num_hidden_layers", 0) or 0),
        heads=int(getattr(config, "num_attention_heads", 0) or 0),
        segments=kinds if isinstance(kinds, int) else 0,
        max_length=NO_POSITIONS,
        pad_token_id=pad if isinstance(pad, int) and pad >= 0 else None,
        padding_shows=False,
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
            for read in nodes_in(arg):
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


def _verified(found: Traced, module: Any, task: str, extra: Words) -> Traced:
    """The graph with what trials say of it; UnsupportedModelError where it answers otherwise than the module."""
    graph = replace(found.graph, inputs=_with_optional(found.graph, module, task, extra))
    graph = replace(graph, facts=replace(graph.facts, max_length=_longest(graph, found.tensors, module)))
    model = runnable(graph, found.tensors)
    allowed = [shape for shape in TRIALS if model.allows(*shape) and shape[1] <= graph.facts.max_length]
    if len(allowed) < 2:
        raise UnsupportedModelError(
            f"the graph of {graph.facts.model_class} holds for the traced length alone, since its forward branches on "
            f"the length ({'; '.join(graph.guards[:3]):.200}). Use transformers on torch for this one."
        )
    worst = 0.0
    for texts, tokens in allowed:
        inputs = trial(graph, module, texts, tokens, extra, task)
        worst = max(worst, difference(model, module, inputs))
    if not worst <= RELATIVE:
        raise UnsupportedModelError(
            f"the graph of {graph.facts.model_class} answers otherwise than the module (by {worst:.1e} of the largest "
            f"value, allowed are {RELATIVE:.0e}). Use transformers on torch for this one."
        )
    shows = _padding_shows(model, graph, module, extra, task)
    logger.info("traced %s: %d nodes, %.1e off", graph.facts.model_class, len(graph.nodes), worst)
    return replace(found, graph=replace(graph, facts=replace(graph.facts, padding_shows=shows)))


def runnable(graph: Graph, tensors: Mapping[str, mx.array], dtype: mx.Dtype = mx.float32) -> TracedModel:
    """The model that a folder with this graph gives, through JSON."""
    table = dict(tensors)
    return TracedModel(join_products(from_json(to_json(graph)), table), table, dtype, compiled=False)


def trial(graph: Graph, module: Any, texts: int, tokens: int, extra: Words, task: str = BASE_TASK) -> dict[str, Any]:
    """Inputs of a shape that a text could have, padded on the right but for the first."""
    random = torch.Generator().manual_seed(tokens)
    pad = graph.facts.pad_token_id or 0
    mask = torch.ones(texts, tokens, dtype=torch.long)
    for row in range(1, texts):
        mask[row, max(1, tokens - 2 * row) :] = 0
    ids = torch.randint(0, graph.facts.vocab_size, mask.shape, generator=random)
    ids = torch.where(ids == pad, (pad + 1) % graph.facts.vocab_size, ids)
    inputs = {IDS: torch.where(mask == 1, ids, pad), MASK: mask, **extra(texts, tokens)}
    return {name: inputs[name][:, None] if task == MULTIPLE_CHOICE else inputs[name] for name in graph.inputs}


def batch_of(inputs: Inputs) -> TokenBatch:
    """A module's inputs as the model takes them."""
    arrays = {name: _array(tensor.flatten(0, 1) if _has_choices(inputs) else tensor) for name, tensor in inputs.items()}
    others = {name: array for name, array in arrays.items() if name not in (IDS, MASK, SEGMENTS)}
    return TokenBatch(arrays[IDS], arrays[MASK].astype(mx.bool_), arrays.get(SEGMENTS), given=others)


def _has_choices(inputs: Inputs) -> bool:
    return inputs[IDS].ndim == 3


def reference(module: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """transformers' answers in numpy."""
    with torch.no_grad(), quiet():
        output = module(**inputs, return_dict=True)
    return {name: value.float().numpy() for name, value in output.items() if isinstance(value, torch.Tensor)}


def difference(model: TracedModel, module: Any, inputs: Inputs) -> float:
    """The largest difference on valid tokens, as a share of the largest value; nan counts as infinite."""
    wanted = reference(module, inputs)
    encoded = model(batch_of(inputs))
    got = {**encoded.answers, "last_hidden_state": encoded.hidden, "pooler_output": encoded.pooled}
    valid = inputs[MASK].reshape(-1, inputs[MASK].shape[-1]).bool().numpy()
    worst = 0.0
    for name, right in wanted.items():
        if got.get(name) is None:
            continue
        mine = np.array(got[name])
        if right.shape[:2] == valid.shape:
            mine, right = mine[valid], right[valid]
        share = float(np.abs(mine - right).max() / max(float(np.abs(right).max()), 1e-30))
        worst = max(worst, share if np.isfinite(share) else float("inf"))
    return worst


def _with_optional(graph: Graph, module: Any, task: str, extra: Words) -> dict[str, Taken]:
    """The inputs, those marked whose absence is the same as 0 (of the mask: as 1)."""
    inputs = trial(graph, module, 2, 9, extra, task)
    found = {}
    for name, taken in graph.inputs.items():
        filler = torch.ones_like(inputs[name]) if name == MASK else torch.zeros_like(inputs[name])
        optional = name != IDS and _same(module, {**inputs, name: filler}, name)
        found[name] = replace(taken, optional=optional)
    return found


def _same(module: Any, inputs: Inputs, name: str) -> bool:
    without = {key: value for key, value in inputs.items() if key != name}
    try:
        one, other = reference(module, inputs), reference(module, without)
    except Exception:  # whatever a module raises for what it cannot do without
        return False
    return all(np.allclose(one[key], other[key], rtol=1e-4, atol=1e-5) for key in one if key in other)


def _longest(graph: Graph, tensors: Mapping[str, mx.array], module: Any) -> int:
    """The most tokens that guards and look-ups allow, by trying; NO_POSITIONS where nothing limits them."""
    said = _positions(module) or _FAR
    model = runnable(graph, tensors)
    top = min(said, _FAR) + 1
    if _fits(model, graph, top):
        return NO_POSITIONS if top > said or said > _FAR else said
    low, high = 1, top
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(model, graph, middle) else (low, middle)
    return low


def _positions(module: Any) -> int | None:
    """The positions that the config speaks of."""
    found = [getattr(module.config, key, None) for key in _POSITIONS]
    return next((positions for positions in found if isinstance(positions, int) and positions > 1), None)


_POSITIONS = ("max_position_embeddings", "n_positions", "max_encoder_position_embeddings", "max_source_positions")


def _fits(model: TracedModel, graph: Graph, tokens: int) -> bool:
    """Whether a text of that many tokens, none of them padding, stays inside every table."""
    sizes = {"B": 1, "L": tokens}
    zeros = {
        name: np.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in taken.axes])
        for name, taken in graph.inputs.items()
    }
    tokens_seen = {IDS: np.full((1, tokens), 0 if graph.facts.pad_token_id else 1), MASK: np.ones((1, tokens))}
    arrays = {name: torch.tensor(array.astype(np.int64)) for name, array in {**zeros, **tokens_seen}.items()}
    batch = batch_of({name: arrays[name] for name in graph.inputs})
    try:
        model.check(batch, sizes)
    except (TokenRangeError, InputError, UnsupportedModelError):
        return False
    return True


def _padding_shows(model: TracedModel, graph: Graph, module: Any, extra: Words, task: str) -> bool:
    """Whether more padding beside a text changes its answer."""
    texts, tokens, more = 2, 9, 14
    if not (model.allows(texts, tokens) and model.allows(texts, more)):
        return True
    inputs = trial(graph, module, texts, tokens, extra, task)
    wider = {name: _widened(tensor, more - tokens, graph, name) for name, tensor in inputs.items()}
    short, long = (model(batch_of(given)) for given in (inputs, wider))
    valid = inputs[MASK].reshape(-1, tokens).bool().numpy()
    one, other = np.array(short.hidden), np.array(long.hidden)
    if one.ndim >= 2 and one.shape[:2] == valid.shape:
        if other.shape[1] != more:
            return True
        one, other = one[valid], other[:, :tokens][valid]
    return one.shape != other.shape or not np.allclose(one, other, rtol=1e-4, atol=1e-4 * float(np.abs(one).max()))


def _widened(tensor: torch.Tensor, slots: int, graph: Graph, name: str) -> torch.Tensor:
    axis = graph.inputs[name].axes.index("L") if "L" in graph.inputs[name].axes else None
    if axis is None:
        return tensor
    filler = graph.facts.pad_token_id or 0 if name == IDS else 0
    shape = list(tensor.shape)
    shape[axis] = slots
    return torch.cat([tensor, torch.full(shape, filler, dtype=tensor.dtype)], dim=axis)
