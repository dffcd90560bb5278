"""The one way from texts to results, which all four classes take: tokens, batches by length, modules, rows in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mlx_hf_bridge.errors import InputError, UnsupportedModelError
from mlx_hf_bridge.inference.batching import BatchPipeline, Results, run_blocks, to_float_rows
from mlx_hf_bridge.inference.tokenizer import Text, Tokens
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions, InputModule
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.router import flatten_route

# Enough to sort well by length, few enough to keep their tokens in little memory.
_TEXTS_A_BLOCK = 1024


def encode_texts(
    modules: Sequence[Module],
    texts: Sequence[Text],
    options: EncodeOptions,
    *,
    postprocess: Callable[[Features], Any],
    split_rows: Callable[[Any], Sequence[Any]] = to_float_rows,
    batch_size: int = 32,
    show_progress: bool = False,
    sentence_embedding_only: bool = False,
) -> Results:
    """Each text's part of what the modules make, in the order of the texts; arrays are rows of one array.

    finish: the features of a batch -> an array with a row a text (B, ...), or a tuple or dict of arrays.
    split_rows: that,
    evaluated -> a part a text. Batches are made by length; each holds at most batch_size x device.TOKENS_PER_TEXT token
    slots, so short texts go many at a time. vectors_alone: `postprocess` reads no vectors of tokens.
    """
    first, *rest = flatten_route(modules, options.task)
    if not isinstance(first, InputModule):
        raise UnsupportedModelError(
            f"the first module is a {type(first).__name__}, which reads no texts; expected a Transformer, a "
            "StaticEmbedding, a SparseStaticEmbedding, or a Router of these."
        )

    poolings = [module for module in rest if isinstance(module, Pooling)]
    first_token = sentence_embedding_only and len(poolings) == 1 and poolings[0].reads_first_token(options.prompt)

    def compute(features: Features) -> Any:
        features = replace(features, first_token=True) if first_token else features
        for module in (first, *rest):
            features = module(features)
        return postprocess(features)

    same_shape = split_rows is to_float_rows
    pipeline = BatchPipeline(
        partial(first.features, options=options), compute, split_rows, first.length_dependent, same_shape
    )
    return run_blocks(_blocks(first, texts, options), len(texts), pipeline, batch_size, show_progress)


def _blocks(
    first: InputModule, texts: Sequence[Text], options: EncodeOptions
) -> Iterator[tuple[Sequence[int], Sequence[Tokens]]]:
    """Texts are tokenised only when they are wanted."""
    for start in range(0, len(texts), _TEXTS_A_BLOCK):
        numbers = range(start, min(start + _TEXTS_A_BLOCK, len(texts)))
        try:
            tokens = first.tokens(texts[start : numbers.stop], options)
        except InputError:
            first.tokens(texts, options)  # the same error, with the text's own number
            raise
        yield numbers, tokens
