"""Services that start a server with the machine: a systemd unit for Linux, a launchd plist for macOS."""

import plistlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

LABEL = "io.github.mlx-hf-bridge"
# Where the key is kept, which is not to be seen in a list of processes.
SYSTEMD_ENVIRONMENT = "%h/.config/mlx-hf-bridge/serve.env"
_SYSTEMD = """[Unit]
Description=mlx-hf-bridge serve
After=network-online.target

[Service]
ExecStart={command}
# Optional: MLX_HF_BRIDGE_API_KEY=... and other variables, readable by you only.
EnvironmentFile=-{environment}
Restart=on-failure
TimeoutStopSec=330
NoNewPrivileges=true
PrivateTmp=true
ProtectSystem=strict
ReadWritePaths=%h/.cache

[Install]
WantedBy=default.target
"""


def unit(kind: str, arguments: Sequence[str]) -> str:
    """Return a service that runs `mlx-hf-bridge serve`.

    Args:
        kind: "systemd" or "launchd".
        arguments: The arguments of `mlx-hf-bridge`, beginning with "serve".

    Returns:
        The content of the file.
    """
    command = [sys.executable, "-m", "mlx_hf_bridge", *arguments]
    if kind == "systemd":
        # "%" begins systemd's own specifiers.
        line = shlex.join(command).replace("%", "%%")
        return _SYSTEMD.format(command=line, environment=SYSTEMD_ENVIRONMENT)
    logs = Path.home() / "Library" / "Logs" / "mlx-hf-bridge.log"
    content = {
        "Label": LABEL,
        "ProgramArguments": command,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": 330,
        "StandardErrorPath": str(logs),
        "StandardOutPath": str(logs),
    }
    return plistlib.dumps(content).decode()


def install(kind: str, arguments: Sequence[str]) -> tuple[Path, str]:
    """Write a service for the user who runs this.

    Args:
        kind: "systemd" or "launchd".
        arguments: As of `unit`.

    Returns:
        The file, and the command that starts the service.
    """
    if kind == "systemd":
        path = Path.home() / ".config" / "systemd" / "user" / "mlx-hf-bridge.service"
        start = "systemctl --user daemon-reload && systemctl --user enable --now mlx-hf-bridge"
    else:
        path = Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        start = f"launchctl bootstrap gui/$(id -u) {shlex.quote(str(path))}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(unit(kind, arguments), encoding="utf-8")
    return path, start
