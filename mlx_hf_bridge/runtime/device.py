"""What this machine is: its MLX backend, its BLAS (loaded before mlx.core), and the choices that follow from them.

Only this file asks.
"""

import ctypes
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.runtime.blas import MLX_CAME_FIRST, BlasThreads, kernel_name, load_blas
from mlx_hf_bridge.runtime.environment import (
    FEW_ROWS_VARIABLE,
    STREAMS_VARIABLE,
    UNPACK_VARIABLE,
    blas_choice,
    small_batch_rows_choice,
    streams_choice,
    unpack_choice,
)

_INSTALL_ADVICE = (
    "Install the backend of this machine: pip install 'mlx-hf-bridge[cpu]' (Linux CPU), "
    "'mlx-hf-bridge[cuda12]' or 'mlx-hf-bridge[cuda13]' (NVIDIA); on a Mac, pip install mlx is enough."
)


BLAS = load_blas()

try:
    import mlx.core as mx
except ImportError as error:
    raise BackendError(f"mlx.core cannot be imported ({error}). {_INSTALL_ADVICE}") from error


def _backend() -> str:
    if mx.metal.is_available():
        return "metal"
    return "cuda" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


BACKEND = _backend()

if BACKEND == "cpu" and sys.platform == "linux" and BLAS is None and blas_choice() is None and not MLX_CAME_FIRST:
    warnings.warn(
        "no fast BLAS was found, so matrix products run on MLX's reference BLAS, up to a hundred times slower. "
        "pip install 'mlx-hf-bridge[cpu]', or apt-get install libopenblas0.",
        RuntimeWarning,
        stacklevel=2,
    )

# On a CPU, unpacking a layer costs as much as about four rows of the packed product (benchmarks/quantized_matmul.py).
_UNPACKING_ROWS = 4.0


def _unpacking() -> tuple[float, bool]:
    """Rows from which weights are unpacked for a product, and whether they then stay so."""
    choice = unpack_choice()
    if choice is None:
        return (_UNPACKING_ROWS if BACKEND == "cpu" else math.inf), False
    if choice in ("never", "keep"):
        return (0.0, True) if choice == "keep" else (math.inf, False)
    if choice.isdecimal():
        return float(choice), False
    raise BackendError(
        f"{UNPACK_VARIABLE}={choice!r}, expected a number of rows, 'never', or 'keep' for float weights that stay in "
        "memory. Unset it for what was measured to be fastest."
    )


DEQUANTIZATION_ROWS, KEEPS_DEQUANTIZED = _unpacking()

# OpenBLAS' kernels, by processor, that multiply small matrices without copying them first.
_KERNELS_OF_SMALL_PRODUCTS = ("SkylakeX", "Cooperlake", "SapphireRapids")


def _few_rows() -> int:
    """Rows up to which a float product is faster by small blocks of its weights, 0 for none."""
    if BACKEND != "cpu" or BLAS is None or kernel_name(BLAS) not in _KERNELS_OF_SMALL_PRODUCTS:
        return 0
    choice = small_batch_rows_choice()
    if choice is None:
        return _SMALL_BATCH_ROWS
    if choice.isdecimal():
        return int(choice)
    raise BackendError(
        f"{FEW_ROWS_VARIABLE}={choice!r}, expected a number of rows, 0 to hold float weights in memory once only. "
        "Unset it for what was measured to be fastest."
    )


# benchmarks/small_batch_matmul.py.
_SMALL_BATCH_ROWS = 16
SMALL_BATCH_ROWS = _few_rows()

# A batch holds at most batch_size times this many slots, padding included, so that short texts go many at a time.
# On a CPU small batches stay in its caches (benchmarks/tokens_per_batch.py), and what a hundred texts take is then
# what ten thousand take (`growth` in benchmarks/tasks.py).
TOKENS_PER_TEXT = 12 if BACKEND == "cpu" else 128

# On a CPU, MLX takes 9 to 20 ns an element for exp, tanh and erf, and 0.1 for a sum or product, so that these are
# computed from sums and products (benchmarks/activations.py).
TRANSCENDENTALS_ARE_SLOW = BACKEND == "cpu"

# On a CPU, MLX takes longer for the sums of rows than BLAS for their product with a column.
SUMS_ARE_SLOW = BACKEND == "cpu"

_MANY_SCORES = 4096

# Whether layers are begun one by one: a GPU is kept busier by longer pieces of work.
EVALUATES_EARLY = BACKEND == "cpu"

# Whether a traced graph is compiled for each shape. On a CPU, MLX builds each compiled kernel with the system compiler,
# which takes longer than it saves.
COMPILES_GRAPHS = BACKEND != "cpu"

# MLX keeps freed buffers for reuse, on Metal without bound: servers of varied lengths grew tenfold in an hour. On a CPU
# malloc keeps them as well, and gives them for arrays of any size.
KEPT_BYTES = 2**22 if BACKEND == "cpu" else 2**30

# glibc's parameters for mallopt: the largest block that comes from the heap, and the free heap that is kept. By default
# every large array is fresh from the system, which clears it page by page: more work than a sum.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST_FROM_HEAP, _KEPT_HEAP = 32 * 2**20, 512 * 2**20
_USERS_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def _libc_function(name: str) -> Callable[..., int] | None:
    """A function of glibc on Linux CPUs, where MLX takes its arrays from malloc; None elsewhere."""
    if BACKEND != "cpu" or sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)


def _keep_freed_memory() -> None:
    """Let malloc use freed arrays again, unless the user has set it in the environment."""
    mallopt = _libc_function("mallopt")
    if mallopt is not None and not any(name in os.environ for name in _USERS_OWN):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_HEAP)


_keep_freed_memory()


def release_memory() -> None:
    """Hand freed arrays back to the system, after much work."""
    mx.clear_cache()
    if trim := _libc_function("malloc_trim"):
        trim(0)


BLAS_THREADS = BlasThreads(BLAS)


def _stream_count() -> int:
    """How many batches are computed side by side: one a core where products can be kept to one thread each.

    MLX runs everything but products on one thread a stream, which leaves the other cores idle.
    """
    if choice := streams_choice():
        if not choice.isdecimal() or choice == "0":
            raise BackendError(f"{STREAMS_VARIABLE}={choice!r}, expected a number of 1 or more, or leave it unset.")
        return int(choice)
    if BACKEND != "cpu" or sys.platform != "linux" or (BLAS and not BLAS_THREADS.known):
        return 1
    return min(len(os.sched_getaffinity(0)), _MOST_STREAMS)


# Each holds a batch in memory.
_MOST_STREAMS = 16
STREAMS = _stream_count()

_own = threading.local()


def streams() -> list[mx.Stream]:
    """STREAMS streams of the thread that asks, since streams belong to threads; the first one is its default."""
    if not hasattr(_own, "streams"):
        default = mx.default_device()
        _own.streams = [mx.default_stream(default), *(mx.new_stream(default) for _ in range(STREAMS - 1))]
    made: list[mx.Stream] = _own.streams
    return made


def one_thread_per_stream() -> AbstractContextManager[None]:
    """While the block runs, products leave the cores to the streams, which are one a core."""
    return BLAS_THREADS.divided_among(STREAMS)


def fused(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    """An elementwise function as one kernel on a GPU, for any shape; on CPUs MLX would call a compiler for that."""
    if BACKEND == "cpu":
        return function
    compiled: Callable[[mx.array], mx.array] = mx.compile(function, shapeless=True)
    return compiled


def activation_dtype(stored: mx.Dtype) -> mx.Dtype:
    """The dtype to compute in for weights stored as `stored`: CPUs have no fast half precision."""
    return mx.float32 if BACKEND == "cpu" else stored


def uses_cpu_attention(scores: int) -> bool:
    """Whether so many attention scores are worth the forty primitives that take the place of an exponential."""
    return TRANSCENDENTALS_ARE_SLOW and scores >= _MANY_SCORES


def dequantizes_weights(rows: int) -> bool:
    """Whether a quantised product of `rows` rows is faster by unpacking the weights and multiplying in float."""
    return rows >= DEQUANTIZATION_ROWS


def dequantizes_in_passes(bits: int) -> bool:
    """Whether weights of that many bits are faster unpacked by passes over whole arrays than by MLX's own loop."""
    return BACKEND == "cpu" and bits in (4, 8)


def device_name() -> str:
    """What MLX calls the device that it computes on."""
    information = mx.device_info(mx.default_device())
    return str(information.get("device_name") or information.get("architecture") or BACKEND)
