"""Replace attributes of other libraries' classes, and restore them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Patches:
    """Attributes that were replaced, with their original values."""

    originals: list[tuple[Any, str, Any]] = field(default_factory=list)

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute that is defined on the owner itself."""
        # From __dict__: getattr would give a classmethod bound to its class.
        self.originals.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Restore all attributes, the last one first."""
        while self.originals:
            owner, name, value = self.originals.pop()
            setattr(owner, name, value)
