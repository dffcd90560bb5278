"""Acting on a module once it is imported, without importing it."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls an action with each named module: at once where it is imported, else right after its code has run."""

    def __init__(self, actions: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self.actions = dict(actions)

    def install(self) -> None:
        """Act on what is imported already, and watch for the rest."""
        for name in list(self.actions):
            if module := sys.modules.get(name):
                self.actions.pop(name)(module)
        if self.actions:
            sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Watch no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders have, its loader followed by the action."""
        if name not in self.actions:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Followed(spec.loader, lambda module: self.actions.pop(name)(module))
        return spec


class _Followed(importlib.abc.Loader):
    """A loader, and what comes after it; the module keeps the loader itself."""

    def __init__(self, loader: Any, action: Callable[[ModuleType], None]) -> None:
        self.loader, self.action = loader, action

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self.loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.action(module)
