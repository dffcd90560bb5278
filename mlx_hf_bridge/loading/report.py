"""The load report: which tensors of a checkpoint were missing, unexpected or mismatched.

Reference: transformers/utils/loading_report.py.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

# Whole components only: "layer.11.output" has a number, "linear1" has none.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_NOTES = {
    "UNEXPECTED": "the checkpoint has it and this model does not use it; fine for the head of another task.",
    "MISSING": "the checkpoint lacks it. Without a pooler, pooler_output is absent; A HEAD IS INITIALIZED AT RANDOM.",
    "MISMATCH": "its shape differs from the config's, so it was initialized AT RANDOM: results are meaningless.",
}


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors, as the checkpoint spells them.

    Attributes:
        missing_keys: Tensors that the model needs and the checkpoint lacks.
        unexpected_keys: Tensors of the checkpoint that the model does not use.
        mismatched_keys: (name, shape in the file, shape in the model).
    """

    missing_keys: frozenset[str] = frozenset()
    unexpected_keys: frozenset[str] = frozenset()
    mismatched_keys: frozenset[tuple[str, tuple[int, ...], tuple[int, ...]]] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as output_loading_info=True gives it: three sets and a list."""
        return {
            "missing_keys": set(self.missing_keys),
            "unexpected_keys": set(self.unexpected_keys),
            "mismatched_keys": set(self.mismatched_keys),
            "error_msgs": [],
        }

    def log(self, class_name: str, source: str) -> None:
        """Log one warning with a table, in transformers' form; nothing if every tensor was used and none is missing."""
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
    """Group names that differ only in layer numbers: "layer.{1, 2}.output"."""
    numbers: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name in sorted(names):
        numbers[_NUMBER.sub("*", name)].append(tuple(_NUMBER.findall(name)))
    return [_filled(pattern, found) for pattern, found in numbers.items()]


def _filled(pattern: str, found: list[tuple[str, ...]]) -> str:
    for values in zip(*found, strict=True):
        distinct = sorted(set(values), key=int)
        pattern = pattern.replace("*", distinct[0] if len(distinct) == 1 else f"{{{', '.join(distinct)}}}", 1)
    return pattern
