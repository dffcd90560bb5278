"""The models of a server by name: loaded at the start or on first use, with a bound on how many are in memory."""

import gc
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mlx_hf_bridge.errors import ModelLoadError, UnservedModelError
from mlx_hf_bridge.runtime.device import release_memory
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.serving.kinds import Loaded, as_loaded, load_model, recognized
from mlx_hf_bridge.serving.specs import ModelLike, ModelSpec, read_specs

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
        _check_kind(self.spec, self.kind, kinds)
        return self.loaded.model


class ModelRegistry:
    """Models by name; safe to use from several threads.

    Args:
        models: As of AsyncEngine.
        quantization_config: How weights are quantized when models are loaded.
        max_models: How many models that were given by name are in memory at a time; None for all.
        max_model_bytes: How many bytes their weights may have; None for any number.
        task: As of AsyncEngine.
    """

    def __init__(
        self,
        models: ModelLike | Sequence[ModelLike] | Mapping[str, ModelLike],
        quantization_config: Any = None,
        max_models: int | None = None,
        max_model_bytes: int | None = None,
        task: str | Mapping[str, str] | None = None,
    ) -> None:
        self.specs = read_specs(models, quantization_config, task)
        folders = {spec.folder: spec for spec in self.specs if spec.folder}
        self._by_name = {**folders, **{name: spec for spec in self.specs for name in spec.names}}
        self._max_models, self._max_bytes = max_models, max_model_bytes
        # The one that was used last is the last.
        self._in_memory: OrderedDict[str, ServedModel] = OrderedDict()
        # Kinds that were given, and those that are known since a model's files were read.
        self._kinds: dict[str, str] = {spec.id: spec.kind for spec in self.specs if spec.kind}
        self._failed: dict[str, ModelLoadError] = {}
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
        """Return the kind of a model; None if it was neither given nor found out yet."""
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
            ModelLoadError: If it cannot be loaded.
        """
        if name is not None:
            spec = self.spec(name)
            # Before it is loaded, for which others may have to leave memory.
            _check_kind(spec, self._recognized_kind(spec), kinds)
            return self._load(spec)
        for spec in self.specs:
            try:
                if spec.id not in self._failed and (not kinds or self._recognized_kind(spec) in kinds):
                    return self._load(spec)
            except ModelLoadError as error:
                # Another model may do. This one is tried again when it is named.
                self._failed[spec.id] = error
        if self._failed:
            raise next(iter(self._failed.values()))
        raise UnservedModelError(f"No model here is of the kind {' or '.join(kinds)}.")

    def _recognized_kind(self, spec: ModelSpec) -> str:
        """Return the kind of a model, by its files if it was not loaded yet."""
        if (kind := self._kinds.get(spec.id)) is None:
            with _load_errors(spec):
                kind = recognized(str(spec.source)).kind if spec.is_loaded_here else as_loaded(spec.source).kind
            self._kinds[spec.id] = kind
        return kind

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
            self._make_place(spec)
            with _load_errors(spec):
                if spec.is_loaded_here:
                    loaded = load_model(str(spec.source), spec.quantization_config, spec.kind)
                else:
                    loaded = as_loaded(spec.source)
            model = ServedModel(spec, loaded)
            with self._lock:
                self._in_memory[spec.id] = model
                self._kinds[spec.id] = model.kind
                self._failed.pop(spec.id, None)
            self._make_room(model)
            return model

    def _make_place(self, newest: ModelSpec) -> None:
        """Drop models that were not used for longest, so that no more than `max_models` are ever in memory."""
        if self._max_models is not None and newest.is_loaded_here:
            most = self._max_models - 1
            self._drop(lambda others: len(others) > most)

    def _make_room(self, newest: ServedModel) -> None:
        """Drop models that were not used for longest, until the weights of the rest are within the bound."""
        most = self._max_bytes
        if most is not None:
            self._drop(lambda others: sum(one.loaded.nbytes for one in others) > most, keep=newest)

    def _drop(self, exceeds: Callable[[list[ServedModel]], bool], keep: ServedModel | None = None) -> None:
        dropped = False
        with self._lock:
            # One that was given as an object belongs to the caller, and stays in memory anyway.
            others = [one for one in self._in_memory.values() if one.spec.is_loaded_here]
            while exceeds(others) and others and others[0] is not keep:
                del self._in_memory[others.pop(0).id]
                dropped = True
        if dropped:
            gc.collect()
            run(release_memory)


def _check_kind(spec: ModelSpec, kind: str, kinds: Sequence[str]) -> None:
    if kinds and kind not in kinds:
        raise UnservedModelError(
            f"{spec.names[-1]!r} is of the kind {kind!r}, and this needs {' or '.join(kinds)}. Name another model."
        )


@contextmanager
def _load_errors(spec: ModelSpec) -> Iterator[None]:
    """Say of errors in the `with` block which model they are about, by the name that clients are shown."""
    try:
        yield
    except Exception as error:
        name = spec.names[-1]
        raise ModelLoadError(f"the model {name!r} cannot be loaded: {error}", model=name) from error
