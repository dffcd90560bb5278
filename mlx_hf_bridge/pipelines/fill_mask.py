"""The fill-mask pipeline: the tokens that fit best where a text has the mask token.

Reference: transformers/pipelines/fill_mask.py, whose argument parsing and post-processing this runs.
B texts, M masks, V vocabulary.
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

# All that transformers' file uses of torch is nonzero(), which host_array has too.
reference.torch = host_array


class _LogitsAtMasks:
    """Logits of the masked positions only; transformers' file indexes them with just those positions."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def __getitem__(self, index: Any) -> HostArray:
        return as_host_array(self._logits)


@final
class FillMaskPipeline(reference.FillMaskPipeline):
    """Return the tokens that fit best where a text has the mask token, best first.

    Call arguments:
        inputs: A text, a list of texts or a stream of texts, each with one or more mask tokens.
        top_k: How many tokens to return for each mask. Default: 5.
        targets: A token or list of tokens to choose from instead of the whole vocabulary.
        tokenizer_kwargs: A dict of tokenizer options, such as {"truncation": True}.
        batch_size: See Pipeline.

    Call result:
        For a text with one mask [{"score", "token", "token_str", "sequence"}], with several masks one such list for
        each. A list gives a list (a list of one text its only result, as in transformers), a stream an iterator.

    Call errors:
        MaskError if a text has no mask token, TopKError (a RuntimeError) if top_k is larger than the choice, InputError
        (a ValueError) if targets is empty, TokenRangeError (an IndexError) if a text is too long.
    """

    task: ClassVar[str] = "fill-mask"
    accepted_options: ClassVar[tuple[str, ...]] = ("top_k", "targets", "tokenizer_kwargs")
    length_remedy: ClassVar[str] = "Pass tokenizer_kwargs={'truncation': True} to truncate, or shorten the text."
    # The logits of a mask have V numbers, so few are held at once.
    sequences_at_once: ClassVar[int] = 256
    __init__ = Pipeline.__init__

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        top_k = options.get("top_k")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
            raise ArgumentTypeError(f"top_k={top_k!r}, expected an integer number of tokens.")
        check_tokenizer_options(options.get("tokenizer_kwargs") or {})
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        return split

    def _preprocess_texts(self, texts: list[Any], preprocess_params: dict[str, Any]) -> list[list[Chunk]]:
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"one text is {text!r:.80}, expected a string with {self.tokenizer.mask_token}.")
        chunks = tokenize_texts(self.tokenizer, texts, preprocess_params.get("tokenizer_kwargs") or {})
        for chunk in chunks:
            self.ensure_exactly_one_mask_token(chunk)
        return [[chunk] for chunk in chunks]

    def _call_model(self, batch: TokenBatch) -> mx.array:
        """Return the logits of the masked positions (B, M, V); M is the most of any text, rows beyond are ignored."""
        masked = np.array(batch.ids) == self.tokenizer.mask_token_id
        # A stable sort of "not masked" puts the masked positions first, in order.
        columns = np.argsort(~masked, axis=1, kind="stable")[:, : masked.sum(axis=1).max()]
        positions, model = mx.array(columns.astype(np.int32)), self.model.loaded.model
        if isinstance(model, Model):
            return model.logits_at(batch, positions)
        # Traced models compute the logits of every position.
        return mx.take_along_axis(model(batch).logits, positions[:, :, None], axis=1)

    def _postprocess_inputs(self, chunk: Chunk, output: np.ndarray) -> Any:
        masks = int((chunk["input_ids"] == self.tokenizer.mask_token_id).sum())
        return {"input_ids": chunk["input_ids"], "logits": _LogitsAtMasks(output[:masks])}
