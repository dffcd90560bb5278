"""Tests of `mlx-hf-bridge doctor`: the machine, speeds and advice, as tables and as JSON."""

import json

import pytest
from convert_checkpoints import Capture

import mlx_hf_bridge
from mlx_hf_bridge.cli import diagnosis, main
from mlx_hf_bridge.runtime import device


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure speeds for only a moment."""
    monkeypatch.setattr(diagnosis, "_SECONDS", 0.01)


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the advice for a CPU, on any machine."""
    monkeypatch.setattr(device, "BACKEND", "cpu")


def test_doctor_prints_what_it_found(capsys: Capture) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["mlx-hf-bridge"] == mlx_hf_bridge.__version__
    assert found["blas"] == device.BLAS
    assert {"float32", "8 bits", "4 bits"} <= set(found["speeds"])
    assert min(found["speeds"].values()) > 0
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("Machine", "Versions", "GFLOP/s", "Advice", str(found["cores"]), found["backend"]):
        assert word in shown


@pytest.mark.usefixtures("on_a_cpu")
def test_doctor_speaks_of_a_missing_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "BLAS", None)
    assert "pip install 'mlx-hf-bridge[cpu]'" in diagnosis.diagnose().advice[0]


@pytest.mark.usefixtures("on_a_cpu")
def test_doctor_speaks_of_slow_products_and_of_forced_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    monkeypatch.setattr(diagnosis, "_SLOW_PER_CORE", 1e9)
    advice = " ".join(diagnosis.diagnose().advice)
    assert "GFLOP/s on" in advice
    assert "OPENBLAS_CORETYPE=Nehalem" in advice
