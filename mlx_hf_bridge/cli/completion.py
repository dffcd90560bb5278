"""Completion of commands, options and recipes in bash, zsh and fish."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from mlx_hf_bridge.cli.command import PROGRAM, Option

_SHELLS = ("bash", "zsh", "fish")
# The shell's function sets it, as click's own documentation describes.
VARIABLE = "_MLX_HF_BRIDGE_COMPLETE"
_FILES = {
    "bash": "~/.local/share/bash-completion/completions/mlx-hf-bridge",
    "zsh": "~/.zfunc/_mlx-hf-bridge",
    "fish": "~/.config/fish/completions/mlx-hf-bridge.fish",
}
_AFTERWARDS = {
    "bash": "It works in new shells that have the package bash-completion.",
    "zsh": "Add to ~/.zshrc, unless it is there: fpath+=~/.zfunc; autoload -Uz compinit && compinit",
    "fish": "It works in new shells.",
}


def options() -> list[click.Parameter]:
    """Return the options that print or install the completion of a shell."""
    shared: dict[str, Any] = {"is_flag": False, "flag_value": "", "metavar": "[SHELL]", "expose_value": False}
    return [
        Option("--show-completion", callback=_show, help="Print completions for bash, zsh or fish.", **shared),
        Option("--install-completion", callback=_install, help="Install them for this user.", **shared),
    ]


def is_asked_for() -> bool:
    """Return whether a shell runs the program to complete a command line."""
    return bool(os.environ.get(VARIABLE))


def complete(root: click.Command) -> int:
    """Answer a shell that asks for completions.

    Args:
        root: The program.

    Returns:
        The exit code.
    """
    from click.shell_completion import shell_complete

    return shell_complete(root, {}, PROGRAM, VARIABLE, os.environ[VARIABLE])


def _shell(context: click.Context, given: str) -> str:
    shell = given or Path(os.environ.get("SHELL", "")).name
    if shell not in _SHELLS:
        raise click.UsageError(
            f"completion is known for {', '.join(_SHELLS)}, not for {shell or 'no shell'!r}", context
        )
    return shell


def _script(context: click.Context, shell: str) -> str:
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    return found(context.command, {}, PROGRAM, VARIABLE).source()


def _show(context: click.Context, option: click.Parameter, given: str | None) -> None:
    if given is not None and not context.resilient_parsing:
        sys.stdout.write(_script(context, _shell(context, given)))
        context.exit()


def _install(context: click.Context, option: click.Parameter, given: str | None) -> None:
    if given is None or context.resilient_parsing:
        return
    shell = _shell(context, given)
    path = Path(_FILES[shell]).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_script(context, shell), encoding="utf-8")
    except OSError as error:
        raise click.UsageError(
            f"{path} cannot be written ({error.strerror}); use --show-completion", context
        ) from error
    sys.stdout.write(f"wrote {path}\n{_AFTERWARDS[shell]}\n")
    context.exit()
