"""An exported program becomes a graph and its tensors. Imports torch."""

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.export import IGNORED, Inputs, axis_names, operation_name
from mlx_hf_bridge.tracing.graph import CONSTANT, INPUT, WEIGHT, Node

# Operations that leave some arguments as they are: copies, casts to the dtype that is there, and the like.
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
_NOT_OURS = ("device", "pin_memory", "layout", "memory_format", "non_blocking", "copy", "requires_grad")


class Translation:
    """nodes, outputs by name, tensors by name; parameters: which tensors are trained, not buffers or constants."""

    def __init__(self, program: ExportedProgram, inputs: Inputs) -> None:
        self.nodes: list[Node] = []
        self.outputs: dict[str, Node] = {}
        self.axes: dict[str, tuple[str | int, ...]] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.parameters: set[str] = set()
        self._made: dict[Any, Node] = {}
        self._held: dict[str, Node] = {}
        self._names = self._placeholders(program, list(inputs))
        self._letters = self._letters_of(program, inputs)
        for node in program.graph.nodes:
            self._add(node, program)

    def _placeholders(self, program: ExportedProgram, inputs: list[str]) -> dict[str, tuple[str, str]]:
        """torch's placeholder -> (input or weight, our name); tensors of one memory have one name."""
        found: dict[str, tuple[str, str]] = {}
        given = iter(inputs)
        seen: dict[tuple[Any, ...], str] = {}
        for spec in program.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT:
                found[spec.arg.name] = (INPUT, next(given))
                continue
            target = str(spec.target)
            tensor = program.state_dict[target] if target in program.state_dict else program.constants[target]
            name = target.removeprefix(_WRAPPER)
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            name = seen.setdefault(key, name) if tensor.numel() else name
            self.tensors[name] = tensor.detach()
            if spec.kind == InputKind.PARAMETER:
                self.parameters.add(name)
            found[spec.arg.name] = (WEIGHT, name)
        return found

    def _letters_of(self, program: ExportedProgram, inputs: Inputs) -> dict[str, str]:
        """torch's symbols of sizes -> B or L."""
        letters: dict[str, str] = {}
        holders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        for holder, (kind, name) in self._names.items():
            if kind == INPUT:
                for size, axis in zip(holders[holder].meta["val"].shape, axis_names(inputs[name]), strict=True):
                    if isinstance(axis, str):
                        letters.setdefault(str(size), axis)
        return letters

    def _add(self, node: Any, program: ExportedProgram) -> None:
        if node.op == "placeholder":
            kind, name = self._names[node.name]
            made = self._weight(name) if kind == WEIGHT else self._put(Node(INPUT, (name,)))
            made.dtype = _dtype(node)
            self._made[node] = made
        elif node.op == "call_function" and operation_name(node.target) not in IGNORED:
            options = {key: self._argument(value) for key, value in node.kwargs.items() if key not in _NOT_OURS}
            args = tuple(self._argument(value) for value in node.args)
            if _is_same(node) and isinstance(args[0], Node):
                self._made[node] = args[0]
            else:
                self._made[node] = self._put(Node(operation_name(node.target), args, options, _dtype(node)))
        elif node.op == "output":
            self._add_outputs(node, program)

    def _weight(self, name: str) -> Node:
        if name not in self._held:
            self._held[name] = self._put(Node(WEIGHT if name in self.parameters else CONSTANT, (name,)))
        return self._held[name]

    def _put(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def _argument(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return self._made.get(value)
        if isinstance(value, torch.dtype):
            return str(value).removeprefix("torch.")
        if isinstance(value, (list, tuple)):
            return [self._argument(item) for item in value]
        if isinstance(value, (torch.device, torch.memory_format, torch.layout)):
            return None
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise UnsupportedModelError(
            f"the graph has {value!r} ({type(value).__name__}) for an argument, expected numbers. "
            "Use transformers on torch for this model."
        )

    def _add_outputs(self, node: Any, program: ExportedProgram) -> None:
        """The answers by name; hidden states are numbered."""
        shape = program.call_spec.out_spec
        template = torch.utils._pytree.tree_unflatten(list(node.args[0]), shape)
        for name, value in template.items():
            many = value if isinstance(value, (list, tuple)) else None
            for place, item in enumerate(many if many is not None else [value]):
                key = name if many is None else f"{name}.{place}"
                self.outputs[key] = self._made[item]
                self.axes[key] = tuple(self._axis(size) for size in item.meta["val"].shape)

    def _axis(self, size: Any) -> str | int:
        return size if isinstance(size, int) else self._letters.get(str(size), "?")


def _is_same(node: Any) -> bool:
    """Whether an operation gives what it was given: of the same shape and dtype."""
    if operation_name(node.target) not in _COPIES:
        return False
    given, made = node.args[0].meta.get("val"), node.meta.get("val")
    if not isinstance(given, torch.Tensor) or not isinstance(made, torch.Tensor):
        return False
    return given.dtype == made.dtype and [str(size) for size in given.shape] == [str(size) for size in made.shape]


def _dtype(node: Any) -> str:
    value = node.meta.get("val")
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
