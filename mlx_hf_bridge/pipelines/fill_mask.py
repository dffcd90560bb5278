"""Fill-mask: the words that fit best where a text has the mask token.

Reference: transformers/pipelines/fill_mask.py, whose reading of arguments and post-processing this runs. M masks.
"""

from typing import Any, ClassVar, final

import mlx.core as mx
import numpy as np

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.fill_mask as reference
from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.pipelines import host_array
from mlx_hf_bridge.pipelines.base import Chunk, Pipeline
from mlx_hf_bridge.pipelines.host_array import HostArray, as_host_array
from mlx_hf_bridge.pipelines.text_inputs import check_tokenizer_options, tokenize_texts

# What transformers' file takes from torch: nonzero().
reference.torch = host_array


class _AtMasks:
    """Logits that are known at the masked slots alone, which is where they are looked up."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def __getitem__(self, place: Any) -> HostArray:
        return as_host_array(self._logits)


@final
class FillMaskPipeline(reference.FillMaskPipeline):
    """The words that fit best where a text has the mask token, best first.

    Text with one mask -> [{"score", "token", "token_str", "sequence"}]; with several -> such a list a mask; list ->
    list, but that of a list of one text alone; stream -> iterator. top_k: how many words, 5 if left out. targets: the
    only words to choose from. tokenizer_kwargs: what the tokenizer takes, {"truncation": True} say. Raises MaskError
    for a text without mask, TopKError (RuntimeError) for more words than there are, InputError (ValueError) for no
    targets, TokenRangeError (IndexError) for a text that is too long.
    """

    task: ClassVar[str] = "fill-mask"
    accepted_options: ClassVar[tuple[str, ...]] = ("top_k", "targets", "tokenizer_kwargs")
    length_remedy: ClassVar[str] = "Pass tokenizer_kwargs={'truncation': True} to cut texts there, or shorten them."
    # An answer has a number for each word of the vocabulary.
    sequences_at_once: ClassVar[int] = 256
    __init__ = Pipeline.__init__

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        top_k = options.get("top_k")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
            raise ArgumentTypeError(f"top_k={top_k!r}, expected a whole number of words.")
        check_tokenizer_options(options.get("tokenizer_kwargs") or {})
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        return split

    def _preprocess_texts(self, texts: list[Any], before: dict[str, Any]) -> list[list[Chunk]]:
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"one text is {text!r:.80}, expected a string with {self.tokenizer.mask_token}.")
        chunks = tokenize_texts(self.tokenizer, texts, before.get("tokenizer_kwargs") or {})
        for chunk in chunks:
            self.ensure_exactly_one_mask_token(chunk)
        return [[chunk] for chunk in chunks]

    def _call_model(self, batch: TokenBatch) -> mx.array:
        """Logits of the masked slots (B, M, V); M is that of the text with most, others have slots of no meaning."""
        masked = np.array(batch.ids) == self.tokenizer.mask_token_id
        slots = np.argsort(~masked, axis=1, kind="stable")[:, : masked.sum(axis=1).max()]
        places, model = mx.array(slots.astype(np.int32)), self.model.loaded.model
        if isinstance(model, Model):
            return model.logits_at(batch, places)
        # A model of another kind answers for all slots at once.
        return mx.take_along_axis(model(batch).logits, places[:, :, None], axis=1)

    def _postprocess_inputs(self, chunk: Chunk, answer: np.ndarray) -> Any:
        masks = int((chunk["input_ids"] == self.tokenizer.mask_token_id).sum())
        return {"input_ids": chunk["input_ids"], "logits": _AtMasks(answer[:masks])}
