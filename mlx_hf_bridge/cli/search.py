"""`mlx-hf-bridge search`: search a folder of text files by meaning, with an index that follows its changes."""

import argparse
import textwrap
from dataclasses import asdict

from mlx_hf_bridge.cli.console import note, show, show_json
from mlx_hf_bridge.folder_index.index import FolderIndex, Hit, Update

_WIDTH, _INDENT, _LINES = 80, "     ", 3
_MOST_NAMED = 3


def run(args: argparse.Namespace) -> int:
    """Bring the index up to date, and print the best passages."""
    index = FolderIndex(args.folder, args.model, args.recipe, args.revision, args.index)
    update = None if args.no_update else index.update(show_progress=not args.quiet)
    if update:
        _note(update)
    query = " ".join(args.query)
    hits = index.search(query, args.top_k) if query else []
    if args.json:
        facts = {"folder": args.folder, "query": query, "model": index.model, "recipe": index.recipe}
        show_json(
            {
                **facts,
                "index": str(index.path),
                "update": update and asdict(update),
                "results": [asdict(hit) for hit in hits],
            }
        )
    elif query:
        show("\n\n".join(_shown(number, hit) for number, hit in enumerate(hits, 1)))
    elif update:
        show(
            f"{update.passages} passages of {update.unchanged + len(update.added) + len(update.changed)} files indexed"
        )
    return 0


def _note(update: Update) -> None:
    counts = {"new": update.added, "changed": update.changed, "removed": update.removed}
    if shown := [f"{len(files)} {what}" for what, files in counts.items() if files]:
        note(f"indexed {', '.join(shown)}, {update.passages} passages in all")
    # Often one reason for many files, such as a package that is missing.
    reasons: dict[str, list[str]] = {}
    for name, reason in update.skipped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        note(f"skipped {', '.join(names[:_MOST_NAMED])}{more}: {reason}")


def _shown(number: int, hit: Hit) -> str:
    """Return a hit: its score and place on a line that is never broken, and the beginning of the passage."""
    lines = f"{hit.first_line}" if hit.first_line == hit.last_line else f"{hit.first_line}-{hit.last_line}"
    place = f"{hit.file}, page {lines}" if hit.file.lower().endswith(".pdf") else f"{hit.file}:{lines}"
    text = textwrap.wrap(
        " ".join(hit.text.split()),
        _WIDTH,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        max_lines=_LINES,
        placeholder=" ...",
    )
    return "\n".join([f"{number:>3}  {hit.score:.3f}  {place}", *text])
