"""Mutation testing: plant one fault at a time in a copy of the package, and see which test catches it.

    python tests/mutations.py                      # every fault of tests/mutations.toml, two at a time
    python tests/mutations.py --only rotary        # those whose name contains a word
    python tests/mutations.py --markdown FILE      # write the table that docs/testing.md shows

Each entry of the file names a source file, the code to replace (it must occur exactly once), the faulty code, and the
tests that are run. A fault counts as caught when a test fails; a mutant that cannot be imported counts as broken, which
proves nothing. Exit code 0 means that every fault was caught.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAULTS = Path(__file__).with_suffix(".toml")
COPIED = ("mlx_hf_bridge", "tests", "benchmarks", "examples", "config", "docs", "pyproject.toml", "README.md")
# A mutant may loop for ever: then the time that it may take counts as caught by a timeout.
SECONDS = 600
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """One fault to plant: `old` in `file` becomes `new`, and the test files of `tests` are run ("FILE [-k WORDS]")."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def room(self) -> str:
        """The package folder that the fault is in."""
        parts = Path(self.file).parts
        return parts[1] if len(parts) > 2 else "root"

    def planted(self, source: str) -> str:
        """Return the source with the fault in it.

        Raises:
            SystemExit: If the code to replace does not occur exactly once.
        """
        count = source.count(self.old)
        if count != 1:
            raise SystemExit(
                f"{self.name}: {self.old!r} occurs {count} times in {self.file}, expected once. Mend {FAULTS}."
            )
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Outcome:
    """What became of a fault: "caught", "survived" or "broken", and the first test that failed."""

    fault: Fault
    state: str
    test: str = ""
    reason: str = ""


def read_faults(path: Path = FAULTS) -> list[Fault]:
    """Read the faults of a TOML file."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    faults = [Fault(**{**entry, "tests": tuple(entry["tests"])}) for entry in content["fault"]]
    names = [fault.name for fault in faults]
    if len(set(names)) != len(names):
        raise SystemExit(f"{path} has two faults of one name.")
    return faults


def copy_of_the_project(target: Path) -> None:
    """Copy what the tests need, without caches."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy2(source, target / name)


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run pytest on each entry ("FILE [-k EXPRESSION]") in a copy of the project, up to the first failure.

    Returns:
        The exit code (124 after a timeout) and what pytest printed.
    """
    environment = {**os.environ, "PYTHONPATH": str(folder), "MLX_HF_BRIDGE_CACHE": str(folder / "cache")}
    pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header"]
    for entry in tests:
        try:
            done = subprocess.run(
                [*pytest, *shlex.split(entry)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, ""
        if done.returncode:
            return done.returncode, done.stdout
    return 0, ""


def plant(fault: Fault) -> Outcome:
    """Run the tests of one fault on a copy of the project that has it."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
        folder = Path(scratch)
        copy_of_the_project(folder)
        path = folder / fault.file
        path.write_text(fault.planted(path.read_text(encoding="utf-8")), encoding="utf-8")
        code, output = run_tests(folder, fault.tests)
    if code == 0:
        return Outcome(fault, "survived")
    if code == 124:
        return Outcome(fault, "caught", "timeout")
    failed = _FAILED.search(output)
    # pytest exits with 1 only when tests ran and failed: a mutant that cannot be imported ends with 2.
    if code != 1 or failed is None:
        return Outcome(fault, "broken", reason=output[-400:])
    lines = [line[1:].strip() for line in output.splitlines() if line.startswith("E ")]
    return Outcome(fault, "caught", failed.group(1), lines[0] if lines else "")


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes as a table, by room."""
    rows = ["| room | fault | caught by |", "| --- | --- | --- |"]
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.fault.room, outcome.fault.name)):
        test = outcome.test.split("[")[0].removeprefix("tests/")
        rows.append(f"| {outcome.fault.room} | {outcome.fault.name} | {f'`{test}`' if test else outcome.state} |")
    return "\n".join(rows) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Plant the faults that were asked for and print what became of each."""
    parser = argparse.ArgumentParser(description="Plant faults, one at a time, and see which test catches each.")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args(arguments)
    faults = [fault for fault in read_faults() if options.only in fault.name]
    for fault in faults:
        fault.planted((ROOT / fault.file).read_text(encoding="utf-8"))
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(plant, faults):
            outcomes.append(outcome)
            print(f"{outcome.state:8}  {outcome.fault.name}: {outcome.test} {outcome.reason}".rstrip(), flush=True)
    caught = sum(outcome.state == "caught" for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} faults were caught.")
    if options.markdown:
        options.markdown.write_text(as_markdown(outcomes), encoding="utf-8")
    return 0 if caught == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
