"""MLXMultiVectorEncoder: an embedding for every token, compared by MaxSim (ColBERT), computed with MLX.

Reference: sentence_transformers/multi_vector_encoder/model.py.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar, Unpack

import mlx.core as mx

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.inference.pooling import normalize
from mlx_hf_bridge.inference.tokenizer import Text
from mlx_hf_bridge.sentence_transformers.embedding_model import MLXEmbeddingModel
from mlx_hf_bridge.sentence_transformers.encoding.engine import TextPipeline, encode_texts, text_pipeline
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool, Workers
from mlx_hf_bridge.sentence_transformers.encoding.results import (
    all_outputs,
    select_unmasked,
    split_outputs,
    to_mlx,
    tokens_and_mask,
)
from mlx_hf_bridge.sentence_transformers.loading.arguments import ConstructorOptions
from mlx_hf_bridge.sentence_transformers.loading.colbert import load_multi_vector
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module
from mlx_hf_bridge.sentence_transformers.modules.multi_vector import MultiVectorMask
from mlx_hf_bridge.sentence_transformers.modules.token_pooling import BaseTokenPooling
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.scoring.late_interaction import LATE_SIMILARITIES, maxsim, maxsim_pairwise
from mlx_hf_bridge.sentence_transformers.signatures import extends_constructor, shares_docstring

logger = logging.getLogger(__name__)

_TOKENS = "token_embeddings"


@extends_constructor(MLXEmbeddingModel)
class MLXMultiVectorEncoder(MLXEmbeddingModel):
    """sentence_transformers.MultiVectorEncoder computed with MLX: an embedding for every token of a text.

    Loads multi-vector models of sentence-transformers, and ColBERT checkpoints of PyLate and of Stanford.

    Args:
        model_name_or_path: A folder, or a model id on the Hugging Face Hub. Default: None, which needs `modules`.
        similarity_fn_name: The function that `similarity` uses: "maxsim", or "meanmaxsim", which divides by the number
            of query tokens. Default: None, the saved one, or else "maxsim".
        **kwargs: Arguments that all model classes share, each with a default: modules, device, prompts,
            default_prompt_name, cache_folder, trust_remote_code, revision, local_files_only, token, model_kwargs,
            processor_kwargs, config_kwargs, model_card_data, backend, quantization_config, dtype and overlong.
            MLXBaseModel describes them, and so does help(MLXMultiVectorEncoder).

    Example:
        >>> from mlx_hf_bridge import MLXMultiVectorEncoder
        >>> model = MLXMultiVectorEncoder("colbert-ir/colbertv2.0")
        >>> queries = model.encode_query(["how do plants eat?"])
        >>> documents = model.encode_document(["Photosynthesis turns light into sugar.", "Rust is a language."])
        >>> queries[0].shape  # (tokens, D)
        (32, 128)
        >>> model.similarity(queries, documents).shape
        (1, 2)
    """

    model_type: ClassVar[str] = "MultiVectorEncoder"
    _similarities = LATE_SIMILARITIES
    _default_similarity = "maxsim"

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        similarity_fn_name: str | None = None,
        **kwargs: Unpack[ConstructorOptions],
    ) -> None:
        super().__init__(model_name_or_path, similarity_fn_name=similarity_fn_name, **kwargs)
        expands = any(isinstance(module, Transformer) and module.query_expansion for module in self._modules)
        if expands and not any(isinstance(module, MultiVectorMask) for module in self._modules):
            logger.warning("queries are expanded, but without a MultiVectorMask the added tokens are not scored")

    def _load(self, loader: ModuleLoader, saved: dict[str, Any]) -> tuple[list[Module], dict[str, Any]]:
        return load_multi_vector(loader, saved)

    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        return load_multi_vector(loader, {})[0]

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = _TOKENS,
        convert_to_numpy: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        pool: Pool | None = None,
        chunk_size: int | None = None,
        token_pooling: BaseTokenPooling | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return an embedding for every token of texts that is scored.

        Args:
            inputs: A text, a {"text": ...} dict, or a sequence of these: a list, a tuple, a numpy array of texts or a
                column of a datasets.Dataset.
            prompt_name: The name of the prompt in `prompts` to put before every text. Default: None, the model's
                `default_prompt_name`.
            prompt: A text to put before every text, instead of a named prompt. Default: None.
            batch_size: Bounds the size of a batch: padding included, it has at most batch_size x 12 tokens on a CPU and
                batch_size x 128 on a GPU, so that short texts go in larger batches. Default: 32.
            show_progress_bar: Whether to show a progress bar. Default: None, which shows one if this package logs at
                level INFO or DEBUG.
            output_value: "token_embeddings" (default), or None for every output by name.
            convert_to_numpy: Return numpy arrays instead of MLX arrays. Default: False.
            device: A list of devices, of which each gets a worker process for this call; anything else is ignored,
                since MLX selects its device itself. Default: None.
            normalize_embeddings: Scale every token embedding to length 1. Default: False.
            pool: Worker processes of `start_multi_process_pool` to compute in. Default: None.
            chunk_size: How many texts a worker process gets at a time. Default: None, chosen by the number of texts.
            token_pooling: A module that merges the token embeddings of a text into fewer, for the tasks that it is
                meant for; documents unless it says otherwise. Default: None.
            task: "query" or "document", which differ in length, expansion and skipped words. Default: None.
            **kwargs: `processing_kwargs` (a dict of tokenizer options), and what `get_model_kwargs` names.

        Returns:
            For several texts a list in their order: MLX arrays (tokens, D) float32, or numpy arrays with
            convert_to_numpy; with output_value=None dicts of MLX arrays by name. For a single text only its item.

        Raises:
            InputError: If an input is not a text, an argument is unknown, or a value is not supported.
            OverlongTextError: If a text is too long and the model was loaded with overlong="error".

        Example:
            >>> embeddings = model.encode(["The cat sleeps.", "A dog barks."], task="document")
            >>> [one.shape for one in embeddings]
            [(7, 128), (7, 128)]
        """
        if output_value not in (_TOKENS, None):
            raise InputError(f"output_value={output_value!r}, expected {_TOKENS!r} or None.")
        if "convert_to_tensor" in kwargs:
            raise InputError(
                "encode() of a multi-vector model has no convert_to_tensor: texts have different numbers of tokens, so "
                "their embeddings cannot be stacked. Leave it out; convert_to_numpy=True gives a list of numpy arrays."
            )
        self._check_kwargs("encode", kwargs)
        texts, single = self._as_list(inputs)
        rows = self._compute_rows(
            texts,
            Workers(device, pool, chunk_size, show_progress_bar),
            prompt=self._resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            output_value=output_value,
            normalize_embeddings=normalize_embeddings,
            token_pooling=token_pooling,
            task=task,
            **kwargs,
        )
        outputs = rows if convert_to_numpy and output_value else to_mlx(rows)
        return outputs[0] if single else outputs

    @shares_docstring(encode, without=["task"])
    def encode_query(self, *args: Any, **kwargs: Any) -> Any:
        """Return the token embeddings of search queries, with the model's prompt, length and expansion for queries.

        Without prompt and prompt_name the prompt named "query" is used, if the model has one. All arguments and results
        are those of `encode` with the task "query".
        """
        return self._encode_queries(*args, **kwargs)

    @shares_docstring(encode, without=["task"])
    def encode_document(self, *args: Any, **kwargs: Any) -> Any:
        """Return the token embeddings of documents, without those of the words that the model skips.

        Without prompt and prompt_name the first of the prompts "document", "passage" and "corpus" that the model has
        is used. All arguments and results are those of `encode` with the task "document".
        """
        return self._encode_documents(*args, **kwargs)

    def similarity(self, embeddings1: Any, embeddings2: Any, **kwargs: Any) -> Any:
        """Return the score of every query for every document.

        A score is the sum over the query's tokens of the largest dot product with a token of the document.

        Args:
            embeddings1: Queries: a list of M arrays (tokens, D), a padded array (M, tokens, D), or one (tokens, D); of
                MLX, numpy or torch.
            embeddings2: Documents: a list of N arrays (tokens, D), a padded array (N, tokens, D), or one (tokens, D).
            **kwargs: Arguments of late_interaction.maxsim: a_mask, b_mask, chunk_elements and length_normalize, which
                is True by default if `similarity_fn_name` is "meanmaxsim".

        Returns:
            Scores (M, N) float32: a torch tensor if torch tensors were given, else a numpy array.
        """
        return maxsim(embeddings1, embeddings2, **self._with_mean(kwargs))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any, **kwargs: Any) -> Any:
        """Return the score of each query for the document at the same position.

        Args:
            embeddings1: Queries, in one of the forms that `similarity` takes.
            embeddings2: As many documents.
            **kwargs: Arguments of late_interaction.maxsim_pairwise, as in `similarity`.

        Returns:
            Scores (N,) float32: a torch tensor if torch tensors were given, else a numpy array.
        """
        return maxsim_pairwise(embeddings1, embeddings2, **self._with_mean(kwargs))

    def _with_mean(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"length_normalize": self.similarity_fn_name == "meanmaxsim", **kwargs}

    def _inference(
        self, inputs: list[Any], *, show_progress: bool = False, batch_size: int = 32, **kwargs: Any
    ) -> Results:
        texts, pipeline = self._text_pipeline(inputs, **kwargs)
        rows = encode_texts(pipeline, texts, batch_size, show_progress)
        token_pooling: BaseTokenPooling | None = kwargs.get("token_pooling")
        if token_pooling is None or not kwargs.get("output_value", _TOKENS):
            return rows
        return token_pooling.pool(list(rows), task=pipeline.options.task)

    def _text_pipeline(
        self,
        inputs: list[Any],
        *,
        prompt: str = "",
        output_value: str | None = _TOKENS,
        normalize_embeddings: bool = False,
        token_pooling: BaseTokenPooling | None = None,
        **kwargs: Any,
    ) -> tuple[list[Text], TextPipeline]:
        texts, options = self._parse_inputs(inputs, prompt, kwargs)

        def embed(features: Features) -> tuple[mx.array, mx.array]:
            embeddings, mask = tokens_and_mask(features)
            return (normalize(embeddings) if normalize_embeddings else embeddings), mask

        def collect(features: Features) -> dict[str, mx.array]:
            return all_outputs(token_pooling(features) if token_pooling else features)

        if output_value:
            return texts, text_pipeline(self._modules, options, postprocess=embed, split_rows=select_unmasked)
        return texts, text_pipeline(self._modules, options, postprocess=collect, split_rows=split_outputs)

    def _model_config(self) -> dict[str, Any]:
        return {**super()._model_config(), "similarity_fn_name": self._similarity_fn_name}
