"""Tests of what keeps float32 exact and of the device's variables: TF32, the choice of a device, mixed-up backends."""

import logging
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from checkpoints import make_checkpoint
from subprocesses import run_python, start_python, wait_for

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.cli import diagnosis
from mlx_hf_bridge.runtime import device, precision


@pytest.fixture
def tf32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Multiply as MLX does on GPUs with TF32: operands rounded to 10 bits of mantissa."""
    exact = mx.array.__matmul__

    def rounded(x: mx.array) -> mx.array:
        if x.dtype != mx.float32:
            return x
        return mx.bitwise_and(x.view(mx.uint32) + 0x1000, mx.array(0xFFFFE000, mx.uint32)).view(mx.float32)

    monkeypatch.setattr(mx.array, "__matmul__", lambda left, right: exact(rounded(left), rounded(right)))
    monkeypatch.setattr(device, "BACKEND", "cuda")
    monkeypatch.setattr(diagnosis, "_SECONDS", 0.01)
    precision.float32_error.cache_clear()
    precision.warn_of_tf32.cache_clear()
    yield
    precision.float32_error.cache_clear()
    precision.warn_of_tf32.cache_clear()


def test_products_here_are_exact() -> None:
    assert precision.is_exact(precision.float32_error())


@pytest.mark.slow
@pytest.mark.usefixtures("tf32")
def test_tf32_is_said_once_and_by_the_doctor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_checkpoint(tmp_path)
    with caplog.at_level(logging.WARNING):
        MLXAutoModel.from_pretrained(tmp_path)
        MLXAutoModel.from_pretrained(tmp_path)
    assert [record.message.split(", so")[0] for record in caplog.records if "TF32" in record.message] == [
        f"MLX multiplies float32 matrices in TF32 on {device.device_name()}"
    ]
    found = diagnosis.diagnose()
    assert 1e-4 < found.float32_error < 1e-2
    assert any(line.startswith("float32 matmuls use TF32") for line in found.advice)


@pytest.mark.usefixtures("tf32")
def test_tf32_that_was_asked_for_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    make_checkpoint(tmp_path)
    with caplog.at_level(logging.WARNING):
        MLXAutoModel.from_pretrained(tmp_path)
    assert "TF32" not in caplog.text


def test_libraries_that_overwrite_each_other_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlx-0.32.4", "mlx_cpu-0.32.4", "mlx_cuda_13-0.32.4"):
        (tmp_path / f"{name}.dist-info").mkdir()
    monkeypatch.setattr(mx, "__file__", str(tmp_path / "mlx" / "core.so"))
    assert device.installed_backends() == ["mlx_cpu", "mlx_cuda_13"]
    monkeypatch.setattr(diagnosis, "_SECONDS", 0.01)
    assert any(line.startswith("pip uninstall mlx_cpu mlx_cuda_13") for line in diagnosis.diagnose().advice)


PRINT = """
import os
from mlx_hf_bridge import device
import mlx.core as mx
print(device.BACKEND, device.STREAMS, device.activation_dtype(mx.float16) == mx.float16, os.environ["MLX_ENABLE_TF32"])
"""


def test_variables_choose_the_device() -> None:
    """TF32 is off unless the environment has it on; another backend's choices are made where tests ask for them."""
    assert run_python(PRINT, MLX_HF_BRIDGE_ACT_AS="metal") == "metal 1 True 0"
    assert run_python(PRINT, MLX_HF_BRIDGE_ACT_AS="", MLX_HF_BRIDGE_DEVICE="cpu", MLX_ENABLE_TF32="1").endswith(
        "False 1"
    )


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="there is a GPU")
def test_a_device_that_is_not_there_is_an_error() -> None:
    code, _, stderr = wait_for(start_python("import mlx_hf_bridge", MLX_HF_BRIDGE_DEVICE="gpu"))
    assert code == 1
    assert "BackendError: MLX_HF_BRIDGE_DEVICE=gpu, and this MLX has no GPU device." in stderr
