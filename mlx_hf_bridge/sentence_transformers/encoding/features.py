"""A call of a model with token ids instead of texts, as torch modules are called."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.encoding.results import all_outputs, to_numpy
from mlx_hf_bridge.sentence_transformers.modules.base import Module
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions, InputModule
from mlx_hf_bridge.sentence_transformers.modules.router import flatten_route


def compute_features(modules: Sequence[Module], given: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """Run modules on token ids.

    Args:
        modules: The modules of the model, in the order in which they run.
        given: "input_ids" (B, L), and optionally "attention_mask", "token_type_ids" and "prompt_length".
        task: "query", "document" or another task; None for no task.

    Returns:
        What was given, and the outputs of the modules by name: torch tensors if ids are one, else numpy arrays.

    Raises:
        InputError: If ids are missing, padded on the left, or of queries that are to be expanded.
    """
    if not isinstance(given, Mapping) or "input_ids" not in given:
        raise InputError("expected what tokenize() returns, a dict with input_ids. For texts use encode().")
    first, *rest = flatten_route(modules, task)
    if not isinstance(first, InputModule):
        raise InputError(f"the first module is a {type(first).__name__}, which takes no token ids.")
    if task == "query" and getattr(first, "query_expansion", None):
        raise InputError("token ids of queries cannot be expanded. Use encode_query().")
    tokens = _rows(given)

    def work() -> Any:
        options = EncodeOptions(task=task)
        features = replace(first.features(tokens, options), prompt_length=int(given.get("prompt_length", 0)))
        for module in (first, *rest):
            features = module(features)
        return all_outputs(features)

    arrays = {name: np.array(array) for name, array in run(work).items()}
    if type(given["input_ids"]).__module__.partition(".")[0] == "torch":
        import torch

        return {**given, **{name: torch.from_numpy(array) for name, array in arrays.items()}}
    return {**given, **arrays}


def _rows(given: Mapping[str, Any]) -> list[Tokens]:
    ids = np.atleast_2d(to_numpy(given["input_ids"]))
    types = None if given.get("token_type_ids") is None else np.atleast_2d(to_numpy(given["token_type_ids"]))
    mask = np.ones_like(ids) if given.get("attention_mask") is None else to_numpy(given["attention_mask"])
    mask = np.atleast_2d(mask).astype(bool)
    if mask.shape != ids.shape or (types is not None and types.shape != ids.shape):
        raise InputError(f"got input_ids {ids.shape}, and another array of another shape. Pad them alike.")
    if (np.diff(mask.astype(np.int8), axis=1) > 0).any():
        raise InputError("attention_mask has 0 before 1; expected texts padded on the right. Use encode() for texts.")
    return [
        Tokens(row[kept].astype(np.int32), None if types is None else types[index][kept].astype(np.int32))
        for index, (row, kept) in enumerate(zip(ids, mask, strict=True))
    ]
