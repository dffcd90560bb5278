"""Cause faults on purpose, and print what was tried and what survived.

python -m benchmarks.faults [--only kills,exits,...] [--share 1.0] [--output faults.json]

The whole campaign takes half an hour on two cores; --share 0.1 takes a tenth of the cases. `python -m benchmarks.soak`
is the hour of mixed calls.
"""

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.faults.commands import interrupt_processes
from benchmarks.faults.concurrency import break_pools, share_model, spawn_children, start_cold
from benchmarks.faults.exits import exit_processes
from benchmarks.faults.interrupts import interrupt_calls
from benchmarks.faults.kills import kill_workflows
from benchmarks.faults.outcome import Outcome

# How many cases of each a share of 1 has.
CAMPAIGN: dict[str, Callable[[Path, float], list[Outcome]]] = {
    "kills": lambda folder, share: kill_workflows(folder, _count(22 * share)),
    "exits": lambda folder, share: [exit_processes(folder, _count(7 * share))],
    "interrupts": lambda folder, share: [interrupt_calls(folder, _count(50 * share))],
    "processes": lambda folder, share: [interrupt_processes(folder, _count(10 * share))],
    "cold": lambda folder, share: [start_cold(folder, _count(5 * share))],
    "spawn": lambda folder, share: [spawn_children(folder, _count(5 * share))],
    "threads": lambda folder, share: [share_model(folder, _count(320 * share))],
    "pools": lambda folder, share: [break_pools(folder, _count(40 * share))],
}


def _count(number: float) -> int:
    return max(1, round(number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CAMPAIGN), help="default: %(default)s")
    parser.add_argument("--share", type=float, default=1.0, help="share of the cases; default: %(default)s")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    outcomes: list[Outcome] = []
    for name in given.only.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["MLX_HF_BRIDGE_CACHE"] = str(Path(scratch) / "cache")
            for outcome in CAMPAIGN[name](Path(scratch), given.share):
                print(f"{outcome.fault:75s} {outcome.tried:5d} tried {outcome.survived:5d} survived", flush=True)
                for failure in outcome.failures[:5]:
                    print(f"    {failure}", flush=True)
                outcomes.append(outcome)
    if given.output:
        given.output.write_text(json.dumps([{**asdict(one), "survived": one.survived} for one in outcomes], indent=2))
    raise SystemExit(any(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    main()
