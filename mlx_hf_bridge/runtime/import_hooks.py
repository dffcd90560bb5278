"""Import hooks: run a function once a module is imported, without importing it."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with each named module: immediately if it is imported, otherwise right after its import.

    Args:
        actions: Function to call for each module, by the module's name.
    """

    def __init__(self, actions: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.actions = dict(actions)

    def install(self) -> None:
        """Act on modules that are imported already, and start to watch for the others."""
        for name in list(self.actions):
            if module := sys.modules.get(name):
                self.actions.pop(name)(module)
        if self.actions:
            # First, since the first finder that returns a spec wins.
            sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Stop watching."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the other finders, with a loader that calls the action; None for modules not watched.

        Args:
            name: Name of the module that is imported.
            path: Search path, as for every finder.
            target: Module that is reloaded, as for every finder.

        Returns:
            The spec, or None.
        """
        if name not in self.actions:
            return None
        # importlib.util.find_spec would ask this finder again, without end.
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ActingLoader(spec.loader, lambda module: self.actions.pop(name)(module))
        return spec


class _ActingLoader(importlib.abc.Loader):
    """Wraps a loader and calls the action after it; the module itself keeps the original loader."""

    def __init__(self, loader: Any, action: Callable[[ModuleType], None]) -> None:
        self.loader, self.action = loader, action

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self.loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            # Before the module runs: code that asks for its own loader (pickle, importlib.resources) must find the real
            # one.
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.action(module)
