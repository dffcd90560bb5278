"""A planned conversion whose weights are rounded on calibration texts, which the checkpoint's own model reads.

The output that is kept near the float model's is what the repo is for: its sentence embeddings where it has
modules.json, the logits of the head that config.json names, else the mean of the hidden states. So every class that
loads the folder finds the same weights.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.family import BASE_TASK, HF_SUFFIXES, independent_length_of
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint
from mlx_hf_bridge.checkpoints.pooling_modes import read_pooling_modes
from mlx_hf_bridge.conversion.method_choice import Rounding, choose_rounding
from mlx_hf_bridge.conversion.plan import Plan
from mlx_hf_bridge.conversion.tokenizer_files import has_tokenizer, load_tokenizer, write_tokenizer
from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.inference.batching import group_by_length, pad_tokens
from mlx_hf_bridge.inference.model import EncoderOutput, Model, build_model
from mlx_hf_bridge.inference.pooling import pool
from mlx_hf_bridge.inference.tokenizer import Tokenizer, Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.calibration import calibrate, count_steps
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob
from mlx_hf_bridge.quantization.methods import AUTO
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.quantization.resume_store import ResumeStore
from mlx_hf_bridge.quantization.widths import BitWidth
from mlx_hf_bridge.runtime.environment import bridge_cache
from mlx_hf_bridge.runtime.progress import ProgressBar
from mlx_hf_bridge.weights.assign import assign_weights
from mlx_hf_bridge.weights.name_mapping import NameMapping, TensorTarget, resolve_names

# Longer texts are truncated to this many tokens: what inputs look like is seen by then, and attention costs the square.
_MAX_TOKENS = 256
_BATCH_SIZE = 32
# Hexadecimal digits of the hash that names a calibration's folder of finished steps.
_DIGEST_LETTERS = 16
# For "data_free": how many texts, and the fewest and most words of each; about as many tokens as the bundled texts.
_RANDOM_TEXTS, _RANDOM_WORDS = 300, (2, 24)
# The bundled texts are few, so each is also read in this many variations, in which this share of tokens is replaced.
_VARIATIONS, _REPLACED = 3, 0.15

# Checkpoint tensor name -> the tensors that it becomes, with their new names.
Tensors = dict[str, list[tuple[str, mx.array]]]


def calibrated_tensors(plan: Plan, folder: Path, show_progress: bool) -> Tensors:
    """Calibrate a planned conversion.

    Args:
        plan: The plan; its recipe's method reads a model.
        folder: The new folder, which the tokenizer is written into.
        show_progress: Whether to show a progress bar.

    Returns:
        The tensors that calibration decides. Finished steps are stored in the cache until all are done, so that an
        interrupted calibration is resumed.
    """
    recipe = plan.recipe
    assert recipe is not None
    resume = ResumeStore(bridge_cache() / "calibration" / _digest(plan, recipe))
    rounding = choose_rounding(plan)
    with _progress_bar(plan, rounding, show_progress) as on_step:
        job = create_calibration_job(plan, folder, resume, on_step)
        quantized, tuned = calibrate(job, rounding.method, recipe.seed, rounding.samples)
    targets = tensor_targets(plan, calibration_task(plan))
    found: Tensors = {}
    for path, weights in quantized.items():
        slices = {
            leaf: _split(plan, targets, path, "weight", array) for leaf, array in weights.pack(plan.dtype).items()
        }
        for name in slices["weight"]:
            module = plan.tensors[name].name.rpartition(".")[0]
            found[name] = [(f"{module}.{leaf}", by_name[name]) for leaf, by_name in slices.items()]
    for parameter, array in tuned.items():
        path, _, leaf = parameter.rpartition(".")
        for name, part in _split(plan, targets, path, leaf, array).items():
            found[name] = [(plan.tensors[name].name, part.astype(plan.tensors[name].dtype))]
    # Before the saved steps are deleted: a failure until here can be resumed.
    mx.eval([array for tensors in found.values() for _, array in tensors])
    resume.clear()
    return found


def create_calibration_job(
    plan: Plan, folder: Path, resume: ResumeStore, on_step: Callable[[str], None]
) -> CalibrationJob:
    """Build the models, batches and widths of a calibration.

    Args:
        plan: The planned conversion.
        folder: Where the tokenizer is written.
        resume: Where finished steps are stored.
        on_step: Called with a label after every step.
    """
    assert plan.recipe is not None
    task = calibration_task(plan)
    targets = tensor_targets(plan, task)
    widths = {
        target.path: BitWidth(tensor.recipe.bits, tensor.recipe.group_size)
        for name, target in targets.items()
        if target.path and target.leaf == "weight" and (tensor := plan.tensors[name]).recipe
    }
    tokens, padding_id = _tokenize(plan, folder)
    lengths = [len(text) for text in tokens]

    def batches(independent_length: int) -> list[TokenBatch]:
        groups = group_by_length(lengths, _BATCH_SIZE, independent_length)
        return [pad_tokens(plan.config, [tokens[index] for index in rows], padding_id) for rows in groups]

    return CalibrationJob(
        # Twice, because one of them is quantized layer by layer while the other stays as it is.
        float_model(plan, task, targets),
        float_model(plan, task, targets),
        # Without padding, so that statistics of inputs count real tokens only.
        batches(independent_length=0),
        batches(independent_length_of(plan.family, plan.config)),
        widths,
        plan.dtype,
        _output_selector(plan.checkpoint, task),
        resume,
        on_step,
    )


def calibration_task(plan: Plan) -> str:
    """Return the task of the head that the checkpoint is for; the bare encoder's for sentence embeddings."""
    if plan.checkpoint.modules is not None:
        return BASE_TASK
    architectures = plan.checkpoint.config.get("architectures") or []
    heads = plan.family.heads
    # Causal language models are used as encoders: their head is in the class's name of many embedders.
    tasks = [task for task in heads if task in HF_SUFFIXES]
    return next((task for task in tasks if plan.family.hf_class_name(task) in architectures), BASE_TASK)


def tensor_targets(plan: Plan, task: str) -> dict[str, TensorTarget]:
    """Return where the checkpoint's tensors belong in the model of a task."""
    return resolve_names(NameMapping(plan.family, plan.config, task), plan.tensors, str(plan.checkpoint.model_folder))


def float_model(plan: Plan, task: str, targets: Mapping[str, TensorTarget]) -> Model:
    """Load the checkpoint's model with float32 weights.

    Args:
        plan: The planned conversion.
        task: The task of the model's head.
        targets: Where the checkpoint's tensors belong in it.
    """
    has_pooler = any(target.path and target.path.startswith("pooler.") for target in targets.values())
    model = build_model(plan.family, plan.config, task, pooler=has_pooler)
    arrays = {
        # float32, so that the file's half precision adds no error to the statistics.
        name: array.astype(mx.float32) if plan.tensors[name].info.is_float else array
        for file in plan.files
        for name, array in file.arrays()
        if name in targets and targets[name].path
    }
    assign_weights(model, targets, arrays, {})
    mx.eval(model.parameters())
    return model


def _tokenize(plan: Plan, folder: Path) -> tuple[list[Tokens], int]:
    """Return the tokens of the calibration texts, and the padding id."""
    assert plan.recipe is not None
    source = plan.checkpoint.tokenizer or plan.checkpoint
    if not has_tokenizer(source.model_folder):
        raise QuantizationError(
            f"{plan.checkpoint.source.name} has no tokenizer, so it cannot read calibration texts. Copy its tokenizer "
            "files there, or use method='least_squares', which reads none."
        )
    write_tokenizer(source, plan.family, folder)
    tokenizer = load_tokenizer(folder, plan.family, plan.checkpoint.config)
    limit = min(_MAX_TOKENS, plan.config.max_length, tokenizer.model_max_length or _MAX_TOKENS)
    if plan.recipe.method == "data_free":
        return tokenizer.encode(random_texts(tokenizer, plan.recipe.seed, _RANDOM_TEXTS), limit), tokenizer.pad_token_id
    if plan.recipe.method == AUTO:
        # Random words for the languages that the bundled texts are not in.
        texts = [*plan.recipe.texts, *random_texts(tokenizer, plan.recipe.seed, _RANDOM_TEXTS // 2)]
        return tokenizer.encode(texts, limit), tokenizer.pad_token_id
    tokens = tokenizer.encode(list(plan.recipe.texts), limit)
    if plan.recipe.calibration_texts is None:
        tokens += augment_tokens(tokens, tokenizer, plan.recipe.seed)
    return tokens, tokenizer.pad_token_id


def augment_tokens(tokens: Sequence[Tokens], tokenizer: Tokenizer, seed: int) -> list[Tokens]:
    """Return variations of a few texts, with some of their tokens replaced.

    Args:
        tokens: The texts' tokens.
        tokenizer: The tokenizer; its special tokens are neither replaced nor inserted.
        seed: Seed of the choice of tokens.

    Returns:
        Several variations of each text. Half of the new tokens are from the texts, half from the whole vocabulary.
    """
    random = np.random.default_rng(seed)
    # Special tokens are neither replaced nor put in: their positions have a meaning.
    special = list(tokenizer.backend.get_added_tokens_decoder())
    vocabulary = np.setdiff1d(np.array(sorted(tokenizer.backend.get_vocab().values()), np.int32), special)
    seen = np.concatenate([text.ids for text in tokens])
    seen = seen[~np.isin(seen, special)]
    found = []
    for _ in range(_VARIATIONS):
        for text in tokens:
            # Half from the texts, in their frequencies, and half from the whole vocabulary, for rare tokens.
            sampled = np.where(
                random.random(len(text)) < 0.5, random.choice(seen, len(text)), random.choice(vocabulary, len(text))
            )
            is_replaced = (random.random(len(text)) < _REPLACED) & ~np.isin(text.ids, special)
            found.append(replace(text, ids=np.where(is_replaced, sampled, text.ids).astype(np.int32)))
    return found


def random_texts(tokenizer: Tokenizer, seed: int, count: int) -> list[str]:
    """Return texts of random length, of words sampled from the whole vocabulary."""
    random = np.random.default_rng(seed)
    # Without the marks of word pieces (WordPiece's ##) and of word starts (SentencePiece's, byte-level BPE's).
    words = [word.removeprefix("##").strip("\u2581\u0120") for word in sorted(tokenizer.backend.get_vocab())]
    lengths = random.integers(_RANDOM_WORDS[0], _RANDOM_WORDS[1] + 1, count)
    return [" ".join(words[index] for index in random.integers(0, len(words), length)) for length in lengths]


def _output_selector(checkpoint: Checkpoint, task: str) -> Callable[[EncoderOutput, TokenBatch], mx.array]:
    """Return the function that picks what users read: the head's logits, or pooled sentence embeddings."""
    if task != BASE_TASK:
        return lambda encoded, batch: next(iter(encoded.outputs.values()))
    entries = checkpoint.modules or ()
    pooling = next((entry.path for entry in entries if entry.kind == "Pooling"), None)
    modes = ("mean",) if pooling is None else read_pooling_modes(checkpoint.folder / pooling)
    return lambda encoded, batch: pool(encoded.hidden, batch, modes)


def _split(
    plan: Plan, targets: Mapping[str, TensorTarget], path: str, leaf: str, array: mx.array
) -> dict[str, mx.array]:
    """Split a model parameter into the rows of the checkpoint tensors that are fused in it."""
    slices: dict[int, str] = {
        target.slice_index: name for name, target in targets.items() if (target.path, target.leaf) == (path, leaf)
    }
    found, start = {}, 0
    for index in sorted(slices):
        end = start + plan.tensors[slices[index]].info.shape[0]
        found[slices[index]] = array[start:end]
        start = end
    return found


def _digest(plan: Plan, recipe: MLXQuantizationConfig) -> str:
    facts = {"source": plan.checkpoint.source.identity, "recipe": recipe.to_dict(), "dtype": str(plan.dtype)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGEST_LETTERS]


@contextmanager
def _progress_bar(plan: Plan, rounding: Rounding, show_progress: bool) -> Iterator[Callable[[str], None]]:
    targets = tensor_targets(plan, calibration_task(plan))
    modules = {target.path for name, target in targets.items() if plan.tensors[name].recipe and target.leaf == "weight"}
    total = count_steps(len(modules), rounding.method, rounding.samples)
    with ProgressBar(total=total, desc="Calibrating", unit="step", disable=None if show_progress else True) as bar:

        def on_step(label: str) -> None:
            bar.set_postfix_str(label, refresh=False)
            bar.update()

        yield on_step
