"""Use MLX embeddings in txtai: a vectors class, named as the `method` of an embeddings configuration.

Reference: txtai/vectors/dense/sbert.py.
"""

import numpy as np
from txtai.vectors import Vectors

from mlx_hf_bridge.runtime.boundary import guard_methods
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


@guard_methods
class MLXVectors(Vectors):
    """txtai vectors that are computed by MLX, as by its "sentence-transformers" method with torch.

    Queries and data are encoded with the model's own prompts for queries and documents. Of the configuration, `path`
    is the model, `vectors` holds arguments of MLXSentenceTransformer, `encodeargs` arguments of `encode`, and
    `encodebatch` is the batch size; `instructions`, `dimensionality` and `quantize` work as in txtai. `gpu` has no
    effect: MLX chooses its device.

    Example:
        >>> from txtai import Embeddings
        >>> method = "mlx_hf_bridge.integrations.txtai.MLXVectors"
        >>> embeddings = Embeddings(path="sentence-transformers/all-MiniLM-L6-v2", method=method)
        >>> embeddings.index(["The bakery opens at six.", "Rates were left unchanged."])
    """

    def loadmodel(self, path: str) -> MLXSentenceTransformer:
        """Load the embedding model.

        Args:
            path: A Hub id or folder.

        Returns:
            The model.
        """
        return MLXSentenceTransformer(path, **self.config.get("vectors", {}))

    def encode(self, data: list[str], category: str | None = None) -> np.ndarray:
        """Compute the embeddings of texts.

        Args:
            data: N texts.
            category: "query", "data" or None: which of the model's prompts is used. Default: None, its default prompt.

        Returns:
            Embeddings of shape (N, V), float32.
        """
        encode = {"query": self.model.encode_query, "data": self.model.encode_document}.get(
            category or "", self.model.encode
        )
        vectors: np.ndarray = encode(data, batch_size=self.encodebatch, **self.config.get("encodeargs", {}))
        return vectors
