"""Measure how close the hidden states of every native model type stay to float under every uncalibrated recipe.

python -m benchmarks.family_recipes [--recipes q8,q4] [--families bert,t5]
Weights are random (matrices with a standard deviation of 1 / sqrt(inputs), norms and biases as in a new model), the
width is 128 and there are three layers: this shows that each recipe loads and runs, and how model types differ, not
what a trained model loses. For that see benchmarks/fidelity.py.
"""

import argparse
import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

# isort: split
import numpy as np
import torch
from checkpoints import FAMILIES, Row, make_model, ragged_inputs

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.quantization.recipes import RECIPES

# Recipes without calibration: min-max rounding, the same bits in every module.
PLAIN = [name for name, recipe in RECIPES.items() if recipe.method == "minmax" and not recipe.has_target]


def random_model(row: Row) -> Any:
    """Return a random model with widths that every group size divides."""
    sizes = {"embedding_size": 128, **row.wide} if hasattr(row.config, "embedding_size") else dict(row.wide)
    model = make_model(replace(row, config=type(row.config)(**{**row.config.to_dict(), **sizes})))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_() if parameter.ndim < 2 else parameter.normal_(0, parameter[0].numel() ** -0.5)
        for _name, module in model.named_modules():
            if "norm" in type(module).__name__.lower() and "Gemma" not in type(module).__name__:
                torch.nn.init.ones_(module.weight) if getattr(module, "weight", None) is not None else None
    return model


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean cosine of the rows of two (T, D) arrays."""
    products = (one * other).sum(axis=1)
    return float((products / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).mean())


def cosines(row: Row, recipes: list[str]) -> list[float]:
    inputs = ragged_inputs(row, (40, 23, 9))
    valid = inputs["attention_mask"].astype(bool)
    with tempfile.TemporaryDirectory() as folder:
        random_model(row).save_pretrained(folder)
        vectors = {
            recipe: np.asarray(
                MLXAutoModel.from_pretrained(folder, quantization_config=recipe)(**inputs).last_hidden_state
            )[valid]
            for recipe in (None, *recipes)
        }
    return [cosine(vectors[recipe], vectors[None]) for recipe in recipes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default=",".join(PLAIN))
    parser.add_argument("--families", default="")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    recipes, chosen = given.recipes.split(","), set(filter(None, given.families.split(",")))
    rows = {row.model_type: row for row in reversed(FAMILIES) if not chosen or row.model_type in chosen}
    print(f"| model_type | {' | '.join(recipes)} |\n| --- |{' --- |' * len(recipes)}")
    for model_type in sorted(rows):
        values = [f"{value:.4f}" for value in cosines(rows[model_type], recipes)]
        print(f"| {model_type} | {' | '.join(values)} |", flush=True)


if __name__ == "__main__":
    main()
