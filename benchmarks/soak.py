"""Run mixed calls for a long time, compare every result with the first one, and check that the process does not grow.

python -m benchmarks.soak [--minutes 60] [--seed 0] [--output soak.json]

Memory, file descriptors and threads are noted after every call. The first fifth of the time is warm-up: afterwards
memory may rise by no more than a line of --slope MiB in an hour, and descriptors and threads not at all.
"""

import argparse
import json
import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.calls import surfaces
from benchmarks.faults.outcome import same

_WARM_UP = 0.2
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Soak:
    """What a run did and found.

    Attributes:
        calls: How often each call ran.
        wrong: Calls whose result differed from the first one, or that raised an error.
        samples: Seconds since the start, MiB of memory, file descriptors, threads.
    """

    calls: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)

    def report(self, slope_limit: float) -> dict[str, Any]:
        """Return the figures, and "survived": whether every result was right and nothing grew.

        Args:
            slope_limit: MiB that memory may grow by in an hour.
        """
        seconds, memory, files, threads = (np.array(column) for column in zip(*self.samples, strict=True))
        settled = seconds >= _WARM_UP * seconds[-1]
        seconds, memory, files, threads = seconds[settled], memory[settled], files[settled], threads[settled]
        slope = float(np.polyfit(seconds, memory, 1)[0]) * 3600 if len(seconds) > 1 else 0.0
        growth = slope * (seconds[-1] - seconds[0]) / 3600
        half = len(files) // 2
        grew = [
            name
            for name, column in (("files", files), ("threads", threads))
            # The most of each half: a call in progress has some open.
            if half and int(column[half:].max()) > int(column[:half].max())
        ]
        return {
            "seconds": round(float(seconds[-1]), 1),
            "calls": sum(self.calls.values()),
            "calls_by_name": dict(sorted(self.calls.items())),
            "wrong": self.wrong[:20],
            "memory_mib": [round(float(value), 1) for value in (memory[0], memory.max(), memory[-1])],
            "slope_mib_per_hour": round(slope, 2),
            "growth_mib": round(float(growth), 2),
            "files": [int(files[0]), int(files.max()), int(files[-1])],
            "threads": [int(threads[0]), int(threads.max()), int(threads[-1])],
            "survived": bool(not self.wrong and not grew and growth <= max(slope_limit * seconds[-1] / 3600, _NOISE)),
        }


# MiB by which the memory of a run of seconds varies.
_NOISE = 24.0


def soak(folder: Path, seconds: float, seed: int = 0, names: list[str] | None = None) -> Soak:
    """Run calls at random until the time is over.

    Args:
        folder: An empty folder for checkpoints and files.
        seconds: How long to run after every call ran once.
        seed: Decides the order of the calls.
        names: The calls to run; None for all.

    Returns:
        What was found.
    """
    found, calls = Soak(), surfaces(folder)
    chosen = {name: call for name, call in calls.items() if names is None or name in names}
    first: dict[str, Any] = {name: call() for name, call in chosen.items()}
    generator, start = random.Random(seed), time.monotonic()
    while (now := time.monotonic() - start) < seconds or not found.samples:
        _call_once(found, chosen, first, generator.choice(sorted(chosen)))
        found.samples.append((now, *_usage()))
    return found


def _call_once(found: Soak, calls: Mapping[str, Callable[[], Any]], first: Mapping[str, Any], name: str) -> None:
    found.calls[name] += 1
    try:
        result = calls[name]()
        if not same(result, first[name]):
            found.wrong.append(f"{name}, call {sum(found.calls.values())}: another result")
    # Whatever it is, it is a finding, and the run goes on.
    except Exception as error:
        found.wrong.append(f"{name}, call {sum(found.calls.values())}: {type(error).__name__}: {error}")


def _usage() -> tuple[float, int, int]:
    """Return MiB of memory, open file descriptors and threads of this process, as Linux counts them."""
    process = Path("/proc/self")
    pages = int((process / "statm").read_text().split()[1])
    files, threads = (len(list((process / name).iterdir())) for name in ("fd", "task"))
    return pages * _PAGE / 2**20, files, threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--slope", type=float, default=12.0, help="MiB an hour that are let pass; default: %(default)s")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--only", help="calls to run, separated by commas; default: all")
    given = parser.parse_args()
    # Each load says which weights stay in float, and which texts were truncated.
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLX_HF_BRIDGE_CACHE"] = str(Path(scratch) / "cache")
        found = soak(Path(scratch), given.minutes * 60, given.seed, given.only.split(",") if given.only else None)
    report = found.report(given.slope)
    text = json.dumps(report, indent=2)
    print(text)
    if given.output:
        step = max(1, len(found.samples) // 1000)
        given.output.write_text(json.dumps({**report, "samples": found.samples[::step]}))
    raise SystemExit(0 if report["survived"] else 1)


if __name__ == "__main__":
    main()
