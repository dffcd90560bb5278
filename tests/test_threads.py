"""Models work from any thread, processes exit cleanly, forks raise an error, and memory stays bounded."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import FAMILIES, make_checkpoint, ragged_inputs
from subprocesses import run_python, start_python, wait_for

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import ForkedProcessError
from mlx_hf_bridge.runtime import executor as run_module
from mlx_hf_bridge.runtime.executor import run

BERT = FAMILIES[0]
BATCHES = [ragged_inputs(BERT, (length, 3, length // 2 + 1), seed=length) for length in range(4, 40)]


def hidden(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return model(**inputs).last_hidden_state


def in_thread(work: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=60)


@pytest.mark.parametrize("recipe", [None, "q8"])
def test_a_model_of_the_main_thread_answers_alike_in_four_threads(recipe: str | None, tmp_path: Path) -> None:
    """Unevaluated MLX arrays cannot be used in another thread."""
    make_checkpoint(tmp_path)
    model = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    expected = [hidden(model, inputs) for inputs in BATCHES]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda inputs: hidden(model, inputs), BATCHES))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("recipe", [None, "mxfp4"])
def test_a_model_loaded_in_a_worker_thread_answers_everywhere(recipe: str | None, tmp_path: Path) -> None:
    """MLX streams belong to the thread that created them."""
    make_checkpoint(tmp_path)
    model = in_thread(lambda: MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe))
    inputs = BATCHES[5]
    here, there = hidden(model, inputs), in_thread(lambda: hidden(model, inputs))
    np.testing.assert_array_equal(here, there)
    again = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    np.testing.assert_array_equal(here, hidden(again, inputs))


def test_arrays_of_a_worker_thread_are_usable_in_the_main_one(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    model = MLXAutoModel.from_pretrained(tmp_path)
    inputs = {name: mx.array(value) for name, value in BATCHES[5].items()}
    mx.eval(*inputs.values())
    output = in_thread(lambda: model(**inputs, output_hidden_states=True, output_attentions=True))
    for array in (output.last_hidden_state, *output.hidden_states, *output.attentions):
        assert bool(mx.isfinite(array + 1).all())


def test_asyncio_to_thread_answers_alike(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    model = MLXAutoModel.from_pretrained(tmp_path)

    async def answer_all() -> list[np.ndarray]:
        return await asyncio.gather(*(asyncio.to_thread(hidden, model, inputs) for inputs in BATCHES[:8]))

    for one, inputs in zip(asyncio.run(answer_all()), BATCHES, strict=False):
        np.testing.assert_array_equal(one, hidden(model, inputs))


def test_an_error_in_a_worker_thread_reaches_its_caller_and_spoils_nothing(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    model = MLXAutoModel.from_pretrained(tmp_path)
    with pytest.raises(IndexError, match="vocab_size"):
        in_thread(lambda: model(np.array([[1000]])))
    with pytest.raises(OSError, match=r"has no config\.json"):
        in_thread(lambda: MLXAutoModel.from_pretrained(tmp_path.parent))
    assert in_thread(lambda: hidden(model, BATCHES[0])).shape == (3, 4, 24)


def test_work_in_several_threads_runs_one_piece_at_a_time() -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def work() -> mx.array:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        result = mx.ones((64, 64)) @ mx.ones((64, 64))
        mx.eval(result)
        with lock:
            inside -= 1
        return result

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(run, work) for _ in range(40)]
        for _ in range(40):
            run(work)
        assert {float(task.result()[0, 0]) for task in tasks} == {64.0}
    assert most == 1


POOL = """
import sys
from concurrent.futures import ThreadPoolExecutor
from mlx_hf_bridge import MLXAutoModel
if sys.argv[2] == "main":
    model = MLXAutoModel.from_pretrained(sys.argv[1])
with ThreadPoolExecutor(4) as pool:
    if sys.argv[2] == "worker":
        model = pool.submit(MLXAutoModel.from_pretrained, sys.argv[1]).result()
    for output in pool.map(lambda length: model([[5] * length]), range(1, 20)):
        assert output.last_hidden_state.shape[0] == 1
"""


@pytest.mark.slow
def test_a_process_with_finished_worker_threads_exits_with_code_0(tmp_path: Path) -> None:
    """MLX on its own aborts such processes at exit (code 134) in 27% to 60% of runs, so eight show it."""
    make_checkpoint(tmp_path)
    MLXAutoModel.from_pretrained(tmp_path)
    for _ in range(4):
        pair = [start_python(POOL, tmp_path, where) for where in ("main", "worker")]
        assert [wait_for(process)[::2] for process in pair] == [(0, "")] * 2


DAEMONS = """
import sys, threading, time
from mlx_hf_bridge import MLXAutoModel
model = MLXAutoModel.from_pretrained(sys.argv[1])
model([[5]])
def compute_for_ever():
    while True:
        model([[5] * 30] * 9)
for _ in range(3):
    threading.Thread(target=compute_for_ever, daemon=True).start()
time.sleep(0.3)
"""

SHUTDOWN = """
import sys
from mlx_hf_bridge import MLXSentenceTransformer
class Late:
    def __init__(self, model):
        self.model = model
        model.encode("the cat")
    def __del__(self):
        print(self.model.encode(["the cat"]).shape, flush=True)
late = Late(MLXSentenceTransformer(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_process_ends_while_daemon_threads_compute(tmp_path: Path) -> None:
    """Without waiting for them, MLX aborts most such processes (exit code 134)."""
    make_checkpoint(tmp_path)
    MLXAutoModel.from_pretrained(tmp_path)
    for _ in range(3):
        pair = [start_python(DAEMONS, tmp_path) for _ in range(2)]
        assert [wait_for(process)[::2] for process in pair] == [(0, "")] * 2


@pytest.mark.slow
def test_encoding_while_the_interpreter_shuts_down_ends(tmp_path: Path) -> None:
    """No thread can be started then, and tqdm would start one."""
    make_checkpoint(tmp_path)
    assert run_python(SHUTDOWN, tmp_path) == "(1, 24)"


FORK = """
import os, sys
from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import ForkedProcessError

def answer():
    return MLXAutoModel.from_pretrained(sys.argv[1])([[5, 6]]).last_hidden_state.shape

if sys.argv[2] == "after":
    answer()
child = os.fork()
if not child:
    try:
        answer()
        answer()
    except ForkedProcessError as error:
        print(error, flush=True)
        os._exit(3)
    os._exit(0)
_, status = os.waitpid(child, 0)
answer()
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_child_forked_after_use_is_refused_instead_of_hanging(tmp_path: Path) -> None:
    """A child process that is forked after any use of MLX hangs inside MLX."""
    make_checkpoint(tmp_path)
    code, output, _ = wait_for(start_python(FORK, tmp_path, "after"))
    assert code == 0
    message, child_code = output.rsplit("\n", 1)
    assert message.startswith(
        "MLX was used before this process was forked, and would hang here. Start workers by spawn"
    )
    assert child_code == "3"


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_child_forked_before_use_works(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    code, output, stderr = wait_for(start_python(FORK, tmp_path, "before"))
    assert (code, output) == (0, "0"), stderr


def test_forked_process_error_is_a_runtime_error() -> None:
    assert issubclass(ForkedProcessError, RuntimeError)


def test_random_lengths_do_not_grow_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX caches freed buffers: without a limit, 320 different lengths grew a server from 2.3 GB to 24 GB."""
    make_checkpoint(tmp_path)
    model = MLXAutoModel.from_pretrained(tmp_path)
    kept = 2**18
    monkeypatch.setattr(run_module, "KEPT_BYTES", kept)
    random = np.random.default_rng(0)
    mx.clear_cache()
    active = None
    for step in range(200):
        shape = (int(random.integers(1, 17)), int(random.integers(1, 45)))
        model(random.integers(5, 101, shape))
        if step == 20:
            active = mx.get_active_memory()
        # Buffers that the caller frees after the call add to the cache.
        assert mx.get_cache_memory() <= 2 * kept
    assert active is not None
    assert mx.get_active_memory() <= active + 2**16


def test_buffers_within_the_limit_are_kept_for_reuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path)
    model = MLXAutoModel.from_pretrained(tmp_path)
    cleared = []
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(1))
    for inputs in BATCHES[:5]:
        model(**inputs)
    assert not cleared
    assert run_module.KEPT_BYTES >= 2**22
