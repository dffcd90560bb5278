"""Parity and speed on a GPU, as one JSON without paths or names: scripts/gpu-check starts it.

Every family and head with small random weights is compared with transformers in float32, in each dtype; then
all-MiniLM-L6-v2 and the shape of BERT-base are timed next to torch's GPU in float16, alternately.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import texts
from benchmarks.checkpoints import bert_base
from benchmarks.measure import interleave
from benchmarks.models import minilm_folder
from benchmarks.rivals import BRIDGE, REFERENCE, encoders
from benchmarks.tasks import Result
from mlx_hf_bridge.runtime.device import BACKEND
from mlx_hf_bridge.selfcheck.check import BOUNDS, relative_error, without_paths

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from checkpoints import FIRST_ROWS, Row, heads_of, mlx_class, ragged_inputs, save_model

_DTYPES = {str(dtype).rpartition(".")[2]: bound for dtype, bound in BOUNDS.items()}
_TOKENS = (10, 64, 256)
# Fewer on a CPU, where the script is only tried.
_TEXTS, _ROUNDS = (4, 1) if BACKEND == "cpu" else (64, 5)
_TORCH_GPU = "sentence-transformers, torch CUDA float16"
_SYSTEMS = (BRIDGE, "mlx_hf_bridge float16", "mlx_hf_bridge 8 bits", "mlx_hf_bridge 4 bits", REFERENCE, _TORCH_GPU)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selfcheck", type=Path, help="the JSON of `mlx-hf-bridge selfcheck`, to be included")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.json"), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=240, help="for parity; default: 240")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="rounds of each timing; default: %(default)s")
    given = parser.parse_args()
    document: dict[str, Any] = {"backend": BACKEND}
    if given.selfcheck:
        document["selfcheck"] = json.loads(given.selfcheck.read_text(encoding="utf-8"))
    document["speed"] = [asdict(result) for result in _speeds(given.rounds)]
    document["parity"] = _parity(given.seconds)
    given.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    found = document["parity"]
    print(f"{found['compared']} compared, {len(found['failed'])} failed, {found['left_out']} left out for time")
    sys.exit(1 if found["failed"] or not document.get("selfcheck", {}).get("passed", True) else 0)


def _parity(seconds: float) -> dict[str, Any]:
    """Compare as many families and heads as fit into the time, the bare encoders first."""
    end = time.monotonic() + seconds
    cases = sorted(((row, head) for row in FIRST_ROWS for head in heads_of(row)), key=lambda case: case[1] != "Model")
    compared, failed, largest = 0, [], dict.fromkeys(_DTYPES, 0.0)
    for number, (row, head) in enumerate(cases):
        if time.monotonic() > end:
            return {"compared": compared, "failed": failed, "largest": largest, "left_out": len(cases) - number}
        for dtype, error, bound in _errors(row, head):
            compared += 1
            if isinstance(error, float) and error <= bound:
                largest[dtype] = max(largest[dtype], error)
            else:
                failed.append([row.model_type, head, dtype, error])
    return {"compared": compared, "failed": failed, "largest": largest, "left_out": 0}


def _errors(row: Row, head: str) -> Iterator[tuple[str, float | str, float]]:
    """Yield for each dtype the error relative to the largest value, or what was raised; and the bound."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch_model, inputs = save_model(Path(folder), row, head, labels=2), ragged_inputs(row)
        if head == "ForMultipleChoice":
            inputs = {name: array[:, None] for name, array in inputs.items()}
        with torch.no_grad():
            expected = torch_model(**{name: torch.tensor(array) for name, array in inputs.items()})
        for dtype, bound in _DTYPES.items():
            if dtype != "float32" and row.inaccurate_in_half:
                continue  # in transformers too
            try:
                model = mlx_class(head).from_pretrained(folder, dtype=dtype)
                yield dtype, _error(model(**inputs), expected, inputs["attention_mask"]), max(bound, row.relative)
            except Exception as error:  # of a driver too: the other cases are still worth running
                yield dtype, without_paths(f"{type(error).__name__}: {error}"), bound


def _error(actual: Any, expected: Any, mask: np.ndarray) -> float:
    """Return the largest error of the outputs at tokens, relative to the largest value."""
    errors = []
    for name, value in actual.items():
        if isinstance(value, tuple) or expected.get(name) is None:
            continue
        reference = expected[name].numpy()
        kept = mask.astype(bool) if reference.shape[:2] == mask.shape else slice(None)
        errors.append(relative_error(np.asarray(value, np.float32)[kept], reference[kept]))
    return max(errors)


def _speeds(rounds: int) -> Iterator[Result]:
    """Yield texts per second of each system by model and length, and the ratio to torch's GPU (or its CPU)."""
    with tempfile.TemporaryDirectory() as scratch:
        models = {"all-MiniLM-L6-v2": str(minilm_folder()), "BERT-base (random weights)": bert_base(Path(scratch))}
        for model, folder in models.items():
            found, missing = encoders(folder, list(_SYSTEMS))
            for name, reason in missing.items():
                yield Result(f"{model}: {without_paths(reason)}", name, 0.0, "left out")
            reference = _TORCH_GPU if _TORCH_GPU in found else REFERENCE
            if reference != REFERENCE:
                found.pop(REFERENCE)
            for tokens in _TOKENS:
                corpus = texts.uniform(_TEXTS, tokens - 2)
                calls = {name: partial(encode, corpus, batch_size=_TEXTS) for name, encode in found.items()}
                for timing in interleave(calls, rounds, reference):
                    task = f"{model}, {_TEXTS} x {tokens} tokens"
                    yield Result(task, timing.name, _TEXTS / timing.median, "texts/s", timing.ratio, timing.spread)


if __name__ == "__main__":
    main()
