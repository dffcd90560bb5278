"""MLXMultiVectorEncoder: texts become a vector a token, scored by MaxSim, as in sentence-transformers (ColBERT).

Reference: sentence_transformers/multi_vector_encoder/model.py. N texts, D vector width.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.inference.pooling import normalize
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.sentence_transformers.encoding.engine import encode_texts
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool
from mlx_hf_bridge.sentence_transformers.encoding.results import (
    all_outputs,
    select_unmasked,
    split_outputs,
    to_mlx,
    tokens_and_mask,
)
from mlx_hf_bridge.sentence_transformers.loading.colbert import default_modules, detect_legacy
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module
from mlx_hf_bridge.sentence_transformers.modules.multi_vector import MultiVectorMask
from mlx_hf_bridge.sentence_transformers.modules.token_pooling import BaseTokenPooling
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.scoring.late_interaction import LATE_SIMILARITIES, maxsim, maxsim_pairwise
from mlx_hf_bridge.sentence_transformers.scoring.similarity import check_similarity_name

logger = logging.getLogger(__name__)

_TOKENS = "token_embeddings"


class MLXMultiVectorEncoder(MLXBaseModel):
    """sentence_transformers.MultiVectorEncoder on MLX, for its own repos, PyLate's and Stanford's ColBERT."""

    model_type: ClassVar[str] = "MultiVectorEncoder"

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
        quantization_config: QuantizationLike = None,
        dtype: Any = "auto",
        overlong: str = "truncate",
    ) -> None:
        """Load a folder or a Hub id; or take modules. The arguments are as of MLXSentenceTransformer."""
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
        saved = self._saved_config.get("similarity_fn_name")
        name = saved if similarity_fn_name is None and saved in LATE_SIMILARITIES else similarity_fn_name
        self.similarity_fn_name = name
        expands = any(isinstance(module, Transformer) and module.query_expansion for module in self._modules)
        if expands and not any(isinstance(module, MultiVectorMask) for module in self._modules):
            logger.warning("queries are expanded, and without a MultiVectorMask the added tokens are not scored")

    def _load(self, loader: ModuleLoader, saved: dict[str, Any]) -> tuple[list[Module], dict[str, Any]]:
        legacy = detect_legacy(loader.source, saved)
        if legacy is None:
            return super()._load(loader, saved)
        loader.defaults = legacy.transformer
        return legacy.load_modules(loader), legacy.settings

    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        return default_modules(loader)

    @property
    def similarity_fn_name(self) -> str:
        """The name of the similarity function; "maxsim" unless it was set or saved."""
        return self._similarity_fn_name or "maxsim"

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: Any) -> None:
        self._similarity_fn_name = check_similarity_name(name, LATE_SIMILARITIES)

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
        """A text -> the vectors (tokens, D) of its tokens that are scored; texts -> a list of these, in their order.

        MLX arrays in float32, or numpy with convert_to_numpy. output_value=None gives a dict of everything for each
        text. token_pooling: fewer vectors, for the tasks that it is meant for. task: "query" or "document". The others
        are as of MLXSentenceTransformer.encode, and so are the errors.
        """
        if output_value not in (_TOKENS, None):
            raise InputError(f"output_value={output_value!r}, expected {_TOKENS!r} or None.")
        if "convert_to_tensor" in kwargs:
            raise InputError(
                "encode() of several vectors a text has no convert_to_tensor: texts have different numbers of tokens, "
                "so there is nothing to stack. Leave it out; convert_to_numpy=True gives a list of numpy arrays."
            )
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
            output_value=output_value,
            normalize_embeddings=normalize_embeddings,
            token_pooling=token_pooling,
            task=task,
            **kwargs,
        )
        answer = rows if convert_to_numpy and output_value else to_mlx(rows)
        return answer[0] if single else answer

    def encode_query(
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
        **kwargs: Any,
    ) -> Any:
        """encode of queries: with their prompt, length and expansion."""
        if prompt_name is None and prompt is None and "query" in self.prompts:
            prompt_name = "query"
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            convert_to_numpy,
            device,
            normalize_embeddings,
            pool,
            chunk_size,
            token_pooling,
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
        output_value: str | None = _TOKENS,
        convert_to_numpy: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        pool: Pool | None = None,
        chunk_size: int | None = None,
        token_pooling: BaseTokenPooling | None = None,
        **kwargs: Any,
    ) -> Any:
        """encode of documents: with the first prompt of "document", "passage", "corpus", and without skipped words."""
        if prompt_name is None and prompt is None:
            prompt_name = self._document_prompt_name()
        return self.encode(
            inputs,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            convert_to_numpy,
            device,
            normalize_embeddings,
            pool,
            chunk_size,
            token_pooling,
            task="document",
            **kwargs,
        )

    def similarity(self, embeddings1: Any, embeddings2: Any, **kwargs: Any) -> Any:
        """Queries' and documents' vectors -> scores (M, N) by similarity_fn_name; see late_interaction.maxsim."""
        return maxsim(embeddings1, embeddings2, **self._with_mean(kwargs))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any, **kwargs: Any) -> Any:
        """As many queries' as documents' vectors -> the score (N,) of each with the one at its place."""
        return maxsim_pairwise(embeddings1, embeddings2, **self._with_mean(kwargs))

    def get_embedding_dimension(self) -> int | None:
        """D; None where it is not known."""
        widths = (module.get_embedding_dimension() for module in reversed(self._modules))
        return next((width for width in widths if width is not None), None)

    def _with_mean(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"length_normalize": self.similarity_fn_name == "meanmaxsim", **kwargs}

    def _inference(
        self,
        inputs: list[Any],
        *,
        show_progress: bool = False,
        prompt: str = "",
        batch_size: int = 32,
        output_value: str | None = _TOKENS,
        normalize_embeddings: bool = False,
        token_pooling: BaseTokenPooling | None = None,
        **kwargs: Any,
    ) -> Results:
        texts, options = self._parse_inputs(inputs, prompt, kwargs)

        def tokens(features: Features) -> tuple[mx.array, mx.array]:
            vectors, mask = tokens_and_mask(features)
            return (normalize(vectors) if normalize_embeddings else vectors), mask

        def all_of(features: Features) -> dict[str, mx.array]:
            return all_outputs(token_pooling(features) if token_pooling else features)

        postprocess: Any = tokens if output_value else all_of
        split_rows: Any = select_unmasked if output_value else split_outputs
        rows = encode_texts(
            self._modules,
            texts,
            options,
            postprocess=postprocess,
            split_rows=split_rows,
            batch_size=batch_size,
            show_progress=show_progress,
        )
        return token_pooling.pool(list(rows), task=options.task) if token_pooling and output_value else rows

    def _model_config(self) -> dict[str, Any]:
        return {**super()._model_config(), "similarity_fn_name": self._similarity_fn_name}
