"""Router (once Asym): other modules for queries than for documents.

Reference: sentence_transformers/base/modules/router.py.
"""

from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module

_FILE, _OLD_FILE = "router_config.json", "config.json"
# The only modality here, as routes name it.
_TEXT = "text"
_Route = tuple[str | None, Any]


class Router(Module):
    """Lists of modules by route; a call takes one, by its task."""

    reference: ClassVar[str] = "sentence_transformers.base.modules.router.Router"
    forward_kwargs: ClassVar[frozenset[str]] = frozenset({"task", "modality"})

    def __init__(
        self,
        sub_modules: Mapping[str, Sequence[Module]],
        default_route: str | None = None,
        allow_empty_key: bool = True,
        route_mappings: Mapping[_Route, str] | None = None,
    ) -> None:
        self.sub_modules = {name: list(modules) for name, modules in sub_modules.items()}
        self.route_mappings = dict(route_mappings or {})
        targets = [default_route, *self.route_mappings.values()]
        if unknown := [target for target in targets if target is not None and target not in self.sub_modules]:
            raise ConfigError(f"a Router leads to {unknown}, and has the routes {sorted(self.sub_modules)}.")
        if not self.sub_modules or not all(self.sub_modules.values()):
            raise ConfigError("a Router has no routes, or one without modules. Take the original router_config.json.")
        self.allow_empty_key = allow_empty_key
        if default_route is None and allow_empty_key:
            default_route = next(iter(self.sub_modules))
        self.default_route = default_route

    @classmethod
    def read(cls, folder: Path, read_module: Callable[[str, str], Module]) -> Self:
        """router_config.json (or config.json of older files); `read_module` takes a folder's name and a type."""
        path = folder / _FILE if (folder / _FILE).is_file() else folder / _OLD_FILE
        config = read_json(path)
        try:
            modules = {name: read_module(name, kind) for name, kind in config["types"].items()}
            routes = {route: [modules[name] for name in names] for route, names in config["structure"].items()}
            parameters = dict(config.get("parameters", {}))
            mappings = {literal_eval(key): route for key, route in (parameters.pop("route_mappings", {}) or {}).items()}
            return cls(routes, route_mappings=mappings, **parameters)
        except (KeyError, AttributeError, TypeError, SyntaxError) as error:
            raise ConfigError(
                f"{path} is not a Router's config with types, structure and parameters ({error!r}). "
                "Take the original file."
            ) from error

    def route(self, task: str | None, modality: Any = _TEXT) -> list[Module]:
        """The modules of a task, by sentence-transformers' order of precedence; InputError where there are none."""
        for key in ((task, modality), (task, None), (None, modality), (None, None)):
            if key in self.route_mappings:
                return self.sub_modules[self.route_mappings[key]]
        for name in (task, modality):
            if name in self.sub_modules:
                return self.sub_modules[name]
        if task is not None or self.default_route is None:
            raise InputError(
                f"no route for task={task!r} and modality={modality!r}; there are {', '.join(self.sub_modules)}. "
                "Use encode_query or encode_document, or pass task."
            )
        return self.sub_modules[self.default_route]

    def __call__(self, features: Features) -> Features:
        for module in self.route(features.task):
            features = module(features)
        return features

    def __getitem__(self, route: str) -> list[Module]:
        return self.sub_modules[route]

    def get_embedding_dimension(self) -> int | None:
        for modules in self.sub_modules.values():
            for module in reversed(modules):
                if (width := module.get_embedding_dimension()) is not None:
                    return width
        return None

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "default_route": self.default_route,
            "allow_empty_key": self.allow_empty_key,
            "route_mappings": {str(key): route for key, route in self.route_mappings.items()},
        }

    def save(self, folder: Path) -> None:
        ids: dict[int, str] = {}
        types, structure = {}, {}
        for route, modules in self.sub_modules.items():
            for place, module in enumerate(modules):
                name = ids.setdefault(id(module), f"{route}_{place}_{type(module).__name__}")
                if name not in types:
                    (folder / name).mkdir(parents=True, exist_ok=True)
                    module.save(folder / name)
                    types[name] = module.reference
            structure[route] = [ids[id(module)] for module in modules]
        write_json(folder / _FILE, {"types": types, "structure": structure, "parameters": self.get_config_dict()})


def flatten_route(modules: Sequence[Module], task: str | None, modality: Any = _TEXT) -> list[Module]:
    """The modules of one call: each Router replaced by the route that the task takes."""
    flat: list[Module] = []
    for module in modules:
        if isinstance(module, Router):
            flat += flatten_route(module.route(task, modality), task, modality)
        else:
            flat.append(module)
    return flat
