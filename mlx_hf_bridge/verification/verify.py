"""Compare a converted model with its float reference and report figures, bounds and functional steps."""

import datetime
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.checkpoints.checkpoint import (
    CONFIG_FILE,
    METADATA_FILE,
    open_weight_files,
    read_checkpoint,
    read_json,
)
from mlx_hf_bridge.checkpoints.metadata import read_metadata
from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.quantization.recipes import QuantizationLike, better_recipes, describe_recipe, noted_recipe
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.runtime.device import machine_name
from mlx_hf_bridge.runtime.progress import ProgressBar
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
from mlx_hf_bridge.verification.reference import find_reference
from mlx_hf_bridge.verification.report import Report, Step
from mlx_hf_bridge.verification.steps import basic_steps, full_steps
from mlx_hf_bridge.verification.thresholds import check_figures, check_measured, resolve_bounds
from mlx_hf_bridge.version import installed_version
from mlx_hf_bridge.weights.quantized import read_packing

_STAGES = 7


@guarded
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
    """Compare a converted model with its float model and check whether it is good enough.

    Args:
        model: A converted folder, or the Hub id or folder of a checkpoint together with quantization_config.
        reference_model: The float checkpoint. Default: the one that the converted folder names. It is run by
            transformers or sentence-transformers on torch if they are installed and need no remote code for it, else
            in float32 by this package.
        quantization_config: The recipe to convert a checkpoint with: a name ("q8"), a dict or an
            MLXQuantizationConfig. Default: the model is used as it is.
        texts: Texts to compare on. Default: the texts that come with the package.
        pairs: A CSV or TSV file of text, text, similarity score, for Spearman's correlation.
        labelled: A CSV or TSV file of text, label, for accuracy and F1 of a classifier.
        task: "embedding" or "classification". Default: by the architecture in config.json.
        thresholds: Bounds by figure that replace the defaults: cosine_mean, mean_squared_error, largest_difference,
            spearman_loss, accuracy_loss, f1_loss, label_agreement. Those of figures that are not measured are refused.
        full_test: Whether to check files, tokenizer, loading and embedding step by step too. Default: False.

    Returns:
        A Report: `figures` by name, `checks` with bounds, `steps`, and `passed`, whether all of them passed.

    Raises:
        InputError: If the arguments do not fit together, or model and reference have outputs of different shapes.
        BridgeError: Whatever loading a model raises.

    Example:
        >>> from mlx_hf_bridge import verify
        >>> report = verify("sentence-transformers/all-MiniLM-L6-v2", quantization_config="q8")
        >>> report.passed
        True
    """
    checked = check_texts(texts)
    resolve_bounds(None, thresholds)
    source = find_reference(str(model), reference_model, quantization_config)
    resolved_task = resolve_task(task, str(model), source.folder)
    check_measured(thresholds or {}, resolved_task == EMBEDDING, pairs is not None, labelled is not None)
    with ProgressBar(total=_STAGES, desc="Verify", unit="stage", leave=False, disable=None) as bar:
        _begin(bar, "loading the model")
        converted = load_converted(str(model), resolved_task, quantization_config)
        _begin(bar, "loading the reference")
        reference = load_reference(source, resolved_task)
        assert converted.folder is not None
        _begin(bar, "running both on the texts")
        outputs = converted.predict(checked), reference.predict(checked)
        _check_shapes(outputs, str(model), source.name)
        is_embedding = resolved_task == EMBEDDING
        figures = compare_embeddings(*outputs) if is_embedding else _compare_logits(converted, reference, outputs)
        _begin(bar, "scoring pairs and labels")
        figures |= _compare_pairs(converted, reference, read_pairs(pairs)) if pairs is not None else {}
        figures |= _compare_labels(converted, reference, read_labeled(labelled)) if labelled is not None else {}
        _begin(bar, "checking steps")
        steps = basic_steps(converted, source.folder, outputs[0])
        steps += full_steps(str(converted.folder), source.folder, resolved_task, checked) if full_test else ()
        _begin(bar, "measuring speed")
        figures |= measure_speed(converted, checked)
        figures |= {f"reference_{name}": value for name, value in measure_speed(reference, checked).items()}
        figures |= _sizes(converted.folder, source.folder)
        _begin(bar, "comparing layers")
        layers = layer_errors(converted.folder, source, checked)
    config = read_json(converted.folder / CONFIG_FILE)
    return Report(
        str(model),
        f"{source.name} ({reference.name})",
        resolved_task,
        _describe_quantization(converted.folder, config),
        len(checked),
        figures,
        check_figures(figures, resolve_bounds(_fewest_bits(config), thresholds)),
        steps,
        tuple(float(value) for value in cosines(*outputs)),
        layers,
        {name: installed_version(name) or "unknown" for name in ("mlx-hf-bridge", "mlx", "transformers")},
        better_recipes(noted_recipe(noted)) if (noted := _noted_recipe(converted.folder)) else (),
        machine_name(),
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
    )


def _begin(bar: ProgressBar, stage: str) -> None:
    bar.set_postfix_str(stage)
    bar.update()


def _check_shapes(outputs: tuple[Floats, Floats], model: str, reference: str) -> None:
    if outputs[0].shape != outputs[1].shape:
        raise InputError(
            f"{model} gives arrays {outputs[0].shape} and its reference {reference} {outputs[1].shape}; they are not "
            "the same model. Give the checkpoint that it was converted from."
        )


def resolve_task(task: str | None, model: str, source: Path) -> str:
    """Return the task to compare a model by.

    Args:
        task: The user's task, or None.
        model: The model's folder or Hub id.
        source: The folder of its float checkpoint.

    Returns:
        "embedding" or "classification", by the architecture in config.json if the task is None.

    Raises:
        InputError: If the task is another.
    """
    if task is not None:
        if task not in (EMBEDDING, CLASSIFICATION):
            raise InputError(f"task={task!r} is not verified; use {EMBEDDING!r} or {CLASSIFICATION!r}.")
        return task
    for folder in (Path(model).expanduser(), source):
        if (folder / CONFIG_FILE).is_file():
            named = read_json(folder / CONFIG_FILE).get("architectures") or []
            return CLASSIFICATION if any("ForSequenceClassification" in name for name in named) else EMBEDDING
    return EMBEDDING


def _compare_logits(converted: Predictor, reference: Predictor, outputs: tuple[Floats, Floats]) -> dict[str, float]:
    both = zip((converted, reference), outputs, strict=True)
    labels = [[reader.labels[int(best)] for best in rows.argmax(axis=1)] for reader, rows in both]
    difference = outputs[0] - outputs[1]
    if not np.isfinite(outputs[0]).all():
        return {"label_agreement": float("nan")}
    return {
        "label_agreement": accuracy(labels[0], labels[1]),
        "logit_mean_squared_error": float((difference**2).mean()),
        "logit_largest_difference": float(np.abs(difference).max()),
    }


def _compare_pairs(converted: Predictor, reference: Predictor, pairs: ScoredPairs) -> dict[str, float]:
    found = []
    for reader in (converted, reference):
        vectors = reader.predict([*pairs.first, *pairs.second])
        count = len(pairs.first)
        found.append(spearman(cosines(vectors[:count], vectors[count:]), np.array(pairs.scores)))
    return {"spearman": found[0], "spearman_reference": found[1], "spearman_loss": found[1] - found[0]}


def _compare_labels(converted: Predictor, reference: Predictor, labeled: LabeledTexts) -> dict[str, float]:
    if unknown := sorted(set(labeled.labels) - set(converted.labels)):
        raise InputError(
            f"the labeled file has {unknown[:5]}, and the model's labels are {list(converted.labels)}. Rename those "
            "in the file."
        )
    predicted, expected = converted.predict_labels(labeled.texts), reference.predict_labels(labeled.texts)
    figures: dict[str, float] = {}
    for name, measure in (("accuracy", accuracy), ("f1", macro_f1)):
        values = measure(predicted, labeled.labels), measure(expected, labeled.labels)
        figures |= {name: values[0], f"{name}_reference": values[1], f"{name}_loss": values[1] - values[0]}
    return figures


def _sizes(folder: Path, source: Path) -> dict[str, float]:
    size = _weight_bytes(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures = {
        "weights_mb": size / MB,
        "folder_mb": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MB,
        "peak_memory_mb": mx.get_peak_memory() / MB,
        "process_peak_mb": peak / MB,
    }
    noted = folder / METADATA_FILE
    original = read_metadata(folder).get("source_bytes") if noted.is_file() else _weight_bytes(source)
    return figures | ({"reference_weights_mb": original / MB, "size_ratio": size / original} if original else {})


def _weight_bytes(folder: Path) -> int:
    """Return the bytes of the files that the weights are read from, which may be shards."""
    files = open_weight_files(read_checkpoint(locate(folder, HubOptions())))
    return sum(file.path.stat().st_size for file in files)


def _fewest_bits(config: dict[str, Any]) -> int | None:
    """Return the fewest bits of any quantized weight; None for float weights."""
    packing = read_packing(config)
    if not packing:
        return None
    own = [value["bits"] for value in packing.values() if isinstance(value, dict)]
    return int(min([packing["bits"], *own]))


def _describe_quantization(folder: Path, config: dict[str, Any]) -> str:
    """Describe a model's weights: "q4-best: 4 bits in groups of 64, affine; gptq with the bundled texts"."""
    packing = read_packing(config)
    if not packing:
        return f"float ({config.get('dtype', 'float32')})"
    own = [value for value in packing.values() if isinstance(value, dict)]
    mixed = f", {len(own)} modules with other bits" if own else ""
    bits = f"{packing['bits']} bits in groups of {packing['group_size']}, {packing.get('mode', 'affine')}{mixed}"
    noted = _noted_recipe(folder)
    return describe_recipe(noted, bits) if noted else bits


def _noted_recipe(folder: Path) -> dict[str, Any] | None:
    return read_metadata(folder).get("recipe") if (folder / METADATA_FILE).is_file() else None


__all__ = ["Report", "Step", "verify"]
