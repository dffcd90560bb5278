"""The feature-extraction pipeline: the hidden states of a text's tokens.

Reference: transformers/pipelines/feature_extraction.py, whose argument parsing and post-processing this runs.
"""

from typing import Any, ClassVar, final

import mlx.core as mx
import numpy as np

import mlx_hf_bridge.pipelines.transformers_tasks.pipelines.feature_extraction as reference
from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.pipelines.base import Chunk, PerTokenMixin, Pipeline
from mlx_hf_bridge.pipelines.host_array import HostArray, as_host_array
from mlx_hf_bridge.pipelines.text_inputs import check_tokenizer_options, tokenize_texts


@final
class FeatureExtractionPipeline(PerTokenMixin, reference.FeatureExtractionPipeline):
    """Return the last hidden states of a text's tokens, special tokens included.

    Call arguments:
        inputs: A text, a list of texts or a stream of texts. In place of a text, a list or tuple of texts or pairs of
            the same number of tokens, as in transformers.
        return_tensors: True for an array instead of nested lists.
        truncation: True truncates texts at the model's limit; they are an error otherwise.
        tokenize_kwargs: A dict of any other tokenizer options.
        batch_size: See Pipeline.

    Call result:
        For a text [[[float, ...] for each token]], or an array of shape (1, L, D) with return_tensors. L is the text's
        own length, whatever batch_size is. A list gives a list, a stream an iterator.

    Call errors:
        TokenRangeError (an IndexError) if a text is too long, EmptyInputError (an IndexError) for [].
    """

    task: ClassVar[str] = "feature-extraction"
    accepted_options: ClassVar[tuple[str, ...]] = ("truncation", "tokenize_kwargs", "return_tensors")
    length_remedy: ClassVar[str] = "Pass truncation=True to truncate texts there, or split them."
    # A result has D numbers for each token, so few are held at once.
    sequences_at_once: ClassVar[int] = 256
    outputs_at_padding: ClassVar[bool] = True
    __init__ = Pipeline.__init__

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if options.get("tokenize_kwargs") is not None:
            # transformers writes into the caller's dict.
            options["tokenize_kwargs"] = dict(options["tokenize_kwargs"])
        split: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = super()._sanitize_parameters(**options)
        check_tokenizer_options(split[0])
        return split

    def _preprocess_texts(self, texts: list[Any], preprocess_params: dict[str, Any]) -> list[list[Chunk]]:
        alone = [text for text in texts if isinstance(text, str)]
        chunks = iter(tokenize_texts(self.tokenizer, alone, preprocess_params) if alone else [])
        return [
            [next(chunks)] if isinstance(text, str) else self._preprocess_group(text, preprocess_params)
            for text in texts
        ]

    def _preprocess_group(self, texts: Any, preprocess_params: dict[str, Any]) -> list[Chunk]:
        """Tokenize a list or tuple of texts or pairs that counts as one text: its result has a row for each of them."""
        if not isinstance(texts, (list, tuple)) or not texts or not all(map(_is_text_or_pair, texts)):
            raise InputError(
                f"one text is {texts!r:.80}, expected a string, or a list of strings or of pairs of strings."
            )
        encoding = self.tokenizer(list(texts), **preprocess_params)
        lengths = [len(row) for row in encoding["input_ids"]]
        if len(set(lengths)) > 1:
            raise InputError(
                f"the texts of {texts!r:.80} count as one, and have {lengths} tokens, expected the same number. Pass "
                "tokenize_kwargs={'padding': True}, or one flat list of texts."
            )
        return [{name: as_host_array([rows[row]]) for name, rows in encoding.items()} for row in range(len(lengths))]

    def _call_model(self, batch: TokenBatch) -> mx.array:
        loaded = self.model.loaded
        output = loaded.model(batch)
        found: mx.array = output.hidden if loaded.task == BASE_TASK else next(iter(output.outputs.values()))
        return found

    def _postprocess_text(self, outputs: list[Any], postprocess_params: dict[str, Any]) -> Any:
        stacked = [as_host_array(np.concatenate([output[0] for output in outputs]))]
        return self.postprocess(stacked if len(outputs) > 1 else outputs[0], **postprocess_params)

    def _postprocess_inputs(self, chunk: Chunk, output: np.ndarray) -> list[HostArray]:
        return [as_host_array(output[None])]


def _is_text_or_pair(given: Any) -> bool:
    is_pair = isinstance(given, (list, tuple)) and len(given) == 2
    return isinstance(given, str) or (is_pair and all(isinstance(part, str) for part in given))
