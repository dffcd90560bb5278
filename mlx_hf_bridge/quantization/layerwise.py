"""Products rounded one after the other, each for the inputs that the products packed before it leave it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.inference.model import Encoded, Model
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.quantization.codes import Codes, Floats
from mlx_hf_bridge.quantization.grid import fitted
from mlx_hf_bridge.quantization.kept import Kept
from mlx_hf_bridge.quantization.replay import Replay
from mlx_hf_bridge.quantization.rounding import matched, rounded
from mlx_hf_bridge.quantization.statistics import Moments, Stage, inputs_of, stages
from mlx_hf_bridge.quantization.widths import Width

# How far weights move to make up for errors in their inputs: all the way fits the calibration texts too closely.
_MATCHING = 0.5


@dataclass(frozen=True)
class Work:
    """A float model, one of the same weights that is being packed, and the batches that they are compared on.

    batches: of texts of one length each, without padding; lessons: the same texts, with it. widths: by our module
    paths. dtype: what scales are stored in. `answer` takes what a user reads out of a pass.
    """

    floats: Model
    packed: Model
    batches: Sequence[TokenBatch]
    lessons: Sequence[TokenBatch]
    widths: Mapping[str, Width]
    dtype: mx.Dtype
    answer: Callable[[Encoded, TokenBatch], mx.array]
    kept: Kept = field(default_factory=lambda: Kept(None))
    tick: Callable[[str], None] = lambda what: None


def modules_of(model: Model, paths: Collection[str]) -> dict[str, Linear | Embedding]:
    """The modules at those paths."""
    return {path: module for path, module in model.named_modules() if path in paths}


def products_of(model: Model, paths: Collection[str]) -> dict[str, Linear]:
    """The modules at those paths that are products."""
    return {path: module for path, module in modules_of(model, paths).items() if isinstance(module, Linear)}


def weights_of(module: Linear | Embedding) -> Floats:
    """A module's float weights (O, I)."""
    return np.array(module.weight.astype(mx.float32))


def rounded_layers(work: Work) -> dict[str, Codes]:
    """Codes of every module of `widths`; the packed model has their weights afterwards."""
    found: dict[str, Codes] = {}
    modules = modules_of(work.packed, work.widths)
    products = products_of(work.packed, work.widths)
    order = stages(work.packed, products, work.batches[0])
    seen = {path for stage in order for path in stage.paths}
    for path in modules:
        if path not in seen:
            found[path] = _once(work, path, lambda path=path: _fitted(work, path, modules[path]))  # type: ignore[misc]
            modules[path].weight = mx.array(found[path].weights())
    float_products = products_of(work.floats, work.widths)
    replays = Replay(work.packed, work.batches), Replay(work.floats, work.batches)
    try:
        for stage in order:
            found |= _rounded_stage(work, stage, replays, (products, float_products))
    finally:
        for replay in replays:
            replay.restore()
    return found


def _fitted(work: Work, path: str, module: Linear | Embedding) -> Codes:
    width = work.widths[path]
    return fitted(weights_of(module), width.bits, width.group_size, work.dtype)


def _once(work: Work, path: str, find: Callable[[], Codes]) -> Codes:
    work.tick(path)
    codes = work.kept.find_codes(path)
    if codes is None:
        codes = find()
        work.kept.put_codes(path, codes)
    return codes


def _rounded_stage(
    work: Work,
    stage: Stage,
    replays: tuple[Replay, Replay],
    products: tuple[Mapping[str, Linear], Mapping[str, Linear]],
) -> dict[str, Codes]:
    found: dict[str, Codes] = {}
    moments: list[Moments] = []

    def rounded_for_inputs(path: str) -> Codes:
        if not moments:
            moments.append(_moments(stage, replays, products))
        width, weights = work.widths[path], weights_of(products[0][path])
        second, cross = moments[0].means()
        aim = matched(weights, second, cross, _MATCHING)
        return rounded(aim, second, width.bits, width.group_size, work.dtype)

    for path in stage.paths:
        found[path] = _once(work, path, lambda path=path: rounded_for_inputs(path))  # type: ignore[misc]
        products[0][path].weight = mx.array(found[path].weights())
    return found


def _moments(
    stage: Stage, replays: tuple[Replay, Replay], products: tuple[Mapping[str, Linear], Mapping[str, Linear]]
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
            found.add(x, y)
    return found
