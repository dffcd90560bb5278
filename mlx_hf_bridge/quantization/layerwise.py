"""Products rounded one after the other, each for the inputs that the products packed before it leave it."""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob, float_weights, select_linears, select_modules
from mlx_hf_bridge.quantization.grid import quantize_least_squares
from mlx_hf_bridge.quantization.quantized_weights import Floats, QuantizedWeights
from mlx_hf_bridge.quantization.replay import Replay
from mlx_hf_bridge.quantization.rounding import match_float_outputs
from mlx_hf_bridge.quantization.statistics import InputMoments, LinearGroup, collect_inputs, group_by_input
from mlx_hf_bridge.quantization.two_sided_rounding import round_rows, round_weights

# How far weights move to make up for errors in their inputs: all the way fits the calibration texts too closely.
_MATCHING = 0.5
# No text counts more than so many times as much as the usual one, or less than the same part.
_FURTHEST = 8.0

Arrays = dict[str, mx.array]


def quantize_layers(
    job: CalibrationJob, curvatures: Mapping[str, Floats]
) -> tuple[dict[str, QuantizedWeights], Arrays]:
    """-> codes of every module of `widths`, and biases that make up for mean errors, by our parameter names.

    curvatures: see curvature.py. The packed model has codes and biases afterwards.
    """
    codes: dict[str, QuantizedWeights] = {}
    biases: Arrays = {}
    modules = select_modules(job.quantized_model, job.widths)
    products = select_linears(job.quantized_model, job.widths)
    order = group_by_input(job.quantized_model, products, job.unpadded_batches[0])
    seen = {path for stage in order for path in stage.paths}
    for path in modules:
        if path not in seen:
            codes[path] = _once(job, path, lambda path=path: _alone(job, path, modules[path], curvatures))  # type: ignore[misc]
            modules[path].weight = mx.array(codes[path].dequantize())
    float_products = select_linears(job.float_model, job.widths)
    counts = _counts(job)
    replays = Replay(job.quantized_model, job.unpadded_batches), Replay(job.float_model, job.unpadded_batches)
    try:
        for stage in order:
            for path, found, bias in _rounded_stage(
                job, stage, replays, (products, float_products), curvatures, counts
            ):
                codes[path] = found
                if bias is not None:
                    biases[f"{path}.bias"] = bias
    finally:
        for replay in replays:
            replay.restore()
    return codes, biases


def _alone(
    job: CalibrationJob, path: str, module: Linear | Embedding, curvatures: Mapping[str, Floats]
) -> QuantizedWeights:
    """A module whose inputs are not seen: a table, or a product that no text reaches."""
    width, weights = job.widths[path], float_weights(module)
    if path in curvatures and isinstance(module, Embedding):
        return round_rows(weights, curvatures[path], width.bits, width.group_size, job.dtype)
    return quantize_least_squares(weights, width.bits, width.group_size, job.dtype)


def _once(job: CalibrationJob, path: str, find: Callable[[], QuantizedWeights]) -> QuantizedWeights:
    job.on_step(path)
    codes = job.resume.load_quantized(path)
    if codes is None:
        codes = find()
        if not (np.isfinite(codes.scales).all() and np.isfinite(codes.biases).all()):
            raise QuantizationError(
                f"{path} was rounded to numbers that are not finite: its weights, or what calibration texts make of "
                "them, are out of range. Take method='minmax', or leave it float by modules={name: None}."
            )
        job.resume.save_quantized(path, codes)
    return codes


def _rounded_stage(
    job: CalibrationJob,
    stage: LinearGroup,
    replays: tuple[Replay, Replay],
    products: tuple[Mapping[str, Linear], Mapping[str, Linear]],
    curvatures: Mapping[str, Floats],
    counts: Sequence[mx.array],
) -> list[tuple[str, QuantizedWeights, mx.array | None]]:
    found = []
    seen: list[InputMoments] = []

    def moments() -> InputMoments:
        if not seen:
            seen.append(_moments(stage, replays, products, counts))
        return seen[0]

    def rounded_for_inputs(path: str) -> QuantizedWeights:
        width, weights = job.widths[path], float_weights(products[0][path])
        second, cross = moments().products(centred="bias" in products[0][path])
        aim = match_float_outputs(weights, second, cross, _MATCHING)
        return round_weights(aim, second, width.bits, width.group_size, job.dtype, curvatures[path])

    for path in stage.paths:
        module = products[0][path]
        codes = _once(job, path, lambda path=path: rounded_for_inputs(path))  # type: ignore[misc]
        if "bias" in module:
            module.bias = _bias(job, path, moments, module, codes)
        module.weight = mx.array(codes.dequantize())
        found.append((path, codes, module.get("bias")))
    return found


def _bias(
    job: CalibrationJob, path: str, moments: Callable[[], InputMoments], module: Linear, codes: QuantizedWeights
) -> mx.array:
    """The bias with which the mean of the product is that of the float model."""
    name = f"{path}.bias"
    kept = job.resume.load(name)
    if kept is None:
        packed, floats = moments().means()
        kept = {"bias": module.bias + mx.array(float_weights(module) @ floats - codes.dequantize() @ packed)}
        job.resume.save(name, kept)
    return kept["bias"]


def _counts(job: CalibrationJob) -> list[mx.array]:
    """How much each text of a batch (B,) counts: its tokens together as much as any other's, relative to its answers.

    Texts with small answers, in which the same error is a larger one, count more.
    """
    found = []
    for batch in job.unpadded_batches:
        answer = job.select_output(job.float_model(batch), batch)
        sizes = mx.maximum((answer.reshape(len(answer), -1) ** 2).mean(axis=-1), 1e-12)
        found.append(1 / (batch.ids.shape[1] * sizes))
    mx.eval(found)
    usual = float(np.median(np.concatenate([np.array(counts) for counts in found])))
    return [mx.clip(counts / usual, 1 / _FURTHEST, _FURTHEST) for counts in found]


def _moments(
    stage: LinearGroup,
    replays: tuple[Replay, Replay],
    products: tuple[Mapping[str, Linear], Mapping[str, Linear]],
    counts: Sequence[mx.array],
) -> InputMoments:
    found = InputMoments()
    for replay in replays:
        replay.reach(stage.paths[0])
    for index in range(len(replays[0].batches)):
        inputs = [
            collect_inputs(stage, replay.model, modules, replay.batch(index))
            for replay, modules in zip(replays, products, strict=True)
        ]
        for x, y in zip(*inputs, strict=True):
            found.add(x, y, counts[index])
    return found
