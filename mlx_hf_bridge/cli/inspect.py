"""`mlx-hf-bridge inspect`: print what a model is, and what works with it, as a listing or JSON."""

import argparse
import textwrap
from dataclasses import asdict

from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.cli.console import show, show_json
from mlx_hf_bridge.inspection import Inspection, inspect

_WIDTH, _INDENT = 80, 16
_MOST_LABELS = 12
_HARD = "\N{NO-BREAK SPACE}"
_SHOWN_SIZES = ("source", "float32", "float16", "q8", "q6", "q4", "q3", "mxfp4")


def run(args: argparse.Namespace) -> int:
    """Print the facts and return 1 if nothing can load the model."""
    found = inspect(args.model, revision=args.revision)
    if args.json:
        show_json(asdict(found))
    else:
        show(*listing(found))
    return int(found.support == "refused")


def listing(found: Inspection) -> list[str]:
    """Return the facts as lines of 80 columns, a name and what is known of it.

    Args:
        found: The facts.

    Returns:
        The lines; facts that are not known have none.
    """
    facts = [
        ("model", found.name),
        ("revision", found.revision),
        ("architecture", ", ".join(dict.fromkeys((found.model_type, *found.architectures))).strip(", ")),
        ("support", f"{found.support}: {found.reason}" if found.reason else found.support),
        ("tokenizer", _tokenizer(found)),
        ("max length", f"{found.max_length:,} tokens" if found.max_length else None),
        ("dimension", found.dimension),
        ("pooling", ", ".join(found.pooling)),
        ("modules", ", ".join(found.modules)),
        ("similarity", found.similarity),
        ("labels", _labels(found.labels)),
        ("parameters", f"{found.parameters:,} ({found.dtype})" if found.parameters else None),
        ("sizes", _sizes(found)),
        ("works", ", ".join(found.works)),
    ]
    lines = [line for name, value in facts if value for line in _lines(name, str(value))]
    for name, text in found.prompts.items():
        default = " (default)" if name == found.default_prompt_name else ""
        lines += _lines("prompt", f"{name}{default}: {text!r}")
    if found.works:
        for name, reason in found.refused.items():
            lines += _lines("refused", f"{name}: {reason}")
    return lines


def _tokenizer(found: Inspection) -> str:
    if found.tokenizer is None:
        return found.tokenizer_form and f"cannot be used: {found.tokenizer_form}"
    form = "as tokenizer.json" if found.tokenizer_form != "Python" else "by transformers' own class, in Python"
    return f"{found.tokenizer}, used {form}"


def _sizes(found: Inspection) -> str:
    if found.sizes or not found.model_type or found.support == "refused":
        # Joined by spaces at which no line is broken.
        return ", ".join(
            f"{name}{_HARD}{found.sizes[name] / MB:.1f}{_HARD}MB" for name in _SHOWN_SIZES if name in found.sizes
        )
    return "known after a download, since .bin files have no header that can be read before" * (
        found.support != "converted"
    )


def _labels(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    return ", ".join(labels[:_MOST_LABELS]) + more


def _lines(name: str, value: str) -> list[str]:
    """Return a fact on one line or several; paths and names are never broken."""
    lines = textwrap.wrap(
        f"{name:{_INDENT}}{value}",
        _WIDTH,
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_HARD, " ") for line in lines] or [name]
