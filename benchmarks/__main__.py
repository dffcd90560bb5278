"""Benchmark this machine: python -m benchmarks [--quick] [--only mixed,latency] [--texts 2000] [--file ag-news.csv]

Needs pip install -e '.[cpu,bench]'. Every system is timed alternately with its reference, so that ratios stay valid
when other programs slow the machine down; close them all the same. Writes results.json, results.md and results.svg.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path

from benchmarks import texts
from benchmarks.machine import achieved_share, machine_info
from benchmarks.models import minilm_folder
from benchmarks.report import as_markdown, write
from benchmarks.rivals import BRIDGE, encoders
from benchmarks.tasks import TASKS, Result, Settings


def main() -> None:
    given = _arguments()
    logging.disable(logging.WARNING)
    machine = machine_info()
    _, missing = encoders(given.model)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(given.model, given.rounds, given.texts, given.file, Path(scratch))
        for name in given.only:
            start = time.perf_counter()
            try:
                for one in TASKS[name](settings):
                    results.append(one)
                    ratio = "" if one.ratio is None else f"  ratio {one.ratio:.2f}"
                    print(f"{one.task:45s} {one.system:35s} {one.value:10,.4g} {one.unit}{ratio}", flush=True)
            except Exception as error:  # of whatever library: the other tasks are still worth their figures
                missing[f"task {name}"] = f"{type(error).__name__}: {error}"[:200]
            print(f"-- {name}: {time.perf_counter() - start:.0f} s{_failure(missing, name)}", flush=True)
            # After each task, so that an interrupted run keeps what it has measured.
            write(given.output, results, machine, missing)
    mixed = next(
        (one for one in results if one.task == f"encode {given.texts} titles and articles" and one.system == BRIDGE),
        None,
    )
    if mixed is not None:
        corpus = texts.mixed(given.texts, given.file)
        results.append(achieved_share(given.model, corpus, mixed, machine["speeds"]["float32"]))
    write(given.output, results, machine, missing)
    print(as_markdown(results, machine, missing))
    print(f"results are in {given.output}")


def _failure(missing: dict[str, str], name: str) -> str:
    why = missing.get(f"task {name}")
    return f", failed: {why}" if why else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(minilm_folder()), help="default: the packaged MiniLM")
    parser.add_argument("--texts", type=int, default=2000, help="how many texts; default: 2000")
    parser.add_argument("--file", help="a CSV of class, title, article, such as AG News; default: random texts")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison; default: 5")
    parser.add_argument("--quick", action="store_true", help="200 texts, 3 rounds")
    parser.add_argument("--only", default=",".join(TASKS), help=f"tasks, comma-separated; default: {','.join(TASKS)}")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="default: %(default)s")
    given = parser.parse_args()
    given.only = given.only.split(",")
    if unknown := [name for name in given.only if name not in TASKS]:
        parser.error(f"--only has {', '.join(unknown)}; expected some of {', '.join(TASKS)}")
    if given.quick:
        given.texts, given.rounds = min(given.texts, 200), min(given.rounds, 3)
    return given


if __name__ == "__main__":
    main()
