"""One process that runs one target within bounds of time and memory.

atheris guides the inputs by the coverage of the package's bytecode; without it they are changed at random. A crash or a
hang ends the process: what is known until then is in a file that the campaign reads.
"""

import contextlib
import gc
import hashlib
import importlib
import io
import json
import logging
import mmap
import os
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from fuzz.mutators import random_bytes
from fuzz.targets import find_target
from fuzz.targets.base import Target

HANG_SECONDS = 10
MEMORY_GROWTH = 2**30
# A message is for a person: whatever the file holds, it does not fill the screen.
LONGEST_MESSAGE = 2_000
# Inputs of the longest message and of the deepest JSON.
LONGEST_INPUT = 2**18
# executions, seconds, slowest in seconds, growth of memory in bytes.
_STATE, _LENGTH = struct.Struct("<QddQ"), struct.Struct("<Q")
_MEMORY_EVERY = 64


class State:
    """What a worker has done, and the input that it reads now, in a file that outlives it."""

    def __init__(self, path: Path) -> None:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(_STATE.size + _LENGTH.size + LONGEST_INPUT)
            self._map = mmap.mmap(file.fileno(), 0)

    def write(self, executions: int, seconds: float, slowest: float, growth: int) -> None:
        self._map[: _STATE.size] = _STATE.pack(executions, seconds, slowest, growth)

    def read(self) -> tuple[int, float, float, int]:
        return _STATE.unpack(self._map[: _STATE.size])  # type: ignore[return-value]

    @property
    def current(self) -> bytes:
        """The input that is read now, or was read last."""
        start = _STATE.size + _LENGTH.size
        return self._map[start : start + _LENGTH.unpack(self._map[_STATE.size : start])[0]]

    @current.setter
    def current(self, data: bytes) -> None:
        kept = data[:LONGEST_INPUT]
        start = _STATE.size + _LENGTH.size
        self._map[_STATE.size : start + len(kept)] = _LENGTH.pack(len(kept)) + kept


class Worker:
    """Runs inputs and notes what is found.

    Args:
        run: Reads one input.
        folder: Where findings are written.
        executions: After how many inputs the process ends.
    """

    def __init__(self, run: Any, folder: Path, executions: int) -> None:
        self._run, self._folder, self._most = run, folder, executions
        self._executions, self._slowest = 0, 0.0
        self._began, self._memory = time.perf_counter(), 0
        self._base = _peak_memory()
        self._found: set[str] = set()
        self._state = State(folder / "state")

    def __call__(self, data: bytes) -> None:
        self._state.current = data
        start = time.perf_counter()
        error = outcome(self._run, data)
        taken = time.perf_counter() - start
        self._executions += 1
        self._slowest = max(self._slowest, taken)
        if self._executions % _MEMORY_EVERY == 0 or taken > 0.1:
            self._memory = max(self._memory, _peak_memory() - self._base)
        if error is not None:
            self._note(error, data)
        # Slow ones end the process by libFuzzer's own alarm, which is asked for only once a second.
        if taken > HANG_SECONDS:
            self._note((f"took {taken:.0f} s", ""), data)
        self._state.write(self._executions, start + taken - self._began, self._slowest, max(self._memory, 0))
        if self._executions >= self._most:
            sys.stdout.flush()
            # libFuzzer ends the process too, without closing what Python opened.
            os._exit(0)

    def _note(self, error: tuple[str, str], data: bytes) -> None:
        what, trace = error
        name = hashlib.blake2b(_place(what, trace).encode("utf-8", "replace"), digest_size=6).hexdigest()
        if name not in self._found:
            self._found.add(name)
            (self._folder / f"found-{name}.input").write_bytes(data)
            text = json.dumps({"what": what, "trace": trace})
            (self._folder / f"found-{name}.json").write_text(text, encoding="utf-8")


def outcome(run: Any, data: bytes) -> tuple[str, str] | None:
    """Read one input.

    Args:
        run: Reads it.
        data: The input.

    Returns:
        None if it was read, or refused as promised; else what is wrong and the traceback.
    """
    from mlx_hf_bridge.errors import BridgeError

    try:
        run(data)
    except BridgeError as error:
        length = len(str(error))
        if length > LONGEST_MESSAGE:
            return f"{type(error).__name__} with a message of {length} characters", traceback.format_exc()[-8000:]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizers' panics are no Exception
        return f"{type(error).__name__}: {str(error)[:200]}", traceback.format_exc()[-8000:]
    return None


def _place(what: str, trace: str) -> str:
    """Return the kind of an error and the lines it came through, by which two are the same."""
    lines = [line for line in trace.splitlines() if line.lstrip().startswith("File ")]
    return what.split(":")[0] + "|".join(lines[-3:])


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def limit_memory() -> None:
    """Bound what the process may allocate from here on."""
    with contextlib.suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_GROWTH, resource.RLIM_INFINITY))


def _quiet() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def import_targets(names: Sequence[str], plain: bool) -> None:
    """Import the targets and what they read with, instrumented for coverage unless `plain`; MLX is not used yet."""
    # Before MLX, for its BLAS.
    importlib.import_module("mlx_hf_bridge.runtime.blas")
    instrumented: Any = contextlib.nullcontext()
    if not plain:
        instrumented = importlib.import_module("atheris").instrument_imports(
            include=["mlx_hf_bridge"], enable_loader_override=False
        )
    # atheris prints a line for every module.
    with instrumented, contextlib.redirect_stderr(io.StringIO()):
        for name in names:
            find_target(name)


def work(target: Target, folder: Path, executions: int, seed: int, plain: bool) -> None:
    """Run one target until the executions are done, or the process ends by a crash, a hang or too much memory."""
    _quiet()
    run = target.prepare(Path(tempfile.mkdtemp(dir=folder)))
    state = State(folder / "state")
    for data in target.seeds:
        state.current = data
        # So that what is imported and cached once counts neither as time nor as memory.
        outcome(run, data)
    _quiet()
    limit_memory()
    worker = Worker(run, folder, executions)
    # What a reader leaves behind is found where it is made.
    gc.collect()
    if plain:
        _run_plain(target, worker, seed, executions)
        return
    atheris = importlib.import_module("atheris")
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(data)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        changed = target.mutate(data, Random(number))
        found: bytes = atheris.Mutate(data, most) if changed is None else changed[:most]
        return found

    options = {
        "seed": seed or 1, "max_len": LONGEST_INPUT, "len_control": 0, "timeout": HANG_SECONDS, "reduce_inputs": 0,
        "detect_leaks": 0,
        "rss_limit_mb": (_peak_memory() + MEMORY_GROWTH) // 2**20, "artifact_prefix": f"{folder}/ended-",
        "print_final_stats": 0, "verbosity": 0,
    }  # fmt: skip
    arguments = ["fuzz", str(corpus), *(f"-{key}={value}" for key, value in options.items())]
    atheris.Setup(arguments, worker, custom_mutator=mutate)
    atheris.Fuzz()


def _run_plain(target: Target, worker: Worker, seed: int, executions: int) -> None:
    random, inputs = Random(seed), list(target.seeds)
    for number in range(executions):
        data = inputs[number] if number < len(inputs) else plain_input(target, random)
        worker(data)


def plain_input(target: Target, random: Random) -> bytes:
    """Return a changed seed of a target, without an engine.

    Args:
        target: The target.
        random: The source of chance.

    Returns:
        The input.
    """
    data = random.choice(target.seeds)
    for _ in range(random.randint(1, 3)):
        changed = target.mutate(data, random)
        data = random_bytes(data, random) if changed is None else changed
    return data[:LONGEST_INPUT]
