"""SIGKILL at chosen and random moments of what writes files: nothing half-written is ever used."""

import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.faults.checkpoints import tiny_checkpoint
from benchmarks.faults.outcome import Outcome, same
from benchmarks.faults.server import Server

# The first argument is the number of the write, rename or deletion at which the process kills itself; 0 for none.
_PRELUDE = """
import logging, os, signal, sys
import numpy as np
logging.disable(logging.WARNING)
at, seen = int(sys.argv[1]), 0
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")
def hook(event, arguments):
    global seen
    if event in CHANGES or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
import mlx_hf_bridge
from mlx_hf_bridge import MLXQuantizationConfig, MLXSentenceTransformer, convert
source, target, result = sys.argv[2:5]
TEXTS = ["the cat sat on the mat.", "a dog", "stock market rose today!", "", "i love this film"]
MANY = [f"{TEXTS[number % 5]} {'good ' * (number % 9)}" for number in range(40)]
"""
_FINISH = """
with open(result, "wb") as file:
    np.save(file, vectors)
print(seen)
"""
_LOAD = "vectors = MLXSentenceTransformer(target).encode(TEXTS)"
_READ = f"""
try:
    {_LOAD}
except mlx_hf_bridge.BridgeError as error:
    print(type(error).__name__, str(error)[:200])
    sys.exit(3)
"""
_REFUSED = 3
_CALIBRATED = 'MLXQuantizationConfig(bits=4, method="gptq", calibration_texts=tuple(TEXTS * 4))'


@dataclass(frozen=True)
class Workflow:
    """What is killed.

    Attributes:
        name: What it is.
        program: The program, which sets `vectors`.
        replaces: Whether it writes over a folder that holds another model.
    """

    name: str
    program: str
    replaces: bool = False


WORKFLOWS = (
    Workflow("conversion", 'vectors = MLXSentenceTransformer(source, quantization_config="q8").encode(TEXTS)'),
    Workflow(
        "conversion over a folder",
        f'convert(source, target, quantization_config="q8", overwrite=True, show_progress=False)\n{_LOAD}',
        replaces=True,
    ),
    Workflow(
        "calibration", f"vectors = MLXSentenceTransformer(source, quantization_config={_CALIBRATED}).encode(TEXTS)"
    ),
    Workflow(
        "encode_to_file",
        "vectors = np.load(MLXSentenceTransformer(source).encode_to_file("
        'MANY, target + ".npy", chunk_size=4, show_progress_bar=False))',
    ),
    Workflow(
        "save_pretrained over a folder",
        f"MLXSentenceTransformer(source).save_pretrained(target)\n{_LOAD}",
        replaces=True,
    ),
)


@dataclass
class _Case:
    """One workflow in a folder of its own, run by a server whose cache is in that folder."""

    folder: Path
    server: Server
    workflow: Workflow
    source: Path
    other: Path

    def arguments(self, at: int) -> list[str]:
        return [str(at), str(self.source), str(self.folder / "target"), str(self.folder / "result.npy")]

    def program(self) -> str:
        return _PRELUDE + self.workflow.program + _FINISH

    def reset(self) -> None:
        """Forget everything that earlier runs wrote; put another model where the workflow writes its own."""
        for path in [*self.folder.glob("target*"), *self.folder.glob(".target*"), self.folder / "cache"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if self.workflow.replaces:
            shutil.copytree(self.other, self.folder / "target")

    def finish(self) -> tuple[np.ndarray | None, str]:
        """Run the workflow to its end, and return its vectors and its output."""
        return self._vectors(self.program())

    def read(self) -> tuple[np.ndarray | None, str]:
        """Return the vectors of the model that the folder holds now; None if it is refused."""
        return self._vectors(_PRELUDE + _READ + _FINISH)

    def _vectors(self, program: str) -> tuple[np.ndarray | None, str]:
        result = self.folder / "result.npy"
        result.unlink(missing_ok=True)
        end = self.server.run(program, *self.arguments(0))
        if end.code not in (0, _REFUSED):
            return None, f"exit code {end.code}: {end.output[-300:]}"
        return (np.load(result) if end.code == 0 else None), end.output


def kill_workflows(folder: Path, each: int, seed: int = 0, names: Sequence[str] | None = None) -> list[Outcome]:
    """Kill each workflow, half of the times at a write, rename or deletion, and half at a random moment.

    Args:
        folder: An empty folder.
        each: How often to kill each workflow.
        seed: Decides the moments.
        names: The workflows to kill; None for all.

    Returns:
        What was tried of each workflow, and what failed.
    """
    source, other = tiny_checkpoint(folder / "source"), tiny_checkpoint(folder / "other", labels=2)
    outcomes = []
    for workflow in WORKFLOWS:
        if names is not None and workflow.name not in names:
            continue
        own = folder / workflow.name.replace(" ", "-")
        own.mkdir()
        with Server(own, MLX_HF_BRIDGE_CACHE=str(own / "cache")) as server:
            outcomes.append(_kill(_Case(own, server, workflow, source, other), each, random.Random(seed)))
    return outcomes


def _kill(case: _Case, each: int, generator: random.Random) -> Outcome:
    outcome = Outcome(f"SIGKILL in {case.workflow.name}")
    with outcome.timed():
        case.reset()
        before = case.read()[0] if case.workflow.replaces else None
        expected, output = case.finish()
        if expected is None:
            outcome.record(f"does not run at all: {output}")
            return outcome
        changes = int(output.split()[-1])
        case.reset()
        started = time.monotonic()
        case.finish()
        seconds = time.monotonic() - started
        for number in range(each):
            case.reset()
            at = generator.randint(1, changes) if number % 2 == 0 else 0
            delay = generator.uniform(0, 0.9 * seconds)
            outcome.record(_kill_once(case, at, delay, expected, before), f"change {at}" if at else f"{delay:.2f} s")
    return outcome


def _kill_once(case: _Case, at: int, delay: float, expected: np.ndarray, before: np.ndarray | None) -> str | None:
    """Return what is wrong after one kill; None for nothing."""
    pids = case.server.start((case.program(), case.arguments(at)))
    if not at:
        time.sleep(delay)
        # It may have come to its end before.
        with suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
    case.server.wait()
    if case.workflow.replaces:
        held, output = case.read()
        if held is None and output.startswith("exit code"):
            return f"the folder that was written cannot be read: {output}"
        if held is not None and not same(held, expected) and not same(held, before):
            return "the folder holds a mixture of two models"
    again, output = case.finish()
    if again is None or not same(again, expected):
        return f"the next run gives other vectors, or none: {output}"
    left = [path.name for path in case.folder.rglob("*") if path.name.endswith((".scratch", ".partial"))]
    return f"{left} stayed" if left else None
