"""Ctrl-C at random moments of whole processes: the command line, and programs that use the package."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.faults.checkpoints import tiny_checkpoint
from benchmarks.faults.outcome import Outcome
from mlx_hf_bridge import convert

_SECONDS = 240
# A program that uses transformers, for `python -m mlx_hf_bridge script.py`.
_UNCHANGED = """
import sys
print("started", flush=True)
from transformers import AutoModel, AutoTokenizer
model, tokenizer = AutoModel.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
for _ in range(3):
    model(**tokenizer(["the cat sat"], return_tensors="pt"))
"""
# Imports, loads and encodes; after an interrupt it does all of that again, which must give the same.
_PLAIN = """
import sys
print("started", flush=True)
def work():
    from mlx_hf_bridge import MLXSentenceTransformer
    model = MLXSentenceTransformer(sys.argv[1], quantization_config="q8")
    return [model.encode(["the cat sat", "a dog"] * 20, batch_size=4) for _ in range(20)][-1]
try:
    work()
except KeyboardInterrupt:
    print("interrupted", flush=True)
result = work()
assert abs(result - work()).max() < 2e-5
print("result", round(float(abs(result).sum()), 2), flush=True)
"""
# Never interrupted after its first `work`: one that is ends as any Python program.
_INTERRUPTED_BY_PYTHON = (-signal.SIGINT, 1)


def interrupt_processes(folder: Path, each: int, seed: int = 0) -> Outcome:
    """Interrupt each process at random moments of its run, and look at its exit code, its output and its files.

    Args:
        folder: An empty folder; MLX_HF_BRIDGE_CACHE must be its "cache".
        each: How often to interrupt each of them.
        seed: Decides the moments.

    Returns:
        What was tried, and what failed.
    """
    outcome, generator = Outcome("Ctrl-C at random moments of processes"), random.Random(seed)
    with outcome.timed():
        for name, words in _processes(folder).items():
            start = time.monotonic()
            expected = _run(words, None)
            seconds = time.monotonic() - start
            assert expected.returncode == 0, expected.stderr
            for _ in range(each):
                moment = generator.uniform(0, 1.1 * seconds)
                done = _run(words, moment)
                outcome.record(_wrong(name, done, expected, folder), f"{name}, after {moment:.2f} of {seconds:.2f} s")
    return outcome


def _processes(folder: Path) -> dict[str, list[str]]:
    source = str(tiny_checkpoint(folder / "source"))
    convert(source, folder / "converted", quantization_config="q8", show_progress=False)
    for name, program in (("unchanged.py", _UNCHANGED), ("plain.py", _PLAIN)):
        (folder / name).write_text(program)
    command = [sys.executable, "-m", "mlx_hf_bridge"]
    texts = ["the cat sat " * (number % 9 + 1) for number in range(60)]
    return {
        "mlx-hf-bridge encode": [*command, "encode", source, *texts, "--json"],
        "mlx-hf-bridge encode --output": [
            *(*command, "encode", source, *texts, "--restart", "--output", str(folder / "vectors.npy")),
        ],
        "mlx-hf-bridge verify": [*command, "verify", str(folder / "converted"), "--json"],
        "mlx-hf-bridge convert": [
            *(*command, "convert", "--model", source, "--output-dir", str(folder / "out"), "--no-skip"),
        ],
        "python -m mlx_hf_bridge script.py": [*command, str(folder / "unchanged.py"), source],
        "a program": [sys.executable, str(folder / "plain.py"), source],
    }


def _run(words: list[str], moment: float | None) -> subprocess.CompletedProcess[str]:
    """Run a process, and interrupt it after that many seconds."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        if moment is not None:
            time.sleep(moment)
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        errors += f"\nno end within {_SECONDS} seconds"
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def _wrong(
    name: str, done: subprocess.CompletedProcess[str], expected: subprocess.CompletedProcess[str], folder: Path
) -> str | None:
    """Return what is wrong with a process that was interrupted; None for nothing."""
    what = f"exit code {done.returncode}: {done.stdout[-100:]} {done.stderr[-700:]}"
    if left := [path.name for path in folder.rglob("*.scratch")]:
        return f"{left} stayed; {what}"
    if name == "a program":
        result = re.compile("result .*")
        if done.returncode == 0:
            return None if result.findall(done.stdout) == result.findall(expected.stdout) else f"another result; {what}"
        # Before its `try`, and after it.
        in_the_middle = "interrupted" in done.stdout or "KeyboardInterrupt" not in done.stderr
        return what if done.returncode not in _INTERRUPTED_BY_PYTHON or in_the_middle else None
    if done.returncode in (0, 130):
        is_silent = "Traceback" not in done.stderr
        return None if is_silent else what
    # Python itself, before it has come to the package, and a program that is run, end as Python does.
    is_early = "mlx_hf_bridge/" not in done.stderr
    of_python = done.returncode in _INTERRUPTED_BY_PYTHON and (is_early or "started" in done.stdout)
    return None if of_python else what
