"""Trace every variant of traced_variants.py, write and read it as JSON, and compare it with transformers on torch.

    python -m benchmarks.traced_models [variant ...]

Tiny modules with random weights. The difference is the largest on valid tokens relative to the largest value, over two
padded shapes other than the traced one, compared with eager attention. A variant passes at 1e-4.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

import mlx_hf_bridge  # noqa: F401  must come before anything that imports mlx
from benchmarks.traced_variants import VARIANTS, Variant, perceiver
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.tracing.conversion import TracedModule, trace_module
from mlx_hf_bridge.tracing.trials import build_model, largest_difference, trial_inputs

RELATIVE = 1e-4
SHAPES = ((2, 33), (4, 20))


@dataclass(frozen=True)
class Outcome:
    """One row of the table; difference is None if the variant was not traced, for the given reason."""

    variant: Variant
    nodes: int = 0
    difference: float | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.difference is not None and self.difference <= RELATIVE


def encoder(module: Any) -> Any:
    """Return the encoder of an encoder-decoder model, other models as they are."""
    return module.get_encoder() if getattr(module.config, "is_encoder_decoder", False) else module


def run_variant(variant: Variant) -> Outcome:
    """Trace one variant and compare it with torch."""
    if variant.reason and variant.unchecked:
        return Outcome(variant, reason=variant.reason)
    start = time.perf_counter()
    module = perceiver() if variant.name == "perceiver:text" else encoder(variant.module())
    try:
        found = trace_module(module, extra_inputs=variant.extra)
        worst = compare(found, module, variant)
    except BridgeError as error:
        return Outcome(variant, reason=variant.reason or str(error))
    return Outcome(variant, len(found.graph.nodes), worst, time.perf_counter() - start)


def compare(found: TracedModule, module: Any, variant: Variant) -> float:
    """Return the largest difference over SHAPES, of the graph after a round trip through JSON."""
    model = build_model(found.graph, found.tensors)
    return max(
        largest_difference(model, module, trial_inputs(found.graph, module, *shape, variant.extra)) for shape in SHAPES
    )


def main() -> None:
    settings = sys.argv[1:]
    chosen = [variant for variant in VARIANTS if not settings or variant.name in settings]
    print("| variant | difference | nodes | seconds | |\n| --- | --- | --- | --- | --- |")
    outcomes = []
    for variant in chosen:
        found = run_variant(variant)
        outcomes.append(found)
        share = "-" if found.difference is None else f"{found.difference:.0e}"
        verdict = "passes" if found.passed else f"refused: {found.reason}" if found.reason else "FAILS"
        print(f"| {variant.name} | {share} | {found.nodes or '-'} | {found.seconds:.1f} | {verdict} |", flush=True)
    passed = sum(found.passed for found in outcomes)
    print(
        f"\n{passed} of {len(outcomes)} pass; {sum(bool(found.reason) for found in outcomes)} are refused with a "
        "reason."
    )


if __name__ == "__main__":
    main()
