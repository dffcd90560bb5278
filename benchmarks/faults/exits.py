"""Processes that end while their threads compute: the exit code is the program's own, and nothing hangs."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.faults.checkpoints import tiny_checkpoint
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.server import Server

_PRELUDE = """
import atexit, logging, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
logging.disable(logging.WARNING)
import mlx_hf_bridge
from mlx_hf_bridge import MLXSentenceTransformer
source = sys.argv[1]
model = MLXSentenceTransformer(source)
TEXTS = ["the cat sat " * (number % 19) for number in range(300)]
def for_ever(work=lambda: model.encode(TEXTS, batch_size=4), count=3):
    def compute():
        while True:
            work()
    for _ in range(count):
        threading.Thread(target=compute, daemon=True).start()
    time.sleep(0.1 + 0.2 * float(sys.argv[2]))
"""
# Programs, with the exit code that each must have.
PROGRAMS: Mapping[str, tuple[str, int]] = {
    "daemon threads encode": ("for_ever()", 0),
    "daemon threads stream": ("for_ever(lambda: list(model.encode_stream(iter(TEXTS), chunk_size=30)))", 0),
    "a daemon thread converts": (
        "import tempfile\n"
        "def convert():\n"
        "    out = tempfile.mkdtemp()\n"
        "    mlx_hf_bridge.convert(source, out, quantization_config='q4', overwrite=True, show_progress=False)\n"
        "for_ever(convert, 1)",
        0,
    ),
    "threads and the main thread": ("for_ever()\nfor _ in range(3): model.encode(TEXTS[:20])", 0),
    "sys.exit(3) while threads encode": ("for_ever()\nsys.exit(3)", 3),
    "sys.exit in a thread": (
        "for_ever()\n"
        "thread = threading.Thread(target=lambda: sys.exit(model.encode(TEXTS[:9]).shape[0]))\n"
        "thread.start()\nthread.join()",
        0,
    ),
    "an error ends the program": ("for_ever()\nraise ValueError('on purpose')", 1),
    "an exit handler encodes": ("atexit.register(lambda: model.encode(TEXTS[:9]))\nfor_ever()", 0),
    "an exit handler encodes in a thread": (
        "def late():\n"
        "    thread = threading.Thread(target=lambda: model.encode(TEXTS[:9]))\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "for_ever()\n"
        "atexit._run_exitfuncs()\n"
        "late()",
        0,
    ),
    "__del__ at shutdown encodes": (
        "class Late:\n    def __del__(self):\n        model.encode(TEXTS[:9])\nlate = Late()\nfor_ever()",
        0,
    ),
    "a pool of threads is not shut down": (
        "pool = ThreadPoolExecutor(4)\nfor _ in range(8): pool.submit(model.encode, TEXTS[:40])",
        0,
    ),
    "a call is interrupted, then the program ends": (
        "def stop(*_):\n"
        "    raise KeyboardInterrupt\n"
        "signal.signal(signal.SIGALRM, stop)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "try:\n"
        "    while True: model.encode(TEXTS, batch_size=4)\n"
        "except KeyboardInterrupt:\n"
        "    pass",
        0,
    ),
    "a forked child exits": (
        "for_ever()\n"
        "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n",
        0,
    ),
    "a forked child encodes": (
        "for_ever()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        model.encode(TEXTS)\n"
        "    except mlx_hf_bridge.ForkedProcessError:\n"
        "        sys.exit(5)\n"
        "else:\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5\n",
        0,
    ),
    "a stream is left in the middle": ("stream = model.encode_stream(iter(TEXTS), chunk_size=9)\nnext(stream)", 0),
}


def exit_processes(folder: Path, each: int) -> Outcome:
    """Let each program end a number of times.

    Args:
        folder: An empty folder.
        each: How often each program runs.

    Returns:
        What was tried, and what failed.
    """
    source, outcome = tiny_checkpoint(folder / "source"), Outcome("exits while threads compute")
    with outcome.timed(), Server(folder, MLX_HF_BRIDGE_CACHE=str(folder / "cache")) as server:
        for number in range(each):
            for name, (program, code) in PROGRAMS.items():
                end = server.run(_PRELUDE + program, source, number / each)
                wrong = f"exit code {end.code}, expected {code}: {end.output[-300:]}"
                outcome.record(None if end.code == code else wrong, name)
    return outcome
