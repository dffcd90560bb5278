"""`mlx-hf-bridge selfcheck`: check that this machine's device computes right results, and how fast."""

import argparse
import json
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from mlx_hf_bridge.cli.console import console, plain_table, show, show_json, table
from mlx_hf_bridge.cli.diagnosis import diagnose
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.selfcheck.check import Check
from mlx_hf_bridge.selfcheck.minilm import TOKENS
from mlx_hf_bridge.selfcheck.run import SelfCheck, self_check

_MARKS = {True: "ok", False: "FAILED", None: "skipped"}
# Facts of the diagnosis that name no path.
_FACTS = ("versions", "system", "backend", "device", "cores", "streams", "blas_kernels", "speeds", "float32_error")


def run(args: argparse.Namespace) -> int:
    """Run all checks; exit code 1 if one fails."""
    with console(error=True).status("checking this device against MLX's CPU device") as status:
        found = self_check(lambda check: status.update(f"{check.group}: {check.name}"))
    facts = {name: value for name, value in asdict(diagnose()).items() if name in _FACTS}
    document = found.as_document()
    document["machine"] = facts | document["machine"]
    if args.output:
        _write(Path(args.output), document)
    if args.json:
        show_json(document)
    else:
        _show(facts, found)
    return 0 if found.passed else 1


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be written ({error.strerror}). Give --output a file in a folder that exists."
        ) from error


def _show(facts: dict[str, Any], found: SelfCheck) -> None:
    backends = ", ".join(f"{name} {number}" for name, number in found.machine["mlx_backends"].items())
    memory = found.machine["memory_mib"]
    rows = [
        ("device", f"{facts['backend']} ({facts['device']})"),
        ("MLX's backends", backends or "none installed by pip"),
        ("system", facts["system"]),
        (
            "memory",
            f"{memory['machine']:,.0f} MiB; peaks: process {memory['process_peak']:,.0f} MiB, MLX "
            f"{memory['mlx_peak']:,.0f} MiB",
        ),
    ]
    show(plain_table("Machine", rows), "")
    for group, checks in groupby(found.checks, key=lambda check: check.group):
        listed = list(checks)
        show(table(group, ("", "check", "found", "expected"), [_row(check) for check in listed]), "")
    if found.speeds:
        # Short names, so that the table fits into 80 columns.
        columns = ("", *map(str, TOKENS), "one text, ms", "kernels", "MiB")
        title = "all-MiniLM-L6-v2, speed: texts per second by their tokens"
        show(table(title, columns, list(_speeds(found)), numeric=columns[1:]), "")
    if found.goals:
        show(plain_table("Goals", [("met" if met else "not met", goal) for goal, met in found.goals.items()]), "")
    failed = sum(check.passed is False for check in found.checks)
    show(f"{len(found.checks)} checks, {failed} failed, {found.seconds:.0f} s")


def _row(check: Check) -> tuple[str, str, str, str]:
    return _MARKS[check.passed], check.name, check.figure, check.expected


def _speeds(found: SelfCheck) -> Any:
    for name, speed in found.speeds.items():
        rates = [f"{rate:,.0f}" for rate in speed.texts_per_second.values()]
        kernels = "" if speed.kernels is None else str(speed.kernels)
        weights = "" if speed.weights_mib is None else f"{speed.weights_mib:.0f}"
        yield name, *rates, f"{speed.single_ms:.1f}", kernels, weights
