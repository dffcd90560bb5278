"""Finished steps of a long calibration, stored on disk, so that an interrupted one can be resumed."""

import os
import re
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.quantization.quantized_weights import QuantizedWeights


class ResumeStore:
    """Named arrays in a folder.

    Args:
        folder: Where the arrays are stored; None stores nothing and finds nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, name: str) -> dict[str, mx.array] | None:
        """Return the arrays that were saved under a name; None if there are none."""
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        found = mx.load(str(path))
        assert isinstance(found, dict)
        return found

    def save(self, name: str, arrays: dict[str, mx.array]) -> None:
        """Save arrays under a name; an interruption leaves the old file or the new one, never half of it."""
        path = self._path(name)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # The process id keeps two processes from writing one scratch file.
        scratch = path.with_name(f"{os.getpid()}-{path.name}")
        mx.save_safetensors(str(scratch), arrays)
        os.replace(scratch, path)

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
