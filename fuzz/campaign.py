"""All targets one after another, each in processes of its own, and the table of what came out."""

import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from fuzz.targets import NAMES, SHARES, TOGETHER, find_target
from fuzz.worker import HANG_SECONDS, State, work

# After this many processes that crashed, a target is given up.
_MOST_ENDS = 10
_KINDS = {"timeout": "hang", "oom": "memory"}


@dataclass
class Result:
    """What came out of one target.

    Args:
        target: Its name.
        reads: What it reads.
        executions: How many inputs were read.
        seconds: How long that took.
        slowest: The seconds of the slowest input.
        growth: The growth of the peak of memory in bytes.
        findings: What was found: kind, input and traceback of each.
    """

    target: str
    reads: str
    executions: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    growth: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)


def has_atheris() -> bool:
    """Return whether atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


@dataclass(frozen=True)
class Settings:
    """How targets are run.

    Args:
        executions: How many inputs each target reads, by name.
        seconds: How long each target may take.
        seed: The seed of chance.
        plain: Whether inputs are changed without regard to coverage.
        kept: Where inputs of findings are written.
    """

    executions: Mapping[str, int]
    seconds: float
    seed: int
    plain: bool
    kept: Path


def run_targets(names: Sequence[str], settings: Settings, jobs: int) -> Iterator[Result]:
    """Run targets, some at a time.

    Args:
        names: Their names.
        settings: How they are run.
        jobs: How many run at a time.

    Yields:
        The result of each, in the order of the names.
    """
    # Forked, since this process has imported and instrumented the package, and has not used MLX.
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(partial(run_target, settings=settings), names)


def run_target(name: str, settings: Settings) -> Result:
    """Run one target.

    Args:
        name: Its name.
        settings: How it is run.

    Returns:
        The result.
    """
    executions, seed, plain, kept = settings.executions[name], settings.seed, settings.plain, settings.kept
    deadline = time.monotonic() + settings.seconds
    result = Result(name, find_target(name).reads)
    shared_memory = Path("/dev/shm")
    place = shared_memory if shared_memory.is_dir() and os.access(shared_memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=place))
    try:
        for attempt in range(_MOST_ENDS):
            left = executions - result.executions
            if left <= 0 or time.monotonic() >= deadline:
                break
            output = _run_process(name, folder, left, seed + attempt, plain, deadline)
            _add_state(result, folder)
            ended = list(folder.glob("ended-*"))
            kinds = [_KINDS.get(path.name.split("-")[1], "crash") for path in ended]
            for path in ended:
                path.unlink()
            if kinds or (result.executions < executions and time.monotonic() < deadline):
                kind, data = (kinds or ["crash"])[0], State(folder / "state").current
                result.findings.append(_keep(kind, data, output[-4000:], kept / name))
        for path in sorted(folder.glob("found-*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            data = path.with_suffix(".input").read_bytes()
            result.findings.append(_keep(found["what"], data, found["trace"], kept / name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _run_process(name: str, folder: Path, executions: int, seed: int, plain: bool, deadline: float) -> str:
    """Run a worker until it ends by itself or makes no progress, and return the end of what it printed.

    It is a fork of this process, for the reason that `run_targets` gives.
    """
    state = State(folder / "state")
    state.write(0, 0.0, 0.0, 0)
    worker = os.fork()
    if worker == 0:
        _become_worker(name, folder, executions, seed, plain)
    done, since = 0, time.monotonic()
    while os.waitpid(worker, os.WNOHANG) == (0, 0):
        time.sleep(0.1)
        now, executed = time.monotonic(), state.read()[0]
        if executed != done:
            done, since = executed, now
        # libFuzzer's alarm comes first; this is for what does not let it. The seeds come before the first execution.
        hangs = now - since > (3 * HANG_SECONDS if done else 12 * HANG_SECONDS)
        if hangs:
            (folder / "ended-timeout-killed").touch()
        if hangs or now >= deadline:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            break
    return (folder / "output").read_bytes()[-20_000:].decode("utf-8", "replace")


def _become_worker(name: str, folder: Path, executions: int, seed: int, plain: bool) -> NoReturn:
    try:
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        os.environ["MLX_HF_BRIDGE_CACHE"] = str(folder / "cache")
        work(find_target(name), folder, executions, seed, plain)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _add_state(result: Result, folder: Path) -> None:
    executions, seconds, slowest, growth = State(folder / "state").read()
    result.executions += executions
    result.seconds += seconds
    result.slowest, result.growth = max(result.slowest, slowest), max(result.growth, growth)


def _keep(what: str, data: bytes, trace: str, folder: Path) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{len(list(folder.iterdir())) // 2:03}.input"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(f"{what}\n\n{trace}\n", encoding="utf-8")
    return {"what": what, "input": str(path), "trace": trace}


def shares(names: Sequence[str], executions: int) -> dict[str, int]:
    """Return the executions of each target, which are all together as many as asked for, or a few more."""
    parts = {name: SHARES.get(name, 1) for name in names}
    return {name: -(-executions * part // sum(parts.values())) for name, part in parts.items()}


def table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| target | reads | executions | executions/s | findings | slowest | memory growth |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    total = Result("**all**", "", growth=max((result.growth for result in results), default=0))
    for result in results:
        total.executions += result.executions
        total.seconds += result.seconds
        total.slowest = max(total.slowest, result.slowest)
        total.findings += result.findings
    for result in (*results, total):
        name = result.target if result is total else f"`{result.target}`"
        rate = result.executions / result.seconds if result.seconds else 0
        lines.append(
            f"| {name} | {result.reads} | {result.executions:,} | {rate:,.0f} | {len(result.findings)} | "
            f"{result.slowest:.2f} s | {result.growth / 2**20:.0f} MiB |"
        )
    return "\n".join(lines)


def save_results(results: Sequence[Result], settings: Mapping[str, Any], folder: Path) -> list[Result]:
    """Write results.json, with the targets of an earlier one that did not run again.

    Args:
        results: The results.
        settings: How they were made, kept with each.
        folder: Where to write it.

    Returns:
        All that is in the file, in the order of `NAMES`.
    """
    path = folder / "results.json"
    folder.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text(encoding="utf-8"))["targets"] if path.is_file() else {}
    rows |= {result.target: {**asdict(result), "settings": dict(settings)} for result in results}
    ordered = {name: rows[name] for name in (*NAMES, TOGETHER) if name in rows}
    path.write_text(json.dumps({"targets": ordered}, indent=2) + "\n", encoding="utf-8")
    return [Result(**{key: row[key] for key in asdict(Result("", ""))}) for row in ordered.values()]
