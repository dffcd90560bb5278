"""Evaluate MLX models with MTEB: an encoder for its protocol (mteb.models.models_protocols.EncoderProtocol)."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


class MLXEncoder:
    """An MTEB encoder that computes with MLX.

    Args:
        model: The embedding model.
        name: The name under which MTEB stores results, "organization/model". Default: none.
        revision: The revision that MTEB stores with the name. Default: none.

    Example:
        >>> import mteb
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.mteb import MLXEncoder
        >>> encoder = MLXEncoder(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> result = mteb.evaluate(encoder, [mteb.get_task("STSBenchmark")])
    """

    def __init__(self, model: MLXSentenceTransformer, name: str | None = None, revision: str | None = None) -> None:
        self.model = model
        self.mteb_model_meta = ModelMeta.create_empty({"name": name, "revision": revision} if name else None)

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **kwargs: Any) -> np.ndarray:
        """Compute the embeddings of texts, with the model's own prompts for queries and documents.

        Args:
            inputs: Batches of texts, each a mapping with a list of strings under "text".
            prompt_type: MTEB's PromptType: query, document or None.
            kwargs: batch_size, show_progress_bar and precision are passed to encode; others are ignored.

        Returns:
            Embeddings of all N texts, of shape (N, V).
        """
        texts = [text for batch in inputs for text in batch["text"]]
        known = {key: kwargs[key] for key in ("batch_size", "show_progress_bar", "precision") if key in kwargs}
        kind = getattr(prompt_type, "value", prompt_type)
        encode = {"query": self.model.encode_query, "document": self.model.encode_document}.get(kind, self.model.encode)
        vectors: np.ndarray = encode(texts, **known)
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compute the similarity of every pair, with the model's own similarity function.

        Args:
            embeddings1: Embeddings of shape (M, V).
            embeddings2: Embeddings of shape (N, V).

        Returns:
            Similarities of shape (M, N).
        """
        return torch.as_tensor(self.model.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compute the similarity of each row of one array with the same row of the other.

        Args:
            embeddings1: Embeddings of shape (N, V).
            embeddings2: Embeddings of shape (N, V).

        Returns:
            Similarities of shape (N,).
        """
        return torch.as_tensor(self.model.similarity_pairwise(embeddings1, embeddings2))
