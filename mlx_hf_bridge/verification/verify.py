"""A converted model against its float reference: figures, thresholds, a report."""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, METADATA_FILE, read_json
from mlx_hf_bridge.checkpoints.safetensors_file import MB, SINGLE_FILE
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.verification.inputs import LabeledTexts, ScoredPairs, check_texts, read_labeled, read_pairs
from mlx_hf_bridge.verification.layers import layer_errors
from mlx_hf_bridge.verification.measures import Floats, accuracy, compare_embeddings, cosines, macro_f1, spearman
from mlx_hf_bridge.verification.predictors import (
    CLASSIFICATION,
    EMBEDDING,
    Predictor,
    load_converted,
    load_reference,
    measure_speed,
)
from mlx_hf_bridge.verification.report import Report, Step
from mlx_hf_bridge.verification.steps import basic_steps, full_steps
from mlx_hf_bridge.verification.thresholds import check_figures, resolve_bounds
from mlx_hf_bridge.version import installed_version
from mlx_hf_bridge.weights.quantized import read_packing


def verify(
    model: str | Path,
    *,
    reference_model: str | Path | None = None,
    quantization_config: QuantizationLike = None,
    texts: Sequence[str] | None = None,
    pairs: str | Path | None = None,
    labelled: str | Path | None = None,
    task: str | None = None,
    thresholds: Mapping[str, float] | None = None,
    full_test: bool = False,
) -> Report:
    """Compare a converted folder, or a checkpoint in a recipe, with its float model -> figures and whether they pass.

    reference_model: the float checkpoint; None takes the one that a converted folder names. It runs on torch where
    transformers and sentence-transformers are installed, else in float32 here. texts: None for the bundled ones.
    pairs: a CSV of text, text, score; labelled: a CSV of text, label. task: "embedding" or "classification"; None as
    config.json says. thresholds: bounds by figure, in the place of the usual ones. full_test: loading, tokenising and
    embedding step by step too. Raises InputError for arguments that do not fit, and what loading raises.
    """
    given = check_texts(texts)
    floats = str(reference_model) if reference_model is not None else _source_of(str(model), quantization_config)
    kind = _kind(task, str(model), floats)
    converted, reference = load_converted(str(model), kind, quantization_config), load_reference(floats, kind)
    assert converted.folder is not None
    answers = converted.predict(given), reference.predict(given)
    if answers[0].shape != answers[1].shape:
        raise InputError(
            f"{model} gives arrays {answers[0].shape} and its reference {floats} {answers[1].shape}; they are not two "
            "forms of one model. Give the checkpoint that it was converted from."
        )
    figures = compare_embeddings(*answers) if kind == EMBEDDING else _logits(converted, reference, answers)
    figures |= _of_pairs(converted, reference, read_pairs(pairs)) if pairs is not None else {}
    figures |= _of_labelled(converted, reference, read_labeled(labelled)) if labelled is not None else {}
    steps = basic_steps(converted, floats, answers[0])
    steps += full_steps(str(converted.folder), floats, kind, given) if full_test else ()
    figures |= measure_speed(converted, given) | _sizes(converted.folder, floats)
    config = read_json(converted.folder / CONFIG_FILE)
    return Report(
        str(model),
        f"{floats} ({reference.name})",
        kind,
        _packing(config),
        len(given),
        figures,
        check_figures(figures, resolve_bounds(_bits(config), thresholds)),
        steps,
        tuple(float(value) for value in cosines(*answers)),
        layer_errors(converted.folder, floats, given),
        {name: installed_version(name) or "unknown" for name in ("mlx-hf-bridge", "mlx", "transformers")},
    )


def _source_of(model: str, recipe: QuantizationLike) -> str:
    path = Path(model).expanduser() / METADATA_FILE
    if path.is_file():
        return str(read_json(path)["source"])
    if recipe is None:
        raise InputError(
            f"{model} has no {METADATA_FILE} that names its source, and no recipe was given. Give reference_model "
            "(--reference), the float checkpoint, or a recipe to convert with."
        )
    return model


def _kind(task: str | None, model: str, floats: str) -> str:
    if task is not None:
        if task not in (EMBEDDING, CLASSIFICATION):
            raise InputError(f"task={task!r} is not verified; use {EMBEDDING!r} or {CLASSIFICATION!r}.")
        return task
    for folder in (Path(model).expanduser(), Path(floats).expanduser()):
        if (folder / CONFIG_FILE).is_file():
            named = read_json(folder / CONFIG_FILE).get("architectures") or []
            return CLASSIFICATION if any("ForSequenceClassification" in name for name in named) else EMBEDDING
    return EMBEDDING


def _logits(converted: Predictor, reference: Predictor, answers: tuple[Floats, Floats]) -> dict[str, float]:
    both = zip((converted, reference), answers, strict=True)
    labels = [[reader.labels[int(best)] for best in rows.argmax(axis=1)] for reader, rows in both]
    difference = answers[0] - answers[1]
    if not np.isfinite(answers[0]).all():
        return {"label_agreement": float("nan")}
    return {
        "label_agreement": accuracy(labels[0], labels[1]),
        "logit_mean_squared_error": float((difference**2).mean()),
        "logit_largest_difference": float(np.abs(difference).max()),
    }


def _of_pairs(converted: Predictor, reference: Predictor, pairs: ScoredPairs) -> dict[str, float]:
    found = []
    for reader in (converted, reference):
        vectors = reader.predict([*pairs.first, *pairs.second])
        count = len(pairs.first)
        found.append(spearman(cosines(vectors[:count], vectors[count:]), np.array(pairs.scores)))
    return {"spearman": found[0], "spearman_reference": found[1], "spearman_loss": found[1] - found[0]}


def _of_labelled(converted: Predictor, reference: Predictor, labelled: LabeledTexts) -> dict[str, float]:
    if unknown := sorted(set(labelled.labels) - set(converted.labels)):
        raise InputError(f"the labelled file has {unknown[:5]}, and the model's labels are {list(converted.labels)}.")
    own, other = converted.predict_labels(labelled.texts), reference.predict_labels(labelled.texts)
    figures: dict[str, float] = {}
    for name, measure in (("accuracy", accuracy), ("f1", macro_f1)):
        values = measure(own, labelled.labels), measure(other, labelled.labels)
        figures |= {name: values[0], f"{name}_reference": values[1], f"{name}_loss": values[1] - values[0]}
    return figures


def _sizes(folder: Path, floats: str) -> dict[str, float]:
    size = (folder / SINGLE_FILE).stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = {
        "weights_mb": size / MB,
        "folder_mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MB,
        "peak_memory_mb": mx.get_peak_memory() / MB,
        "process_peak_mb": peak / MB,
    }
    source = Path(floats).expanduser() / SINGLE_FILE
    noted = folder / METADATA_FILE
    original = source.stat().st_size if source.is_file() else None
    if original is None and noted.is_file():
        original = json.loads(noted.read_text(encoding="utf-8")).get("source_bytes")
    return figures | ({"size_ratio": size / original} if original else {})


def _bits(config: dict[str, Any]) -> int | None:
    """The narrowest packed width; None for float weights."""
    packing = read_packing(config)
    if not packing:
        return None
    own = [value["bits"] for value in packing.values() if isinstance(value, dict)]
    return int(min([packing["bits"], *own]))


def _packing(config: dict[str, Any]) -> str:
    packing = read_packing(config)
    if not packing:
        return f"float ({config.get('dtype', 'float32')})"
    own = [value for value in packing.values() if isinstance(value, dict)]
    mixed = f", {len(own)} modules of their own width" if own else ""
    return f"{packing['bits']} bits in groups of {packing['group_size']}, {packing.get('mode', 'affine')}{mixed}"


__all__ = ["Report", "Step", "verify"]
