"""Every key of every native family's config.json, set to other legal values, against transformers.

    python tests/config_keys.py [MODEL_TYPE ...] [--share I/N]

For each key of a family's config class, transformers saves a tiny model with another legal value of that key,
which is loaded here. The outcome is "same" (all outputs within 2e-5), "error" (one clear error), or "differs", of which
there must be none. The script prints how many there are of each, by family.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import sys
import tempfile
import typing
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from checkpoints import FAMILIES, STD, Row, heads_of, ragged_inputs, torch_class

from mlx_hf_bridge.architecture.family import HF_SUFFIXES
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.inference.batching import make_batch
from mlx_hf_bridge.loading.load import load_converted
from mlx_hf_bridge.weights.validation import STRICT

SAME, ERROR, DIFFERS, INVALID = "same", "error", "differs", "invalid"
ABSOLUTE = 2e-5
TASKS = {suffix: task for task, suffix in HF_SUFFIXES.items()}
# Keys that name the file or the run, not the model.
NOT_OF_THE_MODEL = {
    "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path", "model_type", "return_dict",
    "output_hidden_states", "output_attentions", "_attn_implementation", "id2label", "label2id", "num_labels",
    "problem_type", "decoder", "transformers_weights", "_commit_hash",
}  # fmt: skip
# Keys that no config class lists and the shared code of transformers reads.
HIDDEN_KEYS: dict[str, Any] = {"is_causal": False, "num_key_value_heads": 2, "head_dim": 8, "rope_theta": 50.0}
ACTIVATIONS = ("relu", "gelu_new", "silu")


@dataclass(frozen=True)
class Case:
    """One value of one key, for one head of a row of FAMILIES."""

    row: Row
    head: str
    key: str
    value: Any

    @property
    def name(self) -> str:
        """A name for messages and for the choice of a share."""
        return f"{self.row.model_type} {FAMILIES.index(self.row)} {self.head} {self.key}={self.value!r}"


def cases(model_types: typing.Collection[str] = ()) -> Iterator[Case]:
    """Yield every case, or those of some model types; keys that one row of a type has are not tried with the next."""
    seen: set[tuple[Any, ...]] = set()
    for row in FAMILIES:
        if model_types and row.model_type not in model_types:
            continue
        for key, value in _settings(row):
            for head in heads_of(row):
                # Training settings reach no head.
                if head != "Model" and ("drop" in key or "initializer" in key):
                    continue
                mark = (row.model_type, head, key, repr(value))
                if mark not in seen:
                    seen.add(mark)
                    yield Case(row, head, key, value)


def share_of(index: int, count: int) -> list[Case]:
    """Return one of `count` shares of all cases, chosen by their names, so that adding a case moves no other."""
    return [case for case in cases() if zlib.crc32(case.name.encode()) % count == index]


def _settings(row: Row) -> Iterator[tuple[str, Any]]:
    """Yield each key of the row's config with other legal values."""
    config = row.config
    hints = {spec.name: spec.type for spec in dataclasses.fields(type(config))}
    keys = {**dict.fromkeys(hints), **config.to_dict()}
    for key in keys:
        if key in NOT_OF_THE_MODEL or key.startswith("_") or key in ("attribute_map", "sub_configs"):
            continue
        value = getattr(config, key, None)
        if callable(value) or key in ("keys_to_ignore_at_inference", "base_model_tp_plan", "base_model_pp_plan"):
            continue
        for other in _others(key, value, str(hints.get(key, "")), row):
            yield key, other
    for key, value in HIDDEN_KEYS.items():
        if key not in keys:
            yield key, value


def _others(key: str, value: Any, hint: str, row: Row) -> list[Any]:
    """Return legal values that differ from `value`."""
    if isinstance(value, bool) or (value is None and "bool" in hint):
        return [not value]
    if key in (
        "hidden_act",
        "hidden_activation",
        "activation",
        "classifier_activation",
        "pooler_hidden_act",
        "conv_act",
        "dense_act_fn",
        "activation_function",
    ):
        return [name for name in ACTIVATIONS if name != value]
    if isinstance(value, int):
        return _other_integers(key, value)
    if isinstance(value, float):
        return [value * 1.7 + (0.1 if "drop" in key else 0.0)]
    if key in STRINGS:
        return [other for other in STRINGS[key] if other != value]
    if value is None and "int" in hint:
        return [3]
    if value is None and "float" in hint:
        return [0.3]
    if key == "rope_parameters":
        return [_changed_rope(value)] if value else []
    return []


# Legal values of keys whose values are names or lists.
STRINGS: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", "relative_key", "relative_key_query", "rotary"),
    "feed_forward_proj": ("relu", "gated-gelu", "gated-silu", "gelu"),
    "classifier_pooling": ("cls", "mean", "bos", "late"),
    "summary_type": ("first", "last", "mean"),
    "summary_activation": (None, "tanh", "gelu"),
    "pos_att_type": ([], ["c2p"], ["p2c"], ["c2p", "p2c"], "c2p|p2c"),
    "norm_rel_ebd": ("none", "layer_norm"),
    "attention_type": ("original_full", "block_sparse"),
    "normalization_type": ("no_norm", "layer_norm"),
    "layer_types": (
        ["full_attention"] * 3, ["sliding_attention"] * 3, ["full_attention", "sliding_attention", "full_attention"],
    ),
    "attention_window": (2, 4, [2, 6, 2]),
    "projection_hidden_act": ("relu", "gelu"),
}  # fmt: skip


def _other_integers(key: str, value: int) -> list[int]:
    """Return other integers: sizes that still divide each other, ids of the vocabulary, and other counts."""
    sizes = {
        "hidden_size": [32], "dim": [32], "emb_dim": [32], "d_model": [32], "num_attention_heads": [2], "n_heads": [2],
        "num_heads": [2], "num_key_value_heads": [1, 4], "num_hidden_layers": [2], "n_layers": [2], "num_layers": [2],
        "head_dim": [6, 12], "vocab_size": [120], "n_words": [120], "max_position_embeddings": [60],
        "q_groups": [4], "k_groups": [2], "v_groups": [2], "conv_groups": [4], "conv_kernel_size": [3, 7],
    }  # fmt: skip
    if key in sizes:
        return [other for other in sizes[key] if other != value]
    if key.endswith(("_token_id", "_index")):
        return [7]
    return [value + 2, *([value * 2] if value > 2 else [])]


def _changed_rope(value: Any) -> Any:
    if "rope_theta" in value:
        return {**value, "rope_theta": 30.0}
    return {name: _changed_rope(inner) if isinstance(inner, dict) else inner for name, inner in value.items()}


def outcome(case: Case) -> tuple[str, str]:
    """Return what becomes of a case, and the error or the difference."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(scratch)
        try:
            model = _build(case)
            model.save_pretrained(folder)
            inputs = _inputs(case, model)
            with torch.no_grad():
                expected = model(**{name: torch.tensor(array) for name, array in inputs.items()})
        except Exception as error:  # whatever transformers raises for a value that is not legal there
            return INVALID, f"{type(error).__name__}: {error}"
        try:
            found = _run(folder, case, inputs)
        except BridgeError as error:
            return ERROR, f"{type(error).__name__}: {error}"
        except Exception as error:
            return DIFFERS, f"raw {type(error).__name__}: {error}"
        return _compare(found, expected, inputs, case.row)


def _build(case: Case) -> Any:
    config = case.row.config.to_dict()
    names = {number: f"class {number}" for number in range(2 if "Question" in case.head else 3)}
    changed = {"id2label": names, "label2id": {name: number for number, name in names.items()}, case.key: case.value}
    if case.row.model_type == "t5gemma" and case.key in config["encoder"]:
        part = {**config["encoder"], case.key: case.value}
        changed = {**changed, "encoder": part, "decoder": part}
    torch.manual_seed(0)
    model = torch_class(case.row, case.head)(type(case.row.config).from_dict({**config, **changed})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, STD)
    return model


def _inputs(case: Case, model: Any) -> dict[str, np.ndarray]:
    inputs = ragged_inputs(case.row, (11, 6))
    limit = getattr(model.config, "type_vocab_size", None)
    if "token_type_ids" in inputs and limit is not None and case.row.model_type not in ("xlm", "flaubert"):
        inputs["token_type_ids"] = inputs["token_type_ids"] % max(limit, 1)
    if case.head == "ForMultipleChoice":
        return {name: np.stack([array, array[::-1]], axis=1) for name, array in inputs.items()}
    return inputs


def _run(folder: Path, case: Case, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute with the package's own loading from the saved folder, without writing a converted one."""
    source = locate(folder, HubOptions())
    checkpoint = read_checkpoint(source)
    loaded = load_converted(checkpoint, checkpoint.config, TASKS[case.head], True, STRICT, source)
    given = {name: array.reshape(-1, array.shape[-1]) for name, array in inputs.items()}
    batch = make_batch(loaded.config, given["input_ids"], given["attention_mask"], given.get("token_type_ids"))
    encoded = loaded.model(batch)
    outputs = {"last_hidden_state": encoded.hidden, "pooler_output": encoded.pooled, **encoded.outputs}
    return {name: np.array(array, np.float32) for name, array in outputs.items() if array is not None}


def _compare(found: dict[str, np.ndarray], expected: Any, inputs: dict[str, np.ndarray], row: Row) -> tuple[str, str]:
    valid = inputs["attention_mask"].reshape(-1, inputs["attention_mask"].shape[-1]).astype(bool)
    worst, where = 0.0, ""
    for name, array in found.items():
        if expected.get(name) is None:
            continue
        wanted = expected[name].float().numpy()
        one = array.reshape(wanted.shape)
        kept = valid if wanted.shape[:2] == valid.shape else slice(None)
        # As far apart as numbers of that size are in float32.
        apart = float(np.abs(one[kept] - wanted[kept]).max() / max(1.0, np.abs(wanted[kept]).max()))
        if not apart <= worst:
            worst, where = apart, name
    return (SAME, "") if worst <= ABSOLUTE else (DIFFERS, f"{where} is {worst:.1e} off")


def main() -> None:
    """Run the cases of the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_types", nargs="*")
    parser.add_argument("--share", default="0/1", help="I/N: one of N shares")
    parser.add_argument("--verbose", action="store_true", help="print every case that is not the same")
    arguments = parser.parse_args()
    index, count = map(int, arguments.share.split("/"))
    # Tiny models: more threads only wait for each other.
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    table: dict[str, Counter[str]] = {}
    for case in cases(arguments.model_types):
        if zlib.crc32(case.name.encode()) % count != index:
            continue
        result, text = outcome(case)
        table.setdefault(case.row.model_type, Counter())[result] += 1
        if result == DIFFERS or (arguments.verbose and result != SAME):
            sys.stdout.write(f"{result:8} {case.name}: {text[:300]}\n")
            sys.stdout.flush()
    lines = ["| model_type | same | error | differs |", "| --- | ---: | ---: | ---: |"]
    table["all"] = sum(table.values(), Counter())
    lines += [f"| {name} | {found[SAME]} | {found[ERROR]} | {found[DIFFERS]} |" for name, found in table.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
