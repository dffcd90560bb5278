"""MLXSentenceTransformer: texts become vectors as in sentence-transformers, computed by MLX.

Reference: sentence_transformers/sentence_transformer/model.py. N texts, V vector width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.inference.pooling import normalize
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers.base import MLXBaseModel
from mlx_hf_bridge.sentence_transformers.encoding.corpus import encode_to_file
from mlx_hf_bridge.sentence_transformers.encoding.engine import encode_texts
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool
from mlx_hf_bridge.sentence_transformers.encoding.precision import check_precision, quantize_embeddings
from mlx_hf_bridge.sentence_transformers.encoding.results import (
    all_outputs,
    convert_embeddings,
    split_outputs,
    stack_rows,
    to_mlx,
    tokens_and_mask,
    trim_padding,
)
from mlx_hf_bridge.sentence_transformers.encoding.streaming import encode_stream
from mlx_hf_bridge.sentence_transformers.loading.arguments import check_overlong
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import parse_settings, refuse_chat_template
from mlx_hf_bridge.sentence_transformers.scoring.similarity import (
    SIMILARITIES,
    check_similarity_name,
    pairwise_similarity,
    similarity,
)

_OUTPUTS = (SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, None)


class MLXSentenceTransformer(MLXBaseModel):
    """sentence_transformers.SentenceTransformer on MLX, for repos with modules.json and for plain encoders."""

    model_type: ClassVar[str] = "SentenceTransformer"
    default_huggingface_organization: ClassVar[str | None] = "sentence-transformers"
    encode_stream = encode_stream
    encode_to_file = encode_to_file

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
        use_auth_token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "mlx",
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        quantization_config: QuantizationLike = None,
        dtype: Any = "auto",
        overlong: str = "truncate",
    ) -> None:
        """Load a folder, a Hub id, or a name of the organisation sentence-transformers; or take modules.

        quantization_config, dtype: as of MLXAutoModel.from_pretrained. overlong: "truncate" cuts texts to the model's
        limit and warns once; "error" refuses them. The others are sentence-transformers'; device, trust_remote_code
        and model_card_data change nothing here. Errors are those of MLXAutoModel.from_pretrained.
        """
        if use_auth_token is not None and token is not None:
            raise InputError("both token and use_auth_token were given; give token alone.")
        super().__init__(
            model_name_or_path,
            modules=modules,
            prompts=prompts,
            default_prompt_name=default_prompt_name,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=use_auth_token if token is None else token,
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
        self.truncate_dim = check_truncate_dim(saved.get("truncate_dim") if truncate_dim is None else truncate_dim)

    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        """Mean pooling; of causal language models the last token."""
        refuse_chat_template(loader.source.folder, loader.source.name)
        folder = loader.source.folder
        settings = parse_settings({}, "feature-extraction", str(folder))
        transformer = loader.load_transformer(loader.source, folder, settings=settings)
        config = transformer.loaded.raw_config
        architecture = str((config.get("architectures") or [""])[0])
        mode = "lasttoken" if architecture.endswith("ForCausalLM") and config.get("is_causal", True) else "mean"
        return [transformer, Pooling(transformer.get_embedding_dimension(), mode)]

    @property
    def similarity_fn_name(self) -> str:
        """The name of the similarity function; "cosine" unless it was set or saved."""
        return self._similarity_fn_name or "cosine"

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: Any) -> None:
        self._similarity_fn_name = check_similarity_name(name, SIMILARITIES)

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = SENTENCE_EMBEDDING,
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Pool | None = None,
        chunk_size: int | None = None,
        *,
        overlong: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """A text -> its vector (V,) float32; texts or pairs of texts -> (N, V), in their order.

        output_value: "sentence_embedding"; "token_embeddings" gives a list of (tokens, V); None a dict of everything
        for each text. precision: see precision.quantize_embeddings. convert_to_tensor gives a torch tensor; without
        it and without convert_to_numpy a list of MLX arrays. A batch holds at most batch_size x device.TOKENS_PER_TEXT
        token slots. truncate_dim keeps the first dimensions, before normalising. pool, or a list as device: in worker
        processes. Raises InputError for what is not text, OverlongTextError for a text over max_seq_length when
        overlong="error".
        """
        if output_value not in _OUTPUTS:
            raise InputError(f"output_value={output_value!r}, expected one of {_OUTPUTS}.")
        precision = check_precision(precision)
        if output_value is None and precision != "float32":
            raise InputError(
                f"precision={precision!r} needs vectors, and output_value=None gives dicts. Give one of them."
            )
        self._check_kwargs("encode", kwargs)
        texts, single = self._as_list(inputs)
        width = self.truncate_dim if truncate_dim is None else truncate_dim
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
            truncate_dim=check_truncate_dim(width),
            overlong=None if overlong is None else check_overlong(overlong),
            **kwargs,
        )
        if precision != "float32" and len(rows):
            rows = quantize_embeddings(stack_rows(rows) if output_value == SENTENCE_EMBEDDING else rows, precision)
        if output_value != SENTENCE_EMBEDDING:
            return to_mlx(rows[0] if single else rows)
        answer = convert_embeddings(rows, convert_to_numpy and not convert_to_tensor, convert_to_tensor)
        return answer[0] if single else answer

    def encode_query(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = SENTENCE_EMBEDDING,
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
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
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
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
        output_value: str | None = SENTENCE_EMBEDDING,
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
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
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
            pool,
            chunk_size,
            task="document",
            **kwargs,
        )

    def encode_multi_process(
        self,
        sentences: Sequence[str],
        pool: Pool,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        chunk_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: str = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> np.ndarray:
        """encode with a pool, by its older name."""
        answer: np.ndarray = self.encode(
            sentences,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            precision=precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
        )
        return answer

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(M, V), (N, V) -> scores (M, N) by similarity_fn_name, larger = more alike; torch where torch was given."""
        return similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(N, V), (N, V) -> the score (N,) of each with the one at its place."""
        return pairwise_similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def get_embedding_dimension(self) -> int | None:
        """The width of encode's vectors; None where it is not known."""
        widths = (module.get_embedding_dimension() for module in reversed(self._modules))
        width = next((width for width in widths if width is not None), None)
        if self.truncate_dim is None or width is None:
            return self.truncate_dim if width is None else width
        return min(width, self.truncate_dim)

    def get_sentence_embedding_dimension(self) -> int | None:
        """get_embedding_dimension, by its older name."""
        return self.get_embedding_dimension()

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within it, encode gives the first `truncate_dim` dimensions."""
        before = self.truncate_dim
        self.truncate_dim = check_truncate_dim(truncate_dim)
        try:
            yield
        finally:
            self.truncate_dim = before

    @contextmanager
    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """truncate_embeddings, by its older name."""
        with self.truncate_embeddings(truncate_dim):
            yield

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Whether the tokens of a prompt are pooled too."""
        for module in self._modules:
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt
                return

    @staticmethod
    def load(input_path: str) -> "MLXSentenceTransformer":
        """The class itself, by an older name."""
        return MLXSentenceTransformer(input_path)

    def _inference(
        self,
        inputs: list[Any],
        *,
        show_progress: bool = False,
        prompt: str = "",
        batch_size: int = 32,
        output_value: str | None = SENTENCE_EMBEDDING,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> Results:
        texts, options = self._parse_inputs(inputs, prompt, kwargs)

        def vectors(features: Features) -> mx.array:
            cut = (
                features[SENTENCE_EMBEDDING] if truncate_dim is None else features[SENTENCE_EMBEDDING][:, :truncate_dim]
            )
            return normalize(cut) if normalize_embeddings else cut

        def all_of(features: Features) -> dict[str, mx.array]:
            arrays = all_outputs(features)
            return (
                {**arrays, SENTENCE_EMBEDDING: arrays[SENTENCE_EMBEDDING][:, :truncate_dim]} if truncate_dim else arrays
            )

        postprocess: Any = {SENTENCE_EMBEDDING: vectors, TOKEN_EMBEDDINGS: tokens_and_mask, None: all_of}[output_value]
        if output_value == SENTENCE_EMBEDDING:
            return encode_texts(
                self._modules,
                texts,
                options,
                postprocess=postprocess,
                batch_size=batch_size,
                show_progress=show_progress,
                sentence_embedding_only=True,
            )
        split_rows: Any = trim_padding if output_value == TOKEN_EMBEDDINGS else split_outputs
        return encode_texts(
            self._modules,
            texts,
            options,
            postprocess=postprocess,
            split_rows=split_rows,
            batch_size=batch_size,
            show_progress=show_progress,
        )

    def _model_config(self) -> dict[str, Any]:
        config = {**super()._model_config(), "similarity_fn_name": self.similarity_fn_name}
        return config if self.truncate_dim is None else {**config, "truncate_dim": self.truncate_dim}


def check_truncate_dim(width: Any) -> int | None:
    """How many dimensions are kept, None = all; InputError for what is not 1 or more."""
    if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
        raise InputError(f"truncate_dim={width!r}, expected a whole number of 1 or more, or None.")
    return width
