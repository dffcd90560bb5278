"""Replacing attributes of other libraries' classes so that it can be undone, now or once their module is imported."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass
class Patches:
    """Attributes that were replaced, with what they were."""

    undone: list[tuple[Any, str, Any]] = field(default_factory=list)

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute that the owner itself has."""
        self.undone.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Set everything back, last first."""
        while self.undone:
            owner, name, value = self.undone.pop()
            setattr(owner, name, value)


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls an action once a module is imported: at once where it is, else right after its code has run."""

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self.actions = dict(actions)

    def install(self) -> None:
        """Act on what is imported already, and watch for the rest."""
        for name in list(self.actions):
            if module := sys.modules.get(name):
                self.actions.pop(name)(module)
        sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Watch no longer."""
        sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders have, its loader followed by the action."""
        if name not in self.actions:
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        spec = next((found for finder in finders if (found := finder.find_spec(name, path, target))), None)
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
