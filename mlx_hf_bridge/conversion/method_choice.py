"""Which rounding `method="auto"` ("q4") stands for: the most accurate one that takes little time for a checkpoint."""

import math
from dataclasses import dataclass

from mlx_hf_bridge.conversion.plan import Plan
from mlx_hf_bridge.conversion.tokenizer_files import has_tokenizer
from mlx_hf_bridge.quantization import curvature
from mlx_hf_bridge.quantization.methods import AUTO
from mlx_hf_bridge.tracing.family import TracedConfig

# Quantized weights of linear layers up to which texts are read: all-MiniLM-L6-v2 has 11 million, a BERT-base 85, a
# BERT-large 302. The time grows faster than the weights do, and loading a model by name should not take an hour.
_CALIBRATED = 350_000_000
# Token tables have more rows for each column than this (30522 x 384), linear layers fewer (1536 x 384).
_TABLE_ROWS = 16


@dataclass(frozen=True)
class Rounding:
    """How the weights of a plan are rounded.

    Attributes:
        method: A method other than "auto".
        samples: Random gradients that the curvature of the outputs is estimated from; 0 for methods that do not use
            it.
    """

    method: str
    samples: int


def choose_rounding(plan: Plan) -> Rounding:
    """Return the rounding that the recipe of a plan asks for.

    It depends on the checkpoint only, so that a model has the same weights on every machine.

    Args:
        plan: The planned conversion; it has a recipe.

    Returns:
        The recipe's own method, or what "auto" stands for: "gptq" on the bundled texts without curvature, which takes
        most of the time of "gptq", and "least_squares" for very large models, traced ones, and those without a
        tokenizer.
    """
    assert plan.recipe is not None
    if plan.recipe.method != AUTO:
        return Rounding(plan.recipe.method, curvature.GRADIENT_SAMPLES)
    count = _linear_weights(plan)
    source = plan.checkpoint.tokenizer or plan.checkpoint
    # A traced model is a graph, whose weights are rounded one by one.
    is_readable = has_tokenizer(source.model_folder) and not isinstance(plan.config, TracedConfig)
    if count > _CALIBRATED or not is_readable:
        return Rounding("least_squares", 0)
    return Rounding("gptq", 0)


def _linear_weights(plan: Plan) -> int:
    """Return how many weights of linear layers are quantized."""
    return sum(
        math.prod(tensor.info.shape)
        for tensor in plan.tensors.values()
        if tensor.recipe and tensor.info.shape[0] <= _TABLE_ROWS * tensor.info.shape[-1]
    )
