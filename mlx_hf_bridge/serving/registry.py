"""The models of a server by name: loaded at the start or on first use, with a bound on how many are in memory."""

import gc
import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnservedModelError
from mlx_hf_bridge.runtime.device import release_memory
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.serving.kinds import Loaded, as_loaded, load_model

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
    """

    id: str
    aliases: tuple[str, ...]
    source: ModelLike
    quantization_config: Any = None
    folder: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names that clients are shown."""
        return (self.id, *self.aliases)


_numbers = itertools.count()


@dataclass(frozen=True)
class ServedModel:
    """A model in memory.

    Args:
        spec: What it was loaded from.
        loaded: The objects that compute.
        key: A number that no other model in this process has.
    """

    spec: ModelSpec
    loaded: Loaded
    key: int = field(default_factory=partial(next, _numbers))

    @property
    def id(self) -> str:
        """Its Hub id, or its folder."""
        return self.spec.id

    @property
    def kind(self) -> str:
        """Its kind: "embedding", "sparse", "multi-vector", "reranker", "classifier" or "token-classifier"."""
        return self.loaded.kind

    def model_of(self, kinds: Sequence[str]) -> Any:
        """Return the object that computes, if the model is of one of some kinds.

        Raises:
            UnservedModelError: If it is of another kind.
        """
        if self.kind not in kinds:
            raise UnservedModelError(
                f"{self.id!r} is of the kind {self.kind!r}, and this needs {' or '.join(kinds)}. Name another model."
            )
        return self.loaded.model


class ModelRegistry:
    """Models by name; safe to use from several threads.

    Args:
        models: As of AsyncEngine.
        quantization_config: How weights are quantized when models are loaded.
        max_models: How many models that were given by name are in memory at a time; None for all.
        max_model_bytes: How many bytes their weights may have; None for any number.
    """

    def __init__(
        self,
        models: ModelLike | Sequence[ModelLike] | Mapping[str, ModelLike],
        quantization_config: Any = None,
        max_models: int | None = None,
        max_model_bytes: int | None = None,
    ) -> None:
        self.specs = _specs(models, quantization_config)
        self._by_name = {name: spec for spec in self.specs for name in spec.names}
        folders = {spec.folder: spec for spec in self.specs if spec.folder}
        if len(self._by_name) < sum(len(spec.names) for spec in self.specs):
            raise InputError(f"two models have one name: {[spec.names for spec in self.specs]}. Give them aliases.")
        self._by_name = {**folders, **self._by_name}
        self._max_models, self._max_bytes = max_models, max_model_bytes
        # The one that was used last is the last.
        self._in_memory: OrderedDict[str, ServedModel] = OrderedDict()
        # Kinds that are known since a model was loaded once.
        self._kinds: dict[str, str] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def in_memory(self) -> list[ServedModel]:
        """The models in memory, the one that was used last at the end."""
        with self._lock:
            return list(self._in_memory.values())

    def spec(self, name: str) -> ModelSpec:
        """Return the model of a name.

        Raises:
            UnservedModelError: If there is none.
        """
        if name not in self._by_name:
            known = ", ".join(spec.names[-1] for spec in self.specs)
            raise UnservedModelError(f"The model {name!r:.200} does not exist here; there are {known}.")
        return self._by_name[name]

    def kind_of(self, spec: ModelSpec) -> str | None:
        """Return the kind of a model; None if it was never loaded."""
        return self._kinds.get(spec.id)

    def find(self, name: str | None, kinds: Sequence[str] = ()) -> ServedModel | None:
        """Return a model that is in memory.

        Args:
            name: Its name; None for the first of the kinds.
            kinds: The kinds of models that will do; empty for any.

        Returns:
            The model; None if it must be loaded.

        Raises:
            UnservedModelError: If there is no model of that name.
        """
        if name is not None:
            return self._touch(self.spec(name).id)
        for spec in self.specs:
            kind = self._kinds.get(spec.id)
            if kind is None or not kinds or kind in kinds:
                # None for one that is not loaded: whether it will do is known afterwards.
                return self._touch(spec.id)
        return None

    def load(self, name: str | None, kinds: Sequence[str] = ()) -> ServedModel:
        """Return a model, loaded if it is not in memory.

        Args:
            name: Its name; None for the first of the kinds.
            kinds: The kinds of models that will do; empty for any.

        Returns:
            The model.

        Raises:
            UnservedModelError: If there is none.
            BridgeError: Whatever loading it raises.
        """
        if name is not None:
            return self._load(self.spec(name))
        for spec in self.specs:
            kind = self._kinds.get(spec.id) or self._load(spec).kind
            if not kinds or kind in kinds:
                return self._load(spec)
        raise UnservedModelError(
            f"No model here is of the kind {' or '.join(kinds)}; there are {sorted(set(self._kinds.values()))}. "
            "Start the server with one."
        )

    def _touch(self, model_id: str) -> ServedModel | None:
        with self._lock:
            if model_id in self._in_memory:
                self._in_memory.move_to_end(model_id)
            return self._in_memory.get(model_id)

    def _load(self, spec: ModelSpec) -> ServedModel:
        # One at a time: two would need the memory of both, and may be the same.
        with self._loading:
            if found := self._touch(spec.id):
                return found
            if isinstance(spec.source, (str, PathLike)):
                loaded = load_model(str(spec.source), spec.quantization_config)
            else:
                loaded = as_loaded(spec.source)
            model = ServedModel(spec, loaded)
            with self._lock:
                self._in_memory[spec.id] = model
                self._kinds[spec.id] = model.kind
            self._make_room(model)
            return model

    def _make_room(self, newest: ServedModel) -> None:
        """Drop models that were not used for longest, until the rest are within the bounds."""
        dropped = False
        with self._lock:
            for model in list(self._in_memory.values()):
                others = [one for one in self._in_memory.values() if isinstance(one.spec.source, (str, PathLike))]
                too_many = self._max_models is not None and len(others) > self._max_models
                too_large = self._max_bytes is not None and sum(one.loaded.nbytes for one in others) > self._max_bytes
                if not (too_many or too_large):
                    break
                # One that was given as an object belongs to the caller, and stays in memory anyway.
                if model is not newest and model in others:
                    del self._in_memory[model.id]
                    dropped = True
        if dropped:
            gc.collect()
            run(release_memory)


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
