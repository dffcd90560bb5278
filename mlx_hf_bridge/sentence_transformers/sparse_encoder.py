"""MLXSparseEncoder: sparse embeddings as in sentence-transformers, computed with MLX.

Reference: sentence_transformers/sparse_encoder/model.py.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar, Unpack

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.inference.tokenizer import Text
from mlx_hf_bridge.sentence_transformers.embedding_model import MLXEmbeddingModel
from mlx_hf_bridge.sentence_transformers.encoding.engine import TextPipeline, text_pipeline
from mlx_hf_bridge.sentence_transformers.encoding.inputs import check_optional_count
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool, Workers
from mlx_hf_bridge.sentence_transformers.loading.arguments import ConstructorOptions
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.loading.settings import read_model_config
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.sparse import SparseAutoEncoder, SpladePooling, keep_largest
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import default_settings
from mlx_hf_bridge.sentence_transformers.older_names import deprecated, older_names
from mlx_hf_bridge.sentence_transformers.scoring.similarity import SIMILARITIES
from mlx_hf_bridge.sentence_transformers.scoring.sparse_results import (
    collect_sparse_vectors,
    decode_tokens,
    intersection,
    sparsity,
    split_sparse_rows,
)
from mlx_hf_bridge.sentence_transformers.scoring.sparse_similarity import sparse_pairwise_similarity, sparse_similarity
from mlx_hf_bridge.sentence_transformers.signatures import extends_constructor, shares_docstring

logger = logging.getLogger(__name__)

_DENSE = "SentenceTransformer"


@extends_constructor(MLXEmbeddingModel)
class MLXSparseEncoder(MLXEmbeddingModel):
    """sentence_transformers.SparseEncoder computed with MLX: embeddings as wide as the vocabulary, mostly zeros.

    Loads SPLADE models, inference-free SPLADE models (a table for queries) and CSR models (a sparse autoencoder).

    Args:
        model_name_or_path: A folder, or a model id on the Hugging Face Hub. An id without an organization is looked
            up in "sparse-encoder" first. Default: None, which needs `modules`.
        similarity_fn_name: The function that `similarity` uses: "cosine", "dot", "euclidean" or "manhattan". Default:
            None, the saved one, or else "dot".
        max_active_dims: How many dimensions of an embedding are kept, those of the largest weights; the others become
            0. Default: None, the saved number, or else all (for CSR models, the number they were trained with).
        **kwargs: Arguments that all model classes share, each with a default: modules, device, prompts,
            default_prompt_name, cache_folder, trust_remote_code, revision, local_files_only, token, model_kwargs,
            processor_kwargs, config_kwargs, model_card_data, backend, quantization_config, dtype and overlong.
            MLXBaseModel describes them, and so does help(MLXSparseEncoder).

    Example:
        >>> from mlx_hf_bridge import MLXSparseEncoder
        >>> model = MLXSparseEncoder("naver/splade-v3")
        >>> query = model.encode_query("how do plants eat?")
        >>> documents = model.encode_document(["Photosynthesis turns light into sugar.", "Rust is a language."])
        >>> model.similarity(query, documents).shape
        torch.Size([1, 2])
        >>> model.decode(query, top_k=2)  # the two tokens of the largest weights
        [('plants', 2.4), ('eat', 2.1)]
    """

    model_type: ClassVar[str] = "SparseEncoder"
    default_huggingface_organization: ClassVar[str | None] = "sparse-encoder"
    _similarities = SIMILARITIES
    _default_similarity = "dot"

    @older_names({"tokenizer_kwargs": "processor_kwargs"})
    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        similarity_fn_name: str | None = None,
        max_active_dims: int | None = None,
        **kwargs: Unpack[ConstructorOptions],
    ) -> None:
        super().__init__(model_name_or_path, similarity_fn_name=similarity_fn_name, **kwargs)
        count = self._saved_config.get("max_active_dims") if max_active_dims is None else max_active_dims
        trained = next((module.k for module in self._modules if isinstance(module, SparseAutoEncoder)), None)
        self.max_active_dims = check_optional_count("max_active_dims", count) or trained

    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        """Return a masked language model with SpladePooling; anything else would need randomly initialized weights."""
        folder, name = loader.source.folder, loader.source.name
        architectures = loader.read_config().get("architectures") or []
        if loader.read_entries() and read_model_config(folder).get("model_type") in (None, _DENSE):
            raise UnsupportedModelError(
                f"{name} has a modules.json and no model_type 'SparseEncoder' in config_sentence_transformers.json, so "
                "sentence-transformers takes it for a SentenceTransformer and adds a randomly initialized "
                "SparseAutoEncoder. Give a SPLADE or CSR model, with all of its files."
            )
        if not any(str(architecture).endswith("ForMaskedLM") for architecture in architectures):
            raise UnsupportedModelError(
                f"{name} is neither a saved SparseEncoder nor a masked language model (architectures {architectures}), "
                "so its sparse layers would be randomly initialized. Give a SPLADE or CSR model."
            )
        settings = default_settings("fill-mask", str(folder))
        return [loader.load_transformer(loader.source, folder, settings=settings), SpladePooling("max")]

    @property
    def splade_pooling_chunk_size(self) -> int | None:
        """How many tokens SpladePooling processes at a time, None for all; can be set to save memory."""
        pooling = self._splade_pooling()
        return pooling.chunk_size if pooling else None

    @splade_pooling_chunk_size.setter
    def splade_pooling_chunk_size(self, size: int | None) -> None:
        if pooling := self._splade_pooling():
            pooling.chunk_size = size

    def _splade_pooling(self) -> SpladePooling | None:
        found = next((module for module in self._modules if isinstance(module, SpladePooling)), None)
        if found is None:
            logger.warning("the model has no SpladePooling, so splade_pooling_chunk_size has no effect")
        return found

    @older_names({"sentences": "inputs"})
    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: Any = None,
        max_active_dims: int | None = None,
        pool: Pool | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the sparse embeddings of texts.

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
            convert_to_tensor: Return one matrix; with False a list of vectors. Default: True.
            convert_to_sparse_tensor: Return sparse tensors; with False dense ones. Default: True.
            save_to_cpu: Accepted for compatibility and ignored: results are always on the CPU.
            device: A list of devices, of which each gets a worker process for this call; anything else is ignored,
                since MLX selects its device itself. Default: None.
            max_active_dims: How many dimensions of an embedding are kept, those of the largest weights. Default: None,
                the model's `max_active_dims`.
            pool: Worker processes of `start_multi_process_pool` to compute in. Default: None.
            chunk_size: How many texts a worker process gets at a time. Default: None, chosen by the number of texts.
            **kwargs: `task` ("query" or "document"), `processing_kwargs` (a dict of tokenizer options), and what
                `get_model_kwargs` names.

        Returns:
            For several texts a matrix (N, V) in the order of the texts, or a list of N vectors (V,) with
            convert_to_tensor=False; for a single text a vector (V,). Values are float32. With torch installed these are
            sparse COO tensors, or dense tensors with convert_to_sparse_tensor=False; without torch they are arrays of
            scipy.sparse, or of numpy.

        Raises:
            InputError: If an input is not a text, a prompt name or argument is unknown, or a value is not supported.
            OverlongTextError: If a text is too long and the model was loaded with overlong="error".

        Example:
            >>> embeddings = model.encode(["The cat sleeps.", "A dog barks."])
            >>> embeddings.shape, embeddings.is_sparse
            (torch.Size([2, 30522]), True)
        """
        self._check_kwargs("encode", kwargs)
        texts, single = self._as_list(inputs)
        rows = self._compute_rows(
            texts,
            Workers(device, pool, chunk_size, show_progress_bar),
            prompt=self._resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            max_active_dims=check_optional_count("max_active_dims", max_active_dims) or self.max_active_dims,
            **kwargs,
        )
        return collect_sparse_vectors(list(rows), single, convert_to_tensor, convert_to_sparse_tensor)

    @older_names({"sentences": "inputs"})
    @shares_docstring(encode)
    def encode_query(self, *args: Any, **kwargs: Any) -> Any:
        """Return the sparse embeddings of search queries: encode with the model's query prompt and the task "query".

        Inference-free models look queries up in a table instead of running the encoder. Without prompt and prompt_name
        the prompt named "query" is used, if the model has one. All arguments and results are those of `encode`.
        """
        return self._encode_queries(*args, **kwargs)

    @older_names({"sentences": "inputs"})
    @shares_docstring(encode)
    def encode_document(self, *args: Any, **kwargs: Any) -> Any:
        """Return the sparse embeddings of documents: encode with the model's document prompt and task "document".

        Without prompt and prompt_name the first of the prompts "document", "passage" and "corpus" that the model has
        is used. All arguments and results are those of `encode`.
        """
        return self._encode_documents(*args, **kwargs)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of every embedding of one list to every embedding of another.

        Args:
            embeddings1: Embeddings (M, V) or one (V,), sparse or dense, of torch, scipy.sparse, numpy or MLX.
            embeddings2: Embeddings (N, V) or one (V,).

        Returns:
            Scores (M, N) by `similarity_fn_name`, larger for more similar: float32, a torch tensor if torch tensors
            were given, else a numpy array.
        """
        return sparse_similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each embedding to the one at the same position of another list.

        Args:
            embeddings1: Embeddings (N, V) or one (V,), sparse or dense, of torch, scipy.sparse, numpy or MLX.
            embeddings2: As many embeddings, (N, V) or (V,).

        Returns:
            Scores (N,) by `similarity_fn_name`, or a single number for two vectors: float32, of torch if torch tensors
            were given, else of numpy.
        """
        return sparse_pairwise_similarity(self.similarity_fn_name, embeddings1, embeddings2)

    @staticmethod
    def sparsity(embeddings: Any) -> dict[str, float]:
        """Return how sparse embeddings are.

        Args:
            embeddings: Embeddings (N, V) or one (V,), sparse or dense.

        Returns:
            "active_dims", the mean number of nonzero dimensions, and "sparsity_ratio", the share of zeros from 0 to 1.
        """
        return sparsity(embeddings)

    @staticmethod
    def intersection(embeddings_1: Any, embeddings_2: Any) -> Any:
        """Return the dimensions that an embedding has in common with others, which explain their similarity.

        Args:
            embeddings_1: One embedding (V,), sparse or dense.
            embeddings_2: Embeddings (N, V) or one (V,).

        Returns:
            The products of both where they are positive, of the shape of embeddings_2: a sparse tensor of torch if
            torch tensors were given, else an array of scipy.sparse.
        """
        return intersection(embeddings_1, embeddings_2)

    def decode(self, embeddings: Any, top_k: int | None = None) -> Any:
        """Return the tokens of the vocabulary that embeddings give a weight to.

        Args:
            embeddings: Embeddings (N, V) or one (V,), sparse or dense.
            top_k: How many tokens of an embedding are returned, an integer of 1 or more. Default: None, all.

        Returns:
            (token, weight) pairs, largest weight first, for one embedding; a list of such lists for several.
        """
        return decode_tokens(embeddings, self.tokenizer, check_optional_count("top_k", top_k))

    @deprecated("get_sentence_embedding_dimension is an older name. Use get_embedding_dimension.", FutureWarning)
    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the width of the embeddings; an older name of `get_embedding_dimension`.

        Returns:
            The number of dimensions, or None if no module knows it.
        """
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Choose whether the tokens of a prompt count in the pooling of CSR models.

        Args:
            include_prompt: False leaves the prompt's tokens out of the pooling layer; they are still attended to.
        """
        for module in self._modules:
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt
                return

    def _text_pipeline(self, inputs: list[Any], *, prompt: str = "", **kwargs: Any) -> tuple[list[Text], TextPipeline]:
        texts, options = self._parse_inputs(inputs, prompt, kwargs)

        def embed(features: Features) -> tuple[mx.array]:
            weights = features[SENTENCE_EMBEDDING].astype(mx.float32)
            count = options.max_active_dims
            return (weights if count is None else keep_largest(weights, mx.abs(weights), count),)

        return texts, text_pipeline(self._modules, options, postprocess=embed, split_rows=split_sparse_rows)

    def _model_config(self) -> dict[str, Any]:
        config = {**super()._model_config(), "similarity_fn_name": self._similarity_fn_name}
        return config if self.max_active_dims is None else {**config, "max_active_dims": self.max_active_dims}
