"""The benchmark tasks: encoding, reranking, zero-shot, latency, cold starts, scaling. Each yields rows of results."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import texts
from benchmarks.checkpoints import bert_base, classifier, cross_encoder
from benchmarks.measure import Timing, interleave, percentile
from benchmarks.processes import alternating, medians
from benchmarks.rivals import BRIDGE, REFERENCE, encoders
from mlx_hf_bridge.runtime.device import BACKEND


@dataclass(frozen=True)
class Result:
    """One figure: `value` in `unit`, its ratio to the reference (higher is better), and the extremes of the rounds."""

    task: str
    system: str
    value: float
    unit: str
    ratio: float | None = None
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Settings:
    """What to measure, as given on the command line."""

    model: str
    rounds: int
    count: int
    file: str | None
    scratch: Path


def _rates(task: str, timings: list[Timing], count: int, unit: str) -> Iterator[Result]:
    for timing in timings:
        yield Result(task, timing.name, count / timing.median, unit, timing.ratio, timing.spread)


def _throughput(
    task: str, model: str, corpus: list[str], rounds: int, names: list[str] | None = None
) -> Iterator[Result]:
    found, _ = encoders(model, names)
    calls = {name: partial(encode, corpus) for name, encode in found.items()}
    yield from _rates(task, interleave(calls, rounds, REFERENCE), len(corpus), "texts/s")


def encode_mixed(settings: Settings) -> Iterator[Result]:
    """Encode titles and articles, alternating."""
    corpus = texts.mixed(settings.count, settings.file)
    yield from _throughput(f"encode {settings.count} titles and articles", settings.model, corpus, settings.rounds)


def encode_short(settings: Settings) -> Iterator[Result]:
    yield from _throughput("encode short queries", settings.model, texts.short(settings.count), settings.rounds)


def encode_long(settings: Settings) -> Iterator[Result]:
    corpus = texts.long(max(16, settings.count // 8))
    yield from _throughput("encode long texts", settings.model, corpus, settings.rounds)


def encode_uniform(settings: Settings) -> Iterator[Result]:
    """Encode batches of 32 texts of 64 tokens, including the two special tokens."""
    corpus = texts.uniform(max(64, settings.count // 6 // 32 * 32), 62)
    yield from _throughput("encode batches of 32 x 64 tokens", settings.model, corpus, settings.rounds)


def encode_base(settings: Settings) -> Iterator[Result]:
    """Encode with a BERT-base with random weights."""
    corpus, model = texts.mixed(max(32, settings.count * 3 // 20), settings.file), bert_base(settings.scratch)
    yield from _throughput("encode with BERT-base (random weights)", model, corpus, settings.rounds)


def zero_shot(settings: Settings) -> Iterator[Result]:
    """Classify 100 texts with 10 labels; transformers' pipeline with its default and several other batch sizes.

    Once titles only, once titles and articles: the default computes one pair at a time, slowest for short texts.
    """
    import transformers

    from mlx_hf_bridge import pipeline

    count = max(10, settings.count // 20)
    labels = ["sport", "politics", "science", "business", "travel", "music", "health", "law", "film", "food"]
    model = classifier(settings.model, settings.scratch)
    reference = transformers.pipeline("zero-shot-classification", model=model, device="cpu")
    bridge = {
        name: pipeline("zero-shot-classification", model, quantization_config=recipe)
        for name, recipe in ((BRIDGE, None), ("mlx_hf_bridge 8 bits", "q8"))
    }
    for kind, corpus in (
        ("titles", texts.mixed(2 * count, settings.file)[::2]),
        ("titles and articles", texts.mixed(count, settings.file)),
    ):
        calls: dict[str, Callable[[], object]] = {name: partial(pipe, corpus, labels) for name, pipe in bridge.items()}
        default = "transformers, default"
        calls[default] = partial(reference, corpus, labels)
        for size in (8, 16, 32, 64):
            calls[f"transformers, batch_size {size}"] = partial(reference, corpus, labels, batch_size=size)
        task = f"zero-shot, {count} {kind} x {len(labels)} labels"
        yield from _rates(task, interleave(calls, settings.rounds, default), count, "texts/s")


def rerank(settings: Settings) -> Iterator[Result]:
    """Rerank 200 passages for one query."""
    from sentence_transformers import CrossEncoder

    from mlx_hf_bridge import MLXCrossEncoder

    passages, query = texts.mixed(200, settings.file), texts.short(1)[0]
    model = cross_encoder(settings.model, settings.scratch)
    reference = CrossEncoder(model, device="cpu")
    calls: dict[str, Callable[[], object]] = {
        BRIDGE: partial(MLXCrossEncoder(model).rank, query, passages),
        "mlx_hf_bridge 8 bits": partial(MLXCrossEncoder(model, quantization_config="q8").rank, query, passages),
        "sentence-transformers CrossEncoder": partial(reference.rank, query, passages),
    }
    timings = interleave(calls, settings.rounds, "sentence-transformers CrossEncoder")
    yield from _rates("rerank 1 query x 200 passages", timings, len(passages), "pairs/s")


_WARM = """
import json, logging, sys, time
logging.disable(logging.WARNING)
from benchmarks import texts
from benchmarks.rivals import encoders
model, system, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
encode = encoders(model, [system])[0][system]
corpus = texts.uniform(count, 8)
for _ in range(20):
    encode(corpus)
taken = []
for _ in range(60):
    start = time.perf_counter()
    encode(corpus)
    taken.append(time.perf_counter() - start)
print("\\n" + json.dumps(taken))
"""


def latency(settings: Settings) -> Iterator[Result]:
    """Measure warm calls with 1, 8 and 64 texts of ten tokens: median and 95th percentile in milliseconds.

    Each system runs in its own processes, alternating: idle threads of one BLAS would slow down the other's.
    """
    names = list(encoders(settings.model)[0])
    for count in (1, 8, 64):
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(max(1, settings.rounds // 2)):
            for name in names:
                command = [sys.executable, "-c", _WARM, settings.model, name, str(count)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[name] += json.loads(done.stdout.splitlines()[-1])
        task = f"latency of {count} text{'s' if count > 1 else ''} of 10 tokens"
        for percent in (50, 95):
            reference = percentile(found[REFERENCE], percent)
            for name, seconds in found.items():
                actual = percentile(seconds, percent)
                yield Result(f"{task}, p{percent}", name, actual * 1e3, "ms", reference / actual)


_COLD = {
    BRIDGE: "import sys\nfrom mlx_hf_bridge import MLXSentenceTransformer as M\nM(sys.argv[1]).encode('a first text')",
    "mlx_hf_bridge 8 bits": "import sys\nfrom mlx_hf_bridge import MLXSentenceTransformer as M\n"
    "M(sys.argv[1], quantization_config='q8').encode('a first text')",
    REFERENCE: "import sys\nfrom sentence_transformers import SentenceTransformer as S\n"
    "S(sys.argv[1], device='cpu').encode('a first text')",
}


def cold_start(settings: Settings) -> Iterator[Result]:
    """Measure seconds and peak memory from a fresh process to its first embedding."""
    runs = alternating(_COLD, settings.rounds, settings.model)
    reference = medians(runs[REFERENCE])
    for name, found in runs.items():
        actual = medians(found)
        yield Result("cold start to first embedding", name, actual.seconds, "s", reference.seconds / actual.seconds)
        yield Result("peak memory of that process", name, actual.peak_mib, "MiB", reference.peak_mib / actual.peak_mib)


_WITHOUT_BLAS = """
import sys, time
from mlx_hf_bridge import MLXSentenceTransformer
from benchmarks import texts
corpus = texts.mixed(100, sys.argv[2] or None)
model = MLXSentenceTransformer(sys.argv[1])
model.encode(corpus[:2])
start = time.perf_counter()
model.encode(corpus)
print(time.perf_counter() - start)
"""


# What is disabled: this project's BLAS, or also its second stream and its malloc settings (which any value of
# GLIBC_TUNABLES disables). What then still differs from plain MLX is the CPU versions of exp, gelu and the like.
_DISABLED: Mapping[str, Mapping[str, str]] = {
    "MLX's own BLAS": {"MLX_HF_BRIDGE_BLAS": "none"},
    "MLX's own BLAS, one stream, plain malloc": {
        "MLX_HF_BRIDGE_BLAS": "none",
        "MLX_HF_BRIDGE_STREAMS": "1",
        "GLIBC_TUNABLES": "",
    },
}


def without_blas(settings: Settings) -> Iterator[Result]:
    """Encode 100 texts with parts of this project disabled, in alternating processes, without loading (Linux CPUs)."""
    if BACKEND != "cpu" or sys.platform != "linux":
        return  # there is nothing to disable
    taken: dict[str, list[float]] = {name: [] for name in (BRIDGE, *_DISABLED)}
    for _ in range(3):
        for name, seconds in taken.items():
            environment = {**os.environ, **_DISABLED.get(name, {})}
            command = [sys.executable, "-W", "ignore", "-c", _WITHOUT_BLAS, settings.model, settings.file or ""]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            seconds.append(float(done.stdout))
    for name in _DISABLED:
        timing = Timing(BRIDGE, tuple(taken[BRIDGE]), tuple(taken[name]))
        yield Result(
            f"encode 100 texts, against {name}", BRIDGE, 100 / timing.median, "texts/s", timing.ratio, timing.spread
        )


def growth(settings: Settings) -> Iterator[Result]:
    """Measure time per token and peak memory by the number of texts: medians of alternating fresh processes.

    The ratio compares the time with that of the fewest texts; above 1 it is shorter.
    """
    counts = (100, 1000, 10_000) if settings.count >= 2000 else (50, settings.count)
    found: dict[int, list[list[float]]] = {count: [] for count in counts}
    for _ in range(max(1, settings.rounds // 2)):
        for count, runs in found.items():
            command = [sys.executable, "-c", _GROWTH, settings.model, str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append([float(figure) for figure in done.stdout.split()])
    fewest = statistics.median(microseconds for microseconds, _ in found[counts[0]])
    for count, runs in found.items():
        microseconds, mib = (statistics.median(column) for column in zip(*runs, strict=True))
        yield Result(f"{count} texts, time per token", BRIDGE, microseconds, "us", fewest / microseconds)
        yield Result(f"{count} texts, peak memory without the embeddings", BRIDGE, mib, "MiB")


_GROWTH = """
import sys, time
from mlx_hf_bridge import MLXSentenceTransformer
from benchmarks import texts
from benchmarks.peak import peak_mib
count = int(sys.argv[2])
corpus = texts.mixed(count)
model = MLXSentenceTransformer(sys.argv[1])
model.encode(texts.mixed(100, seed=9))
start = time.perf_counter()
vectors = model.encode(corpus)
seconds = time.perf_counter() - start
peak = peak_mib()
tokens = sum(len(one) for one in model.tokenizer.encode(corpus, 256))
print(seconds / tokens * 1e6, peak - vectors.nbytes / 2**20)
"""

TASKS: Mapping[str, Callable[[Settings], Iterator[Result]]] = {
    "mixed": encode_mixed,
    "uniform": encode_uniform,
    "short": encode_short,
    "long": encode_long,
    "base": encode_base,
    "zero-shot": zero_shot,
    "rerank": rerank,
    "latency": latency,
    "cold-start": cold_start,
    "blas": without_blas,
    "growth": growth,
}
