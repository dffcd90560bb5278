"""Use MLX embeddings in LangChain: a langchain_core Embeddings object.

Reference: langchain_huggingface/embeddings/huggingface.py.
"""

from collections.abc import Mapping
from typing import Any

from langchain_core.embeddings import Embeddings

from mlx_hf_bridge.errors import ArgumentTypeError
from mlx_hf_bridge.integrations.models import ModelLike, as_model
from mlx_hf_bridge.runtime.boundary import guard_methods


@guard_methods
class MLXEmbeddings(Embeddings):
    """LangChain embeddings that are computed by MLX, as by its HuggingFaceEmbeddings with torch.

    Both kinds of texts are encoded with the model's default prompt if it has one. For other prompts say
    encode_kwargs={"prompt_name": "document"} and query_encode_kwargs={"prompt_name": "query"}. A line break in a text
    is replaced by a space.

    Args:
        model: The embedding model, or a Hub id or folder. Default: "sentence-transformers/all-mpnet-base-v2".
        encode_kwargs: Arguments of `encode`, such as {"batch_size": 64, "normalize_embeddings": True}. Default: none.
        query_encode_kwargs: The arguments for queries, instead of encode_kwargs. Default: none, which takes those.
        multi_process: Encode in a pool of processes that is started for each call. Default: False.
        show_progress: Whether to show a progress bar. Default: False.
        cache_folder: Where a model that is given by name is kept. Default: the Hub's usual cache.
        model_kwargs: Arguments of MLXSentenceTransformer for a model that is given by name. Default: none.
        model_name: Another name of `model`, as in HuggingFaceEmbeddings. Default: None.

    Example:
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.langchain import MLXEmbeddings
        >>> embeddings = MLXEmbeddings(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> vector = embeddings.embed_query("When can I buy bread?")
    """

    def __init__(
        self,
        model: ModelLike = "sentence-transformers/all-mpnet-base-v2",
        encode_kwargs: Mapping[str, Any] | None = None,
        query_encode_kwargs: Mapping[str, Any] | None = None,
        multi_process: bool = False,
        show_progress: bool = False,
        cache_folder: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        *,
        model_name: str | None = None,
    ) -> None:
        self.model = as_model(
            model if model_name is None else model_name, {"cache_folder": cache_folder, **(model_kwargs or {})}
        )
        self.encode_kwargs = dict(encode_kwargs or {})
        self.query_encode_kwargs = dict(query_encode_kwargs or {})
        self.multi_process = multi_process
        self.show_progress = show_progress

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Compute the embeddings of documents.

        Args:
            texts: N documents.

        Returns:
            N lists of V floats.

        Raises:
            ArgumentTypeError: If encode_kwargs ask for a list of arrays instead of one array.
        """
        return self._embed(texts, self.encode_kwargs)

    def embed_query(self, text: str) -> list[float]:
        """Compute the embedding of a query.

        Args:
            text: The query.

        Returns:
            A list of V floats.

        Raises:
            ArgumentTypeError: If the arguments of `encode` ask for a list of arrays instead of one array.
        """
        return self._embed([text], self.query_encode_kwargs or self.encode_kwargs)[0]

    def _embed(self, texts: list[str], options: Mapping[str, Any]) -> list[list[float]]:
        texts = [text.replace("\n", " ") if isinstance(text, str) else text for text in texts]
        pool = self.model.start_multi_process_pool() if self.multi_process else None
        try:
            vectors = self.model.encode(texts, **{"show_progress_bar": self.show_progress, "pool": pool, **options})
        finally:
            if pool is not None:
                self.model.stop_multi_process_pool(pool)
        if isinstance(vectors, list):
            raise ArgumentTypeError("expected a tensor or numpy array of embeddings, got a list. Change encode_kwargs.")
        rows: list[list[float]] = vectors.tolist()
        return rows
