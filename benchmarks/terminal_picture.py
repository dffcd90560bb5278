"""Run a command in a terminal of 80 columns and write what it shows as an SVG picture.

python -m benchmarks.terminal_picture docs/images/demo.svg mlx-hf-bridge demo
"""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

_COLUMNS = 80
# The format of rich loads its font from another site; the reader's own fixed-width font needs no request.
_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
_FORMAT = _FORMAT.replace("font-family: Fira Code,", "font-family: Menlo, Consolas, DejaVu Sans Mono,")


def terminal_output(command: list[str]) -> str:
    """Return what a command writes to a terminal, with its colors; stderr is left out."""
    leader, follower = pty.openpty()
    # Not NO_COLOR or TERM of the caller's: the picture is to be the same everywhere.
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"COLUMNS": str(_COLUMNS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    with subprocess.Popen(command, stdout=follower, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(follower)
        parts = []
        # Linux raises an error instead of returning nothing when the command has ended.
        try:
            while part := os.read(leader, 65536):
                parts.append(part)
        except OSError:
            pass
        os.close(leader)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return b"".join(parts).decode().replace("\r\n", "\n")


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    path, command = Path(sys.argv[1]), sys.argv[2:]
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ {' '.join(command)}", style="bold green"))
    console.print(Text.from_ansi(terminal_output(command).rstrip()))
    path.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(path), title="", theme=MONOKAI, code_format=_FORMAT, unique_id="terminal")


if __name__ == "__main__":
    main()
