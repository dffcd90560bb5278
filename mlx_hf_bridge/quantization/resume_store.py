"""Finished steps of a long calibration, stored on disk, so that an interrupted one can be resumed."""

import hashlib
import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.quantization.quantized_weights import QuantizedWeights

logger = logging.getLogger(__name__)


class ResumeStore:
    """Named arrays in a folder.

    Args:
        folder: Where the arrays are stored; None stores nothing and finds nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, name: str) -> dict[str, mx.array] | None:
        """Return the arrays that were saved under a name; None if there are none, or their file was damaged since."""
        path = self._path(name)
        try:
            if path is None or _digest_file(path).read_text(encoding="ascii") != _sha256(path):
                return None
            found = mx.load(str(path))
        except (OSError, ValueError, RuntimeError):
            return None
        assert isinstance(found, dict)
        return found

    def save(self, name: str, arrays: dict[str, mx.array]) -> None:
        """Save arrays under a name; an interruption leaves the old file, the new one, or one that `load` ignores.

        What cannot be saved is logged: it costs time only, if this run is interrupted.
        """
        path = self._path(name)
        if path is None:
            return
        # The process id keeps two processes from writing one scratch file.
        scratch = path.with_name(f"{os.getpid()}-{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mx.save_safetensors(str(scratch), arrays)
            digest = _sha256(scratch)
            os.replace(scratch, path)
            _digest_file(path).write_text(digest, encoding="ascii")
        # MLX raises RuntimeError for what it cannot write.
        except (OSError, RuntimeError) as error:
            logger.warning("steps of the calibration cannot be kept in %s (%s)", self.folder, error)
            with suppress(OSError):
                scratch.unlink(missing_ok=True)

    def load_quantized(self, name: str) -> QuantizedWeights | None:
        """Return the quantized weights that were saved under a name; None if there are none."""
        found = self.load(name)
        if found is None:
            return None
        # "codes" is a key of files on disk, so it keeps its old name.
        values, scales, biases = (np.array(found[key].astype(mx.float32)) for key in ("codes", "scales", "biases"))
        return QuantizedWeights(values, scales, biases, int(np.array(found["bits"])))

    def save_quantized(self, name: str, quantized: QuantizedWeights) -> None:
        """Save quantized weights under a name."""
        arrays = {"codes": mx.array(quantized.values.astype(np.uint8)), "bits": mx.array(quantized.bits)}
        self.save(name, {**arrays, "scales": mx.array(quantized.scales), "biases": mx.array(quantized.biases)})

    def clear(self) -> None:
        """Delete everything that was saved."""
        if self.folder is not None:
            # What cannot be deleted costs space only.
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path | None:
        # Module paths may hold characters that file names must not.
        return None if self.folder is None else self.folder / (re.sub(r"[^\w.-]+", "-", name) + ".safetensors")


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
