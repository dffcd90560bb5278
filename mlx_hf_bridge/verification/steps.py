"""Check what must work at all: finite outputs and pooling always; files, tokenizer and loading in a full test."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.checkpoints.checkpoint import (
    CONFIG_FILE,
    METADATA_FILE,
    open_weight_files,
    read_checkpoint,
    read_json,
    read_modules,
)
from mlx_hf_bridge.checkpoints.pooling_modes import read_pooling_modes
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.integrity import is_complete
from mlx_hf_bridge.conversion.tokenizer_class import tokenizer_config
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.verification.measures import Floats
from mlx_hf_bridge.verification.predictors import Predictor, load_converted, try_step
from mlx_hf_bridge.verification.report import Step

# Largest difference of a text's outputs alone and in a batch: other kernels add in another order.
_BATCH_TOLERANCE = 1e-3


def basic_steps(converted: Predictor, source: Path, outputs: Floats) -> tuple[Step, ...]:
    """Check that all outputs are finite and that the pooling is the source's.

    Args:
        converted: The converted model.
        source: The folder of the source's small files.
        outputs: What the converted model returned for all texts.

    Returns:
        Two steps.
    """
    bad = int((~np.isfinite(outputs)).any(axis=1).sum())
    steps = [Step("outputs are finite", bad == 0, f"{bad} of {len(outputs)} texts have inf or nan")]
    assert converted.folder is not None
    modes = [_pooling(folder) for folder in (converted.folder, source)]
    steps.append(Step("pooling matches the source", modes[0] == modes[1], f"{modes[0]}, the source has {modes[1]}"))
    return tuple(steps)


def _pooling(folder: Path) -> str:
    """Return the pooling modes in a folder's files; "mean" if there are none, as in sentence-transformers."""
    entries = read_modules(folder) or ()
    path = next((entry.path for entry in entries if entry.kind == "Pooling"), None)
    return "mean" if path is None else ", ".join(read_pooling_modes(folder / path))


def _tensor_count(folder: Path) -> str:
    files = open_weight_files(read_checkpoint(locate(folder, HubOptions())))
    return f"{sum(len(file.tensor_infos) for file in files)} tensors"


def full_steps(model: str, source: Path, task: str, texts: Sequence[str]) -> tuple[Step, ...]:
    """Check files, weights, tokenizer, loading, single texts, batches, and empty and long texts, one after the other.

    Args:
        model: The converted folder.
        source: The folder of the source's small files.
        task: "embedding" or "classification".
        texts: The texts to try.

    Returns:
        One step for each check; those after loading are left out if loading fails.
    """
    folder = Path(model)
    done = [
        _step("config.json can be read", lambda: read_json(folder / CONFIG_FILE)["model_type"]),
        _step("the weight files have valid headers", lambda: _tensor_count(folder)),
        _step("files are complete", lambda: _complete(folder)),
        _step("the tokenizer gives the source's ids", lambda: _same_ids(folder, source, texts)),
    ]
    predictor, error = try_step(lambda: load_converted(model, task))
    done.append(Step("the model loads", predictor is not None, error or model))
    if predictor is None:
        return tuple(done)
    return (
        *done,
        _step("one text is processed", lambda: f"shape {predictor.predict(texts[:1]).shape}"),
        _step("a text gives the same output alone and in a batch", lambda: _same_in_batch(predictor, texts)),
        _step("empty and very long texts are processed", lambda: _finite(predictor.predict(["", "word " * 2000]))),
    )


class _Failed(ValueError):
    """Raised by a check that ran and found an error."""


class _Skipped(ValueError):
    """Raised by a check that has nothing to compare with."""


def _step(name: str, function: Callable[[], Any]) -> Step:
    try:
        found, error = try_step(function, (_Skipped,))
    except _Skipped as reason:
        return Step(name, True, str(reason), skipped=True)
    return Step(name, not error, error or str(found))


def _complete(folder: Path) -> str:
    if not (folder / METADATA_FILE).is_file():
        raise _Skipped(f"no {METADATA_FILE}, so there is no list of files to check")
    if not is_complete(folder):
        raise _Failed(f"files that {METADATA_FILE} lists are missing or changed")
    return f"{len(json.loads((folder / METADATA_FILE).read_text(encoding='utf-8'))['files'])} files"


def _same_ids(folder: Path, source: Path, texts: Sequence[str]) -> str:
    converted = Tokenizer.from_folder(folder, tokenizer_config(folder)).encode(list(texts), 10_000)
    if not (source / "tokenizer.json").is_file():
        raise _Skipped(f"{len(texts)} texts tokenized; the source has no tokenizer.json to compare with")
    reference = Tokenizer.from_folder(source, tokenizer_config(source)).encode(list(texts), 10_000)
    different = sum(not np.array_equal(one.ids, other.ids) for one, other in zip(converted, reference, strict=True))
    if different:
        raise _Failed(f"{different} of {len(texts)} texts have different ids")
    return f"{len(texts)} texts have the same ids"


def _same_in_batch(predictor: Predictor, texts: Sequence[str]) -> str:
    worst = float(np.abs(predictor.predict(texts[:1])[0] - predictor.predict(texts)[0]).max())
    # Written this way so that NaN fails too.
    if not worst < _BATCH_TOLERANCE:
        raise _Failed(f"the largest difference is {worst:.1e}")
    return f"largest difference {worst:.1e}"


def _finite(outputs: Floats) -> str:
    if not np.isfinite(outputs).all():
        raise _Failed("the output has inf or nan")
    return f"shape {outputs.shape}"
