"""A planned conversion whose weights are rounded with the help of texts: the checkpoint's own model reads them.

What is matched is what the repo is for: its sentence vectors where it has modules.json, the logits of the head that
config.json names, else the mean of the hidden states; so that every class that loads the folder finds the same weights.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from tqdm.auto import tqdm

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint
from mlx_hf_bridge.checkpoints.pooling_modes import read_pooling_modes
from mlx_hf_bridge.conversion.plan import Plan
from mlx_hf_bridge.conversion.tokenizer_files import has_tokenizer, tokenizer_config, write_tokenizer
from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.inference.batching import group_by_length, pad_tokens
from mlx_hf_bridge.inference.model import EncoderOutput, Model, build_model
from mlx_hf_bridge.inference.pooling import pool
from mlx_hf_bridge.inference.tokenizer import Tokenizer, Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.calibration import calibrate, count_steps
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.quantization.resume_store import ResumeStore
from mlx_hf_bridge.quantization.widths import BitWidth
from mlx_hf_bridge.runtime.environment import bridge_cache
from mlx_hf_bridge.weights.assign import assign_weights
from mlx_hf_bridge.weights.name_mapping import NameMapping, TensorTarget, resolve_names

# Longer texts are cut: what inputs look like is seen by then, and attention costs the square.
_LONGEST = 256
_TEXTS_A_BATCH = 32
_DIGEST_LETTERS = 16
# As many tokens as the bundled texts have, about.
_RANDOM_TEXTS, _RANDOM_WORDS = 300, (2, 24)
# Of the bundled texts, which are few: how many of each, and the share of their tokens that is replaced.
_VARIATIONS, _REPLACED = 3, 0.15

Tensors = dict[str, list[tuple[str, mx.array]]]


def calibrated_tensors(plan: Plan, folder: Path, show_progress: bool) -> Tensors:
    """Checkpoint names -> what becomes of their tensors, of those that calibration decides.

    folder: where the tokenizer is written. Finished steps are kept in the cache until all are done.
    """
    recipe = plan.recipe
    assert recipe is not None
    kept = ResumeStore(bridge_cache() / "calibration" / _digest(plan, recipe))
    with _bar(plan, recipe.method, show_progress) as tick:
        job = create_calibration_job(plan, folder, kept, tick)
        codes, tuned = calibrate(job, recipe.method, recipe.seed)
    places = tensor_targets(plan, task_of(plan))
    found: Tensors = {}
    for path, one in codes.items():
        parts = {leaf: _parts(plan, places, path, "weight", array) for leaf, array in one.pack(plan.dtype).items()}
        for name in parts["weight"]:
            module = plan.tensors[name].name.rpartition(".")[0]
            found[name] = [(f"{module}.{leaf}", split[name]) for leaf, split in parts.items()]
    for parameter, array in tuned.items():
        path, _, leaf = parameter.rpartition(".")
        for name, part in _parts(plan, places, path, leaf, array).items():
            found[name] = [(plan.tensors[name].name, part.astype(plan.tensors[name].dtype))]
    mx.eval([array for tensors in found.values() for _, array in tensors])
    kept.clear()
    return found


def create_calibration_job(plan: Plan, folder: Path, kept: ResumeStore, tick: Callable[[str], None]) -> CalibrationJob:
    """The models, batches and widths of a calibration."""
    assert plan.recipe is not None
    task = task_of(plan)
    places = tensor_targets(plan, task)
    widths = {
        place.path: BitWidth(tensor.recipe.bits, tensor.recipe.group_size)
        for name, place in places.items()
        if place.path and place.leaf == "weight" and (tensor := plan.tensors[name]).recipe
    }
    tokens, padding = _tokens(plan, folder)
    lengths = [len(one) for one in tokens]

    def batches(even: bool) -> list[TokenBatch]:
        groups = group_by_length(lengths, _TEXTS_A_BATCH, even)
        return [pad_tokens(plan.config, [tokens[index] for index in rows], padding) for rows in groups]

    return CalibrationJob(
        float_model(plan, task, places),
        float_model(plan, task, places),
        batches(even=True),
        batches(even=plan.family.length_dependent),
        widths,
        plan.dtype,
        _answer(plan.checkpoint, task),
        kept,
        tick,
    )


def task_of(plan: Plan) -> str:
    """The head that the checkpoint is for; the bare encoder for sentence vectors."""
    if plan.checkpoint.modules is not None:
        return BASE_TASK
    named = plan.checkpoint.config.get("architectures") or []
    return next((task for task in plan.family.heads if plan.family.hf_class_name(task) in named), BASE_TASK)


def tensor_targets(plan: Plan, task: str) -> dict[str, TensorTarget]:
    """Where the checkpoint's tensors go in the model of that task."""
    return resolve_names(NameMapping(plan.family, plan.config, task), plan.tensors, str(plan.checkpoint.model_folder))


def float_model(plan: Plan, task: str, places: Mapping[str, TensorTarget]) -> Model:
    """The checkpoint's model with float32 weights."""
    has_pooler = any(place.path and place.path.startswith("pooler.") for place in places.values())
    model = build_model(plan.family, plan.config, task, pooler=has_pooler)
    arrays = {
        name: array.astype(mx.float32) if plan.tensors[name].info.is_float else array
        for file in plan.files
        for name, array in file.arrays()
        if name in places and places[name].path
    }
    assign_weights(model, places, arrays, {})
    mx.eval(model.parameters())
    return model


def _tokens(plan: Plan, folder: Path) -> tuple[list[Tokens], int]:
    """The calibration texts' tokens, and the padding id."""
    assert plan.recipe is not None
    if not has_tokenizer(plan.checkpoint.model_folder):
        raise QuantizationError(
            f"{plan.checkpoint.source.name} has no tokenizer, so it cannot read calibration texts. Copy its tokenizer "
            "files there, or use method='least_squares', which reads none."
        )
    write_tokenizer(plan.checkpoint, plan.family, folder)
    tokenizer = Tokenizer.from_folder(folder, tokenizer_config(folder))
    limit = min(_LONGEST, plan.config.max_length, tokenizer.model_max_length or _LONGEST)
    if plan.recipe.method == "data_free":
        return tokenizer.encode(random_texts(tokenizer, plan.recipe.seed), limit), tokenizer.pad_token_id
    tokens = tokenizer.encode(list(plan.recipe.texts), limit)
    if plan.recipe.calibration_texts is None:
        tokens += augment_tokens(tokens, tokenizer, plan.recipe.seed)
    return tokens, tokenizer.pad_token_id


def augment_tokens(tokens: Sequence[Tokens], tokenizer: Tokenizer, seed: int) -> list[Tokens]:
    """Variations of few texts: some tokens are replaced, half of them by tokens of the texts, half by any word."""
    random = np.random.default_rng(seed)
    special = list(tokenizer.backend.get_added_tokens_decoder())
    known = np.setdiff1d(np.array(sorted(tokenizer.backend.get_vocab().values()), np.int32), special)
    seen = np.concatenate([one.ids for one in tokens])
    seen = seen[~np.isin(seen, special)]
    found = []
    for _ in range(_VARIATIONS):
        for one in tokens:
            random_init = np.where(
                random.random(len(one)) < 0.5, random.choice(seen, len(one)), random.choice(known, len(one))
            )
            is_replaced = (random.random(len(one)) < _REPLACED) & ~np.isin(one.ids, special)
            found.append(replace(one, ids=np.where(is_replaced, random_init, one.ids).astype(np.int32)))
    return found


def random_texts(tokenizer: Tokenizer, seed: int) -> list[str]:
    """Texts of random length, of words drawn from the whole vocabulary."""
    random = np.random.default_rng(seed)
    words = [word.removeprefix("##").strip("\u2581\u0120") for word in sorted(tokenizer.backend.get_vocab())]
    lengths = random.integers(_RANDOM_WORDS[0], _RANDOM_WORDS[1] + 1, _RANDOM_TEXTS)
    return [" ".join(words[index] for index in random.integers(0, len(words), length)) for length in lengths]


def _answer(checkpoint: Checkpoint, task: str) -> Callable[[EncoderOutput, TokenBatch], mx.array]:
    if task != BASE_TASK:
        return lambda encoded, batch: next(iter(encoded.outputs.values()))
    entries = checkpoint.modules or ()
    pooling = next((entry.path for entry in entries if entry.kind == "Pooling"), None)
    modes = ("mean",) if pooling is None else read_pooling_modes(checkpoint.folder / pooling)
    return lambda encoded, batch: pool(encoded.hidden, batch, modes)


def _parts(
    plan: Plan, places: Mapping[str, TensorTarget], path: str, leaf: str, array: mx.array
) -> dict[str, mx.array]:
    """The rows of one of our parameters, by the checkpoint tensors that are joined in it."""
    joined: dict[int, str] = {
        place.slice_index: name for name, place in places.items() if (place.path, place.leaf) == (path, leaf)
    }
    found, start = {}, 0
    for part in sorted(joined):
        end = start + plan.tensors[joined[part]].info.shape[0]
        found[joined[part]] = array[start:end]
        start = end
    return found


def _digest(plan: Plan, recipe: MLXQuantizationConfig) -> str:
    facts = {"source": plan.checkpoint.source.identity, "recipe": recipe.to_dict(), "dtype": str(plan.dtype)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGEST_LETTERS]


@contextmanager
def _bar(plan: Plan, method: str, show_progress: bool) -> Iterator[Callable[[str], None]]:
    places = tensor_targets(plan, task_of(plan))
    packed = {place.path for name, place in places.items() if plan.tensors[name].recipe and place.leaf == "weight"}
    total = count_steps(len(packed), method)
    with tqdm(total=total, desc="Calibrating", unit="step", disable=None if show_progress else True) as bar:

        def tick(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        yield tick
