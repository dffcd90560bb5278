"""Runs texts through a model's modules: tokenization, batches by length, forward passes, results in input order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mlx_hf_bridge.errors import InputError, UnsupportedModelError
from mlx_hf_bridge.inference.batching import BatchPipeline, Results, run_blocks, to_float_rows
from mlx_hf_bridge.inference.tokenizer import Text, Tokens
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions, InputModule
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.router import flatten_route

# Texts that are tokenized and sorted by length together: with more of them batches have less padding, and their tokens
# take more memory.
_TEXTS_A_BLOCK = 1024


@dataclass(frozen=True)
class TextPipeline:
    """The way from texts to results for one set of options: how texts are tokenized, and what is computed of them.

    Args:
        first: The module that reads the texts.
        options: The options of the call that modules read.
        batches: What is computed of the tokens.
    """

    first: InputModule
    options: EncodeOptions
    batches: BatchPipeline

    def tokens(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokenize texts.

        Args:
            texts: Texts and pairs of texts.

        Returns:
            The tokens of each text, in order.
        """
        return self.first.tokens(texts, self.options)


def text_pipeline(
    modules: Sequence[Module],
    options: EncodeOptions,
    *,
    postprocess: Callable[[Features], Any],
    split_rows: Callable[[Any], Sequence[Any]] = to_float_rows,
    sentence_embedding_only: bool = False,
) -> TextPipeline:
    """Return the way from texts to results through the modules of a model.

    Args:
        modules: The modules of the model, in the order in which they run.
        options: The options of the call that modules read, such as prompt and task.
        postprocess: Maps the features of a batch to an array with a row for each text, (B, ...), or to a tuple or dict
            of such arrays. It runs lazily, with the modules.
        split_rows: Maps that, evaluated, to a result for each text. Default: the rows of one array, as float32.
        sentence_embedding_only: Whether `postprocess` reads no token embeddings, so that the encoder can skip tokens
            that CLS pooling does not read. Default: False.

    Returns:
        The pipeline.

    Raises:
        UnsupportedModelError: If the first module does not take texts.
    """
    first, *rest = flatten_route(modules, options.task)
    if not isinstance(first, InputModule):
        raise UnsupportedModelError(
            f"the first module is a {type(first).__name__}, which does not take texts; expected a Transformer, a "
            "StaticEmbedding, a SparseStaticEmbedding, WordEmbeddings, a BoW, or a Router of these."
        )

    poolings = [module for module in rest if isinstance(module, Pooling)]
    # Only if nothing but cls pooling reads the hidden states.
    first_token = sentence_embedding_only and len(poolings) == 1 and poolings[0].reads_first_token(options.prompt)

    def compute(features: Features) -> Any:
        features = replace(features, first_token=True) if first_token else features
        for module in (first, *rest):
            features = module(features)
        return postprocess(features)

    same_shape = split_rows is to_float_rows
    independent_length = min(module.independent_length for module in (first, *rest))
    batches = BatchPipeline(
        partial(first.features, options=options), compute, split_rows, independent_length, same_shape
    )
    return TextPipeline(first, options, batches)


def encode_texts(
    pipeline: TextPipeline, texts: Sequence[Text], batch_size: int = 32, show_progress: bool = False
) -> Results:
    """Return the result of every text, in the order of the texts.

    Batches are formed by length, and hold at most batch_size x device.TOKENS_PER_TEXT tokens, padding included, so that
    many short texts go in one batch.

    Args:
        pipeline: How texts are tokenized, and what is computed of them.
        texts: Texts and pairs of texts.
        batch_size: Bounds the tokens in a batch, as above. Default: 32.
        show_progress: Whether to show a progress bar. Default: False.

    Returns:
        A list of results; with the default `split_rows` one numpy array with a row for each text.
    """
    blocks = _blocks(pipeline, texts)
    return run_blocks(blocks, len(texts), pipeline.batches, batch_size, show_progress)


def _blocks(pipeline: TextPipeline, texts: Sequence[Text]) -> Iterator[tuple[Sequence[int], Sequence[Tokens]]]:
    """Yield the indices and tokens of some texts at a time, tokenized when they are needed."""
    for start in range(0, len(texts), _TEXTS_A_BLOCK):
        numbers = range(start, min(start + _TEXTS_A_BLOCK, len(texts)))
        try:
            tokens = pipeline.tokens(texts[start : numbers.stop])
        except InputError:
            pipeline.tokens(texts)  # raises the same error, with the index that the text has in this call
            raise
        yield numbers, tokens
