"""What must work at all, step by step: files, pooling, finite answers; and, when asked, loading and tokenising."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, METADATA_FILE, read_json, read_modules
from mlx_hf_bridge.checkpoints.pooling_modes import read_pooling_modes
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE, SafetensorsFile
from mlx_hf_bridge.conversion.cache import is_complete
from mlx_hf_bridge.conversion.tokenizer_files import tokenizer_config
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.verification.measures import Floats
from mlx_hf_bridge.verification.predictors import Predictor, load_converted, try_step
from mlx_hf_bridge.verification.report import Step

# A text alone and in a batch, through other kernels.
_BATCH_TOLERANCE = 1e-3


def basic_steps(converted: Predictor, floats: str, answers: Floats) -> tuple[Step, ...]:
    """What no figure says: that every answer is finite, and that the pooling is the source's."""
    bad = int((~np.isfinite(answers)).any(axis=1).sum())
    steps = [Step("answers are finite", bad == 0, f"{bad} of {len(answers)} texts have inf or nan")]
    assert converted.folder is not None
    source = Path(floats).expanduser()
    if source.is_dir():
        modes = [_pooling(folder) for folder in (converted.folder, source)]
        steps.append(Step("pooling is the source's", modes[0] == modes[1], f"{modes[0]}, the source has {modes[1]}"))
    return tuple(steps)


def _pooling(folder: Path) -> str:
    """The pooling modes that a folder's files say; "mean" where they say nothing, as in sentence-transformers."""
    entries = read_modules(folder) or ()
    path = next((entry.path for entry in entries if entry.kind == "Pooling"), None)
    return "mean" if path is None else ", ".join(read_pooling_modes(folder / path))


def _tensor_count(path: Path) -> str:
    return f"{len(SafetensorsFile(path).tensor_infos)} tensors"


def full_steps(model: str, floats: str, kind: str, texts: Sequence[str]) -> tuple[Step, ...]:
    """Files, header, metadata, tokenizer, loading, one text, the same text in a batch, a long and an empty one."""
    folder = Path(model)
    done = [
        _step("config.json is read", lambda: read_json(folder / CONFIG_FILE)["model_type"]),
        _step("weights have a sound header", lambda: _tensor_count(folder / SINGLE_FILE)),
        _step("files are whole", lambda: _whole(folder)),
        _step("the tokenizer gives the source's ids", lambda: _same_ids(folder, Path(floats), texts)),
    ]
    reader, error = try_step(lambda: load_converted(model, kind))
    done.append(Step("the model loads", reader is not None, error or model))
    if reader is None:
        return tuple(done)
    return (
        *done,
        _step("one text is read", lambda: f"shape {reader.read(texts[:1]).shape}"),
        _step("a text alone answers as in a batch", lambda: _alone(reader, texts)),
        _step("an empty and an overlong text are read", lambda: _finite(reader.predict(["", "word " * 2000]))),
    )


class _Failed(ValueError):
    """A step that ran and found a fault."""


def _step(name: str, what: Callable[[], Any]) -> Step:
    found, error = try_step(what)
    return Step(name, not error, error or str(found))


def _whole(folder: Path) -> str:
    if not (folder / METADATA_FILE).is_file():
        return f"no {METADATA_FILE}, so there is no list to check"
    if not is_complete(folder):
        raise _Failed(f"files that {METADATA_FILE} lists are missing or of other sizes")
    return f"{len(json.loads((folder / METADATA_FILE).read_text(encoding='utf-8'))['files'])} files"


def _same_ids(folder: Path, source: Path, texts: Sequence[str]) -> str:
    converted = Tokenizer.from_folder(folder, tokenizer_config(folder)).encode(list(texts), 10_000)
    if not (source / "tokenizer.json").is_file():
        return f"{len(texts)} texts tokenised; the source's files are not at hand"
    reference = Tokenizer.from_folder(source, tokenizer_config(source)).encode(list(texts), 10_000)
    different = sum(not np.array_equal(one.ids, other.ids) for one, other in zip(converted, reference, strict=True))
    if different:
        raise _Failed(f"{different} of {len(texts)} texts have other ids")
    return f"{len(texts)} texts have the same ids"


def _alone(reader: Predictor, texts: Sequence[str]) -> str:
    worst = float(np.abs(reader.predict(texts[:1])[0] - reader.predict(texts)[0]).max())
    if not worst < _BATCH_TOLERANCE:
        raise _Failed(f"the largest difference is {worst:.1e}")
    return f"largest difference {worst:.1e}"


def _finite(answers: Floats) -> str:
    if not np.isfinite(answers).all():
        raise _Failed("the answer has inf or nan")
    return f"shape {answers.shape}"
