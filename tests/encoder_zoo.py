"""Compare every text encoder of transformers, as a tiny checkpoint on disk, with what MLXAutoModel makes of it.

    python -m tests.encoder_zoo [variant ...]

Each variant of benchmarks/traced_variants.py that has no decoder is saved, read back by its class in transformers, and
run with padding and with the arguments that its class has in addition to ids and mask. A variant is "the same" if every
output agrees within 2e-5, relative to the largest value where that is above 1.
"""

import argparse
import importlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.traced_variants import VARIANTS, Variant
from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.tracing.export import suppress_output

TOLERANCE = 2e-5
TEXTS, TOKENS = 3, 16
SAME, REFUSED, NO_REFERENCE, OTHER = "the same", "refused", "no reference", "anything else"


@dataclass(frozen=True)
class Outcome:
    """What became of one variant.

    Args:
        name: The variant.
        verdict: SAME, REFUSED (one error of this package), NO_REFERENCE (transformers does not run it
            either), or OTHER.
        way: "native" or "traced"; "" if nothing was computed.
        difference: The largest difference of an output.
        detail: The error's message, or the outputs that differ.
    """

    name: str
    verdict: str
    way: str = ""
    difference: float = 0.0
    detail: str = ""


def encoders() -> list[Variant]:
    """Return the variants without a decoder, whose classes are read from a folder."""
    # PerceiverModel is saved without the preprocessor that reads text.
    names = [variant for variant in VARIANTS if variant.name != "perceiver:text"]
    return [one for one in names if one.classes.endswith("EncoderModel") or not one.config().is_encoder_decoder]


def inputs_of(variant: Variant, texts: int = TEXTS, tokens: int = TOKENS) -> dict[str, torch.Tensor]:
    """Return random ids, a mask with padding on the right, and the variant's further inputs."""
    random = torch.Generator().manual_seed(7)
    config = variant.config()
    pad = getattr(config, "pad_token_id", None) or 0
    mask = (torch.arange(tokens)[None] < (tokens - 4 * torch.arange(texts))[:, None]).long()
    ids = torch.randint(5, config.vocab_size if hasattr(config, "vocab_size") else 1000, mask.shape, generator=random)
    torch.manual_seed(7)
    return {"input_ids": torch.where(mask == 1, ids, pad), "attention_mask": mask, **variant.extra(texts, tokens)}


def run_reference(variant: Variant, folder: Path, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Save a variant, and return the outputs of transformers' class read from the folder."""
    module = variant.module()
    module.save_pretrained(folder)
    loaded = type(module).from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        output = loaded(**inputs, return_dict=True)
    # UDOP returns its mask, too.
    found = {name: value for name, value in output.items() if name not in inputs}
    return {name: value.numpy() for name, value in found.items() if isinstance(value, torch.Tensor)}


def largest_difference(actual: Any, expected: dict[str, np.ndarray], mask: np.ndarray) -> tuple[float, list[str]]:
    """Return the largest relative difference at real tokens, and the outputs that differ or are missing."""
    worst, wrong = 0.0, []
    for name, reference in expected.items():
        found = actual.get(name)
        if found is None or np.shape(found) != reference.shape:
            wrong.append(f"{name}: {None if found is None else np.shape(found)} instead of {reference.shape}")
            continue
        # Values at padding mean nothing.
        valid = mask.astype(bool) if reference.shape[:2] == mask.shape else np.ones(len(reference), bool)
        found, wanted = (found.numpy() if isinstance(found, torch.Tensor) else np.array(found))[valid], reference[valid]
        share = float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max())))
        worst = max(worst, share) if np.isfinite(share) else float("inf")
        if not share <= TOLERANCE:
            wrong.append(f"{name} differs by {share:.1e}")
    return worst, wrong


def run_encoder(variant: Variant, folder: Path) -> Outcome:
    """Save one variant into a folder, and compare what MLXAutoModel computes from it with transformers."""
    inputs = inputs_of(variant)
    try:
        with suppress_output():
            expected = run_reference(variant, folder, inputs)
    except Exception as error:  # transformers raises any type
        return Outcome(variant.name, NO_REFERENCE, detail=f"{type(error).__name__}: {error}")
    try:
        model = MLXAutoModel.from_pretrained(folder)
        way = "traced" if model.is_traced else "native"
        actual = model(**{name: tensor.numpy() for name, tensor in inputs.items()})
    except BridgeError as error:
        return Outcome(variant.name, REFUSED, detail=f"{type(error).__name__}: {error}")
    except Exception as error:  # what must not happen
        return Outcome(variant.name, OTHER, detail=f"{type(error).__name__}: {error}")
    worst, wrong = largest_difference(actual, expected, inputs["attention_mask"].numpy())
    return Outcome(variant.name, OTHER if wrong else SAME, way, worst, "; ".join(wrong))


def run_all(names: Sequence[str] = ()) -> list[Outcome]:
    """Run the variants of these names, all without names, and print a row for each."""
    outcomes = []
    print("| variant | result | way | difference | |\n| --- | --- | --- | --- | --- |")
    for variant in encoders():
        if names and variant.name not in names and variant.name.partition(":")[0] not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = run_encoder(variant, Path(folder))
        outcomes.append(found)
        difference = f"{found.difference:.0e}" if found.way else "-"
        detail = found.detail.replace("\n", " ").replace(str(folder), "FOLDER")[:400]
        print(f"| {found.name} | {found.verdict} | {found.way or '-'} | {difference} | {detail} |", flush=True)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare every text encoder of transformers with MLXAutoModel.")
    parser.add_argument("variants", nargs="*", help="names of variants or model types; all by default")
    outcomes = run_all(parser.parse_args().variants)
    counts = Counter((found.verdict, found.way) if found.way else (found.verdict,) for found in outcomes)
    compared = sum(found.verdict != NO_REFERENCE for found in outcomes)
    parts = ", ".join(f"{count} {' '.join(key)}" for key, count in sorted(counts.items()))
    print(f"\n{compared} encoders that transformers runs: {parts}.")


if __name__ == "__main__":
    importlib.import_module("mlx_hf_bridge")
    main()
