"""Describe the machine, and compute how much of its matmul speed encoding reaches."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.tasks import Result
from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.cli.diagnosis import diagnose


def machine_info() -> dict[str, Any]:
    """Return what `mlx-hf-bridge doctor` reports."""
    return asdict(diagnose())


def flops_per_token(folder: str, length: float) -> float:
    """Return the operations per token of a BERT-like encoder: 2 per weight, and 4 * length * width for attention."""
    config = json.loads((Path(folder) / "config.json").read_text())
    width, part_of, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    return float(layers * (2 * (4 * width * width + 2 * width * part_of) + 4 * length * width))


def achieved_share(folder: str, corpus: list[str], result: Result, speed: float) -> Result:
    """Return what share of the matmul `speed` (GFLOP/s) encoding reached, counting only matmuls."""
    lengths = [len(one) for one in MLXSentenceTransformer(folder).tokenizer.encode(corpus, 256)]
    flops = sum(length * flops_per_token(folder, length) for length in lengths) / len(lengths)
    share = 100 * flops * result.value / 1e9 / speed
    return Result(f"{result.task}: share of the matmul speed of {speed:.0f} GFLOP/s", result.system, share, "%")
