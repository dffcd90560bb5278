"""Cold and spawned processes, threads, asyncio and pools: every result is right, and a model is converted once."""

import asyncio
import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.faults.checkpoints import tiny_checkpoint
from benchmarks.faults.interrupts import Interrupt
from benchmarks.faults.outcome import Outcome, same
from benchmarks.faults.server import Server
from mlx_hf_bridge import BridgeError, MLXSentenceTransformer

TEXTS = ["the cat sat on the mat.", "a dog", "", "i love this film", "stock market rose today!"] * 8
_SECONDS = 240
_COLD = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.loading import load
real, conversions = load.write_conversion, []
def write_conversion(*arguments, **options):
    conversions.append(1)
    return real(*arguments, **options)
load.write_conversion = write_conversion
def encode(_):
    return MLXSentenceTransformer(sys.argv[1], quantization_config="q8").encode(["the cat", "a dog sat"])
with ThreadPoolExecutor(2) as pool:
    one, other = pool.map(encode, range(2))
assert np.array_equal(one, other)
print("answer", len(conversions), one.tobytes().hex()[:64])
"""


def start_cold(folder: Path, rounds: int) -> Outcome:
    """Let 8 processes of 2 threads each load one model that is not converted yet."""
    source, outcome = tiny_checkpoint(folder / "source"), Outcome("8 processes x 2 threads cold on one model")
    with outcome.timed():
        for number in range(rounds):
            with Server(folder, MLX_HF_BRIDGE_CACHE=str(folder / f"cache-{number}")) as server:
                server.start(*[(_COLD, [source])] * 8)
                ends = server.wait()
            answers = [end.output.split("answer ")[-1].split() for end in ends]
            if any(end.code for end in ends):
                outcome.record(f"exit codes {[end.code for end in ends]}: {ends[0].output[-200:]}")
            elif len({answer[1] for answer in answers}) != 1 or sum(int(answer[0]) for answer in answers) != 1:
                outcome.record(f"other vectors, or other than one conversion: {answers}")
            else:
                outcome.record(None)
    return outcome


def share_model(folder: Path, calls: int) -> Outcome:
    """Let 16 threads, and tasks of asyncio of which some are canceled, use one model."""
    model = MLXSentenceTransformer(str(tiny_checkpoint(folder / "source")), quantization_config="q8")
    expected = [model.encode(TEXTS[number:]) for number in range(16)]
    outcome = Outcome("16 threads on one model, and asyncio with canceled tasks")

    async def gather() -> list[np.ndarray]:
        tasks = [asyncio.create_task(asyncio.to_thread(model.encode, TEXTS[number:])) for number in range(16)]
        canceled = [asyncio.create_task(asyncio.to_thread(model.encode, TEXTS)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in canceled:
            task.cancel()
        return list(await asyncio.gather(*tasks))

    with outcome.timed():
        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(lambda number: model.encode(TEXTS[number % 16 :]), range(calls)))
        results = [*results, *asyncio.run(gather())]
        for number, result in enumerate(results):
            own = number if number < calls else number - calls
            outcome.record(None if same(result, expected[own % 16]) else "another result", f"call {number}")
    return outcome


def spawn_children(folder: Path, rounds: int) -> Outcome:
    """Hand a model that has computed to spawned processes, of which one is killed; the others give its vectors."""
    model = MLXSentenceTransformer(str(tiny_checkpoint(folder / "source")), quantization_config="q8")
    expected, outcome = model.encode(TEXTS), Outcome("a model in spawned processes, one of which is killed")
    context = multiprocessing.get_context("spawn")
    with outcome.timed():
        for number in range(rounds):
            victim = context.Process(target=model.encode, args=(TEXTS * 50,), daemon=True)
            victim.start()
            with context.Pool(2) as pool:
                waiting = pool.map_async(model.encode, [TEXTS[part:] for part in range(4)])
                victim.kill()
                results = waiting.get(_SECONDS)
            victim.join()
            right = all(same(result, expected[part:]) for part, result in enumerate(results))
            outcome.record(None if right and same(model.encode(TEXTS), expected) else "another result", f"{number}")
    return outcome


def break_pools(folder: Path, interrupts: int) -> Outcome:
    """Interrupt calls of a pool, give it a wrong text, kill a worker, and use it again after each."""
    model = MLXSentenceTransformer(str(tiny_checkpoint(folder / "source")))
    expected, outcome = (
        model.encode(TEXTS),
        Outcome("pools: interrupted, given a wrong text, a worker killed; then reused"),
    )

    def answer() -> str | None:
        return None if same(model.encode(TEXTS, pool=pool, chunk_size=5), expected) else "another result"

    with outcome.timed():
        pool = model.start_multi_process_pool(["cpu", "cpu"])
        try:
            outcome.record(answer(), "first call")
            with Interrupt(None) as counted:
                answer()
            for number in range(interrupts):
                place = 1 + number * counted.passed // interrupts
                try:
                    with Interrupt(place):
                        answer()
                except KeyboardInterrupt:
                    pass
                outcome.record(answer(), f"after an interrupt at place {place}")
            try:
                model.encode([*TEXTS, 7], pool=pool, chunk_size=5)
                outcome.record("a wrong text was taken")
            except BridgeError:
                outcome.record(answer(), "after a wrong text")
            os.kill(pool["processes"][0].pid, signal.SIGKILL)
            try:
                # The other worker may compute everything.
                outcome.record(answer(), "with a killed worker")
            except BridgeError as error:
                outcome.record(None if "died" in str(error) else str(error), "with a killed worker")
        finally:
            model.stop_multi_process_pool(pool)
    return outcome
