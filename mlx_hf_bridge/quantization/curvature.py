"""What errors of a product's answers cost the model's answers, to second order, measured by gradients.

With M (O, I) the gradient of a random mix of the answers by a product's weights, an error E of these weights costs
about trace(G E H E'), G = the mean of M M' and H = that of the product's inputs (Gupta et al., Shampoo, arXiv
1802.09568; for rounding: Tseng et al., YAQA, arXiv 2505.22988).
B texts, L tokens, O outputs, I inputs, D width of the word table.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob, select_linears, select_modules
from mlx_hf_bridge.quantization.policy import WORD_TABLE
from mlx_hf_bridge.quantization.quantized_weights import Floats
from mlx_hf_bridge.runtime.device import streams, threads_for_streams

# Random mixes of answers, each of one batch. Fewer blur the factors, more take longer.
GRADIENT_SAMPLES = 96
# The part of the answers that is every token's hidden state, which holds the other tasks' heads in place.
_HIDDEN = 0.05
_SAVE_EVERY = 24
_NAME = "curvature"


class _Nudged(Embedding):
    """A table whose answers are moved by `nudge` (B, L, D), by which they can be differentiated."""

    def __call__(self, ids: mx.array) -> mx.array:
        moved: mx.array = self.weight[ids] + self.nudge
        return moved


def estimate_curvatures(job: CalibrationJob, seed: int) -> dict[str, Floats]:
    """module path -> G (O, O) of a product, (D, D) of the word table's rows, on the float model."""
    sums: dict[str, mx.array] = job.resume.load(_NAME) or {}
    done = int(np.array(sums.pop("looks", mx.array(0))))
    for _ in range(done):
        job.on_step(_NAME)
    waiting = (
        (number, job.calibration_batches[_lesson(number, len(job.calibration_batches))])
        for number in range(done, GRADIENT_SAMPLES)
    )
    while looks := list(islice(waiting, len(streams()))):
        parts = _side_by_side(job, looks, seed)
        for part in parts:
            sums = {path: sums[path] + array if path in sums else array for path, array in part.items()}
        mx.eval(sums)
        done += len(looks)
        for _ in looks:
            job.on_step(_NAME)
        if done // _SAVE_EVERY > (done - len(looks)) // _SAVE_EVERY:
            job.resume.save(_NAME, {**sums, "looks": mx.array(done)})
    return {path: np.array(array / GRADIENT_SAMPLES) for path, array in sums.items()}


def _lesson(look: int, lessons: int) -> int:
    """Which batch a look is of: all in turn, or as many as there are looks, from long texts to short ones."""
    return look * lessons // GRADIENT_SAMPLES if lessons > GRADIENT_SAMPLES else look % lessons


def _side_by_side(job: CalibrationJob, looks: list[tuple[int, TokenBatch]], seed: int) -> list[dict[str, mx.array]]:
    """A look on each stream."""
    results = []
    with threads_for_streams():
        for stream, (number, batch) in zip(streams(), looks, strict=False):
            with mx.stream(stream):
                results.append(_gradient_sample(job, batch, mx.random.key(seed * GRADIENT_SAMPLES + number)))
        mx.eval(results)
    return results


def _gradient_sample(job: CalibrationJob, batch: TokenBatch, key: mx.array) -> dict[str, mx.array]:
    """One batch's M M' of every module."""
    products = select_linears(job.float_model, job.widths)
    table = select_modules(job.float_model, [WORD_TABLE]).get(WORD_TABLE) if WORD_TABLE in job.widths else None
    keys = mx.random.split(key)

    def mix(weights: dict[str, mx.array], nudge: mx.array) -> mx.array:
        with _differentiable(products, weights, table, nudge):
            encoded = job.float_model(batch)
            answer, hidden = job.select_output(encoded, batch), encoded.hidden
        tokens = batch.token_mask(mx.float32)
        mixed: mx.array = _mixed(answer, keys[0]) + _HIDDEN**0.5 * _mixed(hidden * tokens, keys[1])
        return mixed

    weights = {path: module.weight for path, module in products.items()}
    width = 1 if table is None else table.weight.shape[1]
    by_weights, by_words = mx.grad(mix, argnums=(0, 1))(weights, mx.zeros((*batch.ids.shape, width)))
    found = {path: gradient @ gradient.T for path, gradient in by_weights.items()}
    if table is not None:
        rows = by_words.reshape(-1, width)
        found[WORD_TABLE] = rows.T @ rows
    return found


def _mixed(answers: mx.array, key: mx.array) -> mx.array:
    """A random mix of each text's answers (B, ...), relative to their length."""
    flat = answers.reshape(len(answers), -1)
    lengths = mx.maximum(mx.linalg.norm(flat, axis=-1, keepdims=True), 1e-12)
    noise = mx.random.normal(flat.shape, key=key)
    mixed: mx.array = (flat / mx.stop_gradient(lengths) * noise).sum()
    return mixed


@contextmanager
def _differentiable(
    products: Mapping[str, Linear], weights: Mapping[str, mx.array], table: Linear | Embedding | None, nudge: mx.array
) -> Iterator[None]:
    """Within the block the products have these weights, and the table's answers are moved by `nudge`."""
    before = {path: module.weight for path, module in products.items()}
    for path, module in products.items():
        module.weight = weights[path]
    if table is not None:
        table.__class__, table.nudge = _Nudged, nudge
    try:
        yield
    finally:
        for path, module in products.items():
            module.weight = before[path]
        if table is not None:
            table.__class__ = Embedding
            del table.nudge
