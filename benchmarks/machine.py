"""What was measured on, and how much of its products' speed encoding reaches."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.tasks import Result
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.cli.diagnosis import diagnose


def described() -> dict[str, Any]:
    """`mlx-hf-bridge doctor` as data."""
    return asdict(diagnose())


def flops_a_token(folder: str, length: float) -> float:
    """Of a BERT-like encoder: two a weight, and 4 x length x width in attention, a layer."""
    config = json.loads((Path(folder) / "config.json").read_text())
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    return float(layers * (2 * (4 * width * width + 2 * width * inner) + 4 * length * width))


def achieved_share(folder: str, corpus: list[str], result: Result, speed: float) -> Result:
    """How much of the products' `speed` (GFLOP/s) encoding reached, counting its products alone."""
    lengths = [len(one) for one in MLXSentenceTransformer(folder).tokenizer.encode(corpus, 256)]
    flops = sum(length * flops_a_token(folder, length) for length in lengths) / len(lengths)
    share = 100 * flops * result.value / 1e9 / speed
    return Result(f"{result.task}: part of the products' {speed:.0f} GFLOP/s", result.system, share, "%")
