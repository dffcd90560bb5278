"""Run a script or module as plain Python does, with its arguments, path, `__main__` and tracebacks.

Reference: Modules/main.c and Lib/runpy.py of CPython.
"""

import importlib.machinery
import io
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

_CANNOT_OPEN = 2  # CPython's exit code for a script that it cannot open
# The function that `python -m` calls.
_run_as_main: Callable[..., None] = runpy._run_module_as_main  # type: ignore[attr-defined]


def run_script(path: str, arguments: list[str]) -> None:
    """Run a script like `python path arguments...`; the path may also be a folder or zip file with a __main__.py.

    Args:
        path: The script.
        arguments: Its arguments.

    Raises:
        SystemExit: With 2 if the script cannot be opened; otherwise the program's own exceptions pass through.
    """
    where = os.path.join(Path.cwd(), path)  # as Python sets __file__: absolute, but not normalized
    if Path(path).is_dir() or path.endswith((".zip", ".pyz")):
        _enter(where, path, arguments)
        _run_in_main(lambda main: _run_as_main("__main__", False))
        return
    try:
        with io.open_code(where) as file:
            source = file.read()
    except OSError as error:
        sys.stderr.write(f"{sys.executable}: can't open file {where!r}: [Errno {error.errno}] {error.strerror}\n")
        raise SystemExit(_CANNOT_OPEN) from None
    _enter(str(Path(where).resolve().parent), path, arguments)

    def execute(main: ModuleType) -> None:
        loader = importlib.machinery.SourceFileLoader("__main__", where)
        main.__dict__.update(__file__=where, __cached__=None, __loader__=loader)
        # dont_inherit: `from __future__` imports of this file must not apply to the program.
        exec(compile(source, where, "exec", dont_inherit=True), main.__dict__)

    _run_in_main(execute)


def run_module(name: str, arguments: list[str]) -> None:
    """Run a module like `python -m name arguments...`; its exceptions pass through."""
    _enter(str(Path.cwd()), "-m", arguments)
    _run_in_main(lambda main: _run_as_main(name))


def _enter(folder: str, name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
    if not sys.flags.safe_path:
        # `python -m mlx_hf_bridge` has put the working directory there.
        sys.path[0] = folder


def _run_in_main(execute: Callable[[ModuleType], None]) -> None:
    """Run a program in a new `__main__` module; its traceback does not show the frames of this file."""
    # A new module, so that the program does not see this one's names; pickle finds its classes by "__main__".
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=sys.modules["builtins"], __annotations__={})
    sys.modules["__main__"] = main
    try:
        execute(main)
    # Raised on as it is, since it prints no traceback.
    except SystemExit:
        raise
    except BaseException as error:
        # Users should see the traceback that plain Python shows.
        _hide_callers(error.__traceback__)
        raise


def _hide_callers(traceback: TracebackType | None) -> None:
    inner = traceback
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    hook = sys.excepthook

    def shown(kind: type[BaseException], error: BaseException, _: Any) -> None:
        hook(kind, error.with_traceback(inner), inner)

    sys.excepthook = shown
