"""Translate an exported program into a graph and its tensors. Imports torch."""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.export import IGNORED, Inputs, axis_names, operation_name
from mlx_hf_bridge.tracing.graph import CONSTANT, INPUT, WEIGHT, Node

# Operations that return their argument where its shape and dtype are the wanted ones already.
_COPIES = (
    "clone",
    "alias",
    "detach",
    "contiguous",
    "lift_fresh_copy",
    "dropout",
    "_to_copy",
    "type_as",
    "expand",
    "view",
)
_WRAPPER = "module."
_IGNORED_OPTIONS = ("device", "pin_memory", "layout", "memory_format", "non_blocking", "copy", "requires_grad")


class Translation:
    """The result of translating an exported program.

    Args:
        program: The exported program.
        inputs: The example inputs, by name, in the order of the program's placeholders.

    Attributes:
        nodes: The nodes in order.
        outputs: The nodes of the outputs, by name.
        axes: The axes of the outputs, by name.
        tensors: The tensors, by name.
        parameters: Names of the tensors that are parameters, not buffers or constants.
    """

    def __init__(self, program: ExportedProgram, inputs: Inputs) -> None:
        self.nodes: list[Node] = []
        self.outputs: dict[str, Node] = {}
        self.axes: dict[str, tuple[str | int, ...]] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.parameters: set[str] = set()
        self._translated: dict[Any, Node] = {}
        self._stored: dict[str, Node] = {}
        self._names = self._placeholders(program, list(inputs))
        self._sizes = self._size_names(program, inputs)
        for node in program.graph.nodes:
            self._add(node, program)

    def _placeholders(self, program: ExportedProgram, inputs: list[str]) -> dict[str, tuple[str, str]]:
        """Return (input or weight, name) for each placeholder of torch; tensors that share memory get one name."""
        found: dict[str, tuple[str, str]] = {}
        input_names = iter(inputs)
        seen: dict[tuple[Any, ...], str] = {}
        for spec in program.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT:
                found[spec.arg.name] = (INPUT, next(input_names))
                continue
            target = str(spec.target)
            tensor = program.state_dict[target] if target in program.state_dict else program.constants[target]
            name = target.removeprefix(_WRAPPER)
            # The address is not enough: a view of part of a tensor may start at the same one.
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            # Empty tensors all have the address 0.
            name = seen.setdefault(key, name) if tensor.numel() else name
            self.tensors[name] = tensor.detach()
            if spec.kind == InputKind.PARAMETER:
                self.parameters.add(name)
            found[spec.arg.name] = (WEIGHT, name)
        return found

    def _size_names(self, program: ExportedProgram, inputs: Inputs) -> dict[str, str]:
        """Return "B" or "L" for each of torch's size symbols."""
        names: dict[str, str] = {}
        holders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        for holder, (kind, name) in self._names.items():
            if kind == INPUT:
                for size, axis in zip(holders[holder].meta["val"].shape, axis_names(inputs[name]), strict=True):
                    if isinstance(axis, str):
                        names.setdefault(str(size), axis)
        return names

    def _add(self, node: Any, program: ExportedProgram) -> None:
        if node.op == "placeholder":
            kind, name = self._names[node.name]
            translated = self._weight(name) if kind == WEIGHT else self._put(Node(INPUT, (name,)))
            translated.dtype = _dtype(node)
            self._translated[node] = translated
        elif node.op == "call_function" and operation_name(node.target) not in IGNORED:
            options = {key: self._argument(value) for key, value in node.kwargs.items() if key not in _IGNORED_OPTIONS}
            args = tuple(self._argument(value) for value in node.args)
            if _is_identity(node) and isinstance(args[0], Node):
                self._translated[node] = args[0]
            else:
                self._translated[node] = self._put(Node(operation_name(node.target), args, options, _dtype(node)))
        elif node.op == "output":
            self._add_outputs(node, program)

    def _weight(self, name: str) -> Node:
        if name not in self._stored:
            self._stored[name] = self._put(Node(WEIGHT if name in self.parameters else CONSTANT, (name,)))
        return self._stored[name]

    def _put(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def _argument(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return self._translated.get(value)
        if isinstance(value, torch.dtype):
            return str(value).removeprefix("torch.")
        if isinstance(value, (list, tuple)):
            return [self._argument(item) for item in value]
        if isinstance(value, (torch.device, torch.memory_format, torch.layout)):
            return None
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise UnsupportedModelError(
            f"the graph has {value!r} ({type(value).__name__}) as an argument, expected numbers. "
            "Use transformers on torch for this model."
        )

    def _add_outputs(self, node: Any, program: ExportedProgram) -> None:
        """Collect the outputs by name; hidden states are numbered."""
        shape = program.call_spec.out_spec
        template = torch.utils._pytree.tree_unflatten(list(node.args[0]), shape)
        for name, value in template.items():
            many = value if isinstance(value, (list, tuple)) else None
            for number, item in enumerate(many if many is not None else [value]):
                key = name if many is None else f"{name}.{number}"
                self.outputs[key] = self._translated[item]
                self.axes[key] = tuple(self._axis(size) for size in item.meta["val"].shape)

    def _axis(self, size: Any) -> str | int:
        return size if isinstance(size, int) else self._sizes.get(str(size), "?")


def _is_identity(node: Any) -> bool:
    """Return whether an operation returns its first argument: a copy of the same shape and dtype."""
    if operation_name(node.target) not in _COPIES:
        return False
    before, after = node.args[0].meta.get("val"), node.meta.get("val")
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return False
    # As strings, since comparing symbolic sizes could make torch add a guard.
    return before.dtype == after.dtype and [str(size) for size in before.shape] == [str(size) for size in after.shape]


def _dtype(node: Any) -> str:
    value = node.meta.get("val")
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
