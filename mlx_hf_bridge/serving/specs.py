"""The models that a server was given, by their names, and the tasks they are for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.serving.kinds import as_loaded
from mlx_hf_bridge.serving.recognition import kind_of_task

ModelLike = Any
# A model object of this package, a Hub id or a folder.


@dataclass(frozen=True)
class ModelSpec:
    """A model that a server has, in memory or not.

    Args:
        id: Its Hub id, or the name of its folder.
        aliases: Other names for it.
        source: What to load, or an object that is loaded.
        quantization_config: How its weights are quantized when it is loaded.
        folder: Its folder, which names it too; None for a Hub id.
        kind: Its kind, where it was given; None for the one that its files say.
    """

    id: str
    aliases: tuple[str, ...]
    source: ModelLike
    quantization_config: Any = None
    folder: str | None = None
    kind: str | None = None

    @property
    def is_loaded_here(self) -> bool:
        """Whether it is loaded by its name, and so may leave memory again."""
        return isinstance(self.source, (str, PathLike))

    @property
    def names(self) -> tuple[str, ...]:
        """The names that clients are shown."""
        return (self.id, *self.aliases)


def read_specs(
    models: ModelLike | Sequence[ModelLike] | Mapping[str, ModelLike],
    quantization_config: Any = None,
    task: str | Mapping[str, str] | None = None,
) -> list[ModelSpec]:
    """Return the models that were given.

    Args:
        models: As of AsyncEngine.
        quantization_config: How their weights are quantized.
        task: As of AsyncEngine.

    Returns:
        Models with different names.

    Raises:
        ArgumentTypeError: If one is no model, or has no name.
        InputError: If there are none, two have one name, or a task is none or fits no model.
    """
    specs = _with_tasks(_specs(models, quantization_config), task)
    if len({name for spec in specs for name in spec.names}) < sum(len(spec.names) for spec in specs):
        raise InputError(f"two models have one name: {[spec.names for spec in specs]}. Give them aliases.")
    return specs


def _specs(
    models: ModelLike | Sequence[ModelLike] | Mapping[str, ModelLike], quantization_config: Any
) -> list[ModelSpec]:
    if isinstance(models, Mapping):
        named = [(str(alias), model) for alias, model in models.items()]
    else:
        several = list(models) if isinstance(models, (list, tuple)) else [models]
        named = [("", model) for model in several]
    if not named:
        raise InputError("there are no models, expected at least one.")
    return [_spec(alias, model, quantization_config) for alias, model in named]


def _spec(alias: str, model: ModelLike, quantization_config: Any) -> ModelSpec:
    name = str(model) if isinstance(model, (str, PathLike)) else as_loaded(model).name or alias
    if not name:
        raise ArgumentTypeError("a model that was put together from modules has no name. Give models as a dict.")
    if Path(name).expanduser().is_dir():
        # Clients are not shown where on this machine it is.
        return ModelSpec(alias or Path(name).resolve().name, (), model, quantization_config, name)
    # The last part of an id names it too, as most clients do.
    short = alias or name.rpartition("/")[2]
    return ModelSpec(name, (short,) if short != name else (), model, quantization_config)


def _with_tasks(specs: list[ModelSpec], task: str | Mapping[str, str] | None) -> list[ModelSpec]:
    """Return models with the kinds that their tasks name."""
    if task is None:
        return specs
    if not isinstance(task, Mapping):
        return [replace(spec, kind=_checked_kind(spec, task)) for spec in specs]
    names = {name for spec in specs for name in (*spec.names, spec.folder or "")}
    if unknown := [str(name) for name in task if name not in names]:
        known = ", ".join(spec.names[-1] for spec in specs)
        raise InputError(f"got a task for {', '.join(unknown):.200}, which is not among the models {known}.")
    given = [next((task[name] for name in (*spec.names, spec.folder or "") if name in task), None) for spec in specs]
    return [
        spec if one is None else replace(spec, kind=_checked_kind(spec, one))
        for spec, one in zip(specs, given, strict=True)
    ]


def _checked_kind(spec: ModelSpec, task: str) -> str:
    kind = kind_of_task(task)
    if not spec.is_loaded_here and (own := as_loaded(spec.source).kind) != kind:
        raise InputError(f"got the task {task!r:.80} for {spec.names[-1]!r}, an object of the kind {own!r}. Omit it.")
    return kind
