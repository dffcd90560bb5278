"""`mlx-hf-bridge verify`: compare converted models with their float originals; the exit code says if they pass."""

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from mlx_hf_bridge.cli.console import listing, show, show_json, table
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.cli.texts import check_output, paragraph, read_lines
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.verification.figures import label, number
from mlx_hf_bridge.verification.html import render_html
from mlx_hf_bridge.verification.report import Report
from mlx_hf_bridge.verification.result_store import store_result
from mlx_hf_bridge.verification.thresholds import resolve_bounds
from mlx_hf_bridge.verification.verify import verify

_FAILED = 1


def run(args: argparse.Namespace) -> int:
    """Verify every model, print tables or JSON, write requested files; return 0 if all models pass, else 1."""
    thresholds = dict(_threshold(text) for text in args.threshold)
    resolve_bounds(None, thresholds)
    texts = read_lines(args.texts) if args.texts else None
    # Before minutes of work, which would be lost.
    _check_targets(args)
    quantization = options_from_flags(args).to_kwargs()
    reports = [
        verify(
            model,
            reference_model=args.reference,
            quantization_config=quantization.get("quantization_config"),
            texts=texts,
            pairs=args.pairs,
            labelled=args.labelled,
            task=args.task,
            thresholds=thresholds,
            full_test=args.full_test,
        )
        for model in args.models
    ]
    command = shlex.join(["mlx-hf-bridge", *args.words])
    reports = [replace(report, command=command) for report in reports]
    if args.json:
        show_json([report.to_dict() for report in reports])
    else:
        for report in reports:
            _show(report)
    # Last, so that the figures are seen even if a file cannot be written.
    if args.html:
        Path(args.html).expanduser().write_text(render_html(reports), encoding="utf-8")
    if args.store:
        for model, report in zip(args.models, reports, strict=True):
            store_result(report, Path(model).expanduser())
    return 0 if all(report.passed for report in reports) else _FAILED


def _check_targets(args: argparse.Namespace) -> None:
    """Raise InputError if a requested file has no folder to be in."""
    if args.html:
        check_output("--html", args.html)
    for model in args.models if args.store else ():
        if not Path(model).expanduser().is_dir():
            raise InputError(
                f"--store needs a converted folder, and {model} is none. Convert it first, or omit --store."
            )


def _show(report: Report) -> None:
    rows = [(check.name, check.value, check.bound_text, _verdict(check.passed)) for check in report.checks]
    checked = {check.name for check in report.checks}
    rows += [(name, value, "", "") for name, value in report.figures.items() if name not in checked]
    shown = [(label(name), number(name, value), bound, verdict) for name, value, bound, verdict in rows]
    reference, _, library = report.reference.rpartition(" (")
    facts = [
        ("quantization", report.packing),
        ("reference", reference),
        ("computed by", library.rstrip(")")),
        ("texts", str(report.texts)),
    ]
    show(listing(f"{report.model}: {'passed' if report.passed else 'FAILED'}", facts), "")
    show(table("", ("figure", "value", "bound", ""), shown, ("value", "bound")), "")
    if report.advice:
        show(paragraph("", report.advice), "")
    if report.steps:
        steps = [(step.name, step.verdict, step.detail) for step in report.steps]
        show(table("", ("step", "", "details"), steps))


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"


def _threshold(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise InputError(f"--threshold is {text!r}, expected FIGURE=NUMBER, such as cosine_mean=0.99.") from None
