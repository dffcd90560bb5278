"""Programs run in a fresh Python process, for claims about imports, threads, forks and exit codes."""

import os
import subprocess
import sys
from typing import Any

TIMEOUT = 120


def start_python(
    program: str, *arguments: Any, options: tuple[str, ...] = (), **environment: str
) -> "subprocess.Popen[str]":
    """Start `python -c program arguments...` with further environment variables."""
    command = [sys.executable, *options, "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for a program -> return code, standard output, standard error."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output.strip(), errors.strip()


def run_python(program: str, *arguments: Any, **options: Any) -> str:
    """Run a program that must end well -> its standard output."""
    code, output, errors = wait_for(start_python(program, *arguments, **options))
    assert code == 0, errors
    return output
