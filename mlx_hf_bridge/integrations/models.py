"""The embedding model of an adapter: one that the caller has loaded, or the one of a name."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

ModelLike = MLXSentenceTransformer | str | PathLike[str]


def as_model(model: ModelLike, options: Mapping[str, Any] | None = None) -> MLXSentenceTransformer:
    """Return an embedding model that is loaded.

    Args:
        model: The model, or a Hub id or folder to load one from.
        options: Arguments of MLXSentenceTransformer for a model that is given by name; those that are None are left
            out. Default: none.

    Returns:
        The model itself, or a new one.

    Raises:
        ArgumentTypeError: If options are given for a model that is loaded, or the model is of another type.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    if isinstance(model, (str, PathLike)):
        return MLXSentenceTransformer(str(model), **given)
    if not isinstance(model, MLXSentenceTransformer):
        raise ArgumentTypeError(
            f"got a {type(model).__name__} as the model, expected an MLXSentenceTransformer, a Hub id or a folder."
        )
    if given:
        raise ArgumentTypeError(
            f"{', '.join(sorted(given))} cannot be applied to a model that is loaded. "
            "Give them to MLXSentenceTransformer, or give the model by name."
        )
    return model


def name_of(model: ModelLike) -> str:
    """Return the name under which a model is loaded.

    Args:
        model: The model, or its name.

    Returns:
        A Hub id or folder; empty for a model that was put together from modules.
    """
    return model._name if isinstance(model, MLXSentenceTransformer) else str(model)


def settings_of(model: MLXSentenceTransformer) -> dict[str, Any]:
    """Return arguments that load an equal model again, as what can be written to a file.

    Args:
        model: A model that was loaded by its name.

    Returns:
        Its name as "model", and arguments of MLXSentenceTransformer; "tokenizer_kwargs" are its processor_kwargs.

    Raises:
        InputError: If the model was put together from modules.
    """
    if not model._name:
        raise InputError(
            "a model that was put together from modules cannot be stored by name. Save it and load the folder."
        )
    arguments, folder = model._arguments, model._readme.parent if model._readme else None
    # The Hub's cache has a folder for each commit.
    commit = folder.name if folder and folder.parent.name == "snapshots" else None
    config = {"output_hidden_states": arguments.output_hidden_states, "num_labels": arguments.num_labels}
    return {
        # A relative path may be another folder where the file is read.
        "model": str(folder) if folder and not commit else model._name,
        "revision": commit,
        "truncate_dim": model.truncate_dim,
        "prompts": dict(model.prompts),
        "default_prompt_name": model.default_prompt_name,
        "tokenizer_kwargs": {"model_max_length": model.max_seq_length, **arguments.tokenizer},
        "model_kwargs": {"trace": arguments.trace},
        "config_kwargs": {key: value for key, value in config.items() if value is not None},
        "quantization_config": arguments.quantization_config,
        "dtype": str(arguments.dtype).rpartition(".")[2],
        "overlong": arguments.overlong,
    }
