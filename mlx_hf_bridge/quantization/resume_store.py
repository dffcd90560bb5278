"""Finished steps of a long calibration, kept on disk, so that one that was broken off goes on where it was."""

import os
import re
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.quantization.quantized_weights import QuantizedWeights


class ResumeStore:
    """Named arrays in a folder; None as the folder keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, name: str) -> dict[str, mx.array] | None:
        """What was put under the name; None where nothing was."""
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        found = mx.load(str(path))
        assert isinstance(found, dict)
        return found

    def save(self, name: str, arrays: dict[str, mx.array]) -> None:
        """Keep the arrays, wholly or not at all."""
        path = self._path(name)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{os.getpid()}-{path.name}")
        mx.save_safetensors(str(scratch), arrays)
        os.replace(scratch, path)

    def load_quantized(self, name: str) -> QuantizedWeights | None:
        found = self.load(name)
        if found is None:
            return None
        values, scales, biases = (np.array(found[key].astype(mx.float32)) for key in ("codes", "scales", "biases"))
        return QuantizedWeights(values, scales, biases, int(np.array(found["bits"])))

    def save_quantized(self, name: str, codes: QuantizedWeights) -> None:
        arrays = {"codes": mx.array(codes.values.astype(np.uint8)), "bits": mx.array(codes.bits)}
        self.save(name, {**arrays, "scales": mx.array(codes.scales), "biases": mx.array(codes.biases)})

    def clear(self) -> None:
        """Nothing is kept any longer."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / (re.sub(r"[^\w.-]+", "-", name) + ".safetensors")
