"""Use MLX embeddings in Chroma: an EmbeddingFunction that is stored with a collection by the model's name.

Reference: chromadb/utils/embedding_functions/sentence_transformer_embedding_function.py.
"""

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function
from chromadb.utils.embedding_functions.schemas import validate_config_schema

from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.runtime.boundary import guard_methods
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

_PRIMITIVE = (str, int, float, bool, list, dict, tuple)


@guard_methods
class MLXEmbeddingFunction(EmbeddingFunction[Documents]):
    """A Chroma embedding function that computes with MLX, as its SentenceTransformerEmbeddingFunction does with torch.

    Documents and queries are encoded alike, with the model's default prompt if it has one.

    Args:
        model_name: A Hub id or folder; stored with the collection. Default: "all-MiniLM-L6-v2".
        device: Stored with the collection, without effect: MLX chooses its device. Default: "cpu".
        normalize_embeddings: Scale embeddings to length 1. Default: False.
        kwargs: Other arguments of MLXSentenceTransformer; stored with the collection, so they must be valid JSON.

    Raises:
        InputError: If one of kwargs cannot be stored.

    Example:
        >>> import chromadb
        >>> from mlx_hf_bridge.integrations.chroma import MLXEmbeddingFunction
        >>> function = MLXEmbeddingFunction("sentence-transformers/all-MiniLM-L6-v2")
        >>> collection = chromadb.EphemeralClient().get_or_create_collection("texts", embedding_function=function)
    """

    def __init__(
        self,
        model_name: str = "all-MiniLM-L6-v2",
        device: str = "cpu",
        normalize_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        for key, value in kwargs.items():
            if not isinstance(value, _PRIMITIVE):
                raise InputError(
                    f"{key} is a {type(value).__name__}, which Chroma cannot store. "
                    "Give text, numbers, lists or dicts, such as quantization_config='q8'."
                )
        self.model_name = str(model_name)
        self.device = device
        self.normalize_embeddings = normalize_embeddings
        self.kwargs = kwargs
        self.model = MLXSentenceTransformer(self.model_name, device=device, **kwargs)

    def __call__(self, input: Documents) -> Embeddings:
        """Compute the embeddings of documents or queries.

        Args:
            input: N texts.

        Returns:
            A list of N float32 vectors.
        """
        # Anything else is refused by `encode`, with its type.
        texts = list(input) if isinstance(input, Iterable) else input
        vectors = self.model.encode(texts, normalize_embeddings=self.normalize_embeddings)
        return list(np.asarray(vectors, np.float32))

    @staticmethod
    def name() -> str:
        """Return the name by which Chroma finds this class when it opens a stored collection.

        Returns:
            "mlx_hf_bridge".
        """
        return "mlx_hf_bridge"

    def default_space(self) -> Space:
        """Return the distance of a new collection that names none.

        Returns:
            "cosine".
        """
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """Return the distances that a collection may use.

        Returns:
            "cosine", "l2" and "ip".
        """
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """Return what a collection stores to rebuild this function.

        Returns:
            The arguments of __init__: "model_name", "device", "normalize_embeddings" and "kwargs".
        """
        return {
            "model_name": self.model_name,
            "device": self.device,
            "normalize_embeddings": self.normalize_embeddings,
            "kwargs": dict(self.kwargs),
        }

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> Self:
        """Rebuild the function from what a collection has stored.

        Args:
            config: What get_config returned.

        Returns:
            An equal embedding function.

        Raises:
            ConfigError: If the model's name, the device or normalize_embeddings is missing.
        """
        names = ("model_name", "device", "normalize_embeddings")
        if missing := [name for name in names if config.get(name) is None]:
            raise ConfigError(f"the stored config {config} has no {', '.join(missing)}. Pass the function yourself.")
        return cls(*(config[name] for name in names), **config.get("kwargs", {}))

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Accept any change of a stored config: a model's folder may be moved.

        Args:
            old_config: What the collection has stored.
            new_config: What is to be stored instead.
        """

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Check a stored config by Chroma's schema for sentence-transformers.

        Args:
            config: What get_config returned.

        Raises:
            ValidationError: If the config does not match the schema.
        """
        validate_config_schema(config, "sentence_transformer")


# Not as a decorator: that of Chroma 1.0 returns None.
register_embedding_function(MLXEmbeddingFunction)
