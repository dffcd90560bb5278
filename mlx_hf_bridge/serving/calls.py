"""What AsyncEngine computes, each task as a method that returns what the class of its models returns."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.runtime.boundary import PublicAPI
from mlx_hf_bridge.serving.tasks.base import ERROR, Answer, Task
from mlx_hf_bridge.serving.tasks.classification import ClassifyTexts, ClassifyZeroShot, FindEntities
from mlx_hf_bridge.serving.tasks.embedding import EmbedSparse, EmbedTexts, EmbedTokens
from mlx_hf_bridge.serving.tasks.entities import FindLabeledEntities
from mlx_hf_bridge.serving.tasks.scoring import ScorePairs


class Calls(PublicAPI):
    """The methods of AsyncEngine that compute; each makes a task of its arguments, and returns the result."""

    @abstractmethod
    async def run(self, task: Task, model: str | None = None) -> Answer:
        """Do a task with a model.

        Args:
            task: What to do.
            model: The name of the model. Default: None, the first one that can do it.

        Returns:
            The answer.
        """

    async def encode(
        self,
        texts: str | Sequence[str],
        model: str | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        task: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        overlong: str = ERROR,
    ) -> np.ndarray:
        """Return the embeddings of texts, as MLXSentenceTransformer.encode does.

        Args:
            texts: A text, or several.
            model: The name of an embedding model. Default: None, the first one.
            prompt_name: The name of the prompt to put before every text. Default: None, the model's default.
            prompt: A text to put before every text. Default: None.
            task: "query" or "document", with their prompts. Default: None.
            truncate_dim: How many dimensions are kept. Default: None, the model's own number.
            normalize_embeddings: Scale embeddings to length 1. Default: False.
            overlong: What happens to texts of more tokens than the model takes: "truncate" or "error". Default:
                "error".

        Returns:
            float32 (N, V), or (V,) for a single text.

        Raises:
            BridgeError: As `run`.
        """
        given = as_list(texts)
        if not given:
            return np.array([])
        options: dict[str, Any] = {"prompt_name": prompt_name, "prompt": prompt, "task": task, "overlong": overlong}
        request = EmbedTexts(texts=given, truncate_dim=truncate_dim, normalize=normalize_embeddings, **options)
        rows: np.ndarray = (await self.run(request, model)).result
        return rows[0] if isinstance(texts, str) else rows

    async def encode_tokens(self, texts: Sequence[str], model: str | None = None, **options: Any) -> list[np.ndarray]:
        """Return an embedding for each token of texts, as MLXMultiVectorEncoder.encode does.

        Args:
            texts: The texts.
            model: The name of a multi-vector or embedding model. Default: None, the first one.
            options: prompt_name, prompt, task and overlong, as of `encode`.

        Returns:
            Arrays (tokens, D) float32.

        Raises:
            BridgeError: As `run`.
        """
        found: list[np.ndarray] = (await self.run(EmbedTokens(texts=as_list(texts), **options), model)).result
        return found

    async def encode_sparse(
        self, texts: Sequence[str], model: str | None = None, **options: Any
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the sparse embeddings of texts, as MLXSparseEncoder.encode does.

        Args:
            texts: The texts.
            model: The name of a sparse model. Default: None, the first one.
            options: prompt_name, prompt, task and overlong, as of `encode`.

        Returns:
            For each text its nonzero dimensions and their values.

        Raises:
            BridgeError: As `run`.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = (
            await self.run(EmbedSparse(texts=as_list(texts), **options), model)
        ).result
        return found

    async def predict(
        self, pairs: Sequence[tuple[str, str]], model: str | None = None, *, overlong: str = ERROR
    ) -> np.ndarray:
        """Return the scores of pairs of texts, as MLXCrossEncoder.predict does.

        Args:
            pairs: Pairs of texts.
            model: The name of a reranker. Default: None, the first one.
            overlong: What happens to pairs of more tokens than the model takes: "truncate" or "error". Default:
                "error".

        Returns:
            float32 (N,).

        Raises:
            BridgeError: As `run`.
        """
        task = ScorePairs(pairs=[tuple(pair) for pair in pairs], overlong=overlong)
        scores: np.ndarray = (await self.run(task, model)).result
        return scores

    async def rank(
        self,
        query: str,
        documents: Sequence[str],
        model: str | None = None,
        *,
        top_k: int | None = None,
        overlong: str = ERROR,
    ) -> list[dict[str, Any]]:
        """Return documents in the order of their scores for a query, as MLXCrossEncoder.rank does.

        Args:
            query: The query.
            documents: The documents.
            model: The name of a reranker. Default: None, the first one.
            top_k: How many are returned. Default: None, all.
            overlong: As of `predict`. Default: "error".

        Returns:
            A dict for each document, highest score first: "corpus_id" and "score".

        Raises:
            BridgeError: As `run`.
        """
        scores = await self.predict([(query, document) for document in documents], model, overlong=overlong)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"corpus_id": int(index), "score": float(scores[index])} for index in order]

    async def classify(
        self,
        texts: Sequence[str],
        labels: Sequence[str] | None = None,
        model: str | None = None,
        *,
        overlong: str = ERROR,
        **options: Any,
    ) -> list[Any]:
        """Return labels of texts with their scores: the model's own, or (zero-shot) those that are given.

        Args:
            texts: The texts.
            labels: Labels to choose from, for a model trained on NLI. Default: None, the model's own.
            model: The name of a classifier. Default: None, the first one.
            overlong: What happens to texts of more tokens than the model takes: "truncate" or "error". Default:
                "error".
            options: top_k and function_to_apply of the pipeline text-classification, or hypothesis_template and
                multi_label of zero-shot-classification.

        Returns:
            For each text a list of {"label", "score"}, best first; with labels {"sequence", "labels", "scores"}.

        Raises:
            BridgeError: As `run`.
        """
        given = as_list(texts)
        task: Task = ClassifyTexts(texts=given, options=options, overlong=overlong)
        if labels is not None:
            task = ClassifyZeroShot(texts=given, labels=list(labels), options=options, overlong=overlong)
        found: list[Any] = (await self.run(task, model)).result
        return found

    async def find_entities(
        self,
        texts: Sequence[str],
        labels: Sequence[str] | Mapping[str, str] | None = None,
        model: str | None = None,
        *,
        overlong: str = ERROR,
        **options: Any,
    ) -> list[Any]:
        """Return the entities of texts, as the pipeline token-classification or, with labels, MLXGLiNER does.

        Args:
            texts: The texts.
            labels: Labels to look for, or labels with descriptions, for a GLiNER model. Default: None, the model's own.
            model: The name of a token classifier, or of a GLiNER model. Default: None, the first one.
            overlong: What happens to texts of more tokens than the model takes: "truncate" or "error". Default:
                "error".
            options: aggregation_strategy, ignore_labels and stride of the pipeline; with labels threshold, flat_ner and
                multi_label of MLXGLiNER.inference.

        Returns:
            For each text a list of dicts, as of the pipeline, or of MLXGLiNER.inference.

        Raises:
            BridgeError: As `run`.
        """
        given = as_list(texts)
        task: Task = FindEntities(texts=given, options=options, overlong=overlong)
        if labels is not None:
            task = find_labeled(given, labels, options, overlong)
        found: list[Any] = (await self.run(task, model)).result
        return found


def as_list(texts: str | Sequence[str]) -> list[str]:
    """Return one text, or several, as a list."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, (list, tuple)):
        raise InputError(f"got a {type(texts).__name__}, expected a text or a list of texts.")
    return list(texts)


def find_labeled(texts: Sequence[str], labels: Any, options: Mapping[str, Any], overlong: str) -> FindLabeledEntities:
    """Return the task of finding entities with labels of the request.

    Args:
        texts: The texts.
        labels: The labels, or labels with descriptions.
        options: threshold, flat_ner and multi_label; None for their defaults.
        overlong: "error" or "truncate".

    Returns:
        The task.

    Raises:
        ArgumentTypeError: If there is another option.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := given.keys() - {"threshold", "flat_ner", "multi_label"}:
        raise ArgumentTypeError(
            f"got {', '.join(sorted(unknown))}, which entities with labels of your own do not have. Leave it out."
        )
    return FindLabeledEntities(texts=texts, labels=labels, overlong=overlong, **given)
