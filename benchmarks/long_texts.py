"""Measure time and memory of long texts: ModernBERT and Longformer of base width, local and full attention.

python -m benchmarks.long_texts [--lengths 512 1024 2048 4096 8192] [--rounds 1] [--models modernbert longformer]
Three layers, random weights, one text. Memory is MLX's peak without the weights. Seconds are CPU time, which other
programs do not lengthen; on a GPU wall time.
"""

import argparse
import statistics
import time
from typing import Any

from mlx_hf_bridge.runtime.device import BACKEND  # loads a BLAS before mlx.core

# isort: split
import mlx.core as mx
from mlx.utils import tree_map

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.inference.model import Model, build_model
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import family_for

SHARED = {
    "vocab_size": 1000,
    "hidden_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
}
MODERN = {"intermediate_size": 1152, "hidden_activation": "gelu", "local_attention": 128, "pad_token_id": 1}
ROBERTA = {"intermediate_size": 3072, "hidden_act": "gelu", "pad_token_id": 1}
# As published (one of three ModernBERT layers has full attention), local attention only, full attention only.
MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "modernbert": {
        "as published": {"model_type": "modernbert", **MODERN},
        "local attention": {"model_type": "modernbert", **MODERN, "layer_types": ["sliding_attention"] * 3},
        "full attention": {"model_type": "modernbert", **MODERN, "layer_types": ["full_attention"] * 3},
    },
    "longformer": {
        "as published": {"model_type": "longformer", **ROBERTA, "attention_window": 512},
        "full attention": {"model_type": "roberta", **ROBERTA},
    },
}
CLOCK = time.process_time if BACKEND == "cpu" else time.perf_counter
LIMITS = {"modernbert": 8192, "longformer": 4096}


def random_model(config: dict[str, Any]) -> Model:
    family = family_for(config)
    model = build_model(family, family.config.from_json({**SHARED, **config}), BASE_TASK, pooler=False)
    model.update(tree_map(lambda array: mx.random.normal(array.shape) * 0.02, model.parameters()))
    mx.eval(model.parameters())
    return model


def cost(model: Model, length: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds and the peak MiB without the weights; Longformer's first token attends globally."""
    ids = mx.random.randint(5, 1000, (1, length))
    given = {"global_attention_mask": (mx.arange(length) == 0).astype(mx.int32)[None]}
    mx.eval(ids, given)
    before, seconds = mx.get_active_memory(), []
    mx.reset_peak_memory()
    for _ in range(rounds):
        start = CLOCK()
        mx.eval(model(TokenBatch(ids, extra_inputs=given)).hidden)
        seconds.append(CLOCK() - start)
    return statistics.median(seconds), (mx.get_peak_memory() - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    given = parser.parse_args()
    print("| model | attention | tokens | seconds | per doubling | MiB | per doubling |")
    print("| --- |" + " --- |" * 6)
    for name in given.models:
        for way, config in MODELS[name].items():
            model, last = random_model(config), None
            cost(model, min(given.lengths), 1)
            for length in (length for length in given.lengths if length <= LIMITS[name]):
                seconds, memory = cost(model, length, given.rounds)
                times, more = (f"{seconds / last[0]:.1f}", f"{memory / last[1]:.1f}") if last else ("", "")
                print(f"| {name} | {way} | {length} | {seconds:.2f} | {times} | {memory:.0f} | {more} |", flush=True)
                last = seconds, memory


if __name__ == "__main__":
    main()
