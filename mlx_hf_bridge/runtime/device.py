"""The device: its MLX backend, its BLAS (loaded before mlx.core), and the numeric choices that depend on them.

Only this module asks what the machine is; all others read its constants and functions.
"""

import ctypes
import math
import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ParamSpec

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.runtime.blas import MLX_CAME_FIRST, BlasThreads, kernel_name, load_blas
from mlx_hf_bridge.runtime.environment import (
    acting_backend,
    blas_choice,
    check_environment,
    compile_choice,
    device_choice,
    keep_float32_exact,
    small_batch_rows_choice,
    streams_choice,
    unpack_choice,
    widens_heads,
)

_INSTALL_ADVICE = (
    "Install the backend of this machine: pip install 'mlx-hf-bridge[cpu]' (Linux CPU), "
    "'mlx-hf-bridge[cuda12]' or 'mlx-hf-bridge[cuda13]' (NVIDIA); on a Mac, pip install mlx is enough."
)

_Arguments = ParamSpec("_Arguments")

check_environment()
keep_float32_exact()

# Must stay above the import of mlx.core, which binds its BLAS when it is loaded.
BLAS = load_blas()

try:
    import mlx.core as mx
except ImportError as error:
    raise BackendError(f"mlx.core cannot be imported ({error}). {_INSTALL_ADVICE}") from error


def _backend() -> str:
    """Return "cpu", "metal" or "cuda": the backend of the default device, which MLX_HF_BRIDGE_DEVICE sets."""
    if (choice := device_choice()) is not None:
        device = mx.Device(mx.gpu if choice == "gpu" else mx.cpu)
        if not mx.is_available(device):
            raise BackendError(
                f"MLX_HF_BRIDGE_DEVICE={choice}, and this MLX has no {choice.upper()} device. Unset it, or install the "
                f"backend. {_INSTALL_ADVICE}"
            )
        mx.set_default_device(device)
    if (acting := acting_backend()) is not None:
        return acting
    if mx.default_device() != mx.Device(mx.gpu):
        return "cpu"
    # Builds for Metal say that it is available whatever the default device is.
    return "metal" if mx.metal.is_available() else "cuda"


BACKEND = _backend()

# Distributions that install the same file, mlx/lib/libmlx.so; the one that pip installed last is used.
_LIBRARIES = ("mlx_cpu", "mlx_cuda_12", "mlx_cuda_13")


def installed_backends() -> list[str]:
    """Return which of the distributions that install MLX's library for Linux are installed next to MLX.

    Returns:
        Names such as "mlx_cpu"; with more than one, they have overwritten each other's files.
    """
    # A look at the folder takes a tenth of the time that importlib.metadata takes to ask for three distributions.
    folder = Path(mx.__file__).parent.parent
    found = {path.name.partition("-")[0] for path in folder.glob("mlx_c*.dist-info")}
    return [name for name in _LIBRARIES if name in found]


if len(installed_backends()) > 1:
    warnings.warn(
        f"{' and '.join(installed_backends())} are installed together, and overwrite each other's files: MLX computes "
        f"on {BACKEND.upper()}. pip uninstall all of them, and install the one that this machine needs.",
        RuntimeWarning,
        stacklevel=2,
    )

if BACKEND == "cpu" and sys.platform == "linux" and BLAS is None and blas_choice() is None and not MLX_CAME_FIRST:
    warnings.warn(
        "no fast BLAS was found, so matmuls run on MLX's reference BLAS, up to a hundred times slower. "
        "pip install 'mlx-hf-bridge[cpu]', or apt-get install libopenblas0.",
        RuntimeWarning,
        stacklevel=2,
    )

# On a CPU, dequantizing a layer costs as much as about four rows of the quantized matmul
# (benchmarks/quantized_matmul.py). On GPUs the quantized matmul is always used.
_DEQUANTIZATION_ROWS = 4.0


def _dequantization() -> tuple[float, bool]:
    """Return the rows from which weights are dequantized for a matmul, and whether float weights are kept in memory."""
    choice = unpack_choice()
    if choice is None:
        return (_DEQUANTIZATION_ROWS if BACKEND == "cpu" else math.inf), False
    if choice in ("never", "keep"):
        return (0.0, True) if choice == "keep" else (math.inf, False)
    return float(choice), False


DEQUANTIZATION_ROWS, KEEPS_DEQUANTIZED = _dequantization()

# OpenBLAS kernels, by processor (all have AVX-512), that multiply small matrices without copying them first.
_SMALL_MATMUL_KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")


def _small_batch_rows() -> int:
    """Return the rows up to which a float matmul is faster with packed weight tiles; 0 for never."""
    choice = small_batch_rows_choice()
    if BACKEND != "cpu":
        return 0
    if choice is not None:
        return int(choice)
    # Other kernels copy the weights of a tile as they copy the whole matrix, so that tiles would only cost memory.
    return _SMALL_BATCH_ROWS if BLAS is not None and kernel_name(BLAS) in _SMALL_MATMUL_KERNELS else 0


# Measured by benchmarks/small_batch_matmul.py.
_SMALL_BATCH_ROWS = 16
SMALL_BATCH_ROWS = _small_batch_rows()

# A batch has at most batch_size times this many tokens, padding included, so a batch holds many short texts.
# On a CPU, small batches stay in its caches (benchmarks/tokens_per_batch.py), and encoding ten thousand texts takes no
# more memory than encoding a hundred (`growth` in benchmarks/tasks.py).
TOKENS_PER_TEXT = 12 if BACKEND == "cpu" else 128

# On a CPU, MLX takes 9 to 20 ns for each element of exp, tanh and erf, and 0.1 ns for an addition or multiplication, so
# these functions are computed from additions and multiplications (benchmarks/activations.py).
TRANSCENDENTALS_ARE_SLOW = BACKEND == "cpu"

# Metal's kernel for rotary positions takes fast::sin and fast::cos, whose errors of 2^-13 and more are far beyond those
# of float32 (mlx/backend/metal/kernels/rope.metal).
SINES_ARE_INEXACT = BACKEND != "cpu"

# On a CPU, MLX takes three times as long to sum rows as BLAS takes to multiply them with a column.
SUMS_ARE_SLOW = BACKEND == "cpu"

# Attention scores from which on the fast exponential pays: it takes forty primitives, and below this number starting
# them costs more than MLX's softmax.
_MANY_SCORES = 4096

# Whether layers are evaluated one by one (layers/single_batch.py). A GPU is kept busier by whole graphs.
EVALUATES_EARLY = BACKEND == "cpu"


def _compiles_graphs() -> bool:
    """Return whether whole models are compiled for each shape (inference/compiled.py, tracing/model.py).

    On a CPU, MLX calls the system's C++ compiler for each kernel, which takes longer than it saves
    (benchmarks/compiled.py).
    """
    # Weights that stay dequantized are evaluated when they are first used, which is not possible in a trace.
    if KEEPS_DEQUANTIZED:
        return False
    choice = compile_choice()
    return BACKEND != "cpu" if choice is None else choice


COMPILES_GRAPHS = _compiles_graphs()

# Bytes of freed buffers beyond which all are released after a call. On a CPU a few MiB are enough, since malloc keeps
# freed memory too, for arrays of any size. On a GPU, MLX itself releases what exceeds its limit.
KEPT_BYTES = 2**22 if BACKEND == "cpu" else math.inf
# Without a limit, servers of texts of varied lengths grew tenfold in an hour on Metal.
_GPU_CACHE_LIMIT = 2**30


def _limit_gpu_cache() -> None:
    """Let MLX keep at most 1 GiB of freed buffers on a GPU, or what the program has set before, if that is less."""
    if BACKEND != "cpu":
        before = mx.set_cache_limit(_GPU_CACHE_LIMIT)
        mx.set_cache_limit(min(before, _GPU_CACHE_LIMIT))


_limit_gpu_cache()

# Parameters of glibc's mallopt: the size from which on blocks come from the system instead of the heap, and the free
# heap that is kept. By default every large array comes from the system, which clears it page by page: more work than an
# addition. 32 MiB is the largest threshold that glibc accepts on 64-bit machines (man mallopt).
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST_FROM_HEAP, _KEPT_HEAP = 32 * 2**20, 512 * 2**20
_MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def _libc_function(name: str) -> Callable[..., int] | None:
    """Return a function of glibc on Linux CPUs, where MLX allocates arrays by malloc; None elsewhere."""
    if BACKEND != "cpu" or sys.platform != "linux":
        return None
    # CDLL(None) is the running process; musl has neither function, hence the default.
    return getattr(ctypes.CDLL(None), name, None)


def _keep_freed_memory() -> None:
    """Let malloc reuse the memory of freed arrays, unless the environment configures malloc."""
    mallopt = _libc_function("mallopt")
    # mallopt would override what the user configured by these variables.
    if mallopt is not None and not any(name in os.environ for name in _MALLOC_VARIABLES):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_HEAP)


_keep_freed_memory()


def release_memory() -> None:
    """Return the memory of freed arrays to the system; worth its cost only after many batches."""
    mx.clear_cache()
    if trim := _libc_function("malloc_trim"):
        trim(0)


BLAS_THREADS = BlasThreads(BLAS)


def _stream_count() -> int:
    """Return how many batches run in parallel: one per core, if matmuls can be limited to one thread each.

    MLX runs everything except matmuls on one thread per stream, which leaves the other cores idle.
    """
    if choice := streams_choice():
        return int(choice)
    # Without a limit, each stream's matmul would start a thread per core, and they would compete for the cores.
    if BACKEND != "cpu" or sys.platform != "linux" or (BLAS and not BLAS_THREADS.known):
        return 1
    # The cores that this process may use, which containers and taskset restrict; os.cpu_count() would ignore that.
    return min(len(os.sched_getaffinity(0)), _MAX_STREAMS)


# Each stream has a batch in memory.
_MAX_STREAMS = 16
STREAMS = _stream_count()

# MLX's streams belong to the thread that created them.
_thread_streams = threading.local()


def streams() -> list[mx.Stream]:
    """Return STREAMS streams of the calling thread, which streams belong to; the first is its default stream."""
    if not hasattr(_thread_streams, "streams"):
        default = mx.default_device()
        _thread_streams.streams = [mx.default_stream(default), *(mx.new_stream(default) for _ in range(STREAMS - 1))]
    created: list[mx.Stream] = _thread_streams.streams
    return created


def check_stream() -> mx.Stream:
    """Return the calling thread's CPU stream for small checks, which wait neither for a GPU nor for running batches."""
    if not hasattr(_thread_streams, "check"):
        _thread_streams.check = mx.new_stream(mx.cpu)
    created: mx.Stream = _thread_streams.check
    return created


def synchronize() -> None:
    """Wait for everything that the calling thread has started to compute."""
    for stream in getattr(_thread_streams, "streams", [mx.default_stream(mx.default_device())]):
        mx.synchronize(stream)
    if hasattr(_thread_streams, "check"):
        mx.synchronize(_thread_streams.check)


def one_thread_per_stream() -> AbstractContextManager[None]:
    """Return a context manager in which matmuls share the cores among the streams, which are one per core."""
    return BLAS_THREADS.divided_among(STREAMS)


def fused(function: Callable[_Arguments, mx.array]) -> Callable[_Arguments, mx.array]:
    """Compile a function for any shape, on GPUs, where its elementwise steps become one kernel.

    On CPUs, MLX would call a C++ compiler.
    """
    if BACKEND == "cpu":
        return function
    # shapeless: one trace for all shapes, of which texts of varied lengths have many.
    compiled: Callable[_Arguments, mx.array] = mx.compile(function, shapeless=True)
    return compiled


def activation_dtype(stored: mx.Dtype) -> mx.Dtype:
    """Return the dtype to compute in for weights stored as `stored`: float32 on CPUs, where half precision is slow."""
    return mx.float32 if BACKEND == "cpu" else stored


def uses_cpu_attention(scores: int) -> bool:
    """Return whether attention with so many scores is faster by cpu_attention than by MLX's own kernel."""
    return TRANSCENDENTALS_ARE_SLOW and scores >= _MANY_SCORES


# Metal's fused attention has kernels for heads of 64, 72, 80, 96 and 128 numbers (MLX's
# scaled_dot_product_attention.cpp). Of other widths, MLX computes scores, softmax and product one after the other, with
# all scores in memory. Zeros after each number, this many numbers in all, reach a width with a kernel.
_METAL_WIDENINGS = {24: 3, 32: 2, 48: 2}


def head_widening(width: int) -> int:
    """Return into how many numbers attention heads spread each of theirs, all but the first 0; 1 for not at all.

    For heads of 32 that is three kernels instead of six: the product with the pattern of zeros, attention, and a copy
    of every other number. They move 9 KiB for a token of MiniLM in half precision, whatever the length, and unfused
    attention about 144 bytes for each token that the token sees. Attention itself takes twice the arithmetic: 3 percent
    of a layer for texts of 64 tokens, and 11 percent for 256. Zeros in the weights would save the first and the last
    kernel, and add a third to the arithmetic of all linear layers, for texts of any length.

    Args:
        width: Width of a head.
    """
    if BACKEND != "metal" or not widens_heads():
        return 1
    return _METAL_WIDENINGS.get(width, 1)


def dequantizes_weights(rows: int) -> bool:
    """Return whether a matmul with `rows` rows is faster by dequantizing its weights first."""
    return rows >= DEQUANTIZATION_ROWS


# Rows from which weights without a tensor-core kernel are dequantized on CUDA, for a product by cuBLAS. Dequantizing
# moves about four bytes more for a weight, 2 ps at 2 TB/s; without tensor cores a weight takes 0.1 ps for each row, at
# 20 TFLOP/s. An estimate from the data sheet of an A100; nothing was measured.
_CUBLAS_ROWS = 32


def lacks_cuda_kernel(
    rows: int, shape: tuple[int, ...], group_size: int, bits: int, dtype: mx.Dtype, transpose: bool = True
) -> bool:
    """Return whether a quantized matmul on CUDA has so many rows that cuBLAS is faster, and no tensor-core kernel.

    Source: supports_qmm_sm80 in MLX's backend/cuda/quantized/qmm/qmm.cu. Other weights go to a kernel without tensor
    cores, or row by row to that for single vectors.

    Args:
        rows: Rows of the matmul.
        shape: The weight's shape before quantization, (outputs, inputs).
        group_size: Weights that share a scale.
        bits: Bits of a weight.
        dtype: Dtype of the activations.
        transpose: Whether the weight is transposed for the matmul. Default: True.
    """
    if BACKEND != "cuda" or rows < _CUBLAS_ROWS or unpack_choice() is not None:
        return False
    outputs, inputs = shape
    fits = transpose and outputs % 128 == 0 and inputs % max(64, group_size) == 0
    return not (fits and bits in (4, 8) and dtype in (mx.float16, mx.bfloat16))


def dequantizes_in_passes(bits: int) -> bool:
    """Return whether weights of `bits` bits are dequantized faster in passes over arrays than by mx.dequantize."""
    return BACKEND == "cpu" and bits in (4, 8)


def device_name() -> str:
    """Return MLX's name of the device, such as the processor or GPU model."""
    information = mx.device_info(mx.default_device())
    return str(information.get("device_name") or information.get("architecture") or BACKEND)


def device_facts() -> dict[str, int | str]:
    """Return what MLX knows of the device, such as its memory and architecture, without what identifies a single one.

    Returns:
        Numbers by MLX's names, "device_name" and "architecture"; what there is depends on the backend.
    """
    information = mx.device_info(mx.default_device())
    return {
        name: value
        for name, value in information.items()
        if name in ("device_name", "architecture") or (isinstance(value, int) and not isinstance(value, bool))
    }


def machine_name() -> str:
    """Return the device, operating system and processor architecture, such as "Apple M2, Darwin arm64"."""
    return f"{device_name()}, {platform.system()} {platform.machine()}"
