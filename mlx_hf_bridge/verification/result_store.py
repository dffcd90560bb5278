"""A verification kept with the model: a file in its folder, and a part of its model card."""

import re
from pathlib import Path

from mlx_hf_bridge.checkpoints.checkpoint import VERIFICATION_FILE
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.verification.report import Report

_CARD = "README.md"
_START, _END = "<!-- verification -->", "<!-- end of verification -->"


def store_result(report: Report, folder: Path) -> None:
    """Write verification.json, and the part between its marks of README.md, which is made where it is not there."""
    if not folder.is_dir():
        raise RepositoryError(f"{folder} is no folder, so the result cannot be kept there. Give a converted folder.")
    write_json(folder / VERIFICATION_FILE, report.to_dict())
    card = folder / _CARD
    before = card.read_text(encoding="utf-8") if card.is_file() else f"# {folder.resolve().name}\n"
    part = f"{_START}\n{as_markdown(report)}\n{_END}"
    marked = re.compile(re.escape(_START) + ".*?" + re.escape(_END), re.DOTALL)
    after = marked.sub(lambda _: part, before) if marked.search(before) else f"{before.rstrip()}\n\n{part}\n"
    card.write_text(after, encoding="utf-8")


def as_markdown(report: Report) -> str:
    """A heading, one line on what was compared, and a table of the checks."""
    lines = [
        "## Verification",
        "",
        f"{report.packing}, on {report.texts} texts beside {Path(report.reference).name}: "
        f"**{'passed' if report.passed else 'failed'}**.",
        "",
        "| figure | value | bound |",
        "| --- | ---: | ---: |",
        *(f"| {check.name.replace('_', ' ')} | {check.value:.6g} | {check.bound_text} |" for check in report.checks),
    ]
    return "\n".join(lines)
