"""Encode a generator into a .npy file, kill the process halfway, resume it, and measure memory.

python -m benchmarks.corpus [--texts 200000] [--few 20000]

A one-layer random model and short texts, so that writing the file is what is measured. Peaks are of whole processes.
"""

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import transformers

WORDS = [
    "a",
    "bridge",
    "carries",
    "the",
    "river",
    "under",
    "it",
    "and",
    "every",
    "text",
    "goes",
    "over",
    "in",
    "batches",
]
CODE = """
import resource, sys, time
from itertools import islice
from mlx_hf_bridge import MLXSentenceTransformer
model, path, count, stop = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
words = sys.argv[5].split()
def texts():
    for number in range(count):
        if number == stop:
            print("there", flush=True)
            time.sleep(3600)
        start = number * 7 % len(words)
        yield " ".join(words[start : start + 1 + number % 9])
MLXSentenceTransformer(model).encode_to_file(texts(), path)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak // 1024 if sys.platform == "linux" else peak // 2**20)
"""


def make_model(folder: Path) -> None:
    """Save a model with one layer of width 64 and a vocabulary of WORDS."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]) + "\n")
    transformers.BertTokenizer(str(vocabulary), model_max_length=32).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder)


def start(model: Path, path: Path, count: int, stop: int = -1) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CODE, str(model), str(path), str(count), str(stop), " ".join(WORDS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_peak(process: "subprocess.Popen[str]") -> int:
    """Wait for the process and return its peak memory in MB."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    return int(output)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--texts", type=int, default=200_000)
    arguments.add_argument("--few", type=int, default=20_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        model.mkdir()
        make_model(model)
        wait_for_peak(start(model, Path(name) / "first.npy", 1))  # converts the model
        few = wait_for_peak(start(model, Path(name) / "few.npy", given.few))
        begin = time.perf_counter()
        whole = wait_for_peak(start(model, Path(name) / "whole.npy", given.texts))
        seconds = time.perf_counter() - begin
        process = start(model, Path(name) / "killed.npy", given.texts, given.texts // 2)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = sorted(path.name for path in Path(name).glob("killed*"))
        rest = wait_for_peak(start(model, Path(name) / "killed.npy", given.texts))
        same = digest(Path(name) / "killed.npy") == digest(Path(name) / "whole.npy")
        print(f"{given.texts} texts uninterrupted: {seconds:.0f} s, peak {whole} MB; {given.few} texts: peak {few} MB")
        print(f"increase of the peak: {100 * (whole / few - 1):+.1f} %")
        print(
            f"killed (exit code {process.returncode}) at text {given.texts // 2}, files left: {left}; "
            f"resumed: peak {rest} MB"
        )
        print(f"identical to the file of the uninterrupted run: {same}")
    raise SystemExit(0 if same and whole < 1.1 * few else 1)


if __name__ == "__main__":
    main()
