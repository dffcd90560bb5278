"""Router (formerly Asym): other modules for queries than for documents.

Reference: sentence_transformers/base/modules/router.py.
"""

import logging
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.checkpoints.paths import relative_path
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.sentence_transformers.modules.base import Features, Module

logger = logging.getLogger(__name__)

_FILE, _OLD_FILE = "router_config.json", "config.json"
# The only modality here, under sentence-transformers' name.
_TEXT = "text"
_Route = tuple[str | None, Any]


class Router(Module):
    """Lists of modules by route; a call takes the route of its task.

    Called with features, it passes them through the modules of the route of `features.task`.

    Args:
        sub_modules: The modules of each route, in order.
        default_route: The route of calls without a task; None for the first one, if `allow_empty_key`.
        allow_empty_key: Whether the first route is the default one where `default_route` is None.
        route_mappings: Routes by (task, modality), where None stands for any.

    Raises:
        ConfigError: If there are no routes, one is empty, or a mapping names a route that is not there.
    """

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
            raise ConfigError(
                f"a Router's default_route or route_mappings name {unknown}, and its routes are "
                f"{sorted(self.sub_modules)}. "
                "Take the original router_config.json."
            )
        for route in self.sub_modules:
            _check_route(route)
        if not self.sub_modules or not all(self.sub_modules.values()):
            raise ConfigError("a Router has no routes, or one without modules. Take the original router_config.json.")
        self.allow_empty_key = allow_empty_key
        if default_route is None and allow_empty_key:
            default_route = next(iter(self.sub_modules))
        self.default_route = default_route

    @classmethod
    def read(cls, folder: Path, read_module: Callable[[str, str], Module]) -> Self:
        """Read the module from its folder: router_config.json, or config.json of older files.

        Args:
            folder: The module's folder, which has a subfolder for each module of a route.
            read_module: Reads the module of a subfolder, given the subfolder's name and the module's dotted class name.

        Returns:
            The module.

        Raises:
            ConfigError: If the file lacks `types` or `structure`, has other parameters than a Router, or gives a path
                outside the folder.
        """
        path = folder / _FILE if (folder / _FILE).is_file() else folder / _OLD_FILE
        config = read_json(path)
        try:
            types = {name: (relative_path(name, path), kind) for name, kind in config["types"].items()}
            modules = {name: read_module(inner, kind) for name, (inner, kind) in types.items()}
            routes = {route: [modules[name] for name in names] for route, names in config["structure"].items()}
            parameters = dict(config.get("parameters", {}))
            mappings = _parse_mappings(parameters.pop("route_mappings", {}) or {})
            return cls(routes, route_mappings=mappings, **parameters)
        except (KeyError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"{path} is not a Router's config with types, structure and parameters ({error!r}). "
                "Take the original file."
            ) from error

    def route(self, task: str | None, modality: Any = _TEXT) -> list[Module]:
        """Return the modules of a task, by sentence-transformers' order of precedence.

        Args:
            task: "query", "document" or the name of a route; None for the default route.
            modality: "text", the only one that is read here.

        Returns:
            The modules of the route, in order.

        Raises:
            InputError: If there is no route for the task, or the call has no task and there is no default route.
        """
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
        """Return the width of the embeddings of the first route that has one.

        Returns:
            The width, or None if no module sets it.
        """
        for modules in self.sub_modules.values():
            for module in reversed(modules):
                if (width := module.get_embedding_dimension()) is not None:
                    return width
        return None

    def get_config_dict(self) -> dict[str, Any]:
        """Return the `parameters` of router_config.json.

        Returns:
            default_route, allow_empty_key and route_mappings.
        """
        return {
            "default_route": self.default_route,
            "allow_empty_key": self.allow_empty_key,
            "route_mappings": {str(key): route for key, route in self.route_mappings.items()},
        }

    def save(self, folder: Path) -> None:
        """Write router_config.json, and each module into a subfolder; modules shared by routes are written once.

        Args:
            folder: An existing folder for this module.
        """
        ids: dict[int, str] = {}
        types, structure = {}, {}
        for route, modules in self.sub_modules.items():
            for index, module in enumerate(modules):
                # By identity: a module that two routes share is one module when it is read again.
                name = ids.setdefault(id(module), _folder_name(route, index, type(module)))
                if name not in types:
                    (folder / name).mkdir(parents=True, exist_ok=True)
                    module.save(folder / name)
                    types[name] = module.reference
            structure[route] = [ids[id(module)] for module in modules]
        write_json(folder / _FILE, {"types": types, "structure": structure, "parameters": self.get_config_dict()})


def _check_route(route: Any) -> None:
    """Refuse a route whose name sentence-transformers refuses, or that cannot begin a folder's name."""
    # torch's ModuleDict takes no name that is empty or has a dot.
    if not isinstance(route, str) or not route or "." in route:
        raise ConfigError(
            f"a Router has the route {route!r:.80}, expected a name without dots. Take the original router_config.json."
        )
    relative_path(_folder_name(route, 0, Router), _FILE)


def _folder_name(route: str, index: int, module_class: type[Module]) -> str:
    return f"{route}_{index}_{module_class.__name__}"


def _parse_mappings(saved: Mapping[str, str]) -> dict[_Route, str]:
    """Return the routes by (task, modality); a key that cannot be read is skipped, as in sentence-transformers."""
    mappings: dict[_Route, str] = {}
    for key, route in saved.items():
        try:
            # JSON has no tuples as keys, so they are written as Python literals; literal_eval runs no code.
            mappings[literal_eval(key)] = route
        except (ValueError, SyntaxError):
            logger.warning("the route_mappings key %r cannot be read and is skipped", key)
    return mappings


def flatten_route(modules: Sequence[Module], task: str | None, modality: Any = _TEXT) -> list[Module]:
    """Return the modules of one call: each Router is replaced by the modules of the route that the task takes.

    Args:
        modules: The modules of the model, in order.
        task: The task of the call, or None.
        modality: "text", the only one that is read here.

    Returns:
        A list without Routers.
    """
    flat: list[Module] = []
    for module in modules:
        if isinstance(module, Router):
            flat += flatten_route(module.route(task, modality), task, modality)
        else:
            flat.append(module)
    return flat
