"""What an error in a layer's weights costs the model's outputs, to second order, estimated from random gradients.

With M (O, I) the gradient of a random projection of the outputs by a layer's weights, an error E of these weights costs
about trace(G E H E'), where G is the mean of M M' and H that of x x' over the layer's inputs x.

B texts, L tokens, O outputs, I inputs, D width of the token embedding table.

References: Gupta et al., Shampoo, arXiv 1802.09568 (the two factors); Tseng et al., YAQA, arXiv 2505.22988 (rounding).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob, select_linears, select_modules
from mlx_hf_bridge.quantization.policy import TOKEN_EMBEDDING
from mlx_hf_bridge.quantization.quantized_weights import Floats
from mlx_hf_bridge.runtime.device import one_thread_per_stream, streams

# Gradients of random projections that are averaged, each of one batch. The error of the estimate falls with the square
# root of their number: 1000 came within 20 % of the exact factor (tests/test_curvature.py). Fewer blur G, more take
# longer, a backward pass each.
GRADIENT_SAMPLES = 96
# The weight of every token's hidden state next to the model's own output. It keeps the hidden states that the heads of
# other tasks read near the float model's; at 0 rounding would be free to change what this output does not use.
_HIDDEN = 0.05
# Samples between two saves for resuming.
_SAVE_EVERY = 24
# The name under which sums are saved, and the label of the progress bar.
_NAME = "curvature"


class _OffsetEmbedding(Embedding):
    """An embedding with an `offset` (B, L, D) added to its output, by which the model can be differentiated."""

    def __call__(self, ids: mx.array) -> mx.array:
        moved: mx.array = self.weight[ids] + self.offset
        return moved


def estimate_curvatures(job: CalibrationJob, seed: int, samples: int) -> dict[str, Floats]:
    """Estimate the output factor G of every module on the float model.

    Args:
        job: The models and calibration batches.
        seed: Seed of the random projections.
        samples: Gradients to average; GRADIENT_SAMPLES is a good number.

    Returns:
        Module path -> G of shape (O, O) for a linear layer, (D, D) for the rows of the token embedding table.
    """
    # "looks", the number of samples, is a key of files on disk, so it keeps its old name.
    sums: dict[str, mx.array] = job.resume.load(_NAME) or {}
    done = int(np.array(sums.pop("looks", mx.array(0))))
    for _ in range(done):
        job.on_step(_NAME)
    batches = job.calibration_batches
    pending = ((number, batches[_batch_index(number, len(batches), samples)]) for number in range(done, samples))
    while current := list(islice(pending, len(streams()))):
        for sample in _sample_in_parallel(job, current, seed):
            sums = {path: sums[path] + array if path in sums else array for path, array in sample.items()}
        # Now, or the graphs of all samples would stay in memory until the end.
        mx.eval(sums)
        done += len(current)
        for _ in current:
            job.on_step(_NAME)
        if done // _SAVE_EVERY > (done - len(current)) // _SAVE_EVERY:
            job.resume.save(_NAME, {**sums, "looks": mx.array(done)})
    return {path: np.array(array / samples) for path, array in sums.items()}


def _batch_index(sample: int, batches: int, samples: int) -> int:
    """Return which batch a sample reads: each in turn, or evenly spread ones where there are more than samples."""
    return sample * batches // samples if batches > samples else sample % batches


def _sample_in_parallel(
    job: CalibrationJob, samples: list[tuple[int, TokenBatch]], seed: int
) -> list[dict[str, mx.array]]:
    """Compute one sample on each stream."""
    results = []
    with one_thread_per_stream():
        # Not strict: the last round may have fewer samples than there are streams.
        for stream, (number, batch) in zip(streams(), samples, strict=False):
            with mx.stream(stream):
                # A key for each sample, so that the number of streams and a resumed run do not change the result.
                results.append(_gradient_sample(job, batch, mx.random.key(seed * GRADIENT_SAMPLES + number)))
        mx.eval(results)
    return results


def _gradient_sample(job: CalibrationJob, batch: TokenBatch, key: mx.array) -> dict[str, mx.array]:
    """Return M M' of every module for one random projection of one batch's outputs."""
    linears = select_linears(job.float_model, job.widths)
    table = (
        select_modules(job.float_model, [TOKEN_EMBEDDING]).get(TOKEN_EMBEDDING)
        if TOKEN_EMBEDDING in job.widths
        else None
    )
    keys = mx.random.split(key)

    def project(weights: dict[str, mx.array], offset: mx.array) -> mx.array:
        with _differentiable(linears, weights, table, offset):
            encoded = job.float_model(batch)
            output, hidden = job.select_output(encoded, batch), encoded.hidden
        tokens = batch.token_mask(mx.float32)
        # The square root, since G is a mean of squares: a share of _HIDDEN is meant there.
        projected: mx.array = _project(output, keys[0]) + _HIDDEN**0.5 * _project(hidden * tokens, keys[1])
        return projected

    weights = {path: module.weight for path, module in linears.items()}
    width = 1 if table is None else table.weight.shape[1]
    by_weights, by_offset = mx.grad(project, argnums=(0, 1))(weights, mx.zeros((*batch.ids.shape, width)))
    # Averaged over random z of unit variance, gradients of z'y give the sum over all outputs y.
    found = {path: gradient @ gradient.T for path, gradient in by_weights.items()}
    if table is not None:
        # The gradient by the table itself would be (vocabulary, width); that by the looked-up rows has one row per
        # token.
        rows = by_offset.reshape(-1, width)
        found[TOKEN_EMBEDDING] = rows.T @ rows
    return found


def _project(outputs: mx.array, key: mx.array) -> mx.array:
    """Project each text's outputs (B, ...) on a random direction, relative to their length.

    Relative, since cosines are what users compare: the same error is a larger one in a short vector.
    """
    flat = outputs.reshape(len(outputs), -1)
    # 1e-12 is the eps of torch's normalize: it only keeps a zero output from being divided by 0.
    lengths = mx.maximum(mx.linalg.norm(flat, axis=-1, keepdims=True), 1e-12)
    noise = mx.random.normal(flat.shape, key=key)
    # The length is a weight of the text here, and not something to be differentiated.
    projected: mx.array = (flat / mx.stop_gradient(lengths) * noise).sum()
    return projected


@contextmanager
def _differentiable(
    linears: Mapping[str, Linear], weights: Mapping[str, mx.array], table: Linear | Embedding | None, offset: mx.array
) -> Iterator[None]:
    """While the block runs, the linear layers have these weights, and `offset` is added to the table's output."""
    before = {path: module.weight for path, module in linears.items()}
    for path, module in linears.items():
        module.weight = weights[path]
    if table is not None:
        # Changing the class of the one object leaves all references to it, such as a tied head's, as they are.
        table.__class__, table.offset = _OffsetEmbedding, offset
    try:
        yield
    finally:
        for path, module in linears.items():
            module.weight = before[path]
        if table is not None:
            table.__class__ = Embedding
            del table.offset
