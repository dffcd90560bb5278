"""Token pooling: fewer vectors a document, by clustering its tokens.

Reference: sentence_transformers/multi_vector_encoder/modules/token_pooling.py. L tokens, D width, B texts.
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

_SMALLEST_NORM = 1e-12


class BaseTokenPooling(Module):
    """Vectors of a text's tokens -> fewer; for the tasks it is meant for, documents unless it says otherwise."""

    forward_kwargs: ClassVar[frozenset[str]] = frozenset({"task"})

    def __init__(self, *, tasks: str | Sequence[str] | None = None) -> None:
        self.tasks = normalize_tasks(tasks)

    def applies_to(self, task: str | None) -> bool:
        """Whether texts of this task are pooled; None counts as a document."""
        return (task or "document") in self.tasks

    @abstractmethod
    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        """One text's vectors (L, D) -> (fewer, D)."""

    def pool(self, embeddings: Sequence[Any], *, task: str | None = None) -> list[np.ndarray]:
        """Each text's vectors (L, D) -> (fewer, D) float32; as they are for tasks that are not pooled."""
        arrays = [np.asarray(one, np.float32) for one in embeddings]
        if any(one.ndim != 2 for one in arrays):
            raise InputError(f"got arrays of the shapes {[one.shape for one in arrays][:4]}, expected (tokens, width).")
        return [self.pool_one(one) for one in arrays] if self.applies_to(task) else arrays

    def __call__(self, features: Features) -> Features:
        if not self.applies_to(features.task):
            return features
        tokens, mask = np.array(features[TOKEN_EMBEDDINGS].astype(mx.float32)), np.array(features.mask)
        rows = [self.pool_one(row[seen]) for row, seen in zip(tokens, mask, strict=True)]
        longest = max(1, *(len(row) for row in rows))
        padded = np.stack([np.pad(row, ((0, longest - len(row)), (0, 0))) for row in rows])
        kept = np.arange(longest)[None] < np.array([[len(row)] for row in rows])
        # The tokens that the vectors came from are no longer one each.
        batch = TokenBatch(mx.zeros(kept.shape, mx.int32), mx.array(kept))
        return replace(features.with_array(TOKEN_EMBEDDINGS, mx.array(padded)), batch=batch, expansion_mask=None)


class HierarchicalTokenPooling(BaseTokenPooling):
    """Ward's clustering by cosine into tokens / pool_factor means; the first tokens stay as they are."""

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
                f"pool_factor={pool_factor!r} and num_protected_tokens={num_protected_tokens!r}, expected 1 or more "
                "and 0 or more."
            )
        self.pool_factor, self.num_protected_tokens = pool_factor, num_protected_tokens
        self.normalize_embeddings = normalize_embeddings

    @classmethod
    def read(cls, folder: Path) -> Self:
        """A file without normalize_embeddings is from before there was such a key, and does not normalise."""
        config = read_module_config(folder)
        return cls(
            config.get("pool_factor", 1.0),
            num_protected_tokens=config.get("num_protected_tokens", 1),
            normalize_embeddings=bool(config.get("normalize_embeddings", False)),
            tasks=config.get("tasks"),
        )

    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        first, rest = embedding[: self.num_protected_tokens], embedding[self.num_protected_tokens :]
        count = max(int(len(rest) // self.pool_factor), 1)
        if count < len(rest):
            embedding = np.concatenate([first, _means(rest, _clusters(rest, count))])
        return _unit(embedding) if self.normalize_embeddings else embedding

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "pool_factor": self.pool_factor,
            "num_protected_tokens": self.num_protected_tokens,
            "normalize_embeddings": self.normalize_embeddings,
            "tasks": self.tasks,
        }


class LambdaTokenPooling(BaseTokenPooling):
    """A function of the caller's, vectors (L, D) in numpy -> (fewer, D); it cannot be saved."""

    reference: ClassVar[str] = "sentence_transformers.multi_vector_encoder.modules.token_pooling.LambdaTokenPooling"

    def __init__(
        self, pool_fn: Callable[[np.ndarray], np.ndarray], *, tasks: str | Sequence[str] | None = None
    ) -> None:
        super().__init__(tasks=tasks)
        self.pool_fn = pool_fn

    def pool_one(self, embedding: np.ndarray) -> np.ndarray:
        return np.asarray(self.pool_fn(embedding), np.float32)

    def save(self, folder: Path) -> None:
        raise InputError(
            "LambdaTokenPooling holds a function, which cannot be saved. Pass it to encode as token_pooling."
        )


def _clusters(vectors: np.ndarray, count: int) -> np.ndarray:
    """vectors (L, D) -> a cluster's number for each (L,)."""
    try:
        from scipy.cluster import hierarchy
        from scipy.spatial.distance import squareform
    except ImportError as error:
        raise BackendError("HierarchicalTokenPooling needs scipy, which is not installed. pip install scipy") from error
    distances = np.clip(1 - vectors @ vectors.T, 0, 2)
    linkage = hierarchy.linkage(squareform(distances, checks=False), method="ward")
    return np.asarray(hierarchy.fcluster(linkage, t=count, criterion="maxclust"))


def _means(vectors: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    return np.stack([vectors[clusters == cluster].mean(axis=0) for cluster in np.unique(clusters)])


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, _SMALLEST_NORM), np.float32)
