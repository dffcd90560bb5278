"""`inspect`: what a model is, and what works with it, before its weights are downloaded."""

from dataclasses import replace
from pathlib import Path

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.family import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Family
from mlx_hf_bridge.architecture.gliner import GLINER_FILE
from mlx_hf_bridge.architecture.unsupported import UNSUPPORTED
from mlx_hf_bridge.checkpoints.checkpoint import CLIP_KIND, Checkpoint, read_checkpoint
from mlx_hf_bridge.checkpoints.other_formats import other_formats_advice
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.traced import wants_tracing
from mlx_hf_bridge.errors import BridgeError, UnsupportedModelError
from mlx_hf_bridge.inspection.facts import Inspection
from mlx_hf_bridge.inspection.modules import Modules, read_module_files
from mlx_hf_bridge.inspection.tokenizer import TokenizerFacts, read_tokenizer
from mlx_hf_bridge.inspection.uses import MULTI, SENTENCE, SPARSE, uses_of
from mlx_hf_bridge.inspection.weights import Weights, read_weights
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.runtime.boundary import guarded

_CLASSIFIERS = (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION)


@guarded
def inspect(name: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> Inspection:
    """Return what a model is and what works with it here, from its config and the headers of its files.

    Of a repo on the Hub only its small files are downloaded (config, tokenizer, modules), and the headers of
    safetensors files by range requests. Nothing is converted, and nothing of the repo is run.

    Args:
        name: A model id on the Hub or a local folder.
        revision: Branch, tag or commit on the Hub. Default: the main branch.
        token: Access token of the Hub; True uses the stored one. Default: as huggingface_hub decides.

    Returns:
        The facts; a model that cannot be loaded has `support="refused"` with the reason, which is not raised.

    Raises:
        RepositoryError: If the repo or folder is not found.
        ConfigError: If config.json or modules.json is not JSON.

    Example:
        >>> from mlx_hf_bridge import inspect
        >>> found = inspect("BAAI/bge-small-en-v1.5")
        >>> found.support, found.dimension, found.pooling, found.sizes["q8"]
    """
    source = locate(name, HubOptions(revision, token))
    try:
        checkpoint = read_checkpoint(source, needs_config=False)
    except UnsupportedModelError as error:  # an adapter that cannot be merged
        return _refused(Inspection(str(name), source.revision, "", (), ""), str(error))
    config = checkpoint.config
    found = Inspection(
        str(name),
        checkpoint.source.revision,
        str(config.get("model_type") or ""),
        tuple(map(str, config.get("architectures") or ())),
        "native",
    )
    if not config:
        return _without_transformer(found, checkpoint)
    if checkpoint.is_converted:
        return replace(found, support="converted")
    try:
        is_traced = wants_tracing(checkpoint, "auto")
        family = None if is_traced else family_for(config)
        parsed = None if family is None else family.config.from_json(config)
    except BridgeError as error:
        return _refused(found, str(error))
    if is_traced:
        found = replace(
            found,
            support="traced",
            reason=UNSUPPORTED.get(found.model_type, "its model type has no native implementation"),
        )
    return _with_facts(found, checkpoint, family, parsed)


def _refused(found: Inspection, reason: str) -> Inspection:
    return replace(found, support="refused", reason=reason, refused={"every class": reason})


def _without_transformer(found: Inspection, checkpoint: Checkpoint) -> Inspection:
    """Return the facts of a repo without config.json: GLiNER, tables of vectors, or weights of other libraries."""
    if (checkpoint.folder / GLINER_FILE).is_file():
        return replace(found, works=("MLXGLiNER", 'pipeline("zero-shot-ner")'))
    if checkpoint.modules is None:
        advice = other_formats_advice(checkpoint.source, checkpoint.model_folder)
        return _refused(found, f"{checkpoint.source.name} has no config.json. {advice}".strip())
    modules = read_module_files(checkpoint.folder, checkpoint.modules, None, None)
    if modules.problem:
        return _refused(_with_modules(found, modules), modules.problem)
    return replace(_with_modules(found, modules), works=("MLXSentenceTransformer",))


def _with_modules(found: Inspection, modules: Modules) -> Inspection:
    settings = modules.settings
    return replace(
        found,
        modules=modules.kinds,
        pooling=modules.pooling,
        dimension=modules.dimension,
        prompts={key: text or "" for key, text in (settings.get("prompts") or {}).items()},
        default_prompt_name=settings.get("default_prompt_name"),
        similarity=settings.get("similarity_fn_name"),
    )


def _with_facts(
    found: Inspection, checkpoint: Checkpoint, family: Family | None, config: EncoderConfig | None
) -> Inspection:
    weights = read_weights(checkpoint, family)
    width = config.hidden_size if config else checkpoint.config.get("hidden_size")
    if any(entry.kind == CLIP_KIND for entry in checkpoint.modules or ()):
        width = checkpoint.config.get("projection_dim")
    vocabulary = config.vocab_size if config else checkpoint.config.get("vocab_size")
    modules = read_module_files(checkpoint.folder, checkpoint.modules, width, vocabulary)
    tokenizer = TokenizerFacts() if family is None else read_tokenizer(checkpoint, family)
    found = replace(
        _with_modules(found, modules),
        parameters=weights.parameters,
        dtype=weights.dtype,
        sizes=weights.sizes,
        heads=weights.heads,
        tokenizer=tokenizer.name,
        tokenizer_form=tokenizer.form,
        max_length=_max_length(modules, tokenizer, config),
        labels=_labels(config, weights),
    )
    if weights.problem:
        return _refused(found, weights.problem)
    works, refused = uses_of(checkpoint, family, weights, modules, tokenizer)
    found = replace(found, works=works, refused=refused)
    if not {SENTENCE, MULTI, SPARSE} & {*works, *refused}:
        return replace(found, pooling=(), dimension=None)
    if MULTI not in (*works, *refused) or checkpoint.modules is not None:
        return found
    # Stanford's ColBERT has its projection next to the encoder.
    projections = [file.tensor_infos.get("linear.weight") for file in weights.files or ()]
    return replace(found, pooling=(), dimension=next((one.shape[0] for one in projections if one), None))


def _labels(config: EncoderConfig | None, weights: Weights) -> tuple[str, ...]:
    if config is None or not any(task in weights.heads for task in _CLASSIFIERS):
        return ()
    return tuple(config.id2label.values())


def _max_length(modules: Modules, tokenizer: TokenizerFacts, config: EncoderConfig | None) -> int | None:
    """Return the limit of tokens that the Transformer module has."""
    positions = NO_POSITIONS if config is None else config.max_position_embeddings
    length = modules.max_seq_length or min(tokenizer.max_length or NO_POSITIONS, positions)
    length = min(length, NO_POSITIONS if config is None else config.max_length)
    return length if length < NO_POSITIONS else None
