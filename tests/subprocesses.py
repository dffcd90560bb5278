"""Run programs in a fresh Python process, for tests of imports, threads, forks and exit codes."""

import os
import subprocess
import sys
from typing import Any

TIMEOUT = 120


def start_python(
    program: str, *arguments: Any, options: tuple[str, ...] = (), **environment: str
) -> "subprocess.Popen[str]":
    """Start `python -c program arguments...` with additional environment variables."""
    command = [sys.executable, *options, "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for a program and return its exit code, standard output and standard error."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output.strip(), errors.strip()


def run_python(program: str, *arguments: Any, **options: Any) -> str:
    """Run a program, assert that it exits with code 0, and return its standard output."""
    code, output, errors = wait_for(start_python(program, *arguments, **options))
    assert code == 0, errors
    return output
