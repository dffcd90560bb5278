"""Embed a corpus on a local Ray cluster, kill an actor and then the driver, run again, and compare with one process.

python -m benchmarks.corpora_faults [--texts 50000] [--files 40] [--model NAME] [--only one,workers,ray,faults]

Needs the extra "ray". Without --model, a random model with one layer of width 64 embeds texts of a few words, so that
what is measured is everything but the model. One of the files is damaged, and one row of another is not JSON.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import WORDS, make_model
from mlx_hf_bridge.corpora import embed_files

_MIB = 2**20
_OPTIONS: dict[str, Any] = {"id_column": "id", "rows_per_unit": 500, "chunk_size": 250}


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=50_000)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--model")
    parser.add_argument("--address", help="of a Ray cluster that runs already; default: two nodes are started here")
    parser.add_argument("--only", default="one,workers,ray,faults")
    parser.add_argument("--drive", nargs=4, metavar=("ADDRESS", "CORPUS", "OUTPUT", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        _drive(*args.drive)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or _small_model(folder / "model")
        corpus = _write_corpus(folder / "corpus", args.texts, args.files)
        _compare(folder, corpus, model, args)


def _compare(folder: Path, corpus: Path, model: str, args: argparse.Namespace) -> None:
    only = args.only.split(",")
    print(f"{args.texts} texts in {args.files} files, a bad row and a bad file more; {os.cpu_count()} cores\n")
    print("| run | seconds | rows | without a result | lost | twice | largest difference | processes, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    reference = folder / "one"
    _report("one process", lambda: embed_files(corpus, reference, model, **_OPTIONS), reference, reference, args.texts)
    if "workers" in only:
        output = folder / "workers"
        run = lambda: embed_files(corpus, output, model, workers=2, **_OPTIONS)  # noqa: E731
        _report("two workers", run, output, reference, args.texts)
    if not {"ray", "faults"} & set(only):
        return
    with _cluster(args.address) as address:
        for label, faults in (("ray", False), ("faults", True)):
            if label in only:
                output = folder / label
                name = "Ray, actor and driver killed" if faults else "Ray, two actors"
                run = lambda: _drive_by_ray(address, corpus, output, model, faults)  # noqa: B023, E731
                _report(name, run, output, reference, args.texts)


def _report(name: str, run: Callable[[], Any], output: Path, reference: Path, texts: int) -> None:
    with _watching_memory() as peaks:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    import pyarrow.dataset as ds

    manifest = json.loads((output / "_manifest.json").read_text())
    table, expected = ds.dataset(output).to_table(), ds.dataset(reference).to_table()
    ids = table["id"].to_pylist()
    lost, twice = len(set(range(texts)) - set(ids)), len(ids) - len(set(ids))
    difference = float("inf")
    if ids == expected["id"].to_pylist():
        difference = max(
            float(np.abs(_vectors(one) - _vectors(other)).max())
            for one, other in zip(table.to_batches(8192), expected.to_batches(8192), strict=False)
        )
    memory = ", ".join(str(peak // _MIB) for peak in sorted(peaks.values(), reverse=True)[:3])
    print(
        f"| {name} | {seconds:.0f} | {manifest['rows']} | {manifest['quarantined']} | {lost} | {twice} | "
        f"{difference:.1g} | {memory} |",
        flush=True,
    )


def _vectors(batch: Any) -> np.ndarray:
    column = batch.column("embedding")
    return np.asarray(column.flatten()).reshape(len(column), -1)


def _drive_by_ray(address: str, corpus: Path, output: Path, model: str, faults: bool) -> None:
    """Run a driver; with faults, kill an actor after a quarter of the work and the driver after half of it."""
    command = [sys.executable, "-m", __spec__.name, "--drive", address, str(corpus), str(output), model]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if faults:
        _wait_for_parts(output, 0.25, driver)
        [victim, *_] = _actors()
        os.kill(victim, signal.SIGKILL)
        print(f"  killed actor {victim} after {_parts(output)} parts", file=sys.stderr)
        _wait_for_parts(output, 0.5, driver)
        driver.kill()
        print(f"  killed the driver after {_parts(output)} parts", file=sys.stderr)
        driver.wait()
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if driver.wait():
        raise SystemExit("the driver failed")


def _drive(address: str, corpus: str, output: str, model: str) -> None:
    import ray

    from mlx_hf_bridge.integrations.ray import embed_dataset

    ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}})
    ray.data.DataContext.get_current().enable_progress_bars = False
    embed_dataset(corpus, model, output=output, concurrency=2, **_OPTIONS)


def _parts(output: Path) -> int:
    return len(list(output.glob("part-*.parquet")))


def _wait_for_parts(output: Path, share: float, driver: "subprocess.Popen[bytes]") -> None:
    while True:
        if driver.poll() is not None:
            raise SystemExit(f"the driver ended before {share:.0%} of the work was done")
        plan = output / "_job.json"
        if plan.exists() and _parts(output) >= share * len(json.loads(plan.read_text())["units"]):
            return
        time.sleep(0.05)


def _actors() -> list[int]:
    """Return the processes of Ray's actors below this one."""
    import psutil

    every = psutil.Process().children(recursive=True)
    return [one.pid for one in every if any("MapWorker" in part for part in _command(one))]


def _command(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@contextmanager
def _cluster(address: str | None) -> Iterator[str]:
    """Start two nodes with a core each, as processes of this machine."""
    if address:
        yield address
        return
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 100 * _MIB}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    cluster.add_node(**size)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@contextmanager
def _watching_memory() -> Iterator[dict[int, int]]:
    """Record the largest memory of this process and of those of Ray's actors and drivers below it."""
    import psutil

    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            own = psutil.Process()
            for process in [own, *own.children(recursive=True)]:
                words = _command(process)
                if process == own or any(
                    "MapWorker" in word or "--drive" in word or "spawn_main" in word for word in words
                ):
                    try:
                        peaks[process.pid] = max(peaks.get(process.pid, 0), process.memory_info().rss)
                    except psutil.Error:
                        continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _small_model(folder: Path) -> str:
    folder.mkdir()
    make_model(folder)
    return str(folder)


def _write_corpus(folder: Path, texts: int, files: int) -> Path:
    """Write texts of one to thirty words into JSONL files and Parquet files, alternating."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    draw, size = random.Random(0), -(-texts // files)
    for number in range(files):
        ids = list(range(number * size, min(texts, (number + 1) * size)))
        rows = {"id": ids, "text": [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in ids]}
        if number % 2:
            pq.write_table(pa.table(rows), folder / f"{number:04d}.parquet", row_group_size=400)
            continue
        lines = [json.dumps({"id": one, "text": text}) for one, text in zip(*rows.values(), strict=True)]
        if number == 0:
            lines.insert(size // 2, '{"id": -1, "text": ')
        (folder / f"{number:04d}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "damaged.parquet").write_bytes(b"PAR1" + bytes(1000))
    return folder


if __name__ == "__main__":
    main()
