"""Read the pickle of a torch checkpoint as a description of tensors, without unpickling it.

`pickle.Unpickler` builds objects and calls functions as a file asks. Here a small interpreter reads the instructions
(pickletools.genops) and knows only those that `torch.save` writes for tensors in dicts and lists: no object of a class
is built, no function is called, nothing is changed after it was checked, and memory is bounded by the pickle's size.
Reference: torch/_weights_only_unpickler.py.
"""

import pickletools
import reprlib
from typing import Any, BinaryIO, NamedTuple

from mlx_hf_bridge.checkpoints.safetensors_file import is_shape

# numpy has no bfloat16; its bits are read as integers and reinterpreted by MLX.
STORAGE_DTYPES = {
    "FloatStorage": ("F32", "<f4"),
    "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"),
    "DoubleStorage": ("F64", "<f8"),
    "LongStorage": ("I64", "<i8"),
    "IntStorage": ("I32", "<i4"),
    "ShortStorage": ("I16", "<i2"),
    "CharStorage": ("I8", "i1"),
    "ByteStorage": ("U8", "u1"),
    "BoolStorage": ("BOOL", "?"),
}
_MAX_INT64 = 2**63
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_STRINGS = ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
_LITERALS = frozenset((*_NUMBERS, *_STRINGS, "BINBYTES", "SHORT_BINBYTES"))
# Module and name, joined by a space as genops does.
_ORDERED_DICT, _SIZE = "collections OrderedDict", "torch Size"
_REBUILDS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")


class TensorPickleError(Exception):
    """What is wrong with a pickle, as part of a sentence."""


class Storage(NamedTuple):
    """One storage: the element type's class name in torch, and the key of its data in the file."""

    kind: str
    key: str
    size: int


class StoredTensor(NamedTuple):
    """One tensor as a view of a storage, all numbers in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Global(NamedTuple):
    name: str


def short(value: Any) -> str:
    """Return a short text of any value for messages; that of nested or huge ones would have no end."""
    try:
        return reprlib.repr(value)
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"


def read_pickle(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Return what a pickle describes, and leave the file right behind it.

    Args:
        file: A binary file at the start of a pickle.

    Returns:
        Numbers, strings, tuples, lists and dicts, with a `StoredTensor` for each tensor; and every storage by its key.

    Raises:
        TensorPickleError: If it is no pickle, or describes anything else.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.pop(), machine.storages
            machine.run(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, AttributeError) as error:
        raise TensorPickleError(f"its pickle is damaged: {short(str(error))}") from error
    raise TensorPickleError("its pickle has no end")


def tensors_by_name(found: Any) -> dict[str, StoredTensor]:
    """Return the tensors of what `read_pickle` found; other entries, such as a training state's numbers, are left out.

    Raises:
        TensorPickleError: If it is no dict, or the tensors are inside one of its entries.
    """
    if not isinstance(found, dict):
        raise TensorPickleError(f"it holds a {type(found).__name__}, not tensors by name")
    named = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, StoredTensor)}
    if not named:
        for wrapper in _WRAPPERS:
            inner = found.get(wrapper)
            if isinstance(inner, dict) and any(isinstance(value, StoredTensor) for value in inner.values()):
                raise TensorPickleError(f"its tensors are inside the entry {wrapper!r}, as a trainer writes them")
    return named


class _Machine:
    """The stack, memo and instructions of the pickle protocol, as far as tensors need them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def pop_to_mark(self) -> list[Any]:
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def run(self, name: str, argument: Any) -> None:
        """Carry out one instruction; TensorPickleError for one that no checkpoint has."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif method := getattr(self, f"_{name.lower()}", None):
            method(argument)
        else:
            raise TensorPickleError(f"its pickle has the instruction {name}, which describes no tensor")

    def _proto(self, _: Any) -> None: ...

    def _frame(self, _: Any) -> None: ...

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self.pop()

    def _tuple1(self, _: Any) -> None:
        self.stack.append((self.pop(),))

    def _tuple2(self, _: Any) -> None:
        second, first = self.pop(), self.pop()
        self.stack.append((first, second))

    def _tuple3(self, _: Any) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, second, third))

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def _list(self, _: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def _dict(self, _: Any) -> None:
        entries, self.stack = self.pop_to_mark(), [*self.stack, {}]
        self._fill(entries)

    def _append(self, _: Any) -> None:
        value = self.pop()
        self._top(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self.pop_to_mark()
        self._top(list).extend(values)

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._fill([key, value])

    def _setitems(self, _: Any) -> None:
        self._fill(self.pop_to_mark())

    def _top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"a {kind.__name__} is missing")
        return self.stack[-1]

    def _fill(self, entries: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            # A nested tuple as a key would be hashed recursively.
            if not isinstance(key, str | int):
                raise ValueError(f"a dict has a key of type {type(key).__name__}")
            target[key] = value

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    def _global(self, name: str) -> None:
        module, _, leaf = name.partition(" ")
        known = (_ORDERED_DICT, _SIZE, *_REBUILDS, *_PARAMETERS)
        if name not in known and not (module == "torch" and leaf in STORAGE_DTYPES):
            raise TensorPickleError(f"the pickle asks for {short(f'{module}.{leaf}')[1:-1]}, which describes no tensor")
        self.stack.append(_Global(name))

    def _stack_global(self, _: Any) -> None:
        leaf, module = self.pop(), self.pop()
        self._global(f"{module} {leaf}" if isinstance(module, str) and isinstance(leaf, str) else short((module, leaf)))

    def _reduce(self, _: Any) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, _Global) or not isinstance(arguments, tuple):
            raise ValueError("something is called that is no function")
        if called.name in _REBUILDS:
            self.stack.append(_tensor(*arguments[:4]))
        elif called.name == _ORDERED_DICT and len(arguments) < 2:
            self.stack.append({})
            self._fill([part for key, value in next(iter(arguments), ()) for part in (key, value)])
        # A parameter is its tensor, and a torch.Size the tuple of its sizes.
        elif (called.name in _PARAMETERS and isinstance(arguments[0], StoredTensor)) or called.name == _SIZE:
            self.stack.append(arguments[0])
        else:
            raise ValueError(f"{called.name} is called with {short(arguments)}")

    def _build(self, _: Any) -> None:
        # state_dict() sets an attribute `_metadata` on its OrderedDict; nothing else may be changed.
        self.pop()
        self._top(dict)

    def _binpersid(self, _: Any) -> None:
        storage = _storage(self.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise TensorPickleError(f"it has two storages of the key {short(storage.key)}")
        self.stack.append(storage)


def _storage(reference: Any) -> Storage:
    """Return the storage of a persistent id ("storage", type, key, device, elements[, view])."""
    if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
        raise TensorPickleError(f"its pickle refers to {short(reference)}, expected a storage")
    _, kind, key, _, size, *view = reference
    if view not in ([], [None]):
        raise TensorPickleError("it has storages that are views of others, as torch before 0.4 wrote them")
    name = kind.name.removeprefix("torch ") if isinstance(kind, _Global) else short(kind)
    if name not in STORAGE_DTYPES:
        raise TensorPickleError(f"a storage is of kind {short(name)}")
    if not isinstance(key, str) or not _is_count(size):
        raise TensorPickleError(f"a storage has the key {short(key)} and the size {short(size)}")
    return Storage(name, key, size)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_INT64


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    valid = isinstance(storage, Storage) and _is_count(offset)
    valid = valid and isinstance(shape, tuple | list) and isinstance(stride, tuple | list)
    valid = valid and is_shape(shape) and all(_is_count(number) for number in stride)
    if not valid or len(shape) != len(stride):
        raise TensorPickleError(
            f"a tensor has offset {short(offset)}, shape {short(shape)} and strides {short(stride)}"
        )
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))
