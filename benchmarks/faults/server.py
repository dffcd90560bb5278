"""Start processes in milliseconds: a parent that has imported the package, but not used MLX, forks them.

A process of MLX cannot be forked once it has computed, so that the parent never does. Its children run a program as
`__main__` and end as any Python process does: with threading's and atexit's functions, and the destructors of MLX.
"""

import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Self

_PRELOADED = """
import mlx_hf_bridge, transformers, asyncio, concurrent.futures
import mlx_hf_bridge.conversion.api, mlx_hf_bridge.pipelines, mlx_hf_bridge.sentence_transformers
from transformers import PreTrainedTokenizerFast, BertTokenizer
"""
_SECONDS = 40


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        code: Its exit code; the negative number of a signal that killed it.
        output: What it wrote to standard output and error.
    """

    code: int
    output: str


class Server:
    """A process that starts others; a context manager.

    Args:
        folder: Where the output of the processes is written.
        **environment: Environment variables for the processes.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "benchmarks.faults.server"]
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pids: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait(_SECONDS)

    def start(self, *programs: tuple[str, Sequence[Any]]) -> list[int]:
        """Start programs, each a text and its arguments, and return their process ids; `wait` must follow."""
        jobs = [{"program": program, "arguments": [str(one) for one in given]} for program, given in programs]
        outputs = [str(self.folder / f"output-{number}") for number in range(len(jobs))]
        _pipe(self._process.stdin).write(json.dumps({"jobs": jobs, "outputs": outputs}) + "\n")
        _pipe(self._process.stdin).flush()
        self.pids = json.loads(_pipe(self._process.stdout).readline())
        return self.pids

    def wait(self) -> list[End]:
        """Wait until all programs have ended, and return how; a program that takes too long is killed."""
        watch = threading.Timer(_SECONDS, self._abort)
        watch.start()
        codes = json.loads(_pipe(self._process.stdout).readline())
        watch.cancel()
        outputs = [self.folder / f"output-{number}" for number in range(len(codes))]
        return [End(code, path.read_text(errors="replace")) for code, path in zip(codes, outputs, strict=True)]

    def _abort(self) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)

    def run(self, program: str, *arguments: Any) -> End:
        """Start a program and wait for its end."""
        self.start((program, arguments))
        return self.wait()[0]


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _serve() -> None:
    """Fork a process for each program of each line of standard input; return in the children, at the end of theirs."""
    exec(_PRELOADED, {})
    for line in sys.stdin:
        order = json.loads(line)
        pids = []
        for job, output in zip(order["jobs"], order["outputs"], strict=True):
            pid = os.fork()
            if not pid:
                _become(job["program"], job["arguments"], output)
                return
            pids.append(pid)
        _say(pids)
        _say([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])


def _say(content: Any) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def _become(program: str, arguments: list[str], output: str) -> None:
    """Run a program in this process, a child."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # A process that hangs is ended by SIGABRT, and says where it was.
    faulthandler.enable()
    sys.argv = ["-c", *arguments]
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(program, "<program>", "exec"), main.__dict__)


if __name__ == "__main__":
    _serve()
