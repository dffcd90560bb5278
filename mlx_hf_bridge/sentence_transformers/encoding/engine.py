"""The one way from texts to results, which all four classes take: tokens, batches by length, modules, rows in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mlx_hf_bridge.errors import InputError, UnsupportedModelError
from mlx_hf_bridge.inference.batching import Parts, Steps, float_rows, in_blocks
from mlx_hf_bridge.inference.tokenizer import Text, Tokens
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module
from mlx_hf_bridge.sentence_transformers.modules.input import Asked, InputModule
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.router import flattened

# Enough to sort well by length, few enough to keep their tokens in little memory.
_TEXTS_A_BLOCK = 1024


def rows_of_texts(
    modules: Sequence[Module],
    texts: Sequence[Text],
    asked: Asked,
    *,
    finish: Callable[[Features], Any],
    rows_of: Callable[[Any], Sequence[Any]] = float_rows,
    batch_size: int = 32,
    show_progress: bool = False,
    vectors_alone: bool = False,
) -> Parts:
    """Each text's part of what the modules make, in the order of the texts; arrays are rows of one array.

    finish: the features of a batch -> an array with a row a text (B, ...), or a tuple or dict of arrays. rows_of: that,
    evaluated -> a part a text. Batches are made by length; each holds at most batch_size x device.SLOTS_A_TEXT token
    slots, so short texts go many at a time. vectors_alone: `finish` reads no vectors of tokens.
    """
    first, *rest = flattened(modules, asked.task)
    if not isinstance(first, InputModule):
        raise UnsupportedModelError(
            f"the first module is a {type(first).__name__}, which reads no texts; expected a Transformer, a "
            "StaticEmbedding, a SparseStaticEmbedding, or a Router of these."
        )

    poolings = [module for module in rest if isinstance(module, Pooling)]
    first_token = vectors_alone and len(poolings) == 1 and poolings[0].reads_first_token(asked.prompt)

    def compute(features: Features) -> Any:
        features = replace(features, first_token=True) if first_token else features
        for module in (first, *rest):
            features = module(features)
        return finish(features)

    one_shape = rows_of is float_rows
    steps = Steps(partial(first.features, asked=asked), compute, rows_of, first.pads_show, one_shape)
    return in_blocks(_blocks(first, texts, asked), len(texts), steps, batch_size, show_progress)


def _blocks(
    first: InputModule, texts: Sequence[Text], asked: Asked
) -> Iterator[tuple[Sequence[int], Sequence[Tokens]]]:
    """Texts are tokenised only when they are wanted."""
    for start in range(0, len(texts), _TEXTS_A_BLOCK):
        numbers = range(start, min(start + _TEXTS_A_BLOCK, len(texts)))
        try:
            tokens = first.tokens(texts[start : numbers.stop], asked)
        except InputError:
            first.tokens(texts, asked)  # the same error, with the text's own number
            raise
        yield numbers, tokens
