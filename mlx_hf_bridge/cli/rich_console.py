"""rich's console for tables, in a file of its own, since importing rich takes long."""

from rich.console import Console


class BridgeConsole(Console):
    """A console that leaves a closed pipe to `main`; rich's own would exit with code 1."""

    def on_broken_pipe(self) -> None:
        """Raise what the standard library raises."""
        raise BrokenPipeError
