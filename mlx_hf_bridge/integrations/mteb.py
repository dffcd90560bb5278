"""Evaluate MLX models with MTEB: an encoder for its protocol (mteb.models.models_protocols.EncoderProtocol).

Reference: mteb/models/sentence_transformer_wrapper.py.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.integrations.models import ModelLike, as_model, name_of
from mlx_hf_bridge.runtime.boundary import guard_methods
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

logger = logging.getLogger(__name__)


@guard_methods
class MLXEncoder(AbsEncoder):
    """An MTEB encoder that computes with MLX, as MTEB's SentenceTransformerEncoderWrapper does with torch.

    Prompts are those of the model, resolved by MTEB: for the task's name and the kind of text, the task's name, the
    task's type and the kind of text, the task's type, the kind of text ("query" or "document").

    Args:
        model: The embedding model, or a Hub id or folder.
        name: The name under which MTEB stores results, "organization/model". Default: None, the Hub id if there is one.
        revision: The revision that MTEB stores with the name, and that is loaded of a model given by name. Default:
            None.
        model_prompts: Prompts by those names, in place of the model's own. Default: None.
        embed_dim: How many dimensions of embeddings are kept, for a model that is given by name. Default: None, all.
        options: Other arguments of MLXSentenceTransformer for a model that is given by name.

    Raises:
        ArgumentTypeError: If there are options for a model that is loaded.

    Example:
        >>> import mteb
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.mteb import MLXEncoder
        >>> encoder = MLXEncoder(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> result = mteb.evaluate(encoder, [mteb.get_task("STSBenchmark")])
    """

    def __init__(
        self,
        model: ModelLike,
        name: str | None = None,
        revision: str | None = None,
        model_prompts: Mapping[str, str] | None = None,
        *,
        embed_dim: int | None = None,
        **options: Any,
    ) -> None:
        loading = {} if isinstance(model, MLXSentenceTransformer) else {"revision": revision}
        self.model = as_model(model, {**options, **loading, "truncate_dim": embed_dim})
        if model_prompts:
            self.model.prompts = dict(model_prompts)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name or _hub_id(name_of(model)),
                "revision": revision,
                "loader": type(self),
                "max_tokens": self.model.max_seq_length,
                "embed_dim": self.model.truncate_dim or self.model.get_embedding_dimension(),
                "similarity_fn_name": ScoringFunction(self.model.similarity_fn_name),
                "framework": ["Sentence Transformers"],
            }
        )
        self.model_prompts, problems = self.validate_task_to_prompt_name(
            self.model.prompts, raise_for_invalid_keys=False
        )
        if problems:
            logger.warning("MTEB has no use for some prompts of the model: %s", "; ".join(problems))

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Compute the embeddings of the texts of a task, with the prompt that MTEB finds for them.

        Args:
            inputs: Batches of texts, each a mapping with a list of strings under "text".
            task_metadata: The task, whose name and type choose the prompt.
            hf_split: The split of the task; unused.
            hf_subset: The subset of the task; unused.
            prompt_type: MTEB's PromptType: query, document or None.
            kwargs: Arguments of the model's `encode`: batch_size, show_progress_bar and precision.

        Returns:
            Embeddings of all N texts, of shape (N, V).

        Raises:
            InputError: If the inputs are not texts.
        """
        name = self.get_prompt_name(task_metadata, prompt_type)
        prompt = (self.model_prompts or {}).get(name) if name else None
        kind = getattr(prompt_type, "value", prompt_type)
        encode = {"query": self.model.encode_query, "document": self.model.encode_document}.get(kind, self.model.encode)
        vectors: np.ndarray = encode([text for batch in inputs for text in _texts(batch)], prompt=prompt, **kwargs)
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


def _texts(batch: Mapping[str, Any]) -> list[str]:
    """Return the texts of a batch, which must hold nothing else that a model could encode."""
    if "text" not in batch or set(batch) & {"image", "audio", "video"}:
        raise InputError(f"got a batch with {', '.join(batch)}, expected texts. Choose tasks with texts alone.")
    texts: list[str] = batch["text"]
    return texts


def _hub_id(name: str) -> str | None:
    """Return a name that looks like a Hub id; None for a folder, whose path says nothing to others."""
    return name if name.count("/") == 1 and not Path(name).exists() else None
