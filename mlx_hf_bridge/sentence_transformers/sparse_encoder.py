"""MLXSparseEncoder: texts become sparse vectors, as in sentence-transformers, computed by MLX.

Reference: sentence_transformers/sparse_encoder/model.py. N texts, V vector width.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import read_modules
from mlx_hf_bridge.errors import InputError, UnsupportedModelError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.sentence_transformers.encoding.engine import encode_texts
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.loading.settings import read_model_config
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.sparse import SparseAutoEncoder, SpladePooling, keep_largest
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import parse_settings
from mlx_hf_bridge.sentence_transformers.scoring.similarity import SIMILARITIES, check_similarity_name
from mlx_hf_bridge.sentence_transformers.scoring.sparse_results import (
    collect_sparse_vectors,
    decode_tokens,
    intersection,
    sparsity,
    split_sparse_rows,
)
from mlx_hf_bridge.sentence_transformers.scoring.sparse_similarity import sparse_pairwise_similarity, sparse_similarity

logger = logging.getLogger(__name__)

_DENSE = "SentenceTransformer"


class MLXSparseEncoder(MLXBaseModel):
    """sentence_transformers.SparseEncoder on MLX: SPLADE, inference-free SPLADE and CSR models."""

    model_type: ClassVar[str] = "SparseEncoder"
    default_huggingface_organization: ClassVar[str | None] = "sparse-encoder"

    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        modules: Sequence[Module] | None = None,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | Path | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "mlx",
        similarity_fn_name: str | None = None,
        max_active_dims: int | None = None,
        quantization_config: QuantizationLike = None,
        dtype: Any = "auto",
        overlong: str = "truncate",
    ) -> None:
        """Load a folder, a Hub id, or a name of the organisation sparse-encoder; or take modules.

        max_active_dims: the most dimensions of a vector that are kept, the largest ones; None = as saved. The others
        are as of MLXSentenceTransformer.
        """
        super().__init__(
            model_name_or_path,
            modules=modules,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            backend=backend,
            quantization_config=quantization_config,
            dtype=dtype,
            overlong=overlong,
        )
        saved = self._saved_config
        name = saved.get("similarity_fn_name") if similarity_fn_name is None else similarity_fn_name
        self.similarity_fn_name = name if similarity_fn_name is not None or name in SIMILARITIES else None
        kept = next((module.k for module in self._modules if isinstance(module, SparseAutoEncoder)), None)
        count = saved.get("max_active_dims") if max_active_dims is None else max_active_dims
        self.max_active_dims = _check_count(count, "max_active_dims") or kept

    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        """A masked language model with SpladePooling; anything else would start at random."""
        folder, name = loader.source.folder, loader.source.name
        architectures = loader.read_config().get("architectures") or []
        holds_vectors = read_modules(folder) and read_model_config(folder).get("model_type") in (None, _DENSE)
        if holds_vectors or not any(str(one).endswith("ForMaskedLM") for one in architectures):
            raise UnsupportedModelError(
                f"{name} has no SparseEncoder's modules and is no masked language model (architectures "
                f"{architectures}); sentence-transformers would give it random weights. Give a SPLADE or CSR model."
            )
        settings = parse_settings({}, "fill-mask", str(folder))
        return [loader.load_transformer(loader.source, folder, settings=settings), SpladePooling("max")]

    @property
    def similarity_fn_name(self) -> str:
        """The name of the similarity function; "dot" unless it was set or saved."""
        return self._similarity_fn_name or "dot"

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: Any) -> None:
        self._similarity_fn_name = check_similarity_name(name, SIMILARITIES)

    @property
    def splade_pooling_chunk_size(self) -> int | None:
        """How many tokens SpladePooling takes at a time, None = all; may be set."""
        pooling = self._splade_pooling()
        return pooling.chunk_size if pooling else None

    @splade_pooling_chunk_size.setter
    def splade_pooling_chunk_size(self, size: int | None) -> None:
        if pooling := self._splade_pooling():
            pooling.chunk_size = size

    def _splade_pooling(self) -> SpladePooling | None:
        found = next((module for module in self._modules if isinstance(module, SpladePooling)), None)
        if found is None:
            logger.warning("the model has no SpladePooling, and so no splade_pooling_chunk_size")
        return found

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
        """A text -> its sparse vector (V,); texts -> (N, V), in their order.

        Where torch is installed, sparse COO tensors of torch, or dense ones with convert_to_sparse_tensor=False;
        without torch arrays of scipy.sparse, or of numpy. convert_to_tensor=False gives a list of vectors. The others
        are as of MLXSentenceTransformer.encode, and so are the errors.
        """
        self._check_kwargs("encode", kwargs)
        texts, single = self._as_list(inputs)
        rows = self._compute_rows(
            texts,
            device,
            pool,
            chunk_size,
            show_progress_bar,
            prompt=self._resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            max_active_dims=_check_count(max_active_dims, "max_active_dims") or self.max_active_dims,
            **{key: value for key, value in kwargs.items() if key != "max_active_dims"},
        )
        return collect_sparse_vectors(list(rows), single, convert_to_tensor, convert_to_sparse_tensor)

    def encode_query(
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
        """encode with the prompt "query" where there is one, by the route for queries."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            convert_to_tensor,
            convert_to_sparse_tensor,
            save_to_cpu,
            device,
            max_active_dims,
            pool,
            chunk_size,
            task="query",
            **kwargs,
        )

    def encode_document(
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
        """encode with the first of the prompts "document", "passage", "corpus", by the route for documents."""
        if prompt_name is None and prompt is None:
            prompt_name = self._document_prompt_name()
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            convert_to_tensor,
            convert_to_sparse_tensor,
            save_to_cpu,
            device,
            max_active_dims,
            pool,
            chunk_size,
            task="document",
            **kwargs,
        )

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(M, V), (N, V) -> scores (M, N) by similarity_fn_name, larger = more alike; torch where torch was given."""
        return sparse_similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(N, V), (N, V) -> the score (N,) of each with the one at its place."""
        return sparse_pairwise_similarity(self.similarity_fn_name, embeddings1, embeddings2)

    @staticmethod
    def sparsity(embeddings: Any) -> dict[str, float]:
        """One vector or several -> the mean number of dimensions that are not 0, and the share that are 0."""
        return sparsity(embeddings)

    @staticmethod
    def intersection(embeddings_1: Any, embeddings_2: Any) -> Any:
        """One vector, and one or several -> their products in the dimensions where these are positive, sparse."""
        return intersection(embeddings_1, embeddings_2)

    def decode(self, embeddings: Any, top_k: int | None = None) -> Any:
        """A vector -> its words with their weights, largest first; several -> a list of such lists.

        top_k: the most words of a vector, None = all.
        """
        return decode_tokens(embeddings, self.tokenizer, _check_count(top_k, "top_k"))

    def get_embedding_dimension(self) -> int | None:
        """V; None where it is not known."""
        widths = (module.get_embedding_dimension() for module in reversed(self._modules))
        return next((width for width in widths if width is not None), None)

    def get_sentence_embedding_dimension(self) -> int | None:
        """get_embedding_dimension, by its older name."""
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Whether the tokens of a prompt are pooled too, in CSR models."""
        for module in self._modules:
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt
                return

    def _inference(
        self, inputs: list[Any], *, show_progress: bool = False, prompt: str = "", batch_size: int = 32, **kwargs: Any
    ) -> Results:
        texts, options = self._parse_inputs(inputs, prompt, kwargs)

        def vectors(features: Features) -> tuple[mx.array]:
            found = features[SENTENCE_EMBEDDING].astype(mx.float32)
            kept = options.max_active_dims
            return (found if kept is None else keep_largest(found, mx.abs(found), kept),)

        return encode_texts(
            self._modules,
            texts,
            options,
            postprocess=vectors,
            split_rows=split_sparse_rows,
            batch_size=batch_size,
            show_progress=show_progress,
        )

    def _model_config(self) -> dict[str, Any]:
        config = {**super()._model_config(), "similarity_fn_name": self._similarity_fn_name}
        return config if self.max_active_dims is None else {**config, "max_active_dims": self.max_active_dims}


def _check_count(count: Any, name: str) -> int | None:
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InputError(f"{name}={count!r}, expected a whole number of 1 or more, or None.")
    return count
