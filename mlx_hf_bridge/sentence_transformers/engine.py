"""The one way from texts to results, which all four classes take: tokens, batches by length, modules, rows in order."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.inference.batching import float_rows, in_batches
from mlx_hf_bridge.inference.tokenizer import Text
from mlx_hf_bridge.sentence_transformers.features import Features, Module
from mlx_hf_bridge.sentence_transformers.modules.input import Asked, InputModule
from mlx_hf_bridge.sentence_transformers.modules.router import flattened


def rows_of_texts(
    modules: Sequence[Module],
    texts: Sequence[Text],
    asked: Asked,
    *,
    finish: Callable[[Features], Any],
    rows_of: Callable[[Any], Sequence[Any]] = float_rows,
    batch_size: int = 32,
    show_progress: bool = False,
) -> list[Any]:
    """Each text's part of what the modules make, in the order of the texts.

    finish: the features of a batch -> an array with a row a text (B, ...), or a tuple or dict of arrays. rows_of: that,
    evaluated -> a part a text. Batches are made by length; each holds at most batch_size x device.SLOTS_A_TEXT token
    slots, so short texts go many at a time.
    """
    first, *rest = flattened(modules, asked.task)
    if not isinstance(first, InputModule):
        raise UnsupportedModelError(
            f"the first module is a {type(first).__name__}, which reads no texts; expected a Transformer, a "
            "StaticEmbedding, a SparseStaticEmbedding, or a Router of these."
        )

    def compute(features: Features) -> Any:
        for module in (first, *rest):
            features = module(features)
        return finish(features)

    tokens = first.tokens(texts, asked)
    make = partial(first.features, asked=asked)
    return in_batches(tokens, make, compute, batch_size, show_progress, first.pads_show, rows_of)
