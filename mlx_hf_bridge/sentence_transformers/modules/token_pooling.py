"""Token pooling: fewer vectors for a document, by clustering its token embeddings.

Reference: sentence_transformers/multi_vector_encoder/modules/token_pooling.py. Shapes: B texts, L tokens, D width.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import BackendError, InputError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.sentence_transformers.modules.base import TOKEN_EMBEDDINGS, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.multi_vector import normalize_tasks
from mlx_hf_bridge.sentence_transformers.modules.weights import read_module_config

# The floor of a norm that is divided by, as in torch's normalize: zero vectors stay zero.
_MIN_NORM = 1e-12


class BaseTokenPooling(Module):
    """Reduce the token embeddings of a text to fewer vectors; for documents, unless it names other tasks.

    Called with features, it replaces "token_embeddings" (B, L, D) and the mask by those of the fewer vectors, padded
    with zeros. Subclasses define `pool_one`.

    Args:
        tasks: The tasks whose texts are pooled; None for ["document"].
    """

    forward_kwargs: ClassVar[frozenset[str]] = frozenset({"task"})

    def __init__(self, *, tasks: str | Sequence[str] | None = None) -> None:
        self.tasks = normalize_tasks(tasks)

    def applies_to(self, task: str | None) -> bool:
        """Return whether texts of a task are pooled.

        Args:
            task: The task of the call; None counts as "document".

        Returns:
            True if the task is one of `tasks`.
        """
        return (task or "document") in self.tasks

    @abstractmethod
    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        """Pool the token embeddings of one text.

        Args:
            embedding: Token embeddings (L, D), float32.

        Returns:
            Vectors (fewer, D).
        """

    def pool(self, embeddings: Sequence[Any], *, task: str | None = None) -> list[np.ndarray]:
        """Pool the token embeddings of several texts.

        Args:
            embeddings: Token embeddings (L, D) of each text, any array type.
            task: The task of the texts; None counts as "document".

        Returns:
            Vectors (fewer, D) of each text, numpy float32; unpooled for tasks that are not pooled.

        Raises:
            InputError: If an array has not two axes.
        """
        arrays = [np.asarray(one, np.float32) for one in embeddings]
        if any(one.ndim != 2 for one in arrays):
            raise InputError(
                f"got arrays of the shapes {[one.shape for one in arrays][:4]}, expected (tokens, width) for each text."
            )
        return [self.pool_one(one) for one in arrays] if self.applies_to(task) else arrays

    def __call__(self, features: Features) -> Features:
        if not self.applies_to(features.task):
            return features
        tokens, mask = np.array(features[TOKEN_EMBEDDINGS].astype(mx.float32)), np.array(features.mask)
        rows = [self.pool_one(row[seen]) for row, seen in zip(tokens, mask, strict=True)]
        longest = max(1, *(len(row) for row in rows))
        padded = np.stack([np.pad(row, ((0, longest - len(row)), (0, 0))) for row in rows])
        kept = np.arange(longest)[None] < np.array([[len(row)] for row in rows])
        # A vector now stands for several tokens, so that there are no ids any more; zeros keep the shape.
        batch = TokenBatch(mx.zeros(kept.shape, mx.int32), mx.array(kept))
        return replace(features.with_array(TOKEN_EMBEDDINGS, mx.array(padded)), batch=batch, expansion_mask=None)


class HierarchicalTokenPooling(BaseTokenPooling):
    """Merge a text's L token embeddings into L / pool_factor means, by Ward clustering on cosine distances.

    Args:
        pool_factor: By how much the number of vectors is divided; 1 or more.
        num_protected_tokens: How many of the first tokens ([CLS] and the like) stay as they are; 0 or more.
        normalize_embeddings: Whether the results have unit length.
        tasks: The tasks whose texts are pooled; None for ["document"].

    Raises:
        InputError: If `pool_factor` or `num_protected_tokens` is too small.
    """

    reference: ClassVar[str] = (
        "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"
    )

    def __init__(
        self,
        pool_factor: float = 1.0,
        *,
        num_protected_tokens: int = 1,
        normalize_embeddings: bool = True,
        tasks: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks=tasks)
        if pool_factor < 1 or num_protected_tokens < 0:
            raise InputError(
                f"pool_factor={pool_factor!r} and num_protected_tokens={num_protected_tokens!r}, expected a "
                "pool_factor of 1 or more and num_protected_tokens of 0 or more."
            )
        self.pool_factor, self.num_protected_tokens = pool_factor, num_protected_tokens
        self.normalize_embeddings = normalize_embeddings

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Files without `normalize_embeddings` were written before the key existed; their embeddings are not normalized.

        Args:
            folder: The module's folder, with a config.json.

        Returns:
            The module.
        """
        config = read_module_config(folder)
        return cls(
            config.get("pool_factor", 1.0),
            num_protected_tokens=config.get("num_protected_tokens", 1),
            normalize_embeddings=bool(config.get("normalize_embeddings", False)),
            tasks=config.get("tasks"),
        )

    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        """Pool the token embeddings of one text.

        Args:
            embedding: Token embeddings (L, D), float32, of unit length.

        Returns:
            The first `num_protected_tokens` embeddings, then the means of the clusters.
        """
        first, rest = embedding[: self.num_protected_tokens], embedding[self.num_protected_tokens :]
        count = max(int(len(rest) // self.pool_factor), 1)
        if count < len(rest):
            embedding = np.concatenate([first, _means(rest, _clusters(rest, count))])
        return _unit(embedding) if self.normalize_embeddings else embedding

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            pool_factor, num_protected_tokens, normalize_embeddings and tasks.
        """
        return {
            "pool_factor": self.pool_factor,
            "num_protected_tokens": self.num_protected_tokens,
            "normalize_embeddings": self.normalize_embeddings,
            "tasks": self.tasks,
        }


class LambdaTokenPooling(BaseTokenPooling):
    """Pool token embeddings with a function of the caller; it cannot be saved.

    Args:
        pool_fn: Called with the token embeddings (L, D) of one text as numpy float32; returns (fewer, D).
        tasks: The tasks whose texts are pooled; None for ["document"].
    """

    reference: ClassVar[str] = "sentence_transformers.multi_vector_encoder.modules.token_pooling.LambdaTokenPooling"

    def __init__(
        self, pool_fn: Callable[[np.ndarray], np.ndarray], *, tasks: str | Sequence[str] | None = None
    ) -> None:
        super().__init__(tasks=tasks)
        self.pool_fn = pool_fn

    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        """Pool the token embeddings of one text.

        Args:
            embedding: Token embeddings (L, D), float32.

        Returns:
            What the function returns, as float32.
        """
        return np.asarray(self.pool_fn(embedding), np.float32)

    def save(self, folder: Path) -> None:
        """Refuse to save: a function cannot be written to a file.

        Args:
            folder: Not used.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "LambdaTokenPooling holds a function, which cannot be saved. Pass it to encode as token_pooling."
        )


def _clusters(vectors: np.ndarray, count: int) -> np.ndarray:
    """Return the number of the cluster of each vector, (L, D) -> (L,); at most `count` clusters."""
    try:
        from scipy.cluster import hierarchy
        from scipy.spatial.distance import squareform
    except ImportError as error:
        raise BackendError("HierarchicalTokenPooling needs scipy, which is not installed. pip install scipy") from error
    # Rounding can leave cosines a little outside of -1 to 1.
    distances = np.clip(1 - vectors @ vectors.T, 0, 2)
    # checks=False: rounding may leave the diagonal not quite 0.
    linkage = hierarchy.linkage(squareform(distances, checks=False), method="ward")
    return np.asarray(hierarchy.fcluster(linkage, t=count, criterion="maxclust"))


def _means(vectors: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    return np.stack([vectors[clusters == cluster].mean(axis=0) for cluster in np.unique(clusters)])


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, _MIN_NORM), np.float32)
