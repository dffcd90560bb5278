"""What of a checkpoint the model did not take, and what it had to do without: transformers' load report.

Reference: transformers/utils/loading_report.py.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_NOTES = {
    "UNEXPECTED": "the checkpoint has it and this model does not compute with it; fine for another task's head.",
    "MISSING": "the checkpoint lacks it. Without a pooler's, pooler_output is absent; A HEAD'S IS DRAWN AT RANDOM.",
    "MISMATCH": "it has another shape than the config says, so it was drawn AT RANDOM: the answers are chance.",
}


@dataclass(frozen=True)
class LoadReport:
    """Names as the checkpoint has them. mismatched_keys: (name, shape in the file, shape in the model)."""

    missing_keys: frozenset[str] = frozenset()
    unexpected_keys: frozenset[str] = frozenset()
    mismatched_keys: frozenset[tuple[str, tuple[int, ...], tuple[int, ...]]] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """What output_loading_info=True gives: three sets and a list."""
        return {
            "missing_keys": set(self.missing_keys),
            "unexpected_keys": set(self.unexpected_keys),
            "mismatched_keys": set(self.mismatched_keys),
            "error_msgs": [],
        }

    def log(self, class_name: str, source: str) -> None:
        """One warning with a table, as transformers logs it; nothing when every tensor found its place."""
        rows = [(key, "UNEXPECTED", "") for key in _folded(self.unexpected_keys)]
        rows += [(key, "MISSING", "") for key in _folded(self.missing_keys)]
        rows += [
            (name, "MISMATCH", f"file {file}, model {model}") for name, file, model in sorted(self.mismatched_keys)
        ]
        if not rows:
            return
        width = max(len(key) for key, _, _ in rows)
        table = [f"{key:<{width}} | {status:<10} | {detail}".rstrip(" |") for key, status, detail in rows]
        notes = [f"- {status}: {note}" for status, note in _NOTES.items() if any(row[1] == status for row in rows)]
        logger.warning("%s LOAD REPORT from: %s\n%s\n\n%s", class_name, source, "\n".join(table), "\n".join(notes))


def _folded(names: Iterable[str]) -> list[str]:
    """Names that differ in one place's numbers alone, as one: "layer.{1, 2}.output"."""
    numbers: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name in sorted(names):
        numbers[_NUMBER.sub("*", name)].append(tuple(_NUMBER.findall(name)))
    return [_filled(pattern, found) for pattern, found in numbers.items()]


def _filled(pattern: str, found: list[tuple[str, ...]]) -> str:
    for values in zip(*found, strict=True):
        distinct = sorted(set(values), key=int)
        pattern = pattern.replace("*", distinct[0] if len(distinct) == 1 else f"{{{', '.join(distinct)}}}", 1)
    return pattern
