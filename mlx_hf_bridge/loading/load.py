"""Load a repo or folder as a module that is ready to run: files, config, conversion, module and weights.

`load` has the sequence of steps; each step is in its own file.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family, independent_length_of
from mlx_hf_bridge.checkpoints.checkpoint import (
    Checkpoint,
    open_weight_files,
    read_checkpoint,
)
from mlx_hf_bridge.checkpoints.dtypes import parse_dtype
from mlx_hf_bridge.checkpoints.metadata import read_metadata
from mlx_hf_bridge.checkpoints.repo_files import STORAGE_KEYS
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo, WeightFile, dtype_name
from mlx_hf_bridge.checkpoints.sources import HubOptions, Source, locate
from mlx_hf_bridge.conversion.cache import cache_folder, create_once
from mlx_hf_bridge.conversion.plan import plan_conversion
from mlx_hf_bridge.conversion.traced import plan_traced, read_graph, read_model, stored_dtype, wants_tracing
from mlx_hf_bridge.conversion.usage import Use, use
from mlx_hf_bridge.conversion.write import FORMAT, write_conversion
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, UnsupportedModelError
from mlx_hf_bridge.inference.model import Model, build_model, set_activation_dtype
from mlx_hf_bridge.loading.overrides import (
    LABEL_KEYS,
    ConfigLike,
    load_config,
    override_config,
    shrinks_model,
    weight_differences,
)
from mlx_hf_bridge.loading.report import LoadReport
from mlx_hf_bridge.loading.stored import Content, content_of, naming
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.quantization.recipes import (
    MLXQuantizationConfig,
    QuantizationLike,
    recipe_from,
    recipe_of_environment,
)
from mlx_hf_bridge.runtime.device import COMPILES_GRAPHS, activation_dtype
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.runtime.precision import warn_of_tf32
from mlx_hf_bridge.tracing.family import TracedConfig, family_of
from mlx_hf_bridge.tracing.model import TracedModel
from mlx_hf_bridge.weights.assign import assign_weights, random_init
from mlx_hf_bridge.weights.name_mapping import KEEP_FILE_DTYPE, NameMapping, TensorTarget, resolve_names
from mlx_hf_bridge.weights.quantized import check_same_recipe, quantize_modules, read_packing, recipe_from_packing
from mlx_hf_bridge.weights.sizes import check_sizes
from mlx_hf_bridge.weights.tensor_keys import complete_config
from mlx_hf_bridge.weights.ties import settle_ties
from mlx_hf_bridge.weights.validation import Tolerance, check_fit, named_parameters, pooler_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to run, with what is known about it.

    Attributes:
        model: The MLX module.
        family: The implementation of its model_type.
        config: The config that the module was built from.
        raw_config: The content of config.json, with overrides.
        folder: The converted folder that the weights were read from.
        task: The task of its head, or "feature-extraction" for the encoder without a head.
        dtype: The dtype in which weights that are not quantized are stored.
        recipe: The quantization; None if there is none.
        source: Where the original files are.
        report: Names of tensors that are missing, unexpected or mismatched.
        use: What keeps the converted folder from being removed while the model lives; None if it is not of the cache.
    """

    model: Model | TracedModel
    family: Family
    config: EncoderConfig
    raw_config: dict[str, Any]
    folder: Path
    task: str
    dtype: mx.Dtype
    recipe: MLXQuantizationConfig | None
    source: Source
    report: LoadReport
    use: Use | None = None

    @property
    def independent_length(self) -> int:
        """Longest batch, in tokens, in which padding changes no text's outputs."""
        return independent_length_of(self.family, self.config)

    @property
    def content(self) -> Content:
        """What the folder held when the weights were read from it; None for a folder of the cache."""
        return content_of(self.source, self.folder)


@dataclass(frozen=True)
class Changes:
    """What a caller wants otherwise than the checkpoint's files say.

    Attributes:
        config: A config object, dict or path that replaces config.json; None keeps it.
        adapter: Path and Hub options of a LoRA adapter to merge; None for none.
        overrides: Keys that override those of the config.
        ignore_mismatched_sizes: Whether to initialize at random what is missing of a head, or has another shape than
            the config says.
    """

    config: ConfigLike = None
    adapter: tuple[str, HubOptions] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ignore_mismatched_sizes: bool = False


NO_CHANGES = Changes()


def load(
    name: str | Path | Source,
    task: str,
    *,
    quantization_config: QuantizationLike = None,
    dtype: Any = "auto",
    options: HubOptions | None = None,
    pooler: bool = True,
    show_progress: bool = True,
    changes: Changes = NO_CHANGES,
    trace: str = "auto",
) -> LoadedModel:
    """Load a model, converting its checkpoint into the local cache if that was not done yet.

    Args:
        name: A Hub id, a folder, or a Source that was located before.
        task: One of the family's heads ("fill-mask", "text-classification", ...), or "feature-extraction" for the
            encoder without a head.
        quantization_config: A recipe's name ("q8", "q4", ...), a dict or an MLXQuantizationConfig; None keeps the
            weights as they are.
        dtype: The dtype to store weights in: a name, or a dtype of mx, torch or numpy; "auto" is the checkpoint's own.
        options: Which files of the Hub to use; None is the main branch with defaults.
        pooler: Whether to load the pooler, if the checkpoint has one.
        show_progress: Whether to show a progress bar during conversion.
        changes: What to change of the checkpoint's config or weights.
        trace: "auto" traces transformers' module if the model_type is not implemented here, "never" refuses such a
            model, "always" traces any.

    Returns:
        The model, its weights evaluated.

    Raises:
        RepositoryError: If a repo, folder or file is not found.
        CheckpointError: If a weight file is broken or truncated.
        ConfigError: If config.json, `changes` or `dtype` has an unsupported value.
        WeightsError: If tensors are missing, unexpected or of another shape than the config says.
        UnsupportedModelError: If the model_type or its head is not implemented.
        QuantizationError: If the recipe is unknown, or contradicts how the weights are already quantized.
        ArgumentTypeError: If a traced model is to be changed, or a value has a wrong type.
    """
    # For its error alone: a wrong value of the variable is not found out only in zero-change mode.
    recipe_of_environment()
    recipe, stored = recipe_from(quantization_config), parse_dtype(dtype)
    source = name if isinstance(name, Source) else locate(name, options or HubOptions())
    with naming(source):
        return _load(source, task, recipe, stored, pooler, show_progress, changes, trace)


def _load(
    source: Source,
    task: str,
    recipe: MLXQuantizationConfig | None,
    stored: mx.Dtype | None,
    pooler: bool,
    show_progress: bool,
    changes: Changes,
    trace: str,
) -> LoadedModel:
    adapter = None if changes.adapter is None else locate(*changes.adapter)
    checkpoint = read_checkpoint(source, changes.config is None, adapter)
    if wants_tracing(checkpoint, trace):
        return _load_traced(checkpoint, task, recipe, stored, pooler, changes, show_progress)
    return _load_native(checkpoint, source, task, recipe, stored, pooler, show_progress, changes)


def load_checkpoint(
    checkpoint: Checkpoint,
    task: str,
    quantization_config: QuantizationLike = None,
    dtype: Any = "auto",
    show_progress: bool = True,
) -> LoadedModel:
    """Load a model whose files and config were read before, as `load` does.

    Args:
        checkpoint: The checkpoint; its model_type is implemented here.
        task: One of the family's heads, or "feature-extraction" for the encoder without a head.
        quantization_config: As for `load`.
        dtype: As for `load`.
        show_progress: Whether to show a progress bar during conversion.

    Returns:
        The model, its weights evaluated.
    """
    recipe, stored = recipe_from(quantization_config), parse_dtype(dtype)
    with naming(checkpoint.source):
        return _load_native(checkpoint, checkpoint.source, task, recipe, stored, True, show_progress, NO_CHANGES)


def _load_native(
    checkpoint: Checkpoint,
    source: Source,
    task: str,
    recipe: MLXQuantizationConfig | None,
    stored: mx.Dtype | None,
    pooler: bool,
    show_progress: bool,
    changes: Changes,
) -> LoadedModel:
    config = _changed_config(checkpoint, changes)
    cut = config is not checkpoint.config and shrinks_model(family_for(config), checkpoint.config, config)
    tolerance = Tolerance(changes.ignore_mismatched_sizes, allow_unexpected=cut)
    # With an adapter it goes on to the conversion, which refuses a base that is already quantized.
    if checkpoint.adapter is None and (checkpoint.is_converted or read_packing(checkpoint.config)):
        held = use(checkpoint.folder)
        _check_converted(checkpoint, recipe, stored)
    else:
        reconfigured = _reconfigured(checkpoint, config)
        checkpoint, held = _converted(reconfigured, task, recipe, stored, tolerance, show_progress)
    # In the executor's thread, to which the model's arrays belong from then on.
    loaded = run(lambda: load_converted(checkpoint, config, task, pooler, tolerance, source))
    return replace(loaded, use=held)


def _load_traced(
    checkpoint: Checkpoint,
    task: str,
    recipe: MLXQuantizationConfig | None,
    dtype: mx.Dtype | None,
    pooler: bool,
    changes: Changes,
    show_progress: bool,
) -> LoadedModel:
    """Load a model that runs as a traced graph, tracing it if its converted folder does not exist yet."""
    if changes != NO_CHANGES or checkpoint.adapter is not None:
        raise ArgumentTypeError(
            f"{checkpoint.source.name} is a traced model, which takes no other config, config keys or adapter. Omit "
            "them, or save the changed model with transformers and load that folder."
        )
    source = checkpoint.source
    if checkpoint.is_converted:
        held = use(checkpoint.folder)
        _check_converted(checkpoint, recipe, dtype)
    else:

        def convert(folder: Path) -> None:
            run(lambda: write_conversion(plan_traced(original, task, recipe, dtype), folder, show_progress))

        original = checkpoint
        folder = cache_folder(source, recipe, dtype, FORMAT, traced=task)
        held = create_once(folder, convert)
        checkpoint = read_checkpoint(locate(folder, HubOptions()))
    return replace(run(lambda: load_traced(checkpoint, task, pooler, source)), use=held)


def _changed_config(checkpoint: Checkpoint, changes: Changes) -> dict[str, Any]:
    """Return the config with the changes; the checkpoint's own object if there are none."""
    if changes.config is None and not changes.overrides:
        return checkpoint.config
    raw = checkpoint.config if changes.config is None else load_config(changes.config)
    return override_config(raw, changes.overrides, family_for(raw))


def _reconfigured(checkpoint: Checkpoint, config: dict[str, Any]) -> Checkpoint:
    """Give the checkpoint another identity in the cache if the requested config changes its weights."""
    if config is checkpoint.config:
        return checkpoint
    if not (found := weight_differences(family_for(config), checkpoint.config, config)):
        # The same conversion, checked against the labels that are asked for: the file may have none (num_labels=1).
        labels = {key: config[key] for key in LABEL_KEYS if key in config}
        return replace(checkpoint, config={**checkpoint.config, **labels})
    source = replace(checkpoint.source, identity={**checkpoint.source.identity, "config": found})
    return replace(checkpoint, config=config, source=source)


def _converted(
    checkpoint: Checkpoint,
    task: str,
    recipe: MLXQuantizationConfig | None,
    dtype: mx.Dtype | None,
    tolerance: Tolerance,
    show_progress: bool,
) -> tuple[Checkpoint, Use | None]:
    """Return the converted folder of a checkpoint, and what keeps it from being removed."""

    def convert(folder: Path) -> None:
        plan = run(lambda: plan_conversion(checkpoint, task, recipe, dtype, tolerance=tolerance))
        run(lambda: write_conversion(plan, folder, show_progress))

    # For its error alone, before a cache folder and its lock are made.
    family_for(checkpoint.config)
    folder = cache_folder(checkpoint.source, recipe, dtype, FORMAT)
    held = create_once(folder, convert)
    return read_checkpoint(locate(folder, HubOptions())), held


def load_converted(
    checkpoint: Checkpoint, requested: dict[str, Any], task: str, pooler: bool, tolerance: Tolerance, source: Source
) -> LoadedModel:
    """Build the module of a converted folder and read its weights.

    Args:
        checkpoint: The converted folder.
        requested: The requested config, with overrides.
        task: The task of the head, or "feature-extraction".
        pooler: Whether to load the pooler, if there is one.
        tolerance: Which mismatches of names and shapes are allowed.
        source: Where the original files are.

    Returns:
        The model, its weights evaluated.
    """
    raw = _as_stored(requested, checkpoint.config)
    family = family_for(raw)
    files = open_weight_files(checkpoint)
    files, raw = settle_ties(files, family, complete_config(files, family, raw))
    config = family.config.from_json(raw)
    packing = read_packing(checkpoint.config)
    names, where = NameMapping(family, config, task), str(checkpoint.folder)
    tensor_infos = {name: info for file in files for name, info in file.tensor_infos.items()}
    targets = resolve_names(names, tensor_infos, where)
    check_sizes(config, tensor_infos, where)
    stored = _stored_dtype(tensor_infos, targets)
    has_pooler = any(target.path and target.path.startswith("pooler.") for target in targets.values())
    model = build_model(family, config, task, pooler=pooler and has_pooler)
    quantize_modules(model, names, targets, packing)
    fit = check_fit(names, targets, tensor_infos, model, where, tolerance)
    read = {name: target for name, target in targets.items() if target.path and name not in fit.unread}
    computed = activation_dtype(stored)
    if computed == mx.float16 and config.exceeds_float16:  # activations beyond 65504 would become infinite
        computed = mx.float32
    if computed == mx.float32:
        warn_of_tf32()
    # 0.02 is the default initializer_range of transformers' configs.
    initialized = random_init(fit.uninitialized, raw.get("initializer_range", 0.02), computed)
    assign_weights(model, read, _arrays(files, read, computed), initialized)
    set_activation_dtype(model, computed)
    # Lazy parameters would be read from the file at the first call, in whatever thread makes it.
    mx.eval([array for name, array in named_parameters(model) if not name.startswith(family.deferred_modules)])
    if COMPILES_GRAPHS:
        model.compile(config, independent_length_of(family, config))
    lacks_pooler = pooler and not has_pooler and task == BASE_TASK
    report = LoadReport(
        frozenset((*fit.missing, *(pooler_names(names, family, config) if lacks_pooler else ()))),
        frozenset((*fit.unexpected, *_unused(targets, model), *_left_out(checkpoint))),
        frozenset(fit.mismatched),
    )
    folder, recipe = checkpoint.folder, recipe_from_packing(packing)
    return LoadedModel(model, family, config, raw, folder, task, stored, recipe, source, report)


def load_traced(checkpoint: Checkpoint, task: str, pooler: bool, source: Source) -> LoadedModel:
    """Build the module of a converted folder that holds a traced graph.

    Args:
        checkpoint: The converted folder.
        task: The requested task.
        pooler: Whether to return the pooler's output, if there is one.
        source: Where the original files are.

    Returns:
        The model, its weights evaluated.

    Raises:
        UnsupportedModelError: If the graph was traced for another task.
    """
    graph = read_graph(checkpoint.folder)
    if graph.facts.task != task:
        raise UnsupportedModelError(
            f"{source.name} holds the graph of {graph.facts.model_class}, for {graph.facts.task!r}, and {task!r} was "
            "requested; a graph is for one task. Convert the original checkpoint for this task."
        )
    stored, folder = stored_dtype(checkpoint), checkpoint.folder
    if activation_dtype(stored) == mx.float32:
        warn_of_tf32()
    model = read_model(checkpoint, graph, activation_dtype(stored), pooler)
    config, recipe = TracedConfig.of(graph, checkpoint.config), recipe_from_packing(read_packing(checkpoint.config))
    family = family_of(graph)
    return LoadedModel(model, family, config, checkpoint.config, folder, task, stored, recipe, source, LoadReport())


def _as_stored(requested: dict[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the requested config, with the dtype and quantization of the folder, and its own decoder if it has one."""
    kept = {key: value for key, value in requested.items() if key not in STORAGE_KEYS}
    untied = {"tie_word_embeddings": False} if stored.get("tie_word_embeddings") is False else {}
    return kept | untied | {key: value for key, value in stored.items() if key in STORAGE_KEYS}


def _unused(targets: Mapping[str, TensorTarget], model: Model) -> list[str]:
    """Return the names of tensors of other heads, and of a pooler that is not loaded."""
    without = "pooler" not in model
    return [
        name
        for name, target in targets.items()
        if (target.path is None and not target.is_base)
        or (without and target.path and target.path.startswith("pooler."))
    ]


def _left_out(checkpoint: Checkpoint) -> list[str]:
    """Return the names of tensors that the conversion dropped, since the model has no parameter for them."""
    # Names that are hashed in the report; of anything else there is no name.
    return [name for name in read_metadata(checkpoint.folder).get("left_out") or () if isinstance(name, str)]


def _arrays(files: list[WeightFile], read: dict[str, TensorTarget], dtype: mx.Dtype) -> dict[str, mx.array]:
    """Read the tensors that the model uses, float ones in `dtype`."""
    return {
        name: _to_compute_dtype(array, read[name], dtype)
        for file in files
        for name, array in file.arrays()
        if name in read
    }


def _stored_dtype(tensor_infos: dict[str, TensorInfo], targets: dict[str, TensorTarget]) -> mx.Dtype:
    """Return the most common dtype of the tensors that are not quantized."""
    dtypes = [
        tensor_infos[name].mlx_dtype
        for name, target in targets.items()
        if tensor_infos[name].is_float and target.is_base
    ]
    # float32 first, which wins a tie.
    return max((mx.float32, mx.float16, mx.bfloat16), key=dtypes.count)


def _to_compute_dtype(array: mx.array, target: TensorTarget, dtype: mx.Dtype) -> mx.array:
    """Cast float weights to the dtype of the computation; quantized values and their scales stay as they are."""
    # Scales are cast at every call instead, see QuantizedModule.scales_as.
    keep = target.leaf in ("scales", "biases", *KEEP_FILE_DTYPE) or not mx.issubdtype(array.dtype, mx.floating)
    return array if keep else array.astype(dtype)


def _check_converted(checkpoint: Checkpoint, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None) -> None:
    """Check that a folder converted before has the requested recipe and dtype."""
    if recipe is not None:
        # Folders of other MLX tools have no metadata; their config.json says bits and group size only.
        noted = read_metadata(checkpoint.folder).get("recipe")
        check_same_recipe(read_packing(checkpoint.config), noted, recipe, checkpoint.source.name)
    if dtype is not None and checkpoint.config.get("dtype") not in (None, dtype_name(dtype)):
        raise ConfigError(
            f"{checkpoint.source.name} is already converted to {checkpoint.config['dtype']}, and {dtype} was "
            "requested. Omit dtype, or convert the original checkpoint."
        )
