"""MTEB: an encoder of its protocol (mteb.models.models_protocols.EncoderProtocol)."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


class MLXEncoder:
    """mteb.evaluate(MLXEncoder(model), tasks); name: "organisation/model", under which results are kept."""

    def __init__(self, model: MLXSentenceTransformer, name: str | None = None, revision: str | None = None) -> None:
        self.model = model
        self.mteb_model_meta = ModelMeta.create_empty({"name": name, "revision": revision} if name else None)

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **kwargs: Any) -> np.ndarray:
        """Batches of texts -> (n, V); queries and documents with the model's own prompts."""
        texts = [text for batch in inputs for text in batch["text"]]
        known = {key: kwargs[key] for key in ("batch_size", "show_progress_bar", "precision") if key in kwargs}
        kind = getattr(prompt_type, "value", prompt_type)
        encode = {"query": self.model.encode_query, "document": self.model.encode_document}.get(kind, self.model.encode)
        vectors: np.ndarray = encode(texts, **known)
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """(M, V), (N, V) -> (M, N), by the model's own function."""
        return torch.as_tensor(self.model.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """(N, V), (N, V) -> (N,)."""
        return torch.as_tensor(self.model.similarity_pairwise(embeddings1, embeddings2))
