"""A torch module becomes an exported program whose texts and tokens may be of any number (torch.export).

Imports torch; nothing that runs a converted model imports this file. B texts, L tokens.
"""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.export import Dim, ExportedProgram, export
from transformers.utils import logging as transformers_logging

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.ops import OPERATIONS

# Texts and tokens of the example; neither is a size that models have for something else.
EXAMPLE_TEXTS, EXAMPLE_TOKENS = 3, 11
_MOST_TEXTS = 2**20
_ROUNDS = 4
# Unicode's code points, for modules that read characters.
_CHARACTERS = 0x110000
_KEPT: tuple[str, ...] = (
    "last_hidden_state",
    "pooler_output",
    "logits",
    "start_logits",
    "end_logits",
    "prediction_logits",
)
_KEPT += ("seq_relationship_logits", "sop_logits", "text_embeds", "hidden_states")

# What only asserts, or says where memory lies.
IGNORED: tuple[str, ...] = (
    "_assert_scalar",
    "_assert_tensor_metadata",
    "_assert_async.msg",
    "sym_constrain_range_for_size",
)
IGNORED += ("sym_storage_offset",)

Inputs = Mapping[str, torch.Tensor]


class NamedOutputs(torch.nn.Module):
    """A transformers module called with inputs in a fixed order -> its answers by name, None left out."""

    def __init__(self, module: torch.nn.Module, names: tuple[str, ...], states: bool) -> None:
        super().__init__()
        self.module = module
        self.names = names
        self.options = {"return_dict": True, **({"output_hidden_states": True} if states else {})}
        takes = inspect.signature(module.forward).parameters
        if "use_cache" in takes:
            self.options["use_cache"] = False

    def forward(self, *given: torch.Tensor) -> dict[str, Any]:
        output = self.module(**dict(zip(self.names, given, strict=True)), **self.options)
        return {name: output[name] for name in _KEPT if output.get(name) is not None}


def example_inputs(module: Any, extra_inputs: Inputs) -> dict[str, torch.Tensor]:
    """Ids and a mask with padding (B, L), and what else the module takes of every text."""
    mask = torch.ones(EXAMPLE_TEXTS, EXAMPLE_TOKENS, dtype=torch.long)
    mask[1, EXAMPLE_TOKENS - 4 :] = 0
    ids = torch.randint(0, vocab_size_of(module), mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": mask, **extra_inputs}


def token_embedding(module: Any) -> torch.Tensor | None:
    """The word embeddings' weight; None for modules that have none (CANINE hashes characters)."""
    try:
        return getattr(module.get_input_embeddings(), "weight", None)
    except (NotImplementedError, AttributeError):
        return None


def vocab_size_of(module: Any) -> int:
    """How many ids the module knows."""
    table = token_embedding(module)
    return int(getattr(module.config, "vocab_size", 0) or _CHARACTERS) if table is None else int(table.shape[0])


def export_program(module: torch.nn.Module, inputs: Inputs, limit: int, states: bool = True) -> ExportedProgram:
    """The program for any B and L, in operations that the graph has; `limit`: the most tokens.

    UnsupportedModelError says why torch.export has none, or names operations that are missing here.
    """
    with suppress_output(), torch.no_grad():
        return _lowered(_first_that_works(NamedOutputs(module, tuple(inputs), states).eval(), inputs, limit))


def _first_that_works(answering: NamedOutputs, inputs: Inputs, limit: int) -> ExportedProgram:
    named = {"B": Dim("B", min=1, max=_MOST_TEXTS), "L": Dim("L", min=1, max=limit)}
    reasons = []
    for free in (named, {"B": Dim.AUTO, "L": Dim.AUTO}):
        shapes = tuple({place: free[axis] for place, axis in _axes(tensor).items()} for tensor in inputs.values())
        try:
            return export(answering, tuple(inputs.values()), dynamic_shapes={"given": shapes}, strict=False)
        except Exception as error:  # torch raises any type for what it cannot trace
            reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    name = type(answering.module).__name__
    raise UnsupportedModelError(
        f"torch.export has no graph of {name} ({reasons[-1]:.300}). Use transformers on torch for this one."
    )


def _axes(tensor: torch.Tensor) -> dict[int, str]:
    """Which axes of an input vary: the first with the texts, others of the example's length with the tokens."""
    return {0: "B"} | {place: "L" for place, size in enumerate(tensor.shape) if place and size == EXAMPLE_TOKENS}


def axis_names(tensor: torch.Tensor) -> tuple[str | int, ...]:
    """An input's axes, B and L for those that vary."""
    varied = _axes(tensor)
    return tuple(varied.get(place, size) for place, size in enumerate(tensor.shape))


def _lowered(program: ExportedProgram) -> ExportedProgram:
    """High-level operations kept; those that the table lacks are decomposed until none is left."""
    table: dict[Any, Any] = {}
    known = torch.export.default_decompositions().materialize()
    for _ in range(_ROUNDS):
        program = program.run_decompositions(table)
        missing = missing_operations(program)
        table = {operation: known[operation] for operation in missing if operation in known}
        if not table:
            break
    if missing:
        names = ", ".join(sorted({str(operation) for operation in missing}))
        raise UnsupportedModelError(
            f"the graph has operations that are not computed here: {names}. Use transformers on torch for this one, "
            "or add them to mlx_hf_bridge/tracing/ops."
        )
    return program


def missing_operations(program: ExportedProgram) -> list[Any]:
    """The operations of a program that the table lacks."""
    used = [node.target for node in program.graph.nodes if node.op == "call_function"]
    known = (*OPERATIONS, *IGNORED)
    return list(dict.fromkeys(target for target in used if operation_name(target) not in known))


def operation_name(target: Any) -> str:
    """torch's operation as the graph has it: "add.Tensor", "softmax.int"; of Python's and torch's numbers "sym.add"."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removeprefix("aten.").removesuffix(".default")
    return f"sym.{getattr(target, '__name__', target)}".replace("sym.sym_", "sym.")


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Without warnings, log lines and bars of tracing and of transformers, which are for the authors of models."""
    before, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if bars:
            transformers_logging.enable_progress_bar()
