"""A traced module as a model: a batch of tokens -> its outputs.

B texts, L tokens, D hidden size.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.errors import InputError, TokenRangeError, UnsupportedModelError, WeightsError
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.layers.linear import QuantizedModule
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.compiled import CompiledCalls
from mlx_hf_bridge.runtime.device import COMPILES_GRAPHS
from mlx_hf_bridge.tracing.graph import Graph, GraphInput
from mlx_hf_bridge.tracing.guards import Guard
from mlx_hf_bridge.tracing.index_checks import IndexChecks
from mlx_hf_bridge.tracing.interpreter import Program
from mlx_hf_bridge.tracing.ops.bounds import check_bytes
from mlx_hf_bridge.tracing.ops.dtypes import DTYPES

IDS, MASK, TOKEN_TYPE_IDS = "input_ids", "attention_mask", "token_type_ids"
_HIDDEN_STATES = "hidden_states."
# How much padding is tried to reach a length that all guards allow.
_MAX_EXTRA_PADDING = 64
# Where shapes are compiled, lengths are padded to a multiple of this, so that there are fewer shapes.
LENGTH_MULTIPLE = 16


class TracedModel(nn.Module):
    """A graph with its weights, called as an encoder with its head.

    Called with a TokenBatch of shape (B, L), it returns an EncoderOutput with hidden (B, L, D) and the other outputs of
    the graph by name.

    Args:
        graph: The graph.
        weights: Arrays and packed tables by name.
        dtype: The dtype of the activations.
        pooler: Whether the output of the pooler is computed, if the graph has one.
        compiled: Whether each shape is compiled with mx.compile, with lengths padded to a multiple of LENGTH_MULTIPLE;
            None for what is fastest on the device.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Any],
        dtype: mx.Dtype,
        pooler: bool = True,
        compiled: bool | None = None,
    ) -> None:
        super().__init__()
        # A public attribute, so that MLX counts the weights as parameters.
        self.table = dict(weights)
        if pooler and "pooler_output" in graph.outputs:
            self.pooler = nn.Identity()
        self._graph = graph
        self._dtype = dtype
        self._guards = [Guard(text) for text in graph.guards]
        for name, stored in weights.items():
            _check_packing(name, stored)
        self._index_checks = IndexChecks(graph, weights)
        # One for each choice of outputs: hidden states that nobody asked for are not computed.
        self._programs: dict[tuple[str, ...], Program] = {}
        self._compiled = COMPILES_GRAPHS if compiled is None else compiled
        self._compiled_calls = CompiledCalls()

    @property
    def compiled_shapes(self) -> int:
        """How many shapes are compiled now in this thread; MAX_COMPILED_SHAPES of runtime/compiled.py at most."""
        return len(self._compiled_calls)

    def __call__(
        self,
        batch: TokenBatch,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        outputs_only: bool = False,
        first_token: bool = False,
    ) -> EncoderOutput:
        if output_attentions:
            raise InputError(
                f"output_attentions was passed, and the traced {self._graph.facts.model_class} has no attentions: the "
                "outputs of a graph are fixed when it is traced. Leave it out, or use transformers on torch."
            )
        names = self._output_names(output_hidden_states)
        outputs = dict(zip(names, self.run_outputs(batch, names), strict=True))
        states = (
            tuple(outputs.pop(name) for name in names if name.startswith(_HIDDEN_STATES))
            if output_hidden_states
            else None
        )
        pooled = outputs.pop("pooler_output", None)
        hidden = outputs.pop("last_hidden_state", None)
        if hidden is None:
            # Heads may return logits only; callers need some array for the length and the dtype.
            hidden = states[-1] if states else next(iter(outputs.values()), pooled)
        assert hidden is not None
        return EncoderOutput(hidden, pooled, outputs, states, None)

    def run_outputs(self, batch: TokenBatch, names: tuple[str, ...]) -> list[mx.array]:
        """Compute the outputs of these names, with the padding of the length removed again."""
        if batch.position_ids is not None or batch.inputs_embeds is not None:
            raise InputError(
                f"position_ids or inputs_embeds was passed, and the traced {self._graph.facts.model_class} takes "
                "neither: its graph computes positions from the ids. Leave it out, or use transformers on torch."
            )
        texts, tokens = batch.ids.shape
        sizes = {"B": texts, "L": self._padded_length(texts, tokens)}
        inputs = self._inputs(batch, sizes)
        # Outside the compiled function, since it reads values.
        self._index_checks.check(inputs)
        results = self._run(names, inputs)
        for name, result in zip(names, results, strict=True):
            self._check_shape(name, result, sizes)
        return [self._truncate(name, result, tokens) for name, result in zip(names, results, strict=True)]

    def check(self, batch: TokenBatch, sizes: Mapping[str, int]) -> None:
        """Check that the graph is valid for a shape and the values of a batch.

        Args:
            batch: The batch.
            sizes: The shape, "B" and "L".

        Raises:
            InputError: If a guard does not hold for the shape.
            TokenRangeError: If an index is outside its table.
        """
        if not self.allows(sizes["B"], sizes["L"]):
            raise InputError(f"{sizes} do not fit the graph of {self._graph.facts.model_class}. Pass another length.")
        self._index_checks.check(self._inputs(batch, sizes))

    def _output_names(self, output_hidden_states: bool) -> tuple[str, ...]:
        """Return the names of the outputs to compute."""
        outputs = list(self._graph.outputs)
        if output_hidden_states and not any(name.startswith(_HIDDEN_STATES) for name in outputs):
            raise InputError(
                f"output_hidden_states was passed, and the traced {self._graph.facts.model_class} has no hidden "
                "states. Leave it out, or use transformers on torch."
            )
        dropped = () if "pooler" in self else ("pooler_output",)
        return tuple(
            name
            for name in outputs
            if (output_hidden_states or not name.startswith(_HIDDEN_STATES)) and name not in dropped
        )

    def _padded_length(self, texts: int, tokens: int) -> int:
        """Return the smallest length that is not below `tokens` and that every guard allows.

        Where shapes are compiled, it is a multiple of LENGTH_MULTIPLE.
        """
        facts = self._graph.facts
        if tokens > facts.max_length:
            raise TokenRangeError(
                f"the texts have {tokens} tokens, and the traced {facts.model_class} takes at most {facts.max_length}. "
                "Truncate them."
            )
        # Where padding changes the result, every length is compiled by itself.
        step = LENGTH_MULTIPLE if self._compiled and not facts.length_dependent else 1
        first = min(-(-tokens // step) * step, facts.max_length)
        # `tokens` itself last: guards may allow it although no rounded length fits.
        candidates = [first] if facts.length_dependent else [*range(first, first + _MAX_EXTRA_PADDING), tokens]
        for length in candidates:
            if length <= facts.max_length and self.allows(texts, length):
                return length
        violated = next(guard.text for guard in self._guards if not guard.holds({"B": texts, "L": tokens}))
        raise InputError(
            f"{texts} texts of {tokens} tokens do not fit the graph of {facts.model_class}, which is valid for "
            f"{violated} (B texts, L tokens). Pass another number of texts, or truncate or pad them."
        )

    def allows(self, texts: int, tokens: int) -> bool:
        """Return whether the graph is valid for a batch of this shape."""
        sizes = {"B": texts, "L": tokens}
        return all(guard.holds(sizes) for guard in self._guards)

    def _inputs(self, batch: TokenBatch, sizes: Mapping[str, int]) -> dict[str, mx.array]:
        return {name: self._input(name, spec, batch, sizes) for name, spec in self._graph.inputs.items()}

    def _input(self, name: str, spec: GraphInput, batch: TokenBatch, sizes: Mapping[str, int]) -> mx.array:
        """Return an input in its full shape: the given one padded with 0, or 0 if it is absent (1 for the mask)."""
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes)
        known = {IDS: batch.ids, MASK: batch.mask, TOKEN_TYPE_IDS: batch.token_type_ids}
        found = known.get(name, batch.extra_inputs.get(name))
        dtype = DTYPES[spec.dtype]
        check_bytes(math.prod(shape) * dtype.size, f"has an input {name!r:.40}")
        if found is None and not spec.optional:
            raise InputError(
                f"{name} is not given, and the outputs of {self._graph.facts.model_class} depend on it. "
                f"Pass {name} of shape {shape}."
            )
        if found is None:
            # In the length of the ids, so that what is padded below is masked.
            found = mx.ones(batch.ids.shape, dtype) if name == MASK else mx.zeros(shape, dtype)
        if found.ndim != len(shape):
            # Multiple choice: the axis of choices was flattened into the batch.
            found = found.reshape(*found.shape[:1], *[1] * (len(shape) - found.ndim), *found.shape[1:])
        if found.ndim != len(shape) or any(present > size for size, present in zip(shape, found.shape, strict=False)):
            raise UnsupportedModelError(
                f"the graph has an input {name!r:.40} of shape {shape}, and the batch has {found.shape} for it. "
                "Convert the model again."
            )
        padding = [(0, size - present) for size, present in zip(shape, found.shape, strict=True)]
        if any(before or after for before, after in padding):
            filler = self._graph.facts.pad_token_id or 0 if name == IDS else 0
            found = mx.pad(found, padding, constant_values=filler)
        return found.astype(dtype)

    def _run(self, names: tuple[str, ...], inputs: Mapping[str, mx.array]) -> list[mx.array]:
        program = self._programs.get(names)
        if program is None:
            nodes = [self._graph.outputs[name] for name in names]
            program = self._programs[names] = Program(self._graph, nodes, self.table, self._dtype)
        if not self._compiled:
            return program(inputs)
        key = (names, *(array.shape for array in inputs.values()))
        call = self._compiled_calls.get(key, partial(_call, program, tuple(inputs)))
        results: list[mx.array] = call(*inputs.values())
        return results

    def _check_shape(self, name: str, result: Any, sizes: Mapping[str, int]) -> None:
        """Check that an output has the shape that the graph says, by which callers index it."""
        wanted = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in self._graph.axes[name]]
        found = list(result.shape) if isinstance(result, mx.array) else None
        if (
            found is None
            or [size if axis == "?" else axis for size, axis in zip(found, wanted, strict=False)] != found
            or len(found) != len(wanted)
        ):
            raise UnsupportedModelError(
                f"the graph computes {name} of shape {found}, expected {wanted}. Convert the model again."
            )

    def _truncate(self, name: str, result: mx.array, tokens: int) -> mx.array:
        """Remove the padding of the length from an output."""
        for index, axis in enumerate(self._graph.axes[name]):
            if axis == "L" and result.shape[index] != tokens:
                result = mx.split(result, [tokens], axis=index)[0]
        return result


def _check_packing(name: str, stored: Any) -> None:
    """Check that the parts of a packed table fit each other: MLX reads other memory where one has too few rows."""
    if not isinstance(stored, QuantizedModule):
        return
    width = stored.scales.shape[-1] * stored.group_size
    # 32 bits hold what a word of the packed weight holds.
    wanted = {"weight": (*stored.scales.shape[:-1], width * stored.bits // 32), "biases": stored.scales.shape}
    for part, shape in wanted.items():
        if part in stored and stored[part].shape != shape:
            raise WeightsError(
                f"{part} of {name} has the shape {stored[part].shape}, and its scales have {stored.scales.shape}, "
                f"expected {shape}. Convert the model again."
            )


def _call(program: Program, names: tuple[str, ...], *arrays: mx.array) -> list[mx.array]:
    return program(dict(zip(names, arrays, strict=True)))
