"""What trials of a module and of its graph tell: answers compared, inputs it can do without, lengths, padding.

Imports torch, as conversion.py does. B texts, L tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from mlx_hf_bridge.architecture.config import NO_POSITIONS
from mlx_hf_bridge.architecture.family import BASE_TASK, MULTIPLE_CHOICE
from mlx_hf_bridge.errors import InputError, TokenRangeError, UnsupportedModelError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.tracing.export import Inputs, suppress_output
from mlx_hf_bridge.tracing.fused_linear import fuse_linear_layers
from mlx_hf_bridge.tracing.graph import Graph, GraphInput
from mlx_hf_bridge.tracing.model import IDS, MASK, TOKEN_TYPE_IDS, TracedModel
from mlx_hf_bridge.tracing.serial import from_json, to_json

# The longest text that is tried on a model without positions, and where its config says no less.
MAX_TRIED_LENGTH = 4_096

ExtraInputs = Callable[[int, int], Inputs]


def to_mlx(tensor: torch.Tensor) -> mx.array:
    """In a dtype that MLX computes in everywhere."""
    if tensor.dtype in (torch.bfloat16, torch.float64):
        tensor = tensor.float()
    return mx.array(tensor.detach().contiguous().numpy())


def build_model(graph: Graph, tensors: Mapping[str, mx.array], dtype: mx.Dtype = mx.float32) -> TracedModel:
    """The model that a folder with this graph gives, through JSON."""
    table = dict(tensors)
    return TracedModel(fuse_linear_layers(from_json(to_json(graph)), table), table, dtype, compiled=False)


def trial_inputs(
    graph: Graph, module: Any, texts: int, tokens: int, extra_inputs: ExtraInputs, task: str = BASE_TASK
) -> dict[str, Any]:
    """Inputs of a shape that a text could have, padded on the right but for the first."""
    random = torch.Generator().manual_seed(tokens)
    pad = graph.facts.pad_token_id or 0
    mask = torch.ones(texts, tokens, dtype=torch.long)
    for row in range(1, texts):
        mask[row, max(1, tokens - 2 * row) :] = 0
    ids = torch.randint(0, graph.facts.vocab_size, mask.shape, generator=random)
    ids = torch.where(ids == pad, (pad + 1) % graph.facts.vocab_size, ids)
    inputs = {IDS: torch.where(mask == 1, ids, pad), MASK: mask, **extra_inputs(texts, tokens)}
    return {name: inputs[name][:, None] if task == MULTIPLE_CHOICE else inputs[name] for name in graph.inputs}


def to_token_batch(inputs: Inputs) -> TokenBatch:
    """A module's inputs as the model takes them."""
    arrays = {name: to_mlx(tensor.flatten(0, 1) if _has_choices(inputs) else tensor) for name, tensor in inputs.items()}
    others = {name: array for name, array in arrays.items() if name not in (IDS, MASK, TOKEN_TYPE_IDS)}
    return TokenBatch(arrays[IDS], arrays[MASK].astype(mx.bool_), arrays.get(TOKEN_TYPE_IDS), extra_inputs=others)


def _has_choices(inputs: Inputs) -> bool:
    return inputs[IDS].ndim == 3


def reference(module: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """transformers' answers in numpy."""
    with torch.no_grad(), suppress_output():
        output = module(**inputs, return_dict=True)
    return {name: value.float().numpy() for name, value in output.items() if isinstance(value, torch.Tensor)}


def largest_difference(model: TracedModel, module: Any, inputs: Inputs) -> float:
    """The largest difference on valid tokens, as a share of the largest value; nan counts as infinite."""
    wanted = reference(module, inputs)
    encoded = model(to_token_batch(inputs))
    got = {**encoded.outputs, "last_hidden_state": encoded.hidden, "pooler_output": encoded.pooled}
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


def mark_optional_inputs(graph: Graph, module: Any, task: str, extra_inputs: ExtraInputs) -> dict[str, GraphInput]:
    """The inputs, those marked whose absence is the same as 0 (of the mask: as 1)."""
    inputs = trial_inputs(graph, module, 2, 9, extra_inputs, task)
    found = {}
    for name, spec in graph.inputs.items():
        filler = torch.ones_like(inputs[name]) if name == MASK else torch.zeros_like(inputs[name])
        optional = name != IDS and _same(module, {**inputs, name: filler}, name)
        found[name] = replace(spec, optional=optional)
    return found


def _same(module: Any, inputs: Inputs, name: str) -> bool:
    excluded_outputs = {key: value for key, value in inputs.items() if key != name}
    try:
        one, other = reference(module, inputs), reference(module, excluded_outputs)
    except Exception:  # whatever a module raises for what it cannot do without
        return False
    return all(np.allclose(one[key], other[key], rtol=1e-4, atol=1e-5) for key in one if key in other)


def find_max_length(graph: Graph, tensors: Mapping[str, mx.array], module: Any) -> int:
    """The most tokens that guards and look-ups allow, by trying; NO_POSITIONS where nothing limits them."""
    said = max_positions(module) or MAX_TRIED_LENGTH
    model = build_model(graph, tensors)
    top = min(said, MAX_TRIED_LENGTH) + 1
    if _fits(model, graph, top):
        return NO_POSITIONS if top > said or said > MAX_TRIED_LENGTH else said
    low, high = 1, top
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(model, graph, middle) else (low, middle)
    return low


def max_positions(module: Any) -> int | None:
    """The positions that the config speaks of."""
    found = [getattr(module.config, key, None) for key in _POSITIONS]
    return next((positions for positions in found if isinstance(positions, int) and positions > 1), None)


_POSITIONS = ("max_position_embeddings", "n_positions", "max_encoder_position_embeddings", "max_source_positions")


def _fits(model: TracedModel, graph: Graph, tokens: int) -> bool:
    """Whether a text of that many tokens, none of them padding, stays inside every table."""
    sizes = {"B": 1, "L": tokens}
    zeros = {
        name: np.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes])
        for name, spec in graph.inputs.items()
    }
    tokens_seen = {IDS: np.full((1, tokens), 0 if graph.facts.pad_token_id else 1), MASK: np.ones((1, tokens))}
    arrays = {name: torch.tensor(array.astype(np.int64)) for name, array in {**zeros, **tokens_seen}.items()}
    batch = to_token_batch({name: arrays[name] for name in graph.inputs})
    try:
        model.check(batch, sizes)
    except (TokenRangeError, InputError, UnsupportedModelError):
        return False
    return True


def is_length_dependent(model: TracedModel, graph: Graph, module: Any, extra_inputs: ExtraInputs, task: str) -> bool:
    """Whether more padding beside a text changes its answer."""
    texts, tokens, more = 2, 9, 14
    if not (model.allows(texts, tokens) and model.allows(texts, more)):
        return True
    inputs = trial_inputs(graph, module, texts, tokens, extra_inputs, task)
    wider = {name: _widened(tensor, more - tokens, graph, name) for name, tensor in inputs.items()}
    short, long = (model(to_token_batch(given)) for given in (inputs, wider))
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
