"""Use MLX embeddings in LlamaIndex: a llama_index.core BaseEmbedding.

Reference: llama_index/embeddings/huggingface/base.py and utils.py.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import Field, PrivateAttr

from mlx_hf_bridge.integrations.models import ModelLike, as_model, name_of
from mlx_hf_bridge.runtime.boundary import guard_methods
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

_DEFAULT_MODEL = "BAAI/bge-small-en"
# LlamaIndex's own instructions for these models: (names, for queries, for texts).
_INSTRUCTIONS = (
    (r"BAAI/bge-(small|base|large)-en(-v1\.5)?", "Represent this question for searching relevant passages: ", ""),
    (r"BAAI/bge-(small|base|large)-zh(-v1\.5)?", "为这个句子生成表示以用于检索相关文章：", ""),  # noqa: RUF001
    (
        r"(hku-nlp|hkunlp)/instructor-(base|large|xl)",
        "Represent the question for retrieving supporting documents: ",
        "Represent the document for retrieval: ",
    ),
)


@guard_methods
class MLXEmbedding(BaseEmbedding):
    """A LlamaIndex embedding that is computed by MLX, as its HuggingFaceEmbedding is with torch.

    Queries and texts get the instructions that are given here, or those that LlamaIndex knows for BGE and Instructor
    models; the model's own prompts are not used.

    Args:
        model: The embedding model, or a Hub id or folder. Default: None, which takes model_name.
        model_name: A Hub id or folder, where no model is given. Default: "BAAI/bge-small-en".
        max_length: The most tokens of a text; sets the model's max_seq_length. Default: None, the model's own.
        query_instruction: What is put before a query. Default: None, what LlamaIndex knows for the model.
        text_instruction: What is put before a text. Default: None, what LlamaIndex knows for the model.
        normalize: Scale embeddings to length 1. Default: True.
        cache_folder: Where a model that is given by name is kept. Default: None, the Hub's usual cache.
        parallel_process: Encode in a pool of processes that is started for each call. Default: False.
        target_devices: The devices of that pool, one for each process. Default: None, as in sentence-transformers.
        show_progress_bar: Whether to show a progress bar. Default: False.
        options: Arguments of BaseEmbedding, such as embed_batch_size, num_workers and callback_manager; others are
            arguments of MLXSentenceTransformer for a model that is given by name.

    Raises:
        ArgumentTypeError: If there are arguments of MLXSentenceTransformer for a model that is loaded.

    Example:
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.llama_index import MLXEmbedding
        >>> embedding = MLXEmbedding(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> vector = embedding.get_query_embedding("When can I buy bread?")
    """

    max_length: int | None = Field(default=None, description="Maximum length of input.", gt=0)
    normalize: bool = Field(default=True, description="Normalize embeddings or not.")
    query_instruction: str | None = Field(default=None, description="Instruction to prepend to query text.")
    text_instruction: str | None = Field(default=None, description="Instruction to prepend to text.")
    cache_folder: str | None = Field(default=None, description="Cache folder for Hugging Face files.")
    show_progress_bar: bool = Field(default=False, description="Whether to show a progress bar.")
    _model: MLXSentenceTransformer = PrivateAttr()
    _parallel_process: bool = PrivateAttr()
    _target_devices: Sequence[str] | None = PrivateAttr()

    def __init__(
        self,
        model: ModelLike | None = None,
        *,
        model_name: str = _DEFAULT_MODEL,
        max_length: int | None = None,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        normalize: bool = True,
        cache_folder: str | None = None,
        parallel_process: bool = False,
        target_devices: Sequence[str] | None = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        base = {name: options.pop(name) for name in set(options) & set(BaseEmbedding.model_fields)}
        loaded = as_model(model_name if model is None else model, {"cache_folder": cache_folder, **options})
        if max_length:
            loaded.max_seq_length = max_length
        super().__init__(
            model_name=name_of(model_name if model is None else model) or "unknown",
            max_length=max_length or loaded.max_seq_length,
            normalize=normalize,
            query_instruction=query_instruction,
            text_instruction=text_instruction,
            cache_folder=cache_folder,
            show_progress_bar=show_progress_bar,
            **base,
        )
        self._model = loaded
        self._parallel_process = parallel_process
        self._target_devices = target_devices

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores this class.

        Returns:
            "MLXEmbedding".
        """
        return "MLXEmbedding"

    def _embed(self, texts: list[str], instruction: str | None, known: str) -> list[list[float]]:
        """Return the embeddings of texts behind an instruction, or behind the one that is known for the model."""
        pool = self._model.start_multi_process_pool(self._target_devices) if self._parallel_process else None
        try:
            vectors = self._model.encode(
                texts,
                # An empty prompt, unlike None, keeps the model's default prompt out.
                prompt=instruction or known,
                batch_size=self.embed_batch_size,
                normalize_embeddings=self.normalize,
                show_progress_bar=self.show_progress_bar,
                pool=pool,
            )
        finally:
            if pool is not None:
                self._model.stop_multi_process_pool(pool)
        rows: list[list[float]] = vectors.tolist()
        return rows

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed([query], self.query_instruction, _instructions(self.model_name)[0])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, self.text_instruction, _instructions(self.model_name)[1])

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


def _instructions(name: str) -> tuple[str, str]:
    """Return what LlamaIndex puts before queries and before texts for a model of this name."""
    return next(((query, text) for names, query, text in _INSTRUCTIONS if re.fullmatch(names, name)), ("", ""))
