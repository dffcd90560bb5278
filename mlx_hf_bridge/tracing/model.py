"""A traced module in the place of a family's: a batch of tokens -> its answers.

B texts, L tokens, D hidden.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.errors import InputError, TokenRangeError
from mlx_hf_bridge.inference.model import EncoderOutput
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.device import COMPILES_GRAPHS
from mlx_hf_bridge.tracing.graph import Graph, GraphInput
from mlx_hf_bridge.tracing.guards import Guard
from mlx_hf_bridge.tracing.index_checks import IndexChecks
from mlx_hf_bridge.tracing.interpreter import Program
from mlx_hf_bridge.tracing.ops.dtypes import DTYPES

IDS, MASK, TOKEN_TYPE_IDS = "input_ids", "attention_mask", "token_type_ids"
_STATES = "hidden_states."
# A length that the guards refuse is tried again with this many slots of padding.
_MORE_SLOTS = 64
# mx.compile keeps a trace a shape; lengths go up to a multiple of the first, and the oldest of the second is forgotten.
LENGTH_MULTIPLE, MAX_COMPILED_SHAPES = 16, 32


class TracedModel(nn.Module):
    """A graph with its weights. compiled: one mx.compile a shape, lengths in buckets; None = as the device does best.

    weights: arrays and packed tables by name. dtype: of the activations.
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
        self.table = dict(weights)
        if pooler and "pooler_output" in graph.outputs:
            self.pooler = nn.Identity()
        self._graph = graph
        self._dtype = dtype
        self._guards = [Guard(text) for text in graph.guards]
        self._places = IndexChecks(graph, weights)
        self._programs: dict[tuple[str, ...], Program] = {}
        self._compiled = COMPILES_GRAPHS if compiled is None else compiled
        self._traces: OrderedDict[Any, Callable[..., list[mx.array]]] = OrderedDict()

    @property
    def compiled_shapes(self) -> int:
        """How many shapes are compiled now; MOST_TRACES at most."""
        return len(self._traces)

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
                f"output_attentions is asked, and the traced {self._graph.facts.model_class} has none: a graph's "
                "answers "
                "are fixed when it is made. Leave it out, or use transformers on torch."
            )
        names = self._wanted(output_hidden_states)
        answers = dict(zip(names, self.answers(batch, names), strict=True))
        kept = tuple(answers.pop(name) for name in names if name.startswith(_STATES)) if output_hidden_states else None
        pooled = answers.pop("pooler_output", None)
        hidden = answers.pop("last_hidden_state", None)
        if hidden is None:
            hidden = kept[-1] if kept else next(iter(answers.values()), pooled)
        assert hidden is not None
        return EncoderOutput(hidden, pooled, answers, kept, None)

    def answers(self, batch: TokenBatch, names: tuple[str, ...]) -> list[mx.array]:
        """The outputs of these names, padding cut off again."""
        if batch.position_ids is not None or batch.inputs_embeds is not None:
            raise InputError(
                f"position_ids or inputs_embeds is given, and the traced {self._graph.facts.model_class} takes "
                "neither: "
                "its graph counts places from the ids. Leave it out, or use transformers on torch."
            )
        texts, tokens = batch.ids.shape
        sizes = {"B": texts, "L": self._length(texts, tokens)}
        inputs = self._inputs(batch, sizes)
        self._places.check(inputs)
        results = self._run(names, inputs)
        return [self._cut(name, result, tokens) for name, result in zip(names, results, strict=True)]

    def check(self, batch: TokenBatch, sizes: Mapping[str, int]) -> None:
        """InputError or TokenRangeError for a shape, or values, that the graph does not hold for."""
        if not self.allows(sizes["B"], sizes["L"]):
            raise InputError(f"{sizes} do not fit the graph of {self._graph.facts.model_class}. Give another length.")
        self._places.check(self._inputs(batch, sizes))

    def _wanted(self, states: bool) -> tuple[str, ...]:
        outputs = list(self._graph.outputs)
        if states and not any(name.startswith(_STATES) for name in outputs):
            raise InputError(
                f"output_hidden_states is asked, and the traced {self._graph.facts.model_class} has none. Leave it "
                "out, "
                "or use transformers on torch."
            )
        dropped = () if "pooler" in self else ("pooler_output",)
        return tuple(name for name in outputs if (states or not name.startswith(_STATES)) and name not in dropped)

    def _length(self, texts: int, tokens: int) -> int:
        """The least length from `tokens` on, in whole buckets where shapes are compiled, that every guard allows."""
        facts = self._graph.facts
        if tokens > facts.max_length:
            raise TokenRangeError(
                f"the texts have {tokens} tokens, and the traced {facts.model_class} takes {facts.max_length} at most. "
                "Truncate them."
            )
        step = LENGTH_MULTIPLE if self._compiled and not facts.length_dependent else 1
        first = min(-(-tokens // step) * step, facts.max_length)
        tried = [first] if facts.length_dependent else [*range(first, first + _MORE_SLOTS), tokens]
        for length in tried:
            if length <= facts.max_length and self.allows(texts, length):
                return length
        broken = next(guard.text for guard in self._guards if not guard.holds({"B": texts, "L": tokens}))
        raise InputError(
            f"{texts} texts of {tokens} tokens do not fit the graph of {facts.model_class}, which holds where {broken} "
            "(B texts, L tokens). Give another number of texts, or cut or lengthen them."
        )

    def allows(self, texts: int, tokens: int) -> bool:
        """Whether the graph holds for a batch of this shape."""
        sizes = {"B": texts, "L": tokens}
        return all(guard.holds(sizes) for guard in self._guards)

    def _inputs(self, batch: TokenBatch, sizes: Mapping[str, int]) -> dict[str, mx.array]:
        return {name: self._input(name, spec, batch, sizes) for name, spec in self._graph.inputs.items()}

    def _input(self, name: str, spec: GraphInput, batch: TokenBatch, sizes: Mapping[str, int]) -> mx.array:
        """An input in its full shape: the caller's, padded with 0, or 0 where it is left out (a mask 1)."""
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes)
        known = {IDS: batch.ids, MASK: batch.mask, TOKEN_TYPE_IDS: batch.token_type_ids}
        found = known.get(name, batch.extra_inputs.get(name))
        dtype = DTYPES[spec.dtype]
        if found is None and not spec.optional:
            raise InputError(
                f"{name} is not given, and {self._graph.facts.model_class} answers otherwise with it than without. "
                f"Pass {name} with the shape {shape}."
            )
        if found is None:
            found = mx.ones(batch.ids.shape, dtype) if name == MASK else mx.zeros(shape, dtype)
        if found.ndim != len(shape):
            found = found.reshape(*found.shape[:1], *[1] * (len(shape) - found.ndim), *found.shape[1:])
        missing = [(0, size - given) for size, given in zip(shape, found.shape, strict=True)]
        if any(before or after for before, after in missing):
            filler = self._graph.facts.pad_token_id or 0 if name == IDS else 0
            found = mx.pad(found, missing, constant_values=filler)
        return found.astype(dtype)

    def _run(self, names: tuple[str, ...], inputs: Mapping[str, mx.array]) -> list[mx.array]:
        program = self._programs.get(names)
        if program is None:
            wanted = [self._graph.outputs[name] for name in names]
            program = self._programs[names] = Program(self._graph, wanted, self.table, self._dtype)
        if not self._compiled:
            return program(inputs)
        key = (names, *(array.shape for array in inputs.values()))
        trace = self._traces.pop(key, None) or mx.compile(partial(_called, program, tuple(inputs)))
        self._traces[key] = trace
        while len(self._traces) > MAX_COMPILED_SHAPES:
            self._traces.popitem(last=False)
        return trace(*inputs.values())

    def _cut(self, name: str, result: mx.array, tokens: int) -> mx.array:
        for place, axis in enumerate(self._graph.axes[name]):
            if axis == "L" and result.shape[place] != tokens:
                result = mx.split(result, [tokens], axis=place)[0]
        return result


def _called(program: Program, names: tuple[str, ...], *arrays: mx.array) -> list[mx.array]:
    return program(dict(zip(names, arrays, strict=True)))
