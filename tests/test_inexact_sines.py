"""Rotary positions on GPUs whose sines and cosines are inexact: the results are transformers' all the same."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from checkpoints import FIRST_ROWS, Row, make_checkpoint, ragged_inputs, save_model
from gpu_arithmetic import make_sines_inexact

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.layers import rotary, trigonometry
from mlx_hf_bridge.tracing.graph import CONSTANT, INPUT, Facts, Graph, GraphInput, Node
from mlx_hf_bridge.tracing.interpreter import Program

ROTARY = [
    row
    for row in FIRST_ROWS
    if row.model_type
    in {
        *("esm", "eurobert", "gemma3_text", "gte", "jina_embeddings_v3", "modernbert", "neobert", "nomic_bert"),
        *("qwen2", "qwen3", "roformer", "t5gemma", "xlm-roberta-flash"),
    }
]
WITHOUT_POSITION_IDS = {"esm", "roformer", "t5gemma"}
DTYPES = (mx.float32, mx.float16)


@pytest.fixture(autouse=True)
def inexact_sines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give MLX's sines the errors of Metal's, and make the choices that go with them."""
    make_sines_inexact(monkeypatch.setattr)
    for module in (rotary, trigonometry):
        monkeypatch.setattr(module, "SINES_ARE_INEXACT", True)


@pytest.mark.parametrize("row", ROTARY, ids=lambda row: row.model_type)
def test_rotary_families_stay_exact(row: Row, tmp_path: Path) -> None:
    """At counted positions, and at distant ones that the caller gives."""
    torch_model = save_model(tmp_path, row)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, trust_remote_code=False)
    inputs = ragged_inputs(row)
    valid = inputs["attention_mask"].astype(bool)
    given = {} if row.model_type in WITHOUT_POSITION_IDS else {"position_ids": 3000 + 2 * np.arange(17)[None]}
    for options in ({}, given):
        with torch.no_grad():
            expected = torch_model(**{name: torch.tensor(array) for name, array in {**inputs, **options}.items()})[0]
        actual = mlx_model(**inputs, **options).last_hidden_state
        np.testing.assert_allclose(actual[valid], expected.numpy()[valid], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_a_traced_rotary_model_stays_exact(tmp_path: Path) -> None:
    row = next(row for row in ROTARY if row.model_type == "modernbert")
    torch_model = make_checkpoint(tmp_path, row)
    traced = MLXAutoModel.from_pretrained(tmp_path, trace="always")
    assert traced.is_traced
    inputs = ragged_inputs(row)
    valid = inputs["attention_mask"].astype(bool)
    with torch.no_grad():
        expected = torch_model(**{name: torch.tensor(array) for name, array in inputs.items()})[0].numpy()
    np.testing.assert_allclose(traced(**inputs).last_hidden_state[valid], expected[valid], rtol=0, atol=2e-5)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (1, 1, 5, 8), (2, 3, 700, 8)])
def test_a_rotation_by_tables_is_that_of_the_kernel(shape: tuple[int, ...], interleaved: bool) -> None:
    """In any order of shapes, since one compiled function computes them all."""
    exact = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    periods = (np.float32(50) ** (np.arange(4, dtype=np.float32) / 4)).astype(np.float32)
    angles = np.arange(shape[2])[:, None] / periods.astype(np.float64)
    pairs = exact.reshape(*shape[:-1], 4, 2) if interleaved else exact.reshape(*shape[:-1], 2, 4).swapaxes(-1, -2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    expected = np.stack([turned.real, turned.imag], axis=-1 if interleaved else -2).reshape(shape)
    for dtype, bound in ((mx.float32, 2e-4), (mx.float16, 4e-3), (mx.bfloat16, 3e-2)):
        actual = rotary.counted_rotation(periods, shape[2], interleaved)(mx.array(exact).astype(dtype))
        assert actual.dtype == dtype
        np.testing.assert_allclose(np.array(actual.astype(mx.float32)), expected, rtol=0, atol=bound)


def test_traced_half_precision_keeps_the_angles_of_distant_positions() -> None:
    """Periods in half precision would be off by several radians after thousands of tokens."""
    x, periods = Node(INPUT, ("x",)), Node(CONSTANT, ("periods",))
    graph = Graph(
        Facts("Own", "own", "base", "", 9, 8, 1, 1, 0, 5000, None, False),
        (x, periods, rope := Node("bridge.rope", (x, periods))),
        {"x": GraphInput((1, 1, "L", 4), "float32")},
        {"last_hidden_state": rope},
        {},
    )
    array = mx.random.normal((1, 1, 4000, 4), key=mx.random.key(0))
    tensors = {"periods": mx.array([1.2345678, 77.77777])}
    exact, half = (Program(graph, [rope], tensors, dtype)({"x": array.astype(dtype)})[0] for dtype in DTYPES)
    assert half.dtype == mx.float16
    assert mx.abs(exact - half).max().item() < 0.01


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sines_are_exact_for_any_angle(name: str) -> None:
    random = np.random.default_rng(0)
    angles = np.concatenate([np.linspace(-10, 10, 2001), random.uniform(-2e5, 2e5, 2000)]).astype(np.float32)
    found = getattr(trigonometry, name)(mx.array(angles))
    assert np.abs(np.array(found) - getattr(np, name)(angles.astype(np.float64))).max() < 2e-7
    half = getattr(trigonometry, name)(mx.array([2.0], mx.float16))
    assert half.dtype == mx.float16
