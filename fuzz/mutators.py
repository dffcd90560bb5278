"""Changes of an input that keep its format, so that a reader's later checks are reached too.

A mutator returns the changed input, or None to leave this change to the engine, which changes bytes.
"""

import contextlib
import json
import pickletools
import struct
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes | None]

# How often a change is left to the engine.
_BYTES_SHARE = 0.15
_MOST_CHANGES = 4
_DEPTH = 20_000
# Stand for what json.dumps cannot write: nesting deeper than its recursion, and a number that is no float.
_DEEP, _HUGE = "\x00deep", "\x00huge"
_INTEGERS = (-(2**63), -(2**31), -1000, -3, -1, 0, 1, 2, 3, 7, 16, 101, 102, 255, 2**15, 2**16, 2**31 - 1, 2**31)
_INTEGERS += (2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**30)
_FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e-12, 1e30, 1e308, float("inf"), float("-inf"), float("nan"))
_TEXTS: tuple[str, ...] = ("", " ", ".", "..", "../x", "/", "/etc/passwd", "a/b", "C:x", "\\x", "\x00", "\ud800")
_TEXTS += ("é", "\u202e", "{", "%s", "x" * 300, "x" * 5000, "[" * 300, "(" * 90 + ")" * 90, "0", "-1", "1e400", "None")
_TEXTS += ("true", "(.*)*Q", "\n")
_SPECIAL: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, [0] * 300, _DEEP, _HUGE)


class JsonMutator:
    """Changes values, keys and the structure of a JSON file.

    Args:
        seeds: JSON files; their keys, texts and subtrees are used in changes.
        words: Further texts.
    """

    def __init__(self, seeds: Iterable[bytes] = (), words: Iterable[str] = ()) -> None:
        trees = [json.loads(seed) for seed in seeds]
        places = [place for tree in trees for place in _places([tree])]
        self._parts = [container[key] for container, key in places]
        keys = [key for _, key in places if isinstance(key, str)]
        texts = [part for part in self._parts if isinstance(part, str) and len(part) < 200]
        self._words = list(dict.fromkeys([*words, *keys, *texts])) or ["name"]

    def __call__(self, data: bytes, random: Random) -> bytes | None:
        if random.random() < _BYTES_SHARE:
            return None
        try:
            root = [json.loads(data)]
        except (ValueError, RecursionError):
            return None
        for _ in range(random.randint(1, _MOST_CHANGES)):
            self._change(root, random)
        try:
            return to_bytes(root[0])
        except (ValueError, RecursionError):
            return None

    def value(self, random: Random) -> Any:
        """Return any value: of the seeds, or one at a limit."""
        kinds: tuple[Sequence[Any], ...] = (_INTEGERS, _FLOATS, _TEXTS, _SPECIAL, self._words, self._parts or _TEXTS)
        return _copied(random.choice(random.choice(kinds)))

    def _change(self, root: list[Any], random: Random) -> None:
        places = list(_places(root))
        container, key = random.choice(places)
        change = random.randrange(7)
        if change <= 1:
            container[key] = self.value(random)
        elif change == 2:
            container[key] = _nudged(container[key], random)
        elif change == 3 and container is not root:
            del container[key]
        elif change == 4:
            other, place = random.choice(places)
            container[key] = _copied(other[place]) if place in other or isinstance(other, list) else None
        elif change == 5:
            container[key] = random.choice(([container[key]], {random.choice(self._words): container[key]}))
        elif isinstance(container[key], dict):
            container[key][random.choice(self._words)] = self.value(random)
        elif isinstance(container[key], list):
            container[key].insert(random.randint(0, len(container[key])), self.value(random))
        else:
            container[key] = random.choice(self._words)


def to_bytes(value: Any) -> bytes:
    """Return a value as JSON, with the stand-ins replaced by what they stand for."""
    text = json.dumps(value)
    text = text.replace(json.dumps(_DEEP), "[" * _DEPTH + "]" * _DEPTH).replace(json.dumps(_HUGE), "9" * 5000)
    return text.encode()


def _places(root: list[Any]) -> Iterable[tuple[Any, Any]]:
    """Yield each value's container with its key or index."""
    waiting: list[Any] = [root]
    while waiting:
        container = waiting.pop()
        for key in container if isinstance(container, dict) else range(len(container)):
            yield container, key
            if isinstance(container[key], (dict, list)):
                waiting.append(container[key])


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, (dict, list)) else value


def _nudged(value: Any, random: Random) -> Any:
    """Return a value of the same type that is near."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + random.choice((-1, 1)) if random.random() < 0.5 else value * random.choice((-1, 2, 1000))
    if isinstance(value, str):
        at = random.randint(0, len(value))
        return value[:at] + random.choice((*_TEXTS, "0", "-")) + value[at + random.randint(0, 2) :]
    if isinstance(value, list):
        return random.sample(value, len(value)) if random.random() < 0.5 else [*value, *value]
    return dict(random.sample(list(value.items()), len(value)))


class TextMutator:
    """Puts words of a grammar into a text, and moves its parts.

    Args:
        words: The texts that are put in.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = [word.encode("utf-8", "surrogatepass") for word in (*words, *_TEXTS)]

    def __call__(self, data: bytes, random: Random) -> bytes | None:
        if random.random() < 2 * _BYTES_SHARE:
            return None
        for _ in range(random.randint(1, _MOST_CHANGES)):
            start, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
            part = random.choice((b"", random.choice(self._words), random.choice(self._words), data[start:end] * 3))
            data = data[:start] + part + data[random.choice((start, end)) :]
        return data[: 2**16]


class SafetensorsMutator:
    """Changes the header of a safetensors file and repairs its length, and often its offsets too."""

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self._json = JsonMutator([split_safetensors(seed)[0] for seed in seeds], _DTYPES)

    def __call__(self, data: bytes, random: Random) -> bytes | None:
        header, rest = split_safetensors(data)
        if random.random() < 0.2:
            changed = bytearray(rest or b"\0")
            changed[random.randrange(len(changed))] = random.randrange(256)
            return struct.pack("<Q", len(header)) + header + bytes(changed)
        new = self._json(header, random)
        if new is None:
            return None
        if random.random() < 0.5:
            new, rest = _with_offsets(new, rest)
        return struct.pack("<Q", len(new)) + new + rest


_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U32": 4}
_DTYPES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U64": 8, "U16": 2, "C64": 8, "F4": 1}
_MOST_DATA = 2**16


def split_safetensors(data: bytes) -> tuple[bytes, bytes]:
    """Return the header of a safetensors file, and what follows it."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    return data[8 : 8 + length], data[8 + length :]


def _with_offsets(header: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Return a header whose offsets fit its shapes where that is possible, and as much data as it describes."""
    try:
        content, end = json.loads(header), 0
        for name, entry in content.items() if isinstance(content, dict) else ():
            if name != "__metadata__" and isinstance(entry, dict):
                size = _DTYPES.get(entry.get("dtype"), 1)
                for axis in entry.get("shape", ()):
                    size *= axis if type(axis) is int else 1
                if 0 <= size < _MOST_DATA:
                    entry["data_offsets"] = [end, end + size]
                    end += size
        return to_bytes(content), (data * (end // max(len(data), 1) + 1))[:end] if end < _MOST_DATA else data
    except (ValueError, TypeError, RecursionError):
        return header, data


class PickleMutator:
    """Changes the instructions of a pickle: takes some out, repeats, moves and adds some.

    Args:
        seeds: Pickles, whose instructions are used in changes.
    """

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self._parts = [part for seed in seeds for part in instructions(seed)]
        opcodes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
        numbers = [b"K\x00", b"K\x05", b"M\xff\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"I01\n", b"F1e400\n"]
        numbers += [b"\x8a\x09" + b"\xff" * 8, b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"L" + b"9" * 400 + b"L\n"]
        self._parts += [*opcodes, *numbers, b"2\x86" * 40, b"(" * 200, b"\x88", b"r\xff\xff\xff\x7f"]
        self._parts += [b"cos\nsystem\n", b"ctorch\nSize\n"]

    def __call__(self, data: bytes, random: Random) -> bytes | None:
        if random.random() < _BYTES_SHARE:
            return None
        parts = instructions(data)
        for _ in range(random.randint(1, _MOST_CHANGES)):
            at, other = random.randint(0, len(parts)), random.randint(0, len(parts))
            change = random.randrange(4)
            if change == 0:
                parts[at:at] = [random.choice(self._parts)]
            elif change == 1:
                parts[at : at + 1] = [random.choice(self._parts)]
            elif change == 2:
                parts[at:at] = parts[other : other + random.randint(1, 8)]
            else:
                del parts[at : at + random.randint(1, 3)]
        return b"".join(parts)[: 2**16]


def instructions(data: bytes) -> list[bytes]:
    """Return the instructions of a pickle as bytes; what cannot be read is one of them."""
    starts: list[int] = []
    # What is no instruction is the end.
    with contextlib.suppress(Exception):
        starts.extend(place for _, _, place in pickletools.genops(data) if place is not None)
    ends = [*starts[1:], len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=False)] or [data]


def random_bytes(data: bytes, random: Random) -> bytes:
    """Change bytes without an engine: replace, take out, repeat or put in a few."""
    changed = bytearray(data or b"\0")
    for _ in range(random.randint(1, _MOST_CHANGES)):
        at = random.randrange(len(changed) + 1)
        change = random.randrange(4)
        if change == 0:
            changed[at : at + 1] = bytes([random.randrange(256)])
        elif change == 1:
            del changed[at : at + random.randint(1, 8)]
        elif change == 2:
            changed[at:at] = changed[at : at + random.randint(1, 64)]
        else:
            changed[at:at] = random.randbytes(random.randint(1, 8))
    return bytes(changed)
