"""`mlx-hf-bridge classify`: classify texts by the model's labels, or (zero-shot) by the caller's."""

import argparse
from typing import Any

from mlx_hf_bridge.architecture.family import SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.cli.console import show, show_json, table
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.cli.texts import read_texts, shorten, split_labels
from mlx_hf_bridge.conversion.api import task_of
from mlx_hf_bridge.errors import WeightsError
from mlx_hf_bridge.pipelines import pipeline

Scores = list[tuple[str, float]]


def run(args: argparse.Namespace) -> int:
    """Classify the texts and print their labels, best first, as a JSON document or a table."""
    texts = read_texts(args)
    scores = [row[: args.top_k] for row in (_model_labels if args.labels is None else _zero_shot)(args, texts)]
    if args.json:
        results = [
            {"text": text, "labels": [{"label": label, "score": score} for label, score in row]}
            for text, row in zip(texts, scores, strict=True)
        ]
        show_json({"model": args.model, "results": results})
    else:
        rows = [
            (shorten(text) if rank == 0 else "", label, f"{score:.4f}")
            for text, row in zip(texts, scores, strict=True)
            for rank, (label, score) in enumerate(row)
        ]
        show(table("", ("text", "label", "score"), rows, ("score",)))
    return 0


def _model_labels(args: argparse.Namespace, texts: list[str]) -> list[Scores]:
    try:
        classify = _pipeline("text-classification", args)
    except WeightsError as error:
        if _has_classifier(args):
            raise
        raise WeightsError(
            f"{args.model} has no classifier; it is an embedding model or was not trained for this task. Give a text "
            "classifier; or, to use labels of your own, a model trained for natural language inference and --labels."
        ) from error
    results = classify(texts, top_k=None, truncation=True, batch_size=args.batch_size)
    return [[(one["label"], one["score"]) for one in result] for result in results]


def _has_classifier(args: argparse.Namespace) -> bool:
    config = read_checkpoint(locate(args.model, HubOptions(args.revision))).config
    return task_of(config, None) == SEQUENCE_CLASSIFICATION


def _zero_shot(args: argparse.Namespace, texts: list[str]) -> list[Scores]:
    labels = split_labels(args.labels)
    template = {"hypothesis_template": args.hypothesis_template} if args.hypothesis_template else {}
    results = _pipeline("zero-shot-classification", args)(
        texts, candidate_labels=labels, multi_label=args.multi_label, batch_size=args.batch_size, **template
    )
    return [list(zip(result["labels"], result["scores"], strict=True)) for result in results]


def _pipeline(task: str, args: argparse.Namespace) -> Any:
    return pipeline(task, model=args.model, revision=args.revision, **options_from_flags(args).to_kwargs())
