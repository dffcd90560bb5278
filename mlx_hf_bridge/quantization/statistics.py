"""The inputs that each linear layer of a model reads: which layers share them, and their second moments.

I inputs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.quantized_weights import Floats

Callback = Callable[[str, mx.array], None]


class StopForward(Exception):
    """Raised inside a forward pass that has produced all that was wanted of it."""


class _RecordingLinear(Linear):
    """A Linear that reports its inputs; swapped in temporarily."""

    callback: Callable[[mx.array], None]

    def __call__(self, x: mx.array) -> mx.array:
        self.callback(x)
        return super().__call__(x)


@contextmanager
def record_inputs(linears: Mapping[str, Linear], callback: Callback) -> Iterator[None]:
    """Call `callback(path, x)` with each linear layer's input x (..., I) while the block runs."""
    for path, module in linears.items():
        # The class of the object itself, so that the model's own code calls it wherever it holds the layer.
        module.__class__ = _RecordingLinear
        # A default argument binds the loop's present path.
        module.callback = lambda x, path=path: callback(path, x)
    try:
        yield
    finally:
        for module in linears.values():
            module.__class__ = Linear
            del module.callback


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers that read the same input array, such as queries, keys and values.

    Attributes:
        paths: Their module paths.
        calls: How often they are called in one forward pass, together; layers may be shared.
    """

    paths: tuple[str, ...]
    calls: int


def group_by_input(model: Model, linears: Mapping[str, Linear], batch: TokenBatch) -> list[LinearGroup]:
    """Group linear layers by the array that they read, in the order of their first calls.

    Args:
        model: The model that the layers belong to.
        linears: Module path -> layer.
        batch: A batch to run.

    Returns:
        The groups; layers that the batch does not reach are in none.
    """
    seen: list[tuple[str, mx.array]] = []
    with record_inputs(linears, lambda path, x: seen.append((path, x))):
        model(batch)
    order: list[tuple[list[str], mx.array]] = []
    first: dict[str, mx.array] = {}
    for path, x in seen:
        first.setdefault(path, x)
    for path, x in first.items():
        # By identity: comparing arrays would evaluate them.
        if order and order[-1][1] is x:
            order[-1][0].append(path)
        else:
            order.append(([path], x))
    return [LinearGroup(tuple(paths), sum(path in paths for path, _ in seen)) for paths, _ in order]


@dataclass
class InputMoments:
    """Sums of x, y (I,), x x' and x (y - x)' (I, I), for inputs x of the quantized and y of the float model.

    x and y are taken relative to `origin`, the mean of the first call: inputs with a large common offset would
    otherwise lose the digits of their differences in float32 sums of products.
    """

    rows: float = 0
    origin: mx.array = field(default_factory=lambda: mx.array(0.0))
    first: mx.array = field(default_factory=lambda: mx.array(0.0))
    first_float: mx.array = field(default_factory=lambda: mx.array(0.0))
    second: mx.array = field(default_factory=lambda: mx.array(0.0))
    cross: mx.array = field(default_factory=lambda: mx.array(0.0))

    def add(self, quantized: mx.array, floats: mx.array, text_weights: mx.array) -> None:
        """Add the inputs of one call.

        Args:
            quantized: Inputs in the quantized model, of shape (B, ..., I).
            floats: Inputs in the float model, of the same shape.
            text_weights: How much each text counts, of shape (B,). Rows that do not belong to texts, such as those of
                a position table, count alike.
        """
        x, y = (part.reshape(-1, part.shape[-1]).astype(mx.float32) for part in (quantized, floats))
        rows_per_text, rest = divmod(len(x), len(text_weights))
        # Some layers read other rows than one per token of each text; weights of texts do not apply there.
        weights = mx.ones(len(x)) if rest else mx.repeat(text_weights, rows_per_text)
        weights = weights[:, None]
        # The first batch's mean is near the mean of all; subtracting it avoids the cancellation of large second
        # moments.
        if not self.rows:
            self.origin = x.mean(axis=0)
        x, y = x - self.origin, y - self.origin
        weighted = x * weights
        self.rows += float(np.array(weights.sum()))
        self.first = self.first + weighted.sum(axis=0)
        self.first_float = self.first_float + (y * weights).sum(axis=0)
        self.second = self.second + weighted.T @ x
        self.cross = self.cross + weighted.T @ (y - x)
        # Otherwise all batches' inputs would stay in memory.
        mx.eval(self.origin, self.first, self.first_float, self.second, self.cross)

    def means(self) -> tuple[Floats, Floats]:
        """Return the mean inputs (I,) of the quantized and of the float model."""
        origin = np.array(self.origin)
        return origin + np.array(self.first / self.rows), origin + np.array(self.first_float / self.rows)

    def second_moments(self, centered: bool) -> tuple[Floats, Floats]:
        """Return the means of x x' and of x (y - x)', each of shape (I, I).

        Args:
            centered: Whether the means of x and y are subtracted first: what a layer's bias can compensate.
        """
        origin, x, y, second, cross = (
            np.array(part)
            for part in (
                self.origin,
                *(sums / self.rows for sums in (self.first, self.first_float, self.second, self.cross)),
            )
        )
        # Moments about the true mean, from those about the origin.
        second, cross = second - np.outer(x, x), cross - np.outer(x, y - x)
        if centered:
            return second, cross
        return second + np.outer(origin + x, origin + x), cross + np.outer(origin + x, y - x)


def collect_inputs(
    group: LinearGroup, model: Model, linears: Mapping[str, Linear], batch: TokenBatch
) -> list[mx.array]:
    """Return what a group reads in one forward pass, call by call.

    Args:
        group: Layers that read the same input.
        model: The model that they belong to.
        linears: Module path -> layer.
        batch: The batch to run; the pass ends after the group's last call.

    Returns:
        The inputs (B, ..., I) of the group's first layer.
    """
    inputs: list[mx.array] = []
    calls = 0

    def callback(path: str, x: mx.array) -> None:
        nonlocal calls
        calls += 1
        if path == group.paths[0]:
            inputs.append(x)
        # Nothing after the group's last call is needed.
        if calls == group.calls:
            raise StopForward

    with record_inputs({path: linears[path] for path in group.paths}, callback), suppress(StopForward):
        model(batch)
    return inputs
