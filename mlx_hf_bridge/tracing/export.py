"""Export a torch module with torch.export, for any number of texts and tokens.

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
from mlx_hf_bridge.runtime.quiet import no_logging
from mlx_hf_bridge.tracing.ops import OPERATIONS

# Texts and tokens of the example; neither is a size that models use for another axis.
EXAMPLE_TEXTS, EXAMPLE_TOKENS = 3, 11
# The upper bound of B.
_MAX_TEXTS = 2**20
# A decomposition may contain operations that must be decomposed in turn.
_ROUNDS = 4
# The number of Unicode's code points, for modules that read characters.
_CHARACTERS = 0x110000
_HIDDEN_STATES = "hidden_states"

# Operations that only assert, or describe memory.
IGNORED: tuple[str, ...] = (
    "_assert_scalar",
    "_assert_tensor_metadata",
    "_assert_async.msg",
    "sym_constrain_range_for_size",
)
IGNORED += ("sym_storage_offset",)

Inputs = Mapping[str, torch.Tensor]


class NamedOutputs(torch.nn.Module):
    """Call a transformers module with inputs in a fixed order, and return its outputs by name, None left out.

    Args:
        module: The transformers module.
        names: The names of the inputs, in the order in which they are passed.
        states: Whether hidden states of all layers are among the outputs.
    """

    def __init__(self, module: torch.nn.Module, names: tuple[str, ...], states: bool) -> None:
        super().__init__()
        self.module = module
        self.names = names
        self.options = {"return_dict": True, **({"output_hidden_states": True} if states else {})}
        accepted = inspect.signature(module.forward).parameters
        if "use_cache" in accepted:
            # A cache would be one more output, and an encoder has no use for it.
            self.options["use_cache"] = False

    def forward(self, *given: torch.Tensor) -> dict[str, Any]:
        """Return every output of the module that is an array, and its hidden states."""
        output = self.module(**dict(zip(self.names, given, strict=True)), **self.options)
        return {
            name: value
            for name, value in output.items()
            # UDOP returns its mask, too.
            if (isinstance(value, torch.Tensor) and name not in self.names) or (name == _HIDDEN_STATES and value)
        }


def example_inputs(module: Any, extra_inputs: Inputs) -> dict[str, torch.Tensor]:
    """Return the inputs that a module is traced with: random ids and a mask with padding (B, L), and the extra inputs.

    Args:
        module: The transformers module.
        extra_inputs: Further inputs for EXAMPLE_TEXTS and EXAMPLE_TOKENS.

    Returns:
        Tensors by name.
    """
    mask = torch.ones(EXAMPLE_TEXTS, EXAMPLE_TOKENS, dtype=torch.long)
    # With padding, or transformers might skip the mask, and the graph would ignore it for good.
    mask[1, EXAMPLE_TOKENS - 4 :] = 0
    ids = torch.randint(0, vocab_size_of(module), mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": mask, **extra_inputs}


def token_embedding(module: Any) -> torch.Tensor | None:
    """Return the weight of the token embedding; None for modules that have none (CANINE hashes characters)."""
    try:
        return getattr(module.get_input_embeddings(), "weight", None)
    except (NotImplementedError, AttributeError):
        return None


def vocab_size_of(module: Any) -> int:
    """Return the number of token ids of a module."""
    table = token_embedding(module)
    return int(getattr(module.config, "vocab_size", 0) or _CHARACTERS) if table is None else int(table.shape[0])


def export_program(module: torch.nn.Module, inputs: Inputs, limit: int, states: bool = True) -> ExportedProgram:
    """Export a module for any B and L, decomposed into operations that the graph has.

    Args:
        module: The transformers module.
        inputs: The example inputs, by name.
        limit: The largest L.
        states: Whether hidden states of all layers are among the outputs.

    Returns:
        The exported program.

    Raises:
        UnsupportedModelError: If torch.export fails, or operations are left that have no counterpart here.
    """
    with suppress_output(), torch.no_grad():
        return _decompose(_export_dynamic(NamedOutputs(module, tuple(inputs), states).eval(), inputs, limit))


def _export_dynamic(wrapper: NamedOutputs, inputs: Inputs, limit: int) -> ExportedProgram:
    """Export with named dimensions, else with dimensions that torch chooses; named ones report violations precisely."""
    named = {"B": Dim("B", min=1, max=_MAX_TEXTS), "L": Dim("L", min=1, max=limit)}
    reasons = []
    for free in (named, {"B": Dim.AUTO, "L": Dim.AUTO}):
        shapes = tuple(
            {index: free[axis] for index, axis in _dynamic_axes(tensor).items()} for tensor in inputs.values()
        )
        try:
            # strict=False traces by running the Python code, strict mode by reading its bytecode.
            return export(wrapper, tuple(inputs.values()), dynamic_shapes={"given": shapes}, strict=False)
        except Exception as error:  # torch raises any type for what it cannot trace
            reasons.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    name = type(wrapper.module).__name__
    raise UnsupportedModelError(
        f"torch.export cannot trace {name} ({reasons[-1]:.300}). Use transformers on torch for this one."
    )


def _dynamic_axes(tensor: torch.Tensor) -> dict[int, str]:
    """Return the axes of an input that vary: the first is B, and others of the example's length are L."""
    return {0: "B"} | {index: "L" for index, size in enumerate(tensor.shape) if index and size == EXAMPLE_TOKENS}


def axis_names(tensor: torch.Tensor) -> tuple[str | int, ...]:
    """Return the axes of an input: "B" or "L" for those that vary, else their size."""
    varied = _dynamic_axes(tensor)
    return tuple(varied.get(index, size) for index, size in enumerate(tensor.shape))


def _decompose(program: ExportedProgram) -> ExportedProgram:
    """Decompose the operations that the table lacks, until none is left; high-level ones in the table are kept."""
    table: dict[Any, Any] = {}
    # materialize() makes a plain dictionary, so that single operations can be picked.
    known = torch.export.default_decompositions().materialize()
    for _ in range(_ROUNDS):
        program = program.run_decompositions(table)
        missing = missing_operations(program)
        # Only what is missing is decomposed: attention, linear layers and norms stay single operations.
        table = {operation: known[operation] for operation in missing if operation in known}
        if not table:
            break
    if missing:
        names = ", ".join(sorted({str(operation) for operation in missing}))
        raise UnsupportedModelError(
            f"the graph has operations that are not supported: {names}. Use transformers on torch for this one, "
            "or add them to mlx_hf_bridge/tracing/ops."
        )
    return program


def missing_operations(program: ExportedProgram) -> list[Any]:
    """Return the operations of a program that the table lacks."""
    used = [node.target for node in program.graph.nodes if node.op == "call_function"]
    known = (*OPERATIONS, *IGNORED)
    return list(dict.fromkeys(target for target in used if operation_name(target) not in known))


def operation_name(target: Any) -> str:
    """Return the name of an operation in a graph: "add.Tensor", or "sym.add" for arithmetic on sizes."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removeprefix("aten.").removesuffix(".default")
    return f"sym.{getattr(target, '__name__', target)}".replace("sym.sym_", "sym.")


@contextlib.contextmanager
def suppress_output() -> Iterator[None]:
    """Suppress warnings, log lines and progress bars of torch.export and transformers."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        # torch and transformers log through many loggers; only this stops all of them.
        with no_logging(logging.CRITICAL), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
