"""Every error that the command line and its newest rooms raise says what to do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_hf_bridge
from mlx_hf_bridge import errors

ROOT = Path(mlx_hf_bridge.__file__).parent
ERRORS = {name for name in dir(errors) if isinstance(getattr(errors, name), type)}
# Words of advice; "expected" says what is accepted.
REMEDY = re.compile(
    r"\b(give|use|set|unset|pass|install|pip|correct|convert|check|leave|omit|create|delete|choose|expected|ask|raise|"
    r"reinstall|download|log in|connect|take|call|need|needs|make|write|add|split|shorten|free|remove|unload|retry|try|"
    r"restart|start|run|replace|rename|close|load|save|move|encode|decode|drop|keep|upgrade|update|known|one of)\b",
    re.IGNORECASE,
)


def messages(path: Path) -> Iterator[str]:
    """Yield the texts of the errors that a file raises, with "{}" for values; not those made by a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS and call.args:
            parts = [
                part.value
                for part in ast.walk(call.args[0])
                if isinstance(part, ast.Constant) and part.value is not None
            ]
            text = "{}".join(str(part) for part in parts)
            # Not those that pass on another error, with its own advice.
            if not text.endswith(": "):
                yield text


def count(room: str) -> tuple[int, list[str]]:
    """Return how many errors with a text of their own a room raises, and those without a remedy."""
    found = [text for path in sorted((ROOT / room).rglob("*.py")) for text in messages(path) if text.strip("{}")]
    return len(found), [text for text in found if not REMEDY.search(text)]


@pytest.mark.parametrize("room", ["cli", "folder_index", "verification"])
def test_errors_say_what_to_do(room: str) -> None:
    number, without = count(room)
    assert number
    assert without == []
