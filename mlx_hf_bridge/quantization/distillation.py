"""Scales, biases, norms and the linear layers' own biases trained on the float model's outputs; integers stay fixed.

Gradients are taken of the dequantized weights and carried over to scales and biases: d/dscale = sum(d/dw x value),
d/dbias = sum(d/dw), each over a group.

O outputs, G groups, S weights of a group.
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

# Adam's learning rate: a step moves scales and biases by about this share of a scale. On all-MiniLM-L6-v2, 200 steps at
# 1e-3 lost 0.0005 of the 4-bit cosine, and 60 at 1e-4 changed nothing.
_RATE = 1e-4
# Norms and the layers' own biases move by this share of that rate.
_SLOWER = 0.1
# Steps in which the rate rises linearly.
_WARM_UP = 20
# The weight in the loss of every token's hidden state, which keeps those that the heads of other tasks read near the
# float model's.
_HIDDEN = 0.2
# Steps between two saves for resuming.
_SAVE_EVERY = 25

Arrays = dict[str, mx.array]


def distill(
    job: CalibrationJob, quantized: Mapping[str, QuantizedWeights], seed: int, steps: int
) -> tuple[dict[str, QuantizedWeights], Arrays]:
    """Train everything but the integers on the float model's outputs.

    Args:
        job: The models and calibration batches.
        quantized: Quantized weights by module path, where training starts.
        seed: Seed of the order of batches.
        steps: Optimizer steps.

    Returns:
        The integers with trained scales and biases by module path, and tuned norms and biases by parameter name.
    """
    training = _Distillation(job, quantized)
    order = _batch_order(len(job.calibration_batches), steps, seed)
    start = training.resume()
    for step in range(start, steps):
        job.on_step(f"step {step + 1}")
        training.step(job.calibration_batches[order[step]], _rate(step, steps))
        if (step + 1) % _SAVE_EVERY == 0:
            training.save(step + 1)
    return training.result()


def _batch_order(batches: int, steps: int, seed: int) -> list[int]:
    """Return the batch of each step: shuffled epochs."""
    random = np.random.default_rng(seed)
    epochs = math.ceil(steps / batches)
    return [int(index) for _ in range(epochs) for index in random.permutation(batches)]


def _rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up times half a cosine down to 0."""
    return _RATE * min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


class _Distillation:
    """The quantized model in training.

    `moved` holds the changes of scales and biases in units of the first scales, (O, G, 2), so that one learning rate
    suits layers of all sizes.
    """

    def __init__(self, job: CalibrationJob, quantized: Mapping[str, QuantizedWeights]) -> None:
        self.job = job
        linears = select_linears(job.quantized_model, quantized)
        self.quantized = quantized
        self.trained = list(linears)
        # uint8 holds up to 8 bits, a quarter of the memory of the floats that they were rounded in.
        self.values = {path: mx.array(quantized[path].values.astype(np.uint8)) for path in self.trained}
        self.scales = {path: mx.array(quantized[path].scales) for path in self.trained}
        # The trained numbers are shares of a scale, so that one learning rate suits all groups.
        self.moved = {path: mx.zeros((*quantized[path].scales.shape, 2)) for path in self.trained}
        self.small = _small_parameters(job.quantized_model)
        self.optimizers = optimizers.Adam(_RATE), optimizers.Adam(_RATE * _SLOWER)
        # The float model's outputs do not change, so each batch is computed once.
        self.targets: dict[int, tuple[mx.array, mx.array]] = {}
        # MLX differentiates by everything that is not frozen; the rest would cost memory and time.
        job.quantized_model.freeze()
        for module in linears.values():
            module.unfreeze(keys=["weight"], recurse=False)
        _unfreeze(job.quantized_model, self.small)
        self.gradient = nn.value_and_grad(job.quantized_model, self._loss)

    def step(self, batch: TokenBatch, rate: float) -> None:
        """Do one step of Adam on one batch."""
        _, gradients = self.gradient(batch, *self._target(batch))
        flat: Arrays = dict(tree_flatten(gradients))
        of_moved = {path: self._scale_gradient(path, flat[f"{path}.weight"]) for path in self.trained}
        of_small = {name: flat[name] for name in self.small}
        for optimizer, learning_rate in zip(self.optimizers, (rate, rate * _SLOWER), strict=True):
            optimizer.learning_rate = learning_rate
        self.moved = self.optimizers[0].apply_gradients(of_moved, self.moved)
        self.small = self.optimizers[1].apply_gradients(of_small, self.small)
        # MLX's optimizers return new arrays; the model still holds the old ones.
        self._update_model()

    def result(self) -> tuple[dict[str, QuantizedWeights], Arrays]:
        """Return scales and biases as they will be stored, and the other trained parameters."""
        found = dict(self.quantized)
        for path in self.trained:
            # Trained in float32, stored in `dtype`: what is returned is what will be read back.
            scales, biases = (round_trip(np.array(part), self.job.dtype) for part in self._scales_and_biases(path))
            before = self.quantized[path]
            found[path] = QuantizedWeights(before.values, scales, biases, before.bits)
        return found, self.small

    def save(self, step: int) -> None:
        """Save everything that the next step needs."""
        states = [_flat_state(number, optimizer.state) for number, optimizer in enumerate(self.optimizers)]
        state = {name: array for flat in states for name, array in flat.items()}
        moved = {f"moved.{path}": array for path, array in self.moved.items()}
        small = {f"rest.{name}": array for name, array in self.small.items()}
        self.job.resume.save("distillation", {**state, **moved, **small, "step": mx.array(step)})

    def resume(self) -> int:
        """Load what was saved and return the number of steps that are done."""
        found = self.job.resume.load("distillation")
        if found is None:
            return 0
        for number, optimizer in enumerate(self.optimizers):
            optimizer.state = _nested_state(number, found)
        self.moved = {path: found[f"moved.{path}"] for path in self.moved}
        self.small = {name: found[f"rest.{name}"] for name in self.small}
        self._update_model()
        return int(np.array(found["step"]))

    def _target(self, batch: TokenBatch) -> tuple[mx.array, mx.array]:
        if id(batch) not in self.targets:
            encoded = self.job.float_model(batch)
            target = self.job.select_output(encoded, batch), encoded.hidden
            mx.eval(target)
            self.targets[id(batch)] = target
        return self.targets[id(batch)]

    def _loss(self, batch: TokenBatch, target: mx.array, target_hidden: mx.array) -> mx.array:
        encoded = self.job.quantized_model(batch)
        output, hidden = self.job.select_output(encoded, batch), encoded.hidden
        tokens = batch.token_mask(mx.float32)
        return output_distance(output, target) + _HIDDEN * _relative_error(hidden * tokens, target_hidden * tokens)

    def _scale_gradient(self, path: str, gradient: mx.array) -> mx.array:
        """Turn the gradient of dequantized weights (O, I) into that of `moved` (O, G, 2)."""
        values, scales = self.values[path], self.scales[path]
        grouped = gradient.reshape(*scales.shape, -1)  # (O, G, S)
        # weight = value * scale + bias: the chain rule sums a group's gradients, times the values for the scale.
        by_scale = (grouped * values.reshape(grouped.shape)).sum(axis=-1)
        return mx.stack([by_scale, grouped.sum(axis=-1)], axis=-1) * scales[..., None]

    def _scales_and_biases(self, path: str) -> tuple[mx.array, mx.array]:
        """Return the present scales and biases (O, G)."""
        scales, moved = self.scales[path], self.moved[path]
        return scales * (1 + moved[..., 0]), mx.array(self.quantized[path].biases) + scales * moved[..., 1]

    def _update_model(self) -> None:
        """Load the present weights, norms and biases into the quantized model."""
        weights = []
        for path in self.trained:
            scales, biases = self._scales_and_biases(path)
            grouped = self.values[path].reshape(*scales.shape, -1).astype(mx.float32)
            weight = (grouped * scales[..., None] + biases[..., None]).reshape(self.values[path].shape)
            weights.append((f"{path}.weight", weight))
        model = self.job.quantized_model
        # strict=False: these are only some of the model's parameters.
        model.load_weights([*weights, *self.small.items()], strict=False)
        # Every step is evaluated, or the graph would grow over all of them.
        mx.eval(model.parameters(), self.moved, *(optimizer.state for optimizer in self.optimizers))


def output_distance(outputs: mx.array, targets: mx.array) -> mx.array:
    """Return 1 - cosine, mean over rows, plus half the relative squared error, which depends on lengths too."""
    norms = mx.linalg.norm(outputs, axis=-1) * mx.linalg.norm(targets, axis=-1)
    # 1e-12 only matters for rows of zeros.
    cosines = (outputs * targets).sum(axis=-1) / mx.maximum(norms, 1e-12)
    return (1 - cosines).mean() + 0.5 * _relative_error(outputs, targets)


def _relative_error(outputs: mx.array, targets: mx.array) -> mx.array:
    # Relative, so that the loss does not depend on the scale of a model's hidden states.
    return ((outputs - targets) ** 2).sum() / mx.maximum((targets**2).sum(), 1e-12)


def _flat(tree: object) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(tree)
    return list(flat)


def _flat_state(number: int, state: Mapping[str, Any]) -> Arrays:
    """Return an optimizer's state under "number|parameter|entry".

    Not by tree_flatten: parameter names contain dots, at which unflattening would split them.
    """
    flat = {}
    for name, value in state.items():
        for entry, array in value.items() if isinstance(value, dict) else [("", value)]:
            flat[f"{number}|{name}|{entry}"] = array
    return flat


def _nested_state(number: int, flat: Arrays) -> dict[str, Any]:
    """Undo `_flat_state`."""
    state: dict[str, Any] = {}
    for key, array in flat.items():
        owner, _, rest = key.partition("|")
        if owner == str(number) and rest:
            name, _, entry = rest.partition("|")
            if entry:
                state.setdefault(name, {})[entry] = array
            else:
                state[name] = array
    return state


def _small_parameters(model: Model) -> Arrays:
    """Return the norms and biases of the encoder by parameter name."""
    return {
        name: array
        for name, array in _flat(model.parameters())
        # Norms and biases are the parameters with one axis; heads and poolers stay as the checkpoint has them.
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
