"""Products rounded one after the other, each for the inputs that the products packed before it leave it."""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.quantization.calibration_job import Work, modules_of, products_of, weights_of
from mlx_hf_bridge.quantization.codes import Codes, Floats
from mlx_hf_bridge.quantization.grid import fitted
from mlx_hf_bridge.quantization.replay import Replay
from mlx_hf_bridge.quantization.rounding import matched
from mlx_hf_bridge.quantization.statistics import Moments, Stage, inputs_of, stages
from mlx_hf_bridge.quantization.two_sided_rounding import rounded, rounded_rows

# How far weights move to make up for errors in their inputs: all the way fits the calibration texts too closely.
_MATCHING = 0.5
# No text counts more than so many times as much as the usual one, or less than the same part.
_FURTHEST = 8.0

Arrays = dict[str, mx.array]


def rounded_layers(work: Work, curvatures: Mapping[str, Floats]) -> tuple[dict[str, Codes], Arrays]:
    """-> codes of every module of `widths`, and biases that make up for mean errors, by our parameter names.

    curvatures: see curvature.py. The packed model has codes and biases afterwards.
    """
    codes: dict[str, Codes] = {}
    biases: Arrays = {}
    modules = modules_of(work.packed, work.widths)
    products = products_of(work.packed, work.widths)
    order = stages(work.packed, products, work.batches[0])
    seen = {path for stage in order for path in stage.paths}
    for path in modules:
        if path not in seen:
            codes[path] = _once(work, path, lambda path=path: _alone(work, path, modules[path], curvatures))  # type: ignore[misc]
            modules[path].weight = mx.array(codes[path].weights())
    float_products = products_of(work.floats, work.widths)
    counts = _counts(work)
    replays = Replay(work.packed, work.batches), Replay(work.floats, work.batches)
    try:
        for stage in order:
            for path, found, bias in _rounded_stage(
                work, stage, replays, (products, float_products), curvatures, counts
            ):
                codes[path] = found
                if bias is not None:
                    biases[f"{path}.bias"] = bias
    finally:
        for replay in replays:
            replay.restore()
    return codes, biases


def _alone(work: Work, path: str, module: Linear | Embedding, curvatures: Mapping[str, Floats]) -> Codes:
    """A module whose inputs are not seen: a table, or a product that no text reaches."""
    width, weights = work.widths[path], weights_of(module)
    if path in curvatures and isinstance(module, Embedding):
        return rounded_rows(weights, curvatures[path], width.bits, width.group_size, work.dtype)
    return fitted(weights, width.bits, width.group_size, work.dtype)


def _once(work: Work, path: str, find: Callable[[], Codes]) -> Codes:
    work.tick(path)
    codes = work.kept.find_codes(path)
    if codes is None:
        codes = find()
        if not (np.isfinite(codes.scales).all() and np.isfinite(codes.biases).all()):
            raise QuantizationError(
                f"{path} was rounded to numbers that are not finite: its weights, or what calibration texts make of "
                "them, are out of range. Take method='minmax', or leave it float by modules={name: None}."
            )
        work.kept.put_codes(path, codes)
    return codes


def _rounded_stage(
    work: Work,
    stage: Stage,
    replays: tuple[Replay, Replay],
    products: tuple[Mapping[str, Linear], Mapping[str, Linear]],
    curvatures: Mapping[str, Floats],
    counts: Sequence[mx.array],
) -> list[tuple[str, Codes, mx.array | None]]:
    found = []
    seen: list[Moments] = []

    def moments() -> Moments:
        if not seen:
            seen.append(_moments(stage, replays, products, counts))
        return seen[0]

    def rounded_for_inputs(path: str) -> Codes:
        width, weights = work.widths[path], weights_of(products[0][path])
        second, cross = moments().products(centred="bias" in products[0][path])
        aim = matched(weights, second, cross, _MATCHING)
        return rounded(aim, second, width.bits, width.group_size, work.dtype, curvatures[path])

    for path in stage.paths:
        module = products[0][path]
        codes = _once(work, path, lambda path=path: rounded_for_inputs(path))  # type: ignore[misc]
        if "bias" in module:
            module.bias = _bias(work, path, moments, module, codes)
        module.weight = mx.array(codes.weights())
        found.append((path, codes, module.get("bias")))
    return found


def _bias(work: Work, path: str, moments: Callable[[], Moments], module: Linear, codes: Codes) -> mx.array:
    """The bias with which the mean of the product is that of the float model."""
    name = f"{path}.bias"
    kept = work.kept.find(name)
    if kept is None:
        packed, floats = moments().means()
        kept = {"bias": module.bias + mx.array(weights_of(module) @ floats - codes.weights() @ packed)}
        work.kept.put(name, kept)
    return kept["bias"]


def _counts(work: Work) -> list[mx.array]:
    """How much each text of a batch (B,) counts: its tokens together as much as any other's, relative to its answers.

    Texts with small answers, in which the same error is a larger one, count more.
    """
    found = []
    for batch in work.batches:
        answer = work.answer(work.floats(batch), batch)
        sizes = mx.maximum((answer.reshape(len(answer), -1) ** 2).mean(axis=-1), 1e-12)
        found.append(1 / (batch.ids.shape[1] * sizes))
    mx.eval(found)
    usual = float(np.median(np.concatenate([np.array(counts) for counts in found])))
    return [mx.clip(counts / usual, 1 / _FURTHEST, _FURTHEST) for counts in found]


def _moments(
    stage: Stage,
    replays: tuple[Replay, Replay],
    products: tuple[Mapping[str, Linear], Mapping[str, Linear]],
    counts: Sequence[mx.array],
) -> Moments:
    found = Moments()
    for replay in replays:
        replay.reach(stage.paths[0])
    for index in range(len(replays[0].batches)):
        inputs = [
            inputs_of(stage, replay.model, modules, replay.batch(index))
            for replay, modules in zip(replays, products, strict=True)
        ]
        for x, y in zip(*inputs, strict=True):
            found.add(x, y, counts[index])
    return found
