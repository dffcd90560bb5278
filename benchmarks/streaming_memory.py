"""Check that memory and time per text stay constant over a long stream of short texts, with a one-layer model.

python -m benchmarks.streaming_memory [--texts 1000000]
"""

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

from benchmarks.models import minilm_folder
from benchmarks.texts import mixed
from mlx_hf_bridge import MLXSentenceTransformer

WIDTH = 64
MIB = 2**20


def small_model(folder: Path) -> Path:
    """Save a model of one random layer with MiniLM's tokenizer and pooling."""
    shutil.copytree(minilm_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "onnx"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, intermediate_size=2 * WIDTH
    )
    transformers.BertModel(config).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("384", str(WIDTH)))
    return folder


def stream(count: int) -> Iterator[str]:
    """Yield texts of 1 to 60 words, all different."""
    kinds = mixed(5000, seed=4)
    return (f"{number} {kinds[number % len(kinds)]}" for number in range(count))


def resident() -> float:
    """Return the resident memory of this process in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status has no VmRSS; this benchmark needs Linux")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--texts", type=int, default=1_000_000)
    given = arguments.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        model = MLXSentenceTransformer(small_model(Path(scratch) / "small"))
        done, start, highest, marks = 0, time.process_time(), 0.0, [10_000]
        while marks[-1] * 10 <= given.texts:
            marks.append(marks[-1] * 10)
        for vectors in model.encode_stream(stream(given.texts)):
            done += len(vectors)
            highest = max(highest, resident())
            if done >= marks[0]:
                taken = (time.process_time() - start) / done * 1e6
                print(f"{done:9,d} texts: {taken:6.1f} us of CPU time per text, at most {highest:.0f} MiB")
                marks.pop(0)
                if not marks:
                    break


if __name__ == "__main__":
    main()
