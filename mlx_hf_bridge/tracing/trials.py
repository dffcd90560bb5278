"""Trials of a module and its graph: equal outputs, optional inputs, maximum length, length dependence.

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

# The longest text that is tried, unless the config states a lower limit.
MAX_TRIED_LENGTH = 4_096

ExtraInputs = Callable[[int, int], Inputs]


def to_mlx(tensor: torch.Tensor) -> mx.array:
    """Convert a tensor to MLX, bfloat16 and float64 as float32, which MLX computes in on every device."""
    if tensor.dtype in (torch.bfloat16, torch.float64):
        tensor = tensor.float()
    return mx.array(tensor.detach().contiguous().numpy())


def build_model(graph: Graph, tensors: Mapping[str, mx.array], dtype: mx.Dtype = mx.float32) -> TracedModel:
    """Build the model that a folder with this graph would load, by way of JSON."""
    # A copy, because fusing removes entries.
    table = dict(tensors)
    # By way of JSON, so that what is checked is what a folder will hold.
    return TracedModel(fuse_linear_layers(from_json(to_json(graph)), table), table, dtype, compiled=False)


def trial_inputs(
    graph: Graph, module: Any, texts: int, tokens: int, extra_inputs: ExtraInputs, task: str = BASE_TASK
) -> dict[str, Any]:
    """Return random inputs of a shape, all texts but the first padded on the right.

    Args:
        graph: The graph, whose inputs are returned.
        module: The module.
        texts: B.
        tokens: L.
        extra_inputs: Returns further inputs for (texts, tokens).
        task: The task; multiple choice has an axis of choices.

    Returns:
        Tensors by name.
    """
    random = torch.Generator().manual_seed(tokens)
    pad = graph.facts.pad_token_id or 0
    mask = torch.ones(texts, tokens, dtype=torch.long)
    for row in range(1, texts):
        mask[row, max(1, tokens - 2 * row) :] = 0
    ids = torch.randint(0, graph.facts.vocab_size, mask.shape, generator=random)
    # No padding among the real tokens: some models derive positions or masks from it.
    ids = torch.where(ids == pad, (pad + 1) % graph.facts.vocab_size, ids)
    inputs = {IDS: torch.where(mask == 1, ids, pad), MASK: mask, **extra_inputs(texts, tokens)}
    return {name: inputs[name][:, None] if task == MULTIPLE_CHOICE else inputs[name] for name in graph.inputs}


def to_token_batch(inputs: Inputs) -> TokenBatch:
    """Convert the inputs of a module to a TokenBatch."""
    arrays = {name: to_mlx(tensor.flatten(0, 1) if _has_choices(inputs) else tensor) for name, tensor in inputs.items()}
    others = {name: array for name, array in arrays.items() if name not in (IDS, MASK, TOKEN_TYPE_IDS)}
    return TokenBatch(arrays[IDS], arrays[MASK].astype(mx.bool_), arrays.get(TOKEN_TYPE_IDS), extra_inputs=others)


def _has_choices(inputs: Inputs) -> bool:
    return inputs[IDS].ndim == 3


def run_reference(module: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """Return the outputs of transformers' module as float32 numpy arrays, by name."""
    with torch.no_grad(), suppress_output():
        output = module(**inputs, return_dict=True)
    return {name: value.float().numpy() for name, value in output.items() if isinstance(value, torch.Tensor)}


def largest_difference(model: TracedModel, module: Any, inputs: Inputs) -> float:
    """Return the largest difference between the outputs of a model and a module.

    Args:
        model: The traced model.
        module: transformers' module.
        inputs: The inputs of both.

    Returns:
        The difference on unmasked tokens, relative to the largest value of its output; infinity for NaN.
    """
    expected = run_reference(module, inputs)
    encoded = model(to_token_batch(inputs))
    actual = {**encoded.outputs, "last_hidden_state": encoded.hidden, "pooler_output": encoded.pooled}
    valid = inputs[MASK].reshape(-1, inputs[MASK].shape[-1]).bool().numpy()
    worst = 0.0
    for name, reference in expected.items():
        if actual.get(name) is None:
            continue
        found = np.array(actual[name])
        if reference.shape[:2] == valid.shape:
            # Values at padding mean nothing, and may differ where kernels handle masked rows differently.
            found, reference = found[valid], reference[valid]
        # 1e-30 keeps an output of zeros from being divided by.
        share = float(np.abs(found - reference).max() / max(float(np.abs(reference).max()), 1e-30))
        worst = max(worst, share if np.isfinite(share) else float("inf"))
    return worst


def mark_optional_inputs(graph: Graph, module: Any, task: str, extra_inputs: ExtraInputs) -> dict[str, GraphInput]:
    """Return the inputs of a graph, marked as optional where leaving one out equals passing 0 (1 for the mask)."""
    inputs = trial_inputs(graph, module, 2, 9, extra_inputs, task)
    found = {}
    for name, spec in graph.inputs.items():
        filler = torch.ones_like(inputs[name]) if name == MASK else torch.zeros_like(inputs[name])
        optional = name != IDS and _is_same(module, {**inputs, name: filler}, name)
        found[name] = replace(spec, optional=optional)
    return found


def _is_same(module: Any, inputs: Inputs, name: str) -> bool:
    """Return whether a module has the same outputs with and without an input."""
    remaining = {key: value for key, value in inputs.items() if key != name}
    try:
        one, other = run_reference(module, inputs), run_reference(module, remaining)
    except Exception:  # modules raise any type for a missing input
        return False
    # Two runs of one torch module: only the order of sums can differ.
    return all(np.allclose(one[key], other[key], rtol=1e-4, atol=1e-5) for key in one if key in other)


def find_max_length(graph: Graph, tensors: Mapping[str, mx.array], module: Any) -> int:
    """Return the most tokens that guards and lookups allow, found by trying; NO_POSITIONS if nothing limits them."""
    stated = max_positions(module) or MAX_TRIED_LENGTH
    model = build_model(graph, tensors)
    top = min(stated, MAX_TRIED_LENGTH) + 1
    if _fits(model, graph, top):
        return NO_POSITIONS if top > stated or stated > MAX_TRIED_LENGTH else stated
    low, high = 1, top
    # Bisection: a table that L tokens fit is not exceeded by fewer.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(model, graph, middle) else (low, middle)
    return low


def max_positions(module: Any) -> int | None:
    """Return the number of positions that a module's config states, or None."""
    found = [getattr(module.config, key, None) for key in _POSITIONS]
    return next((positions for positions in found if isinstance(positions, int) and positions > 1), None)


_POSITIONS = ("max_position_embeddings", "n_positions", "max_encoder_position_embeddings", "max_source_positions")


def _fits(model: TracedModel, graph: Graph, tokens: int) -> bool:
    """Return whether one text of that many tokens, none of them padding, stays inside every table."""
    sizes = {"B": 1, "L": tokens}
    zeros = {
        name: np.zeros([sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes])
        for name, spec in graph.inputs.items()
    }
    # An id that is not padding, since RoBERTa's positions only count real tokens.
    required = {IDS: np.full((1, tokens), 0 if graph.facts.pad_token_id else 1), MASK: np.ones((1, tokens))}
    arrays = {name: torch.tensor(array.astype(np.int64)) for name, array in {**zeros, **required}.items()}
    batch = to_token_batch({name: arrays[name] for name in graph.inputs})
    try:
        model.check(batch, sizes)
    except (TokenRangeError, InputError, UnsupportedModelError):
        return False
    return True


def is_length_dependent(model: TracedModel, graph: Graph, module: Any, extra_inputs: ExtraInputs, task: str) -> bool:
    """Return whether more padding after a text changes its outputs."""
    texts, tokens, more = 2, 9, 14
    if not (model.allows(texts, tokens) and model.allows(texts, more)):
        return True
    inputs = trial_inputs(graph, module, texts, tokens, extra_inputs, task)
    wider = {name: _pad_tokens(tensor, more - tokens, graph, name) for name, tensor in inputs.items()}
    short, long = (model(to_token_batch(each)) for each in (inputs, wider))
    valid = inputs[MASK].reshape(-1, tokens).bool().numpy()
    one, other = np.array(short.hidden), np.array(long.hidden)
    if one.ndim >= 2 and one.shape[:2] == valid.shape:
        if other.shape[1] != more:
            return True
        one, other = one[valid], other[:, :tokens][valid]
    # Relative to the largest value; wider rows are summed in another order.
    return one.shape != other.shape or not np.allclose(one, other, rtol=1e-4, atol=1e-4 * float(np.abs(one).max()))


def _pad_tokens(tensor: torch.Tensor, count: int, graph: Graph, name: str) -> torch.Tensor:
    """Pad an input along its L axis."""
    axis = graph.inputs[name].axes.index("L") if "L" in graph.inputs[name].axes else None
    if axis is None:
        return tensor
    filler = graph.facts.pad_token_id or 0 if name == IDS else 0
    shape = list(tensor.shape)
    shape[axis] = count
    return torch.cat([tensor, torch.full(shape, filler, dtype=tensor.dtype)], dim=axis)
