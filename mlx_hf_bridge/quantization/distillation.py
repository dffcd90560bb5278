"""Scales, biases, norms and the products' own biases taught by the float model's answers; codes stay as they are.

Gradients are taken of the unpacked weights and carried over to scales and biases: d/dscale = sum(d/dw x code),
d/dbias = sum(d/dw), each over a group. O outputs, G groups, S weights a group.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob, select_linears
from mlx_hf_bridge.quantization.quantized_weights import QuantizedWeights, round_trip

# A step moves scales and biases by about this share of a scale, norms and products' biases by less.
_RATE = 1e-4
_SLOWER = 0.1
_WARM_UP = 20
# The share of the loss that looks at every token's hidden state, which holds the other tasks' heads in place.
_HIDDEN = 0.2
_SAVE_EVERY = 25

Arrays = dict[str, mx.array]


def distill(
    job: CalibrationJob, codes: Mapping[str, QuantizedWeights], seed: int, steps: int
) -> tuple[dict[str, QuantizedWeights], Arrays]:
    """-> codes with better scales and biases, and the tuned norms and biases by our parameter names."""
    lesson = _Distillation(job, codes)
    order = _order(len(job.calibration_batches), steps, seed)
    start = lesson.resume()
    for step in range(start, steps):
        job.on_step(f"step {step + 1}")
        lesson.step(job.calibration_batches[order[step]], _rate(step, steps))
        if (step + 1) % _SAVE_EVERY == 0:
            lesson.keep(step + 1)
    return lesson.result()


def _order(batches: int, steps: int, seed: int) -> list[int]:
    """Every batch once before any comes again, shuffled."""
    random = np.random.default_rng(seed)
    rounds = math.ceil(steps / batches)
    return [int(index) for _ in range(rounds) for index in random.permutation(batches)]


def _rate(step: int, steps: int) -> float:
    """A linear start, then half a cosine down to nothing."""
    return _RATE * min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


class _Distillation:
    """The packed model being taught. `moved` holds scales and biases in units of the first scales, (O, G, 2)."""

    def __init__(self, job: CalibrationJob, codes: Mapping[str, QuantizedWeights]) -> None:
        self.job = job
        products = select_linears(job.quantized_model, codes)
        self.codes = codes
        self.taught = list(products)
        self.numbers = {path: mx.array(codes[path].values.astype(np.uint8)) for path in self.taught}
        self.scales = {path: mx.array(codes[path].scales) for path in self.taught}
        self.moved = {path: mx.zeros((*codes[path].scales.shape, 2)) for path in self.taught}
        self.rest = _small_parameters(job.quantized_model)
        self.optimizers = optimizers.Adam(_RATE), optimizers.Adam(_RATE * _SLOWER)
        self.targets: dict[int, tuple[mx.array, mx.array]] = {}
        job.quantized_model.freeze()
        for module in products.values():
            module.unfreeze(keys=["weight"], recurse=False)
        _unfreeze(job.quantized_model, self.rest)
        self.gradient = nn.value_and_grad(job.quantized_model, self._loss)

    def step(self, batch: TokenBatch, rate: float) -> None:
        """One step of Adam on one batch."""
        _, gradients = self.gradient(batch, *self._target(batch))
        flat: Arrays = dict(tree_flatten(gradients))
        of_moved = {path: self._carried_over(path, flat[f"{path}.weight"]) for path in self.taught}
        of_rest = {name: flat[name] for name in self.rest}
        for optimizer, speed in zip(self.optimizers, (rate, rate * _SLOWER), strict=True):
            optimizer.learning_rate = speed
        self.moved = self.optimizers[0].apply_gradients(of_moved, self.moved)
        self.rest = self.optimizers[1].apply_gradients(of_rest, self.rest)
        self._show()

    def result(self) -> tuple[dict[str, QuantizedWeights], Arrays]:
        """Scales and biases as they will be stored."""
        found = dict(self.codes)
        for path in self.taught:
            scales, biases = (round_trip(np.array(part), self.job.dtype) for part in self._lines(path))
            before = self.codes[path]
            found[path] = QuantizedWeights(before.values, scales, biases, before.bits)
        return found, self.rest

    def keep(self, step: int) -> None:
        """Put everything that the next step needs on disk."""
        states = [_flat_state(number, one.state) for number, one in enumerate(self.optimizers)]
        state = {name: array for flat in states for name, array in flat.items()}
        moved = {f"moved.{path}": array for path, array in self.moved.items()}
        rest = {f"rest.{name}": array for name, array in self.rest.items()}
        self.job.resume.save("distillation", {**state, **moved, **rest, "step": mx.array(step)})

    def resume(self) -> int:
        """Go on from what was kept -> the number of steps that are done."""
        found = self.job.resume.load("distillation")
        if found is None:
            return 0
        for number, optimizer in enumerate(self.optimizers):
            optimizer.state = _nested_state(number, found)
        self.moved = {path: found[f"moved.{path}"] for path in self.moved}
        self.rest = {name: found[f"rest.{name}"] for name in self.rest}
        self._show()
        return int(np.array(found["step"]))

    def _target(self, batch: TokenBatch) -> tuple[mx.array, mx.array]:
        if id(batch) not in self.targets:
            encoded = self.job.float_model(batch)
            target = self.job.select_output(encoded, batch), encoded.hidden
            mx.eval(target)
            self.targets[id(batch)] = target
        return self.targets[id(batch)]

    def _loss(self, batch: TokenBatch, answer: mx.array, hidden: mx.array) -> mx.array:
        encoded = self.job.quantized_model(batch)
        own, states = self.job.select_output(encoded, batch), encoded.hidden
        tokens = batch.token_mask(mx.float32)
        return output_distance(own, answer) + _HIDDEN * _relative(states * tokens, hidden * tokens)

    def _carried_over(self, path: str, gradient: mx.array) -> mx.array:
        codes, scales = self.numbers[path], self.scales[path]
        grouped = gradient.reshape(*scales.shape, -1)  # (O, G, S)
        by_scale = (grouped * codes.reshape(grouped.shape)).sum(axis=-1)
        return mx.stack([by_scale, grouped.sum(axis=-1)], axis=-1) * scales[..., None]

    def _lines(self, path: str) -> tuple[mx.array, mx.array]:
        """The scales and biases (O, G) as they stand."""
        scales, moved = self.scales[path], self.moved[path]
        return scales * (1 + moved[..., 0]), mx.array(self.codes[path].biases) + scales * moved[..., 1]

    def _show(self) -> None:
        """Put everything taught into the packed model."""
        weights = []
        for path in self.taught:
            scales, biases = self._lines(path)
            grouped = self.numbers[path].reshape(*scales.shape, -1).astype(mx.float32)
            weight = (grouped * scales[..., None] + biases[..., None]).reshape(self.numbers[path].shape)
            weights.append((f"{path}.weight", weight))
        self.job.quantized_model.load_weights([*weights, *self.rest.items()], strict=False)
        mx.eval(self.job.quantized_model.parameters(), self.moved, *(one.state for one in self.optimizers))


def output_distance(own: mx.array, wanted: mx.array) -> mx.array:
    """1 - cosine, mean over the rows, and the relative squared error, which sees lengths too."""
    norms = mx.linalg.norm(own, axis=-1) * mx.linalg.norm(wanted, axis=-1)
    return (1 - (own * wanted).sum(axis=-1) / mx.maximum(norms, 1e-12)).mean() + 0.5 * _relative(own, wanted)


def _relative(own: mx.array, wanted: mx.array) -> mx.array:
    return ((own - wanted) ** 2).sum() / mx.maximum((wanted**2).sum(), 1e-12)


def _flat(tree: object) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(tree)
    return list(flat)


def _flat_state(number: int, state: Mapping[str, Any]) -> Arrays:
    """An optimizer's state, under "number|parameter|what"; parameters' names have dots, which trees would split at."""
    flat = {}
    for name, value in state.items():
        for what, array in value.items() if isinstance(value, dict) else [("", value)]:
            flat[f"{number}|{name}|{what}"] = array
    return flat


def _nested_state(number: int, flat: Arrays) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key, array in flat.items():
        owner, _, rest = key.partition("|")
        if owner == str(number) and rest:
            name, _, what = rest.partition("|")
            if what:
                state.setdefault(name, {})[what] = array
            else:
                state[name] = array
    return state


def _small_parameters(model: Model) -> Arrays:
    """Norms and biases of the encoder, by our names."""
    flat = _flat(model.parameters())
    return {
        name: array
        for name, array in flat
        if name.startswith("encoder.") and array.ndim == 1 and mx.issubdtype(array.dtype, mx.floating)
    }


def _unfreeze(model: Model, names: Sequence[str] | Mapping[str, mx.array]) -> None:
    by_module: dict[str, list[str]] = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        by_module.setdefault(path, []).append(leaf)
    for path, module in model.named_modules():
        if path in by_module:
            module.unfreeze(keys=by_module[path], recurse=False)
