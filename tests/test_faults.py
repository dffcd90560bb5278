"""Kills, interrupts, exits and broken pools on a small scale; `python -m benchmarks.faults` is the whole campaign."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint

from benchmarks import soak
from benchmarks.faults import exits, interrupts, kills
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.errors import BridgeError, ForkedProcessError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.runtime import atomic_folder, executor
from mlx_hf_bridge.runtime.atomic_folder import SCRATCH, filling, write_atomically
from mlx_hf_bridge.runtime.progress import ProgressBar

TEXTS = ["the cat sat on the mat.", "a dog", ""]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conversion", "save_pretrained over a folder"])
def test_a_killed_process_leaves_nothing_half_written(name: str, tmp_path: Path) -> None:
    (outcome,) = kills.kill_workflows(tmp_path, 2, names=[name])
    assert (outcome.tried, outcome.failures) == (2, [])


@pytest.mark.slow
def test_processes_end_with_their_own_exit_code_while_threads_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("a daemon thread converts", "an exit handler encodes in a thread", "a forked child encodes")
    monkeypatch.setattr(exits, "PROGRAMS", {name: exits.PROGRAMS[name] for name in chosen})
    assert exits.exit_processes(tmp_path, 1).failures == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_an_interrupted_call_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path / "cache"))
    outcome = interrupts.interrupt_calls(tmp_path, 2)
    assert (outcome.tried, outcome.failures) == (22, [])


@pytest.mark.slow
@pytest.mark.skipif(
    "RANDOM_FAULTS" not in os.environ, reason="at whatever moment the machine has come to; set RANDOM_FAULTS to try"
)
def test_ctrl_c_ends_the_command_line_without_a_traceback(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "source")
    words = ["convert", "--model", str(tmp_path / "source"), "--output-dir", str(tmp_path / "out")]
    for delay in (0.4, 1.2, 2.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_hf_bridge", *words, "--no-skip"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        # Python itself, before it has come to the package, ends by the signal.
        assert process.returncode in (130, 0, -signal.SIGINT)
        assert not list(tmp_path.rglob(f"*{SCRATCH}"))


ORPHANS = """
import os, signal, sys
from mlx_hf_bridge import MLXSentenceTransformer
if __name__ == "__main__":
    model = MLXSentenceTransformer(sys.argv[1])
    pool = model.start_multi_process_pool(["cpu"])
    model.encode(["the cat", "a dog"], pool=pool)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_the_workers_of_a_killed_process_end(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(ORPHANS)
    # Its output ends when the worker, which has it open too, has ended: without that, this waits for ever.
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
def test_a_soak_finds_equal_results_and_no_growth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path / "cache"))
    names = ["encode many", "fill-mask", "predict", "save", "load q8", "thread", "asyncio", "encode to file"]
    report = soak.soak(tmp_path, 4.0, names=names).report(12.0)
    assert report["wrong"] == []
    assert report["survived"], report


def entries(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.endswith(SCRATCH)}


def write_model(folder: Path, content: str) -> None:
    for name in ("config.json", "modules.json", "model.safetensors"):
        (folder / name).write_text(content)


def test_a_save_that_is_killed_midway_leaves_no_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the step, config.json is there only if every file is of one model."""
    steps, real = 0, os.replace

    class Killed(BaseException):
        pass

    def replace(source: Any, target: Any) -> None:
        nonlocal steps
        if steps == 0:
            raise Killed
        steps -= 1
        real(source, target)

    monkeypatch.setattr(atomic_folder.os, "replace", replace)
    for number in range(4):
        target = tmp_path / str(number)
        target.mkdir()
        write_model(target, "old")
        (target / "README.md").write_text("kept")
        steps = number
        if number < 3:
            with pytest.raises(Killed), filling(target) as new:
                write_model(new, "new")
            assert "config.json" not in entries(target)
        else:
            with filling(target) as new:
                write_model(new, "new")
            assert set(entries(target).values()) == {"new", "kept"}
        assert entries(target)["README.md"] == "kept"


def test_a_save_that_is_interrupted_midway_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        real(source, target)
        calls.append(target)
        if len(calls) == 1:
            raise KeyboardInterrupt

    write_model(tmp_path, "old")
    monkeypatch.setattr(atomic_folder.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), filling(tmp_path) as new:
        write_model(new, "new")
    assert set(entries(tmp_path).values()) == {"new"}


def test_a_save_that_fails_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    write_model(tmp_path, "old")
    with pytest.raises(ValueError, match="no"), filling(tmp_path) as new:
        write_model(new, "new")
        raise ValueError("no")
    assert set(entries(tmp_path).values()) == {"old"}
    assert not list(tmp_path.glob(f".*{SCRATCH}"))


def test_a_scratch_folder_that_was_never_locked_is_removed(tmp_path: Path) -> None:
    (tmp_path / f".other-x{SCRATCH}").mkdir()
    write_atomically(tmp_path / "folder", lambda new: (new / "file").write_text(""))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_bar_that_is_not_shown_takes_no_lock_of_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while tqdm takes its lock leaves the lock taken."""
    monkeypatch.setattr(ProgressBar, "get_lock", classmethod(lambda cls: pytest.fail("a lock was taken")))
    with ProgressBar(total=3, desc="Encoding", disable=True) as bar:
        bar.update(2)
        bar.set_postfix_str("label", refresh=False)
    assert list(ProgressBar([1, 2], disable=True)) == [1, 2]


def test_a_truncation_that_is_interrupted_is_set_again(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path, {})
    backend = tokenizer.backend

    class Interrupted:
        """A backend whose truncation ends by an interrupt, after it was changed."""

        def __getattr__(self, name: str) -> Any:
            return getattr(backend, name)

        def no_truncation(self) -> None:
            backend.no_truncation()
            raise KeyboardInterrupt

    tokenizer._truncate(8, "longest_first")
    tokenizer.backend = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        tokenizer._truncate(None, "longest_first")
    tokenizer.backend = backend
    tokenizer._truncate(8, "longest_first")
    assert backend.truncation is not None


def test_a_lock_that_a_forked_child_can_never_have_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = executor.threading.Lock()
    lock.acquire()
    monkeypatch.setattr(executor, "_process", os.getpid() + 1)
    monkeypatch.setattr(executor, "_SECONDS_IN_CHILD", 0.01)
    with pytest.raises(ForkedProcessError, match="before this process was forked"), executor.hold(lock):
        pass


def test_an_interrupted_encode_gives_right_vectors_afterwards(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    model = MLXSentenceTransformer(tmp_path)
    expected = model.encode(TEXTS)
    for place in (40, 400, 900):
        with pytest.raises(KeyboardInterrupt), interrupts.Interrupt(place):
            model.encode(TEXTS)
        np.testing.assert_allclose(model.encode(TEXTS), expected, rtol=1e-5, atol=1e-5)
    assert issubclass(ForkedProcessError, BridgeError)
