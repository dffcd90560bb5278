"""What is timed: encoding, reranking, zero-shot, single queries, cold starts, growth. Each gives rows of results."""

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
from benchmarks.measure import Timing, in_turn, percentile
from benchmarks.processes import alternating, medians
from benchmarks.rivals import OURS, REFERENCE, encoders


@dataclass(frozen=True)
class Result:
    """One figure: `value` in `unit`; ratio to the reference's (more = better), its smallest and largest round."""

    task: str
    system: str
    value: float
    unit: str
    ratio: float | None = None
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Asked:
    """What the command line wants measured, and with what."""

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
    works = {name: partial(encode, corpus) for name, encode in found.items()}
    yield from _rates(task, in_turn(works, rounds, REFERENCE), len(corpus), "texts/s")


def encode_mixed(asked: Asked) -> Iterator[Result]:
    """Titles and articles in turn."""
    corpus = texts.mixed(asked.count, asked.file)
    yield from _throughput(f"encode {asked.count} titles and articles", asked.model, corpus, asked.rounds)


def encode_short(asked: Asked) -> Iterator[Result]:
    yield from _throughput("encode short queries", asked.model, texts.short(asked.count), asked.rounds)


def encode_long(asked: Asked) -> Iterator[Result]:
    corpus = texts.long(max(16, asked.count // 8))
    yield from _throughput("encode long texts", asked.model, corpus, asked.rounds)


def encode_uniform(asked: Asked) -> Iterator[Result]:
    """Batches of 32 texts of 64 tokens, the two special ones included."""
    corpus = texts.uniform(max(64, asked.count // 6 // 32 * 32), 62)
    yield from _throughput("encode batches of 32 x 64 tokens", asked.model, corpus, asked.rounds)


def encode_base(asked: Asked) -> Iterator[Result]:
    """BERT-base's shape with random weights."""
    corpus, model = texts.mixed(max(32, asked.count * 3 // 20), asked.file), bert_base(asked.scratch)
    yield from _throughput("encode with BERT-base (random weights)", model, corpus, asked.rounds)


def zero_shot(asked: Asked) -> Iterator[Result]:
    """100 texts and 10 labels, transformers' pipeline at its default and at the best of several batch sizes.

    Titles, and titles and articles in turn: the default takes a pair at a time, which costs short ones most.
    """
    import transformers

    from mlx_hf_bridge import pipeline

    count = max(10, asked.count // 20)
    labels = ["sport", "politics", "science", "business", "travel", "music", "health", "law", "film", "food"]
    model = classifier(asked.model, asked.scratch)
    theirs = transformers.pipeline("zero-shot-classification", model=model, device="cpu")
    ours = {
        name: pipeline("zero-shot-classification", model, quantization_config=recipe)
        for name, recipe in ((OURS, None), ("mlx_hf_bridge 8 bits", "q8"))
    }
    for kind, corpus in (
        ("titles", texts.mixed(2 * count, asked.file)[::2]),
        ("titles and articles", texts.mixed(count, asked.file)),
    ):
        works: dict[str, Callable[[], object]] = {name: partial(pipe, corpus, labels) for name, pipe in ours.items()}
        default = "transformers, default"
        works[default] = partial(theirs, corpus, labels)
        for size in (8, 16, 32, 64):
            works[f"transformers, batch_size {size}"] = partial(theirs, corpus, labels, batch_size=size)
        task = f"zero-shot, {count} {kind} x {len(labels)} labels"
        yield from _rates(task, in_turn(works, asked.rounds, default), count, "texts/s")


def rerank(asked: Asked) -> Iterator[Result]:
    """One query and 200 passages."""
    from sentence_transformers import CrossEncoder

    from mlx_hf_bridge import MLXCrossEncoder

    passages, query = texts.mixed(200, asked.file), texts.short(1)[0]
    model = cross_encoder(asked.model, asked.scratch)
    theirs = CrossEncoder(model, device="cpu")
    works: dict[str, Callable[[], object]] = {
        OURS: partial(MLXCrossEncoder(model).rank, query, passages),
        "mlx_hf_bridge 8 bits": partial(MLXCrossEncoder(model, quantization_config="q8").rank, query, passages),
        "sentence-transformers CrossEncoder": partial(theirs.rank, query, passages),
    }
    timings = in_turn(works, asked.rounds, "sentence-transformers CrossEncoder")
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


def latency(asked: Asked) -> Iterator[Result]:
    """Warm calls of 1, 8 and 64 texts of ten tokens: the median and the 95th percentile in milliseconds.

    Each system in processes of its own, in turn: threads of one BLAS that wait for work would slow the other's.
    """
    names = list(encoders(asked.model)[0])
    for count in (1, 8, 64):
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(max(1, asked.rounds // 2)):
            for name in names:
                command = [sys.executable, "-c", _WARM, asked.model, name, str(count)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[name] += json.loads(done.stdout.splitlines()[-1])
        task = f"latency of {count} text{'s' if count > 1 else ''} of 10 tokens"
        for percent in (50, 95):
            theirs = percentile(found[REFERENCE], percent)
            for name, seconds in found.items():
                mine = percentile(seconds, percent)
                yield Result(f"{task}, p{percent}", name, mine * 1e3, "ms", theirs / mine)


_COLD = {
    OURS: "import sys\nfrom mlx_hf_bridge import MLXSentenceTransformer as M\nM(sys.argv[1]).encode('a first text')",
    "mlx_hf_bridge 8 bits": "import sys\nfrom mlx_hf_bridge import MLXSentenceTransformer as M\n"
    "M(sys.argv[1], quantization_config='q8').encode('a first text')",
    REFERENCE: "import sys\nfrom sentence_transformers import SentenceTransformer as S\n"
    "S(sys.argv[1], device='cpu').encode('a first text')",
}


def cold_start(asked: Asked) -> Iterator[Result]:
    """A fresh process, to its first embedding: seconds and the highest memory."""
    runs = alternating(_COLD, asked.rounds, asked.model)
    theirs = medians(runs[REFERENCE])
    for name, found in runs.items():
        mine = medians(found)
        yield Result("cold start to first embedding", name, mine.seconds, "s", theirs.seconds / mine.seconds)
        yield Result("peak memory of that process", name, mine.peak_mib, "MiB", theirs.peak_mib / mine.peak_mib)


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


# What is taken away: our BLAS alone, or also the second stream and our settings of malloc (any value of GLIBC_TUNABLES
# leaves them out), after which only the sums and products in the place of exponentials are not plain MLX's.
_TAKEN_AWAY: Mapping[str, Mapping[str, str]] = {
    "MLX's own BLAS": {"MLX_HF_BRIDGE_BLAS": "none"},
    "MLX's own BLAS, one stream, plain malloc": {
        "MLX_HF_BRIDGE_BLAS": "none",
        "MLX_HF_BRIDGE_STREAMS": "1",
        "GLIBC_TUNABLES": "",
    },
}


def without_blas(asked: Asked) -> Iterator[Result]:
    """100 texts as they are and with parts taken away, in processes in turn, loading not counted (Linux CPUs)."""
    taken: dict[str, list[float]] = {name: [] for name in (OURS, *_TAKEN_AWAY)}
    for _ in range(3):
        for name, seconds in taken.items():
            environment = {**os.environ, **_TAKEN_AWAY.get(name, {})}
            command = [sys.executable, "-W", "ignore", "-c", _WITHOUT_BLAS, asked.model, asked.file or ""]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            seconds.append(float(done.stdout))
    for name in _TAKEN_AWAY:
        timing = Timing(OURS, tuple(taken[OURS]), tuple(taken[name]))
        yield Result(
            f"encode 100 texts, against {name}", OURS, 100 / timing.median, "texts/s", timing.ratio, timing.spread
        )


def growth(asked: Asked) -> Iterator[Result]:
    """Seconds a token and the highest memory as texts grow in number, in fresh processes in turn: their medians.

    The ratio of a time is to that of the fewest texts, above 1 where it is shorter.
    """
    counts = (100, 1000, 10_000) if asked.count >= 2000 else (50, asked.count)
    found: dict[int, list[list[float]]] = {count: [] for count in counts}
    for _ in range(max(1, asked.rounds // 2)):
        for count, runs in found.items():
            command = [sys.executable, "-c", _GROWTH, asked.model, str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append([float(figure) for figure in done.stdout.split()])
    fewest = statistics.median(microseconds for microseconds, _ in found[counts[0]])
    for count, runs in found.items():
        microseconds, mib = (statistics.median(column) for column in zip(*runs, strict=True))
        yield Result(f"{count} texts, time a token", OURS, microseconds, "us", fewest / microseconds)
        yield Result(f"{count} texts, highest memory without the vectors", OURS, mib, "MiB")


_GROWTH = """
import re, sys, time
from mlx_hf_bridge import MLXSentenceTransformer
from benchmarks import texts
count = int(sys.argv[2])
corpus = texts.mixed(count)
model = MLXSentenceTransformer(sys.argv[1])
model.encode(texts.mixed(100, seed=9))
start = time.perf_counter()
vectors = model.encode(corpus)
seconds = time.perf_counter() - start
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024
tokens = sum(len(one) for one in model.tokenizer.encode(corpus, 256))
print(seconds / tokens * 1e6, peak - vectors.nbytes / 2**20)
"""

TASKS: Mapping[str, Callable[[Asked], Iterator[Result]]] = {
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
