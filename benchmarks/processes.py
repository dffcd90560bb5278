"""Measure wall time and peak memory of fresh processes from outside."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

# The child's own peak, printed as its last line.
_PEAK = "\nfrom benchmarks.peak import peak_mib as _peak\nprint()\nprint(_peak())\n"


@dataclass(frozen=True)
class Run:
    """Seconds from start to exit, and peak MiB."""

    seconds: float
    peak_mib: float


def run_code(code: str, *arguments: str) -> Run:
    """Run `code` once in a fresh Python."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + _PEAK, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    seconds = time.perf_counter() - start
    return Run(seconds, float(done.stdout.splitlines()[-1]))


def alternating(codes: dict[str, str], runs: int, *arguments: str) -> dict[str, list[Run]]:
    """Run each code `runs` times, alternating (A B A B ...), after one warm-up run."""
    for code in codes.values():
        run_code(code, *arguments)
    found: dict[str, list[Run]] = {name: [] for name in codes}
    for _ in range(runs):
        for name, code in codes.items():
            found[name].append(run_code(code, *arguments))
    return found


def medians(runs: list[Run]) -> Run:
    return Run(statistics.median(run.seconds for run in runs), statistics.median(run.peak_mib for run in runs))
