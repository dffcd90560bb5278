"""Tests of `mlx-hf-bridge selfcheck`: it passes here, and finds a device that computes something else."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest
from convert_checkpoints import Capture
from gpu_arithmetic import make_sines_inexact

from mlx_hf_bridge.cli import main, selfcheck
from mlx_hf_bridge.layers import linear, rotary
from mlx_hf_bridge.selfcheck import behavior, check, mechanisms, minilm, packed_mechanisms, packing
from mlx_hf_bridge.selfcheck import run as run_module
from mlx_hf_bridge.selfcheck.machine import machine_facts


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check two mechanisms, two formats and short texts, and measure no torch."""
    chosen = ("norm after each block, heads of 32", "relative positions", "norms on both sides, shared keys")
    monkeypatch.setattr(run_module, "check_mechanisms", mechanisms.check_mechanisms)
    monkeypatch.setattr(mechanisms, "_LENGTHS", (1, 9))
    monkeypatch.setattr(mechanisms, "MECHANISMS", {name: mechanisms.MECHANISMS[name] for name in chosen})
    monkeypatch.setattr(packed_mechanisms, "MECHANISMS", mechanisms.MECHANISMS)
    for module in (packing, packed_mechanisms):
        monkeypatch.setattr(module, "FORMATS", [("affine", 4, 64), ("mxfp8", 8, 32)])
    monkeypatch.setattr(behavior, "_process", lambda label, code: check.Check(behavior.GROUP, label, True, "", ""))
    monkeypatch.setattr(minilm, "TOKENS", (10,))
    monkeypatch.setattr(minilm, "_TEXTS", 4)
    monkeypatch.setattr(minilm, "_torch_speed", lambda folder: ("torch", check.Check("speed", "torch", None, "", "")))


@pytest.mark.slow  # it converts the real model twice
@pytest.mark.usefixtures("short")
def test_this_machine_passes(tmp_path: Path, minilm: Path, capsys: Capture) -> None:
    target = tmp_path / "selfcheck.json"
    assert main(["selfcheck", "--output", str(target)]) == 0
    shown = capsys.readouterr().out
    assert "0 failed" in shown
    assert "FAILED" not in shown
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document["passed"]
    assert set(document["speeds"]) >= {"float32", "8 bits", "4 bits"}
    assert str(Path.home()) not in target.read_text(encoding="utf-8")
    assert str(minilm) not in target.read_text(encoding="utf-8")


def _broken(function: Callable[..., mx.array], *args: mx.array, **kwargs: object) -> mx.array:
    return function(*args, **kwargs) * 1.001


@pytest.mark.parametrize(
    ("owner", "name", "group"),
    [
        (mx.fast, "scaled_dot_product_attention", "layers"),
        (mx.fast, "rms_norm", "layers"),
        (mx, "quantized_matmul", "quantized matmuls"),
        (mx, "quantized_matmul", "quantized layers"),
    ],
)
def test_a_device_that_computes_something_else_fails(
    owner: object, name: str, group: str, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of MLX is off by a thousandth on the device, and right on the CPU."""
    right = getattr(owner, name)

    def on_device(compute: Callable[[], mx.array]) -> object:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, partial(_broken, right))
            return check.on_device(compute)

    for module in (mechanisms, packing, packed_mechanisms):
        monkeypatch.setattr(module, "on_device", on_device)
    # On a CPU, the quantized matmul is used for few rows.
    monkeypatch.setattr(linear, "dequantizes_weights", lambda rows: False)
    checks = {
        packing.GROUP: packing.check_packings,
        packed_mechanisms.GROUP: packed_mechanisms.check_packed_mechanisms,
        mechanisms.GROUP: mechanisms.check_mechanisms,
    }[group]()
    assert any(one.passed is False for one in checks)


def test_an_error_is_a_failure_and_not_the_end() -> None:
    def fails() -> check.Check:
        raise ValueError("no such kernel")

    found = check.guarded("layers", "attention", fails)
    assert (found.passed, found.figure) == (False, "ValueError: no such kernel")
    assert check.bounded("layers", "attention", float("nan"), 1.0).passed is False


def test_a_report_has_no_paths() -> None:
    def fails() -> check.Check:
        raise FileNotFoundError(2, "No such file or directory", str(Path.home() / "model" / "config.json"))

    assert check.guarded("layers", "x", fails).figure.endswith("No such file or directory: '<path>'")
    assert (
        check.without_paths(r"C:\Users\me\a.so, ~/b and https://c.org/d: 1/2")
        == "<path>, <path> and https://c.org/d: 1/2"
    )


@pytest.mark.parametrize("exact", [True, False])
def test_inexact_sines_of_a_device_are_found(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exact:
        make_sines_inexact(monkeypatch.setattr)
    found = behavior._rotary()
    # Where sines are known to be inexact, positions are turned by tables, which are exact.
    assert found.passed == (exact or rotary.SINES_ARE_INEXACT)
    assert ("MLX's kernel: 2.4e-05" in found.figure) == (not exact)


def test_the_table_of_speeds_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    speed = minilm.Speed({10: 12345.0, 64: 4321.0, 256: 987.0}, 5.4, 101, 86.0)
    found = run_module.SelfCheck((), {"float32": speed, "torch CUDA float16": speed}, {}, machine_facts(), 60.0)
    selfcheck._show({"backend": "cpu", "device": "d", "system": "s"}, found)
    words = "torch CUDA float16 12,345 4,321 987 5.4 101 86"
    assert words in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_mechanism_is_right_in_each_format(short: None) -> None:
    found = next(packed_mechanisms.check_packed_mechanisms())
    assert found.passed
    assert set(found.details) == {"affine, 4 bits in groups of 64", "mxfp8, 8 bits in groups of 32"}


def test_a_format_without_a_kernel_is_named(monkeypatch: pytest.MonkeyPatch, short: None) -> None:
    quantize = mx.quantize

    def fails(*args: object, **options: object) -> object:
        if options["mode"] == "mxfp8":
            raise ValueError("no kernel")
        return quantize(*args, **options)

    monkeypatch.setattr(mx, "quantize", fails)
    found = next(packed_mechanisms.check_packed_mechanisms())
    assert found.passed is False
    assert found.figure == "mxfp8, 8 bits in groups of 32: ValueError: no kernel"
    assert isinstance(found.details["affine, 4 bits in groups of 64"], float)


def test_facts_of_the_machine_do_not_identify_it(monkeypatch: pytest.MonkeyPatch) -> None:
    information = {"device_name": "NVIDIA H200", "architecture": "sm_90", "total_memory": 2**37, "uuid": "GPU-1234"}
    monkeypatch.setattr(mx, "device_info", lambda device: information)
    facts = machine_facts()
    assert facts["device_info"] == {"device_name": "NVIDIA H200", "architecture": "sm_90", "total_memory": 2**37}
    assert "mlx-cpu" in facts["mlx_backends"] or "mlx-metal" in facts["mlx_backends"]
    assert 0 < facts["memory_mib"]["process_peak"] < facts["memory_mib"]["machine"]


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (None, "", "not here: pip install torch sentence-transformers"),
        (object(), "raise RuntimeError('no such device')", "not measured: RuntimeError: no such device"),
    ],
)
def test_it_is_said_why_torch_is_not_measured(
    found: object, code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm.importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(minilm, "_TORCH", code)
    label, result = minilm._torch_speed("model")
    assert label.startswith("torch ")
    assert isinstance(result, check.Check)
    assert (result.passed, result.figure) == (None, words)


def test_a_variant_that_fails_is_a_failed_check(monkeypatch: pytest.MonkeyPatch, short: None) -> None:
    def fails(folder: str, recipe: str | None, dtype: str) -> minilm.Speed:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(minilm, "_speed", fails)
    found = dict(minilm.measure_speeds("model"))
    assert found["float32"] == check.Check("speed", "float32", False, "RuntimeError: out of memory", "no error")
