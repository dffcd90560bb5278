"""Replacing attributes of other libraries' classes so that it can be undone."""

from dataclasses import dataclass, field
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
