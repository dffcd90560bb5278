"""Store a verification with its model: verification.json in the folder, and a section of its model card."""

import re
from pathlib import Path

from mlx_hf_bridge.checkpoints.checkpoint import VERIFICATION_FILE
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.runtime.atomic_folder import replacing_files
from mlx_hf_bridge.verification.figures import label, number
from mlx_hf_bridge.verification.report import Report

_CARD = "README.md"
_START, _END = "<!-- verification -->", "<!-- end of verification -->"


def store_result(report: Report, folder: Path) -> None:
    """Write verification.json and the verification section of README.md, which is created if needed.

    Args:
        report: The result to store.
        folder: The converted folder.

    Raises:
        RepositoryError: If the folder does not exist, or cannot be written.
    """
    if not folder.is_dir():
        raise RepositoryError(
            f"{folder} is not a folder, so the result cannot be stored there. Give a converted folder."
        )
    card = folder / _CARD
    before = card.read_text(encoding="utf-8") if card.is_file() else f"# {folder.resolve().name}\n"
    section = f"{_START}\n{as_markdown(report)}\n{_END}"
    old_section = re.compile(re.escape(_START) + ".*?" + re.escape(_END), re.DOTALL)
    has_section = old_section.search(before)
    # A function, since backslashes in a replacement text would be read as group references.
    after = old_section.sub(lambda _: section, before) if has_section else f"{before.rstrip()}\n\n{section}\n"
    with replacing_files(folder) as new:
        write_json(new / VERIFICATION_FILE, report.to_dict())
        (new / _CARD).write_text(after, encoding="utf-8")


def as_markdown(report: Report) -> str:
    """Return a heading, one line on what was compared, and a table of the checks."""
    lines = [
        "## Verification",
        "",
        f"{report.packing}, compared with {Path(report.reference).name} on {report.texts} texts: "
        f"**{'passed' if report.passed else 'failed'}**.",
        "",
        "| figure | value | bound |",
        "| --- | ---: | ---: |",
        *(
            f"| {label(check.name)} | {number(check.name, check.value)} | {check.bound_text} |"
            for check in report.checks
        ),
    ]
    return "\n".join(lines)
