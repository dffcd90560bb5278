"""Use MLX embeddings in Haystack: one component for queries, one for documents.

Reference: SentenceTransformersTextEmbedder and SentenceTransformersDocumentEmbedder of sentence-transformers-haystack.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.integrations.models import ModelLike, as_model, settings_of
from mlx_hf_bridge.runtime.boundary import guard_methods
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer
from mlx_hf_bridge.sentence_transformers.encoding.precision import quantize_embeddings

_MODEL = "sentence-transformers/all-mpnet-base-v2"
# The arguments of both components, with the defaults of Haystack's own. These load a model that is given by name;
_LOADING: Mapping[str, Any] = {
    "token": Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False),
    "local_files_only": False,
    "truncate_dim": None,
    "model_kwargs": None,
    "tokenizer_kwargs": None,
    "config_kwargs": None,
    "revision": None,
    "prompts": None,
    "default_prompt_name": None,
    "quantization_config": None,
    "dtype": "auto",
    "overlong": "truncate",
    "trust_remote_code": False,
    "backend": "mlx",
    "device": None,
}
# these count at every call.
_ENCODING: Mapping[str, Any] = {
    "prefix": "",
    "suffix": "",
    "batch_size": 32,
    "progress_bar": True,
    "normalize_embeddings": False,
    "precision": "float32",
    "encode_kwargs": None,
    "quantization_ranges": None,
}


@guard_methods
class _Embedder:
    """What both components share: arguments by name, loading, encoding and serialization."""

    defaults: ClassVar[Mapping[str, Any]] = {**_LOADING, **_ENCODING}

    def __init__(self, model: ModelLike, options: Mapping[str, Any]) -> None:
        if unknown := sorted(set(options) - set(self.defaults)):
            raise ArgumentTypeError(f"got {', '.join(unknown)}, expected {', '.join(self.defaults)}.")
        self.model = model
        self.options = {**self.defaults, **options}
        token = self.options["token"]
        self.options["token"] = Secret.from_dict(token) if isinstance(token, dict) else token
        self.embedding_model: MLXSentenceTransformer | None = None
        if not isinstance(model, str):
            self.embedding_model = as_model(model, {key: options[key] for key in _LOADING if key in options})

    def warm_up(self) -> None:
        """Load the model, if it was given by name and is not loaded yet."""
        if self.embedding_model is not None:
            return
        given = {key: self.options[key] for key in _LOADING if key != "tokenizer_kwargs"}
        token, tokenizer = given.pop("token"), self.options["tokenizer_kwargs"]
        device = given.pop("device")
        self.embedding_model = as_model(
            self.model,
            {
                **given,
                "token": token.resolve_value() if token else None,
                "device": device and str(device),
                "processor_kwargs": tokenizer,
            },
        )
        if tokenizer and tokenizer.get("model_max_length"):
            self.embedding_model.max_seq_length = tokenizer["model_max_length"]

    def to_dict(self) -> dict[str, Any]:
        """Return what a stored pipeline keeps of this component.

        Returns:
            The type and the arguments of __init__; of a model that is loaded, its name and settings.

        Raises:
            InputError: If the model was put together from modules and has no name.
        """
        options = dict(self.options)
        if isinstance(self.model, MLXSentenceTransformer):
            options |= settings_of(self.model)
        stored = {key: value.to_dict() if hasattr(value, "to_dict") else value for key, value in options.items()}
        found: dict[str, Any] = default_to_dict(self, **{"model": str(self.model), **stored})
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild a component from what a pipeline has stored.

        Args:
            data: What to_dict returned.

        Returns:
            An equal component, whose model is loaded when it is first used.
        """
        made: Self = default_from_dict(cls, data)
        return made

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Compute the embeddings of texts, between prefix and suffix.

        Args:
            texts: N texts.

        Returns:
            N lists of V numbers.
        """
        self.warm_up()
        assert self.embedding_model is not None
        options, ranges = self.options, self.options["quantization_ranges"]
        calibrated = ranges is not None and options["precision"] in ("int8", "uint8")
        vectors = self.embedding_model.encode(
            [options["prefix"] + text + options["suffix"] for text in texts],
            **{
                "batch_size": options["batch_size"],
                "show_progress_bar": options["progress_bar"],
                "normalize_embeddings": options["normalize_embeddings"],
                "precision": "float32" if calibrated else options["precision"],
                **(options["encode_kwargs"] or {}),
            },
        )
        if calibrated:
            vectors = quantize_embeddings(vectors, options["precision"], ranges=np.asarray(ranges))
        rows: list[list[float]] = vectors.tolist()
        return rows


@component
@guard_methods
class MLXTextEmbedder(_Embedder):
    """A Haystack component that embeds a query with MLX, as SentenceTransformersTextEmbedder does with torch.

    Args:
        model: The embedding model, or a Hub id or folder, which is loaded at the first use. Default:
            "sentence-transformers/all-mpnet-base-v2".
        options: The arguments of SentenceTransformersTextEmbedder, with its defaults: prefix, suffix, batch_size (32),
            progress_bar (True), normalize_embeddings (False), precision, quantization_ranges, encode_kwargs; and for
            a model that is given by name token, revision, local_files_only, truncate_dim, model_kwargs,
            tokenizer_kwargs, config_kwargs, and prompts, default_prompt_name, quantization_config, dtype and overlong
            of MLXSentenceTransformer. device, backend and trust_remote_code have no effect.

    Raises:
        ArgumentTypeError: If an option is unknown, or loads a model although it is loaded.
        InputError: If the precision is int8 or uint8 without quantization_ranges.

    Example:
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.haystack import MLXTextEmbedder
        >>> embedder = MLXTextEmbedder(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> vector = embedder.run("When can I buy bread?")["embedding"]
    """

    def __init__(self, model: ModelLike = _MODEL, **options: Any) -> None:
        # The decorator replaces the class by a new one, which breaks super() without arguments.
        _Embedder.__init__(self, model, options)
        if self.options["precision"] in ("int8", "uint8") and self.options["quantization_ranges"] is None:
            raise InputError(
                f"precision={self.options['precision']!r} of a single text needs quantization_ranges, of shape (2, V): "
                "the least and the largest value of each dimension among many embeddings."
            )

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Compute the embedding of a query.

        Args:
            text: The query.

        Returns:
            {"embedding": a list of V numbers}.

        Raises:
            ArgumentTypeError: If the query is not a text.
        """
        if not isinstance(text, str):
            raise ArgumentTypeError(
                f"got a {type(text).__name__}, expected a text. MLXDocumentEmbedder takes documents."
            )
        return {"embedding": self.embed([text])[0]}


@component
@guard_methods
class MLXDocumentEmbedder(_Embedder):
    """A Haystack component that embeds documents with MLX, as SentenceTransformersDocumentEmbedder does with torch.

    Args:
        model: The embedding model, or a Hub id or folder, which is loaded at the first use. Default:
            "sentence-transformers/all-mpnet-base-v2".
        options: Those of MLXTextEmbedder, and meta_fields_to_embed (a list of names of meta fields whose values are
            put before the content) and embedding_separator (what stands between them, by default a line break).

    Raises:
        ArgumentTypeError: If an option is unknown, or loads a model although it is loaded.

    Example:
        >>> from haystack import Document
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.haystack import MLXDocumentEmbedder
        >>> embedder = MLXDocumentEmbedder(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> documents = embedder.run([Document(content="The bakery opens at six.")])["documents"]
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        **_Embedder.defaults,
        "meta_fields_to_embed": None,
        "embedding_separator": "\n",
    }

    def __init__(self, model: ModelLike = _MODEL, **options: Any) -> None:
        # The decorator replaces the class by a new one, which breaks super() without arguments.
        _Embedder.__init__(self, model, options)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Compute the embeddings of documents.

        Args:
            documents: The documents; one without content counts as an empty text.

        Returns:
            {"documents": copies of the documents with their `embedding` set}.

        Raises:
            ArgumentTypeError: If they are not a list of documents.
        """
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise ArgumentTypeError(f"got {documents!r:.80}, expected a list of Documents.")
        vectors = self.embed([self._text(document) for document in documents])
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}

    def _text(self, document: Document) -> str:
        """Return the meta fields to embed and the content, joined."""
        values = [document.meta.get(name) for name in self.options["meta_fields_to_embed"] or ()]
        parts = [str(value) for value in values if value is not None]
        text: str = self.options["embedding_separator"].join([*parts, document.content or ""])
        return text
