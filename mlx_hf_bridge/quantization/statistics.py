"""The inputs that each product of a model sees: which products share them, and their second moments.

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

Tell = Callable[[str, mx.array], None]


class StopForward(Exception):
    """All that a pass was for has been seen; it ends early."""


class _Watched(Linear):
    """A product that tells of its inputs; modules take this class, and lay it down again."""

    tell: Callable[[mx.array], None]

    def __call__(self, x: mx.array) -> mx.array:
        self.tell(x)
        return super().__call__(x)


@contextmanager
def record_inputs(products: Mapping[str, Linear], tell: Tell) -> Iterator[None]:
    """Let `tell(path, x)` know of each product's inputs x (..., I) while the block runs."""
    for path, module in products.items():
        module.__class__ = _Watched
        module.tell = lambda x, path=path: tell(path, x)
    try:
        yield
    finally:
        for module in products.values():
            module.__class__ = Linear
            del module.tell


@dataclass(frozen=True)
class LinearGroup:
    """Products that read the same input, and how many calls of theirs there are in a pass."""

    paths: tuple[str, ...]
    calls: int


def group_by_input(model: Model, products: Mapping[str, Linear], batch: TokenBatch) -> list[LinearGroup]:
    """The products in the order of their first calls; those that read one and the same array stand together."""
    seen: list[tuple[str, mx.array]] = []
    with record_inputs(products, lambda path, x: seen.append((path, x))):
        model(batch)
    order: list[tuple[list[str], mx.array]] = []
    first: dict[str, mx.array] = {}
    for path, x in seen:
        first.setdefault(path, x)
    for path, x in first.items():
        if order and order[-1][1] is x:
            order[-1][0].append(path)
        else:
            order.append(([path], x))
    return [LinearGroup(tuple(paths), sum(path in paths for path, _ in seen)) for paths, _ in order]


@dataclass
class InputMoments:
    """Sums of x, y (I,), x x' and x (y - x)' (I, I), for inputs x of the packed and y of the float model.

    x and y are counted from `origin`, the mean of the first call, near which products of float32 keep their digits.
    """

    rows: float = 0
    origin: mx.array = field(default_factory=lambda: mx.array(0.0))
    first: mx.array = field(default_factory=lambda: mx.array(0.0))
    first_float: mx.array = field(default_factory=lambda: mx.array(0.0))
    second: mx.array = field(default_factory=lambda: mx.array(0.0))
    cross: mx.array = field(default_factory=lambda: mx.array(0.0))

    def add(self, packed: mx.array, floats: mx.array, counts: mx.array) -> None:
        """One call's inputs (B, ..., I) in both models, and how much each text counts (B,).

        Rows that are not of texts, such as those of a table of places, count alike.
        """
        x, y = (part.reshape(-1, part.shape[-1]).astype(mx.float32) for part in (packed, floats))
        of_each, left = divmod(len(x), len(counts))
        weights = mx.ones(len(x)) if left else mx.repeat(counts, of_each)
        weights = weights[:, None]
        if not self.rows:
            self.origin = x.mean(axis=0)
        x, y = x - self.origin, y - self.origin
        counted = x * weights
        self.rows += float(np.array(weights.sum()))
        self.first = self.first + counted.sum(axis=0)
        self.first_float = self.first_float + (y * weights).sum(axis=0)
        self.second = self.second + counted.T @ x
        self.cross = self.cross + counted.T @ (y - x)
        mx.eval(self.origin, self.first, self.first_float, self.second, self.cross)

    def means(self) -> tuple[Floats, Floats]:
        """The mean inputs (I,) of the packed and of the float model."""
        origin = np.array(self.origin)
        return origin + np.array(self.first / self.rows), origin + np.array(self.first_float / self.rows)

    def products(self, centred: bool) -> tuple[Floats, Floats]:
        """The means of x x' and x (y - x)', `centred` with their means taken off x and y: what a bias makes up for."""
        origin, x, y, second, cross = (
            np.array(part)
            for part in (
                self.origin,
                *(sums / self.rows for sums in (self.first, self.first_float, self.second, self.cross)),
            )
        )
        second, cross = second - np.outer(x, x), cross - np.outer(x, y - x)
        if centred:
            return second, cross
        return second + np.outer(origin + x, origin + x), cross + np.outer(origin + x, y - x)


def collect_inputs(
    stage: LinearGroup, model: Model, products: Mapping[str, Linear], batch: TokenBatch
) -> list[mx.array]:
    """What the stage's first product reads in one pass, call by call; the pass ends after the stage's last call."""
    kept: list[mx.array] = []
    calls = 0

    def tell(path: str, x: mx.array) -> None:
        nonlocal calls
        calls += 1
        if path == stage.paths[0]:
            kept.append(x)
        if calls == stage.calls:
            raise StopForward

    with record_inputs({path: products[path] for path in stage.paths}, tell), suppress(StopForward):
        model(batch)
    return kept
