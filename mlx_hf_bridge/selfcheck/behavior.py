"""What depends on the device besides arithmetic: overflow, batches, threads, forked and spawned processes."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.inference.model import Model, set_activation_dtype
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.rotary import Rotation, counted_rotation
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime import device
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.runtime.precision import float32_error, is_exact
from mlx_hf_bridge.selfcheck.check import (
    BOUNDS,
    Check,
    bounded,
    guarded,
    on_cpu,
    on_device,
    relative_error,
    without_paths,
    worst,
)
from mlx_hf_bridge.selfcheck.mechanisms import MECHANISMS, in_float32, padded_batch, random_model

GROUP = "behavior"
# In a process of its own: a child that is forked after MLX was used must get the error that says so.
_FORK = """
import os, sys
from mlx_hf_bridge.errors import ForkedProcessError
from mlx_hf_bridge.runtime.executor import run
import mlx.core as mx
run(lambda: mx.zeros((8, 8)) @ mx.zeros((8, 8)))
child = os.fork()
if child == 0:
    try:
        run(lambda: mx.zeros((8, 8)))
    except ForkedProcessError:
        os._exit(7)
    os._exit(1)
sys.exit(0 if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7 else 1)
"""
_SPAWN = """
from mlx_hf_bridge.runtime.executor import run
import mlx.core as mx
assert run(lambda: mx.ones((8, 8)) @ mx.ones((8, 8))).tolist() == [[8.0] * 8] * 8
"""
_SECONDS = 120
# Tokens of a long text; sines that are off by 2^-13 make errors of 2e-5 or more, relative to the largest value.
_POSITIONS, _ROTARY_ERROR = 8192, 1e-5


def check_behavior() -> Iterator[Check]:
    """Check what is not the arithmetic of one layer.

    Yields:
        One check for each subject.
    """
    yield guarded(GROUP, "float32 matmuls are float32", _float32)
    for name in ("relative positions", "norms on both sides, shared keys"):
        label = f"sums beyond float16's range, 8 bits: {name}"
        yield guarded(GROUP, label, partial(_overflow, name, label))
    yield guarded(GROUP, "rotary positions up to 8,192", _rotary)
    for dtype in (mx.float32, mx.float16):
        label = f"a text alone and in a batch, {str(dtype).rpartition('.')[2]}"
        yield guarded(GROUP, label, partial(_batches, dtype, label))
    yield guarded(GROUP, "two threads at the same time", _threads)
    yield guarded(GROUP, "a spawned process", lambda: _process("a spawned process", _SPAWN))
    yield guarded(GROUP, "a forked child gets an error", lambda: _process("a forked child gets an error", _FORK))


def _float32() -> Check:
    error = float32_error()
    return Check(GROUP, "float32 matmuls are float32", is_exact(error), f"{error:.0e}", "at most 1e-05 (TF32: 3e-04)")


def _overflow(mechanism: str, label: str) -> Check:
    def prepared() -> Model:
        model = random_model(MECHANISMS[mechanism], mx.float16)
        for name, module in model.named_modules():
            if name.endswith(("feed_forward.down", "post_feed_forward_norm")):
                module.weight = (module.weight * (2e4 if name.endswith("norm") else 4e3)).astype(module.weight.dtype)
        run(lambda: nn.quantize(model, 64, 8, class_predicate=lambda _, module: isinstance(module, Linear)) or [])
        for module in model.modules():
            if "scales" in module:
                module.scales, module.biases = run(partial(module.scales_as, mx.float16))
        return model

    model = prepared()
    batch, mask = padded_batch(33)
    actual = on_device(lambda: model(batch).hidden)[mask]
    model.update(run(lambda: in_float32(model)))
    set_activation_dtype(model, mx.float32)
    expected = on_cpu(lambda: model(batch).hidden)[mask]
    norms = np.linalg.norm(actual, axis=-1) * np.linalg.norm(expected, axis=-1)
    cosine = float(((actual * expected).sum(-1) / norms).min())
    return Check(GROUP, label, cosine > 0.999, f"cosine {cosine:.5f}", "above 0.999")


def _rotary() -> Check:
    """Compare rotated vectors with float64; the figure of MLX's own kernel says whether its sines are exact."""
    periods = (np.float32(1e4) ** (np.arange(0, 1, 1 / 32, dtype=np.float32))).astype(np.float32)
    x = np.random.default_rng(0).normal(size=(1, 1, _POSITIONS, 64)).astype(np.float32)
    angles = (np.arange(_POSITIONS, dtype=np.float32)[:, None] * (1 / periods)).astype(np.float64)
    turned = (x[..., :32] + 1j * x[..., 32:]) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    ours = on_device(lambda: counted_rotation(periods, _POSITIONS)(mx.array(x)))
    kernel = on_device(lambda: Rotation(mx.array(periods))(mx.array(x)))
    error, of_kernel = (relative_error(found, expected) for found in (ours, kernel))
    figure = f"{error:.1e} (MLX's kernel: {of_kernel:.1e})"
    return Check(GROUP, "rotary positions up to 8,192", error <= _ROTARY_ERROR, figure, f"at most {_ROTARY_ERROR:.0e}")


def _batches(dtype: mx.Dtype, label: str) -> Check:
    model = random_model(MECHANISMS["norm after each block, heads of 32"], dtype)
    batch, mask = padded_batch(33)
    together = on_device(lambda: model(batch).hidden)
    count = int(mask[0].sum())
    alone = on_device(lambda: model(TokenBatch(batch.ids[:1, :count])).hidden)
    # In half precision a GPU's kernels round differently for batches of different shapes.
    bound = 1e-5 if dtype == mx.float32 else BOUNDS[device.activation_dtype(dtype)]
    return bounded(GROUP, label, relative_error(alone[0], together[0, :count]), bound)


def _threads() -> Check:
    model = random_model(MECHANISMS["rotary positions, gated"], mx.float16)
    batches = [padded_batch(length)[0] for length in (9, 33) * 8]

    def hidden(batch: TokenBatch) -> np.ndarray:
        return on_device(lambda: model(batch).hidden)

    expected = [hidden(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        actual = list(pool.map(hidden, batches))
    error = worst([relative_error(one, other) for one, other in zip(actual, expected, strict=True)])
    return bounded(GROUP, "two threads at the same time", error, BOUNDS[device.activation_dtype(mx.float16)])


def _process(label: str, code: str) -> Check:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_SECONDS)
    last = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    return Check(
        GROUP,
        label,
        done.returncode == 0,
        without_paths(f"exit code {done.returncode}{': ' if last else ''}{''.join(last)}"),
        "exit code 0",
    )
