"""MLXSentenceTransformer: sentence embeddings as in sentence-transformers, computed with MLX.

Reference: sentence_transformers/sentence_transformer/model.py.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Unpack

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.pooling import normalize
from mlx_hf_bridge.inference.tokenizer import Text
from mlx_hf_bridge.sentence_transformers.embedding_model import MLXEmbeddingModel
from mlx_hf_bridge.sentence_transformers.encoding.corpus import encode_to_file
from mlx_hf_bridge.sentence_transformers.encoding.engine import TextPipeline, text_pipeline
from mlx_hf_bridge.sentence_transformers.encoding.inputs import check_optional_count
from mlx_hf_bridge.sentence_transformers.encoding.pools import Pool, Workers
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
from mlx_hf_bridge.sentence_transformers.loading.arguments import ConstructorOptions, check_overlong
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import default_settings
from mlx_hf_bridge.sentence_transformers.older_names import deprecated, older_names
from mlx_hf_bridge.sentence_transformers.scoring.similarity import (
    SIMILARITIES,
    pairwise_similarity,
    similarity,
)
from mlx_hf_bridge.sentence_transformers.signatures import extends_constructor, shares_docstring

_OUTPUTS = (SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, None)


@extends_constructor(MLXEmbeddingModel, before={"use_auth_token": "model_kwargs"})
class MLXSentenceTransformer(MLXEmbeddingModel):
    """sentence_transformers.SentenceTransformer computed with MLX: one embedding for each text.

    Loads checkpoints of sentence-transformers (with modules.json), and encoders of transformers, which get mean
    pooling, or last-token pooling if they are causal language models.

    Args:
        model_name_or_path: A folder, or a model id on the Hugging Face Hub. An id without an organization is looked
            up in "sentence-transformers" first. Default: None, which needs `modules`.
        use_auth_token: An older name of `token`. Default: None.
        similarity_fn_name: The function that `similarity` uses: "cosine", "dot", "euclidean" or "manhattan". Default:
            None, the saved one, or else "cosine".
        truncate_dim: How many dimensions of an embedding are kept, from the first; for models that were trained for
            it (Matryoshka). Default: None, the saved number, or else all.
        **kwargs: Arguments that all model classes share, each with a default: modules, device, prompts,
            default_prompt_name, cache_folder, trust_remote_code, revision, local_files_only, token, model_kwargs,
            processor_kwargs, config_kwargs, model_card_data, backend, quantization_config, dtype and overlong.
            MLXBaseModel describes them, and so does help(MLXSentenceTransformer).

    Example:
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> model = MLXSentenceTransformer("all-MiniLM-L6-v2", quantization_config="q8")
        >>> embeddings = model.encode(["The cat sleeps.", "A dog barks.", "Stocks fell today."])
        >>> embeddings.shape
        (3, 384)
        >>> model.similarity(embeddings, embeddings).shape
        (3, 3)
    """

    model_type: ClassVar[str] = "SentenceTransformer"
    default_huggingface_organization: ClassVar[str | None] = "sentence-transformers"
    _similarities = SIMILARITIES
    _default_similarity = "cosine"
    encode_stream = encode_stream
    encode_to_file = encode_to_file

    @older_names({"tokenizer_kwargs": "processor_kwargs"})
    def __init__(
        self,
        model_name_or_path: str | Path | None = None,
        *,
        use_auth_token: bool | str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        **kwargs: Unpack[ConstructorOptions],
    ) -> None:
        if use_auth_token is not None:
            if kwargs.get("token") is not None:
                raise InputError(
                    "got both token and use_auth_token, which is its older name. Leave use_auth_token out."
                )
            warnings.warn("use_auth_token is an older name. Use token.", FutureWarning, stacklevel=5)
            kwargs["token"] = use_auth_token
        super().__init__(model_name_or_path, similarity_fn_name=similarity_fn_name, **kwargs)
        width = self._saved_config.get("truncate_dim") if truncate_dim is None else truncate_dim
        self.truncate_dim = check_optional_count("truncate_dim", width)

    def _default_modules(self, loader: ModuleLoader) -> list[Module]:
        """Return the encoder with mean pooling, or with last-token pooling for a causal language model."""
        folder = loader.source.folder
        settings = default_settings("feature-extraction", str(folder))
        transformer = loader.load_transformer(loader.source, folder, settings=settings)
        config = transformer.loaded.raw_config
        architecture = str((config.get("architectures") or [""])[0])
        # A causal model's last token is the only one that attends to the whole text.
        mode = "lasttoken" if architecture.endswith("ForCausalLM") and config.get("is_causal", True) else "mean"
        return [transformer, Pooling(transformer.get_embedding_dimension(), mode)]

    @older_names({"sentences": "inputs"})
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
        """Return the embeddings of texts.

        Args:
            inputs: A text, a pair of texts as a tuple in a list, a {"text": ...} dict, or a sequence of these: a list,
                a tuple, a numpy array of texts or a column of a datasets.Dataset.
            prompt_name: The name of the prompt in `prompts` to put before every text. Default: None, the model's
                `default_prompt_name`.
            prompt: A text to put before every text, instead of a named prompt. Default: None.
            batch_size: Bounds the size of a batch: padding included, it has at most batch_size x 12 tokens on a CPU and
                batch_size x 128 on a GPU, so that short texts go in larger batches. Default: 32.
            show_progress_bar: Whether to show a progress bar. Default: None, which shows one if this package logs at
                level INFO or DEBUG.
            output_value: "sentence_embedding" (default), "token_embeddings", or None for every output by name.
            precision: "float32" (default), or the format to quantize embeddings to: "int8" or "uint8" (one byte for
                each dimension, over the range of this call's embeddings), "binary" or "ubinary" (one bit).
            convert_to_numpy: Return one numpy array. Default: True.
            convert_to_tensor: Return one torch tensor; takes precedence over convert_to_numpy. Default: False.
            device: A list of devices, of which each gets a worker process for this call; anything else is ignored,
                since MLX selects its device itself. Default: None.
            normalize_embeddings: Scale sentence embeddings to length 1, after truncating them. Default: False.
            truncate_dim: How many dimensions of a sentence embedding are kept, from the first. Default: None, the
                model's `truncate_dim`.
            pool: Worker processes of `start_multi_process_pool` to compute in. Default: None.
            chunk_size: How many texts a worker process gets at a time. Default: None, chosen by the number of texts.
            overlong: What happens to texts of more tokens than `max_seq_length`: "truncate" or "error". Default: None,
                as the model was loaded.
            **kwargs: `task` ("query" or "document" for models with a Router; the name of a LoRA for jina-embeddings-v3,
                such as "retrieval.query"), `processing_kwargs` (a dict of tokenizer options), and what
                `get_model_kwargs` names.

        Returns:
            For several texts, by output_value:

            - "sentence_embedding": embeddings (N, V) in the order of the texts, a float32 numpy array; a torch tensor
              with convert_to_tensor; a list of N MLX arrays (V,) with convert_to_numpy=False. Of dtype int8 or uint8
              with the precision of that name; "binary" gives int8 and "ubinary" uint8 of shape (N, V / 8).
            - "token_embeddings": a list of N MLX arrays (tokens, D), float32 or of the precision, without padding.
            - None: a list of N dicts of MLX arrays with "input_ids", "attention_mask", "token_embeddings",
              "sentence_embedding" and the outputs of further modules.

            For a single text only its item: (V,), (tokens, D) or a dict.

        Raises:
            InputError: If an input is not a text, a prompt name or argument is unknown, or a value is not supported.
            OverlongTextError: If a text is too long and overlong is "error".
            BackendError: If convert_to_tensor is given and torch is not installed.

        Example:
            >>> embeddings = model.encode(["The cat sleeps.", "A dog barks."], normalize_embeddings=True)
            >>> embeddings.shape, embeddings.dtype
            ((2, 384), dtype('float32'))
            >>> model.encode("A single text").shape
            (384,)
            >>> model.encode(["The cat sleeps.", "A dog barks."], precision="ubinary").shape
            (2, 48)
        """
        if output_value not in _OUTPUTS:
            raise InputError(f"output_value={output_value!r}, expected one of {_OUTPUTS}.")
        precision = check_precision(precision)
        if output_value is None and precision != "float32":
            raise InputError(
                f"precision={precision!r} quantizes embeddings, and output_value=None returns dicts. Leave one out."
            )
        self._check_kwargs("encode", kwargs)
        texts, single = self._as_list(inputs)
        width = self.truncate_dim if truncate_dim is None else truncate_dim
        rows = self._compute_rows(
            texts,
            Workers(device, pool, chunk_size, show_progress_bar),
            prompt=self._resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            output_value=output_value,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=check_optional_count("truncate_dim", width),
            overlong=None if overlong is None else check_overlong(overlong),
            **kwargs,
        )
        if precision != "float32" and len(rows):
            rows = quantize_embeddings(stack_rows(rows) if output_value == SENTENCE_EMBEDDING else rows, precision)
        if output_value != SENTENCE_EMBEDDING:
            return to_mlx(rows[0] if single else rows)
        embeddings = convert_embeddings(rows, convert_to_numpy and not convert_to_tensor, convert_to_tensor)
        return embeddings[0] if single else embeddings

    @older_names({"sentences": "inputs"})
    @shares_docstring(encode, without=["overlong"])
    def encode_query(self, *args: Any, **kwargs: Any) -> Any:
        """Return the embeddings of search queries: encode with the model's query prompt and the task "query".

        Without prompt and prompt_name the prompt named "query" is used, if the model has one. Models with a Router
        take the modules for queries. All arguments and results are those of `encode`.

        Example:
            >>> query = model.encode_query("how do plants eat?")
            >>> documents = model.encode_document(["Photosynthesis turns light into sugar.", "Rust is a language."])
            >>> scores = model.similarity(query, documents)  # (1, 2)
        """
        return self._encode_queries(*args, **kwargs)

    @older_names({"sentences": "inputs"})
    @shares_docstring(encode, without=["overlong"])
    def encode_document(self, *args: Any, **kwargs: Any) -> Any:
        """Return the embeddings of documents to search in: encode with the model's document prompt and task.

        Without prompt and prompt_name the first of the prompts "document", "passage" and "corpus" that the model has
        is used. Models with a Router take the modules for documents. All arguments and results are those of `encode`.

        Example:
            >>> embeddings = model.encode_document(["Photosynthesis turns light into sugar.", "Rust is a language."])
            >>> embeddings.shape
            (2, 384)
        """
        return self._encode_documents(*args, **kwargs)

    @deprecated("encode_multi_process is an older form. Use encode with pool.")
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
        """Return the embeddings of texts, computed in a pool; an older form of `encode` with `pool`.

        Args:
            sentences: The texts.
            pool: Worker processes of `start_multi_process_pool`.
            prompt_name: The name of the prompt in `prompts` to put before every text. Default: None.
            prompt: A text to put before every text. Default: None.
            batch_size: Bounds the number of tokens in a batch, as in `encode`. Default: 32.
            chunk_size: How many texts a worker process gets at a time. Default: None, chosen by the number of texts.
            show_progress_bar: Whether to show a progress bar. Default: None, as in `encode`.
            precision: "float32" (default), "int8", "uint8", "binary" or "ubinary".
            normalize_embeddings: Scale embeddings to length 1. Default: False.
            truncate_dim: How many dimensions are kept. Default: None, the model's `truncate_dim`.

        Returns:
            Embeddings (N, V) as a numpy array.
        """
        embeddings: np.ndarray = self.encode(
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
        return embeddings

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of every embedding of one list to every embedding of another.

        Args:
            embeddings1: Embeddings (M, V) or one (V,), as numpy, MLX or torch arrays or lists of numbers.
            embeddings2: Embeddings (N, V) or one (V,).

        Returns:
            Scores (M, N) by `similarity_fn_name`, larger for more similar: float32, a torch tensor if torch tensors
            were given, else a numpy array.

        Example:
            >>> embeddings = model.encode(["The cat sleeps.", "A dog barks.", "Stocks fell today."])
            >>> scores = model.similarity(embeddings[:1], embeddings[1:])  # (1, 2)
            >>> scores.argmax()  # the dog is closer to the cat than the stocks are
            0
        """
        return similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each embedding to the one at the same position of another list.

        Args:
            embeddings1: Embeddings (N, V) or one (V,), as numpy, MLX or torch arrays or lists of numbers.
            embeddings2: As many embeddings, (N, V) or (V,).

        Returns:
            Scores (N,) by `similarity_fn_name`, larger for more similar: a torch tensor if torch tensors were given,
            else a numpy array.
        """
        return pairwise_similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def get_embedding_dimension(self) -> int | None:
        """Return the width of the embeddings that `encode` returns.

        Returns:
            The number of dimensions, at most `truncate_dim`, or None if no module knows it.
        """
        width = super().get_embedding_dimension()
        if self.truncate_dim is None or width is None:
            return self.truncate_dim if width is None else width
        return min(width, self.truncate_dim)

    @deprecated("get_sentence_embedding_dimension is an older name. Use get_embedding_dimension.", FutureWarning)
    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the width of the embeddings; an older name of `get_embedding_dimension`.

        Returns:
            The number of dimensions, or None if no module knows it.
        """
        return self.get_embedding_dimension()

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Let `encode` return fewer dimensions within a with block.

        Args:
            truncate_dim: How many dimensions are kept, from the first; None keeps all.

        Yields:
            Nothing; afterwards the model's own `truncate_dim` applies again.
        """
        before = self.truncate_dim
        self.truncate_dim = check_optional_count("truncate_dim", truncate_dim)
        try:
            yield
        finally:
            self.truncate_dim = before

    @contextmanager
    @deprecated("truncate_sentence_embeddings is an older name. Use truncate_embeddings.", FutureWarning)
    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Let `encode` return fewer dimensions within a with block; an older name of `truncate_embeddings`.

        Args:
            truncate_dim: How many dimensions are kept, from the first; None keeps all.

        Yields:
            Nothing; afterwards the model's own `truncate_dim` applies again.
        """
        with self.truncate_embeddings(truncate_dim):
            yield

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Choose whether the tokens of a prompt count in pooling, as INSTRUCTOR models need it.

        Args:
            include_prompt: False leaves the prompt's tokens out of the pooling layer; they are still attended to.
        """
        for module in self._modules:
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt
                return

    @staticmethod
    @deprecated("MLXSentenceTransformer.load is an older form. Use MLXSentenceTransformer(...).")
    def load(input_path: str) -> "MLXSentenceTransformer":
        """Load a model with all options at their defaults; an older form of the constructor.

        Args:
            input_path: A folder, or a model id on the Hugging Face Hub.

        Returns:
            The model.
        """
        return MLXSentenceTransformer(input_path)

    def _text_pipeline(
        self,
        inputs: list[Any],
        *,
        prompt: str = "",
        output_value: str | None = SENTENCE_EMBEDDING,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> tuple[list[Text], TextPipeline]:
        texts, options = self._parse_inputs(inputs, prompt, kwargs)

        def embed(features: Features) -> mx.array:
            embeddings = features[SENTENCE_EMBEDDING]
            if truncate_dim is not None:
                embeddings = embeddings[:, :truncate_dim]
            return normalize(embeddings) if normalize_embeddings else embeddings

        def collect(features: Features) -> dict[str, mx.array]:
            arrays = all_outputs(features)
            if truncate_dim is not None:
                arrays[SENTENCE_EMBEDDING] = arrays[SENTENCE_EMBEDDING][:, :truncate_dim]
            return arrays

        pipeline = partial(text_pipeline, self._modules, options)
        if output_value == SENTENCE_EMBEDDING:
            return texts, pipeline(postprocess=embed, sentence_embedding_only=True)
        if output_value == TOKEN_EMBEDDINGS:
            return texts, pipeline(postprocess=tokens_and_mask, split_rows=trim_padding)
        return texts, pipeline(postprocess=collect, split_rows=split_outputs)

    def _model_config(self) -> dict[str, Any]:
        config = {**super()._model_config(), "similarity_fn_name": self.similarity_fn_name}
        return config if self.truncate_dim is None else {**config, "truncate_dim": self.truncate_dim}
