"""How long a corpus takes, how much its embeddings need, and what that costs; from speeds that are measured here.

python -m benchmarks.capacity --model NAME [--recipes none,q8,q4] [--texts 1e9] [--tokens 100] [--machines 10]
    [--cores 32] [--price 1.50] [--dimensions 384] [--truncated 128] [--speed TOKENS]

A speed is tokens per second of one core: embeddings of texts of the mean length, in a process that is limited to one
core, times the cores of all machines. --speed skips the measurement. The price is that of a machine for an hour.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_HOUR, _GIB = 3600, 2**30
_MEASURE = """
import sys, time
from mlx_hf_bridge import MLXSentenceTransformer
from benchmarks.texts import uniform
name, recipe, tokens, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
model = MLXSentenceTransformer(name, quantization_config=None if recipe == "none" else recipe)
texts = uniform(64, max(1, tokens - 2))
counted = sum(len(ids) for ids in model.tokenizer(texts)["input_ids"])
model.encode(texts[:8], show_progress_bar=False)
best, start = 0.0, time.perf_counter()
while time.perf_counter() - start < seconds:
    begin = time.process_time()
    model.encode(texts, show_progress_bar=False)
    best = max(best, counted / (time.process_time() - begin))
print(best, model.get_embedding_dimension())
"""


@dataclass(frozen=True)
class Corpus:
    """What is to be embedded, and on what: texts, their mean tokens, machines, the cores of each, its hourly price."""

    texts: float
    tokens: float
    machines: int
    cores: int
    price: float

    def hours(self, speed: float) -> float:
        """Return the hours that the corpus takes at a speed in tokens per second and core."""
        return self.texts * self.tokens / (speed * self.cores * self.machines) / _HOUR

    def money(self, speed: float) -> float:
        """Return what the machines cost for so long."""
        return self.hours(speed) * self.machines * self.price


def storage(texts: float, dimensions: int, truncated: int) -> list[tuple[str, float]]:
    """Return the GiB of embeddings in each form."""
    sizes = [
        (f"float32, {dimensions} dimensions", 4 * dimensions),
        (f"float32, truncated to {truncated}", 4 * truncated),
        (f"int8, {dimensions} dimensions", dimensions),
        (f"binary, {dimensions} dimensions", dimensions / 8),
        (f"binary, truncated to {truncated}", truncated / 8),
    ]
    return [(name, texts * size / _GIB) for name, size in sizes]


def measure(model: str, recipe: str, tokens: int, seconds: float) -> tuple[float, int]:
    """Return tokens per second of one core's time, and the number of dimensions."""
    environment = {**os.environ, "MLX_HF_BRIDGE_STREAMS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _MEASURE, model, recipe, str(tokens), str(seconds)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    speed, dimensions = done.stdout.split()
    return float(speed), int(dimensions)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Hub id or folder; not needed with --speed")
    parser.add_argument("--recipes", default="none,q8")
    parser.add_argument("--texts", type=float, default=1e9)
    parser.add_argument("--tokens", type=float, default=100, help="mean tokens of a text")
    parser.add_argument("--machines", type=int, default=10)
    parser.add_argument("--cores", type=int, default=32, help="physical cores of a machine")
    parser.add_argument("--price", type=float, default=1.5, help="of a machine for an hour")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--truncated", type=int, default=128)
    parser.add_argument("--speed", type=float, help="tokens per second of a core (or of a GPU, with --cores 1)")
    parser.add_argument("--seconds", type=float, default=10, help="how long each recipe is measured")
    args = parser.parse_args(arguments)
    if not (args.speed or args.model):
        parser.error("--model or --speed is needed")
    corpus = Corpus(args.texts, args.tokens, args.machines, args.cores, args.price)
    dimensions = args.dimensions
    print(f"{args.texts:.3g} texts of {args.tokens:g} tokens on {args.machines} machines of {args.cores} cores\n")
    print("| recipe | tokens/s of a core | hours | days | money |")
    print("| --- | --- | --- | --- | --- |")
    for recipe in ["given"] if args.speed else args.recipes.split(","):
        speed = args.speed
        if not speed:
            speed, dimensions = measure(args.model, recipe, int(args.tokens), args.seconds)
        hours = corpus.hours(speed)
        print(
            f"| {recipe} | {speed:,.0f} | {hours:,.1f} | {hours / 24:,.1f} | {corpus.money(speed):,.0f} |", flush=True
        )
    print("\n| embeddings | GiB |\n| --- | --- |")
    for name, size in storage(args.texts, dimensions, args.truncated):
        print(f"| {name} | {size:,.1f} |")


if __name__ == "__main__":
    main()
