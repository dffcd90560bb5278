"""Find out what this machine computes with, how fast it is, and what would make it faster."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.runtime import device
from mlx_hf_bridge.runtime.blas import kernel_name
from mlx_hf_bridge.runtime.environment import BLAS_VARIABLE, TF32_VARIABLE, bridge_cache
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.runtime.precision import float32_error, is_exact
from mlx_hf_bridge.version import installed_version

PACKAGES = ("mlx-hf-bridge", "mlx", "transformers", "tokenizers", "sentence-transformers", "torch")

# GFLOP/s of one core below which matmuls probably run on a BLAS without vector instructions.
_SLOW_PER_CORE = 15
_ROWS, _WIDTH = 512, 1024
_SECONDS = 0.3


@dataclass(frozen=True)
class Diagnosis:
    """What was found on this machine.

    speeds: GFLOP/s of a matmul of (512, 1024) and (1024, 1024) by kind of weights, measured now. advice: sentences
    that say what to change; empty if all is well. float32_error: largest relative error of a float32 matmul, about
    3e-7, or 3e-4 where MLX uses TF32.
    """

    versions: dict[str, str | None]
    system: str
    backend: str
    device: str
    cores: int
    streams: int
    blas: str | None
    blas_kernels: str | None
    blas_threads: int | None
    speeds: dict[str, float]
    float32_error: float
    cache: str
    advice: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Return what the machine has, and time its matmuls, which takes about a second."""
    speeds = {name: round(run(measure), 1) for name, measure in _measures().items()}
    return Diagnosis(
        versions={name: installed_version(name) for name in PACKAGES},
        system=f"Python {platform.python_version()}, {platform.platform()}",
        backend=device.BACKEND,
        device=device.device_name(),
        cores=os.cpu_count() or 1,
        streams=device.STREAMS,
        blas=device.BLAS,
        blas_kernels=kernel_name(device.BLAS) if device.BLAS else None,
        blas_threads=device.BLAS_THREADS.count() if device.BLAS_THREADS.known else None,
        speeds=speeds,
        float32_error=float32_error(),
        cache=str(bridge_cache()),
        advice=tuple(_advice(speeds["float32"])),
    )


def _measures() -> dict[str, Callable[[], float]]:
    dtypes = {"float32": mx.float32}
    if device.activation_dtype(mx.float16) == mx.float16:
        dtypes["float16"] = mx.float16
    measures: dict[str, Callable[[], float]] = {name: partial(_float_speed, dtype) for name, dtype in dtypes.items()}
    return measures | {f"{bits} bits": partial(_quantized_speed, bits) for bits in (8, 4)}


def _float_speed(dtype: mx.Dtype) -> float:
    x, weight = mx.random.normal((_ROWS, _WIDTH)).astype(dtype), mx.random.normal((_WIDTH, _WIDTH)).astype(dtype)
    return _gflops(lambda: x @ weight.T)


def _quantized_speed(bits: int) -> float:
    dtype = device.activation_dtype(mx.float16)
    layer = Linear(_WIDTH, _WIDTH, bias=False)
    layer.weight = mx.random.normal((_WIDTH, _WIDTH))
    quantized, x = layer.to_quantized(64, bits), mx.random.normal((_ROWS, _WIDTH)).astype(dtype)
    return _gflops(lambda: quantized(x))


def _gflops(matmul: Callable[[], mx.array]) -> float:
    """Return the best speed of the runs that fit into _SECONDS; the best is the least disturbed by other programs."""
    mx.eval(matmul())
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (start := time.perf_counter()) < end:
        mx.eval(matmul())
        best = min(best, time.perf_counter() - start)
    return 2 * _ROWS * _WIDTH * _WIDTH / best / 1e9


def _advice(gflops: float) -> list[str]:
    advice = []
    if device.BACKEND == "cpu" and device.BLAS is None:
        advice.append(
            "No fast BLAS is loaded. pip install 'mlx-hf-bridge[cpu]', or apt-get install libopenblas0; unset "
            f"{BLAS_VARIABLE} if it is 'none', and import mlx_hf_bridge before mlx."
        )
    elif device.BACKEND == "cpu" and gflops < _SLOW_PER_CORE * device.STREAMS:
        advice.append(
            f"Matmuls reach only {gflops:.0f} GFLOP/s on {device.STREAMS} cores, which is slow for a BLAS with vector "
            "instructions. Check whether other programs use the cores."
        )
    if device.BACKEND == "cpu" and (name := os.environ.get("OPENBLAS_CORETYPE")):
        advice.append(
            f"OPENBLAS_CORETYPE={name} forces the kernels that OpenBLAS uses; unset it to let OpenBLAS choose."
        )
    if not is_exact(float32_error()):
        advice.append(
            "float32 matmuls use TF32, with 10 bits of mantissa: embeddings are off by about 2e-4. Set "
            f"{TF32_VARIABLE}=0 (the default here; MLX reads it at its first matmul), or keep TF32 for its speed."
        )
    if len(backends := device.installed_backends()) > 1:
        advice.append(f"pip uninstall {' '.join(backends)}, which overwrite each other; then install one of them.")
    return advice
