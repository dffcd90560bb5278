"""What a graph from a stranger may read, write and allocate: nothing outside of its own arrays."""

import resource
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_hf_bridge.errors import BridgeError, TokenRangeError, UnsupportedModelError, WeightsError
from mlx_hf_bridge.layers.linear import QuantizedEmbedding
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.tracing.fused_linear import fuse_linear_layers
from mlx_hf_bridge.tracing.model import TracedModel
from mlx_hf_bridge.tracing.ops import OPERATIONS, bounds
from mlx_hf_bridge.tracing.serial import from_json
from tests.test_traced_files import BATCH, IDS, graph

FAR = (9, 1000, 10**7, 2**63 - 1, -10, -(10**7), 1 - 2**63)
TABLE = mx.arange(36, dtype=mx.float32).reshape(9, 4)
ROWS = {tuple(row) for row in np.array(TABLE).tolist()}


def run(content: dict[str, Any], weights: Any = None) -> mx.array:
    model = TracedModel(from_json(content), {"words.weight": TABLE, **(weights or {})}, mx.float32, compiled=False)
    hidden = model(BATCH).hidden
    mx.eval(hidden)
    return hidden


def free(*nodes: Any) -> dict[str, Any]:
    """Return a graph whose output may have any two axes."""
    return graph(*nodes, axes={"last_hidden_state": ["?", "?"]})


# Node 1 is the held table, 2 a computed one.
START = (
    ["weight", ["words.weight"]],
    ["mul.Tensor", [{"n": 1}, 1.0]],
)


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("table", [1, 2])
@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("embedding", lambda table, at: [table, at]),
        ("index.Tensor", lambda table, at: [table, [at]]),
        ("index.Tensor", lambda table, at: [table, [None, at]]),
        ("index_put", lambda table, at: [table, [at], {"n": 4}]),
    ],
)
def test_known_indices_outside_a_table_are_an_error(op: str, args: Any, table: int, far: int) -> None:
    """Whether the table is held or computed."""
    nodes = (["full_like", [IDS, far]], ["full", [[1, 1], 0.5]])
    with pytest.raises(TokenRangeError, match=r"of a table of (9|4) rows"):
        run(graph(*START, *nodes, [op, args({"n": table}, {"n": 3})]))


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("op", ["gather", "scatter.value", "scatter_add", "scatter_reduce.two", "take_along_dim"])
def test_known_indices_outside_an_axis_are_an_error(op: str, far: int) -> None:
    at, values = {"n": 1}, {"n": 2}
    args: dict[str, list[Any]] = {
        "gather": [IDS, 1, at],
        "scatter.value": [IDS, 1, at, 5],
        "scatter_add": [IDS, 1, at, values],
        "scatter_reduce.two": [IDS, 1, at, values, "amax"],
        "take_along_dim": [IDS, at, 1],
    }
    with pytest.raises(TokenRangeError, match="of a table of 3 rows"):
        run(free(["full_like", [IDS, far]], ["full_like", [IDS, 1]], [op, args[op]]))


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("op", ["embedding", "index.Tensor", "index_select", "select.int"])
def test_lookups_clip_indices_that_only_the_model_knows(op: str, far: int) -> None:
    """Those that depend on hidden states cannot be checked before the model runs."""
    table, at = mx.array(TABLE), mx.array(far) if op == "select.int" else mx.array([[far]])
    args: dict[str, list[Any]] = {
        "embedding": [table, at],
        "index.Tensor": [table, [at]],
        "index_select": [table, 0, mx.array([far])],
        "select.int": [table, 0, at],
    }
    found = np.array(OPERATIONS[op](*args[op])).reshape(-1, 4)
    assert {tuple(row) for row in found.tolist()} <= ROWS


@pytest.mark.parametrize("far", FAR)
def test_writes_clip_indices_that_only_the_model_knows(far: int) -> None:
    at, value = mx.full((2, 4), far, mx.int64), mx.ones((2, 4))
    results = [
        OPERATIONS["index_put"](TABLE, [mx.array([far])], mx.ones((1, 4))),
        OPERATIONS["index_put"](TABLE, [mx.array([far])], mx.ones((1, 4)), True),
        OPERATIONS["index_put"](TABLE, [None, mx.array([far])], mx.ones((9, 1))),
        OPERATIONS["scatter.src"](TABLE, 0, at, value),
        OPERATIONS["scatter.value"](TABLE, 0, at, 1.0),
        OPERATIONS["scatter_add"](TABLE, 0, at, value),
        OPERATIONS["scatter_reduce.two"](TABLE, 0, at, value, "mean"),
        OPERATIONS["gather"](TABLE, 0, at),
        OPERATIONS["take_along_dim"](TABLE, mx.array([far])),
    ]
    mx.eval(results)
    assert all(np.isin(np.array(result)[1:8], np.array(TABLE)).all() for result in results[:3])


def test_indices_of_narrow_and_unsigned_dtypes_are_clipped() -> None:
    for dtype in (mx.int8, mx.uint8, mx.uint32, mx.uint64):
        at = mx.array([3, 100], dtype)
        assert bounds.clip_indices(at, 9).tolist() == [3, 8]
        assert bounds.clip_indices(at, 1000).tolist() == [3, 100]
    assert bounds.clip_indices(mx.array([-1, -9, -10]), 9, wraps=True).tolist() == [-1, -9, -9]
    for wrong in (mx.array([1.5]), mx.array([True]), 3, [1], None):
        with pytest.raises(UnsupportedModelError, match="expected an array of integers"):
            bounds.clip_indices(wrong, 9)
    with pytest.raises(UnsupportedModelError, match="axis of size 0"):
        bounds.clip_indices(mx.array([0]), 0)


X = torch.arange(12.0).reshape(3, 4)
FEW = torch.tensor([[2, 0, 1]])


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("index.Tensor", (X, [torch.tensor([-1, 0, -3])])),
        ("index.Tensor", (X, [None, torch.tensor([-4, 3])])),
        ("index_put", (X, [torch.tensor([-1])], torch.zeros(4))),
        ("select.int", (X, 0, -1)),
        ("select.int", (X, 1, -4)),
        ("slice.Tensor", (X, 1, -3, -1, 2)),
        ("flip", (X, [0, 1])),
        ("scatter.value", (X, 1, FEW, 7.0)),
        ("scatter.src", (X, 1, FEW, -X)),
        ("scatter_add", (X, 1, FEW, X)),
        ("scatter_reduce.two", (X, 0, FEW, X, "amax")),
        ("gather", (X, 0, FEW)),
        ("remainder.Tensor", (torch.arange(-4, 4), torch.tensor([-1, 3, -2, -1, 5, 2, -3, -1]))),
        ("remainder.Scalar", (torch.arange(-4, 4), -1)),
        ("floor_divide", (torch.arange(-4, 4), torch.tensor([-1, 3, -2, -1, 5, 2, -3, -1]))),
        ("floor_divide", (torch.arange(-4, 4), -1)),
        ("div.Tensor_mode", (torch.arange(-4, 4), torch.tensor(-1))),
    ],
)
def test_legitimate_indices_and_divisors_answer_as_torch(op: str, args: tuple[Any, ...]) -> None:
    name, _, overload = op.partition(".")
    options = {"rounding_mode": "floor"} if op.startswith("div") else {}
    expected = getattr(getattr(torch.ops.aten, name), overload or "default")(*args, **options)

    def to_mlx(value: Any) -> Any:
        return (
            mx.array(value.numpy())
            if isinstance(value, torch.Tensor)
            else [to_mlx(item) for item in value]
            if isinstance(value, list)
            else value
        )

    found = OPERATIONS[op](*map(to_mlx, args), **options)
    np.testing.assert_array_equal(np.array(found), expected.numpy())


@pytest.mark.parametrize("op", ["index_put", "scatter.src", "scatter_add", "scatter_reduce.two"])
def test_writes_into_empty_arrays_write_nothing(op: str) -> None:
    """MLX would divide by zero."""
    empty, at = mx.zeros((4, 0)), mx.array([[0]])
    args = [empty, [mx.array([0])], mx.ones((1,))] if op == "index_put" else [empty, 0, at, mx.ones((1, 1))]
    found = OPERATIONS[op](*args, *(["sum"] if op == "scatter_reduce.two" else []))
    mx.eval(found)
    assert found.shape == (4, 0)


def test_an_array_is_split_as_in_torch() -> None:
    for whole, size in ((7, 3), (6, 3), (2, 3), (0, 3)):
        parts = [list(part.shape) for part in OPERATIONS["split.Tensor"](mx.zeros((whole, 2)), size)]
        assert parts == [list(part.shape) for part in torch.zeros(whole, 2).split(size)]


LEAST = ["full_like", [IDS, -(2**63) + 1]]
CRASHES: dict[str, tuple[Any, ...]] = {
    # Each of these ended the process, by a division by zero or by reading other memory.
    "a step of 0": (["slice.Tensor", [IDS, 1, 0, 3, 0]],),
    "a written step of 0": (["slice_scatter", [IDS, IDS, 1, 0, 3, 0]],),
    "an index past the end": (["select.int", [IDS, 1, 900]],),
    "a row far before the start": (["select.int", [IDS, 0, -900]],),
    "a row that is written": (["select_scatter", [IDS, {"n": 0}, 0, 900]],),
    "an item of an array": (["sym.getitem", [IDS, 10**6]],),
    "a shape of negative sizes": (["view", [IDS, [-1, -3]]],),
    "negative sizes that fit": (["full", [[3, 4], 1.0]], ["view", [{"n": 1}, [-3, -4]]]),
    "no groups": (["full", [[1, 4, 4], 1.0]], ["conv1d", [{"n": 1}, {"n": 1}, None, [1], [0], [1], 0]]),
    "an empty kernel": (["full", [[1, 4, 4], 1.0]], ["full", [[1, 0, 4], 1.0]], ["conv1d", [{"n": 1}, {"n": 2}]]),
    "padding without end": (
        ["full", [[1, 4, 4], 1.0]],
        ["conv1d", [{"n": 1}, {"n": 1}, None, [2**29], [2**30 - 8]]],
    ),
    "negative groups of a norm": (["full", [[1, 4, 4], 1.0]], ["group_norm", [{"n": 1}, -4]]),
    "groups of an empty array": (["full", [[4, 1, 0], 1.0]], ["group_norm", [{"n": 1}, 2**31 - 1]]),
    "padding that is cut off": (
        ["full", [[2, 4, 4, 1], 1.0]],
        ["im2col", [{"n": 1}, [3, 1], [1, 1], [2**20, 2**20], [9, 1]]],
    ),
    "windows wider than the text": (["full", [[1, 4, 4], 1.0]], ["max_pool1d", [{"n": 1}, [9], [-1]]]),
    "no keys": (
        ["full", [[1, 2, 2, 4], 1.0]],
        ["full", [[1, 0, 2, 4], 1.0]],
        ["scaled_dot_product_attention", [{"n": 1}, {"n": 2}, {"n": 2}]],
    ),
    "scores without end": (
        ["full", [[1, 1, 2**20, 4], 1.0]],
        ["full", [[1, 1], 0.0]],
        ["scaled_dot_product_attention", [{"n": 1}, {"n": 1}, {"n": 1}, {"n": 2}]],
    ),
    "more than there is": (["topk", [IDS, 900]], ["sym.getitem", [{"n": 1}, 0]]),
    "a negative count": (["topk", [IDS, -3]], ["sym.getitem", [{"n": 1}, 0]]),
    "wider indices than the array": (
        ["full", [[900, 3], 0, "int64"]],
        ["full", [[900, 3], 1, "int64"]],
        ["scatter_add", [IDS, 1, {"n": 1}, {"n": 2}]],
    ),
    "parts without end": (["arange", [2**20]], ["split.Tensor", [{"n": 1}, 1]]),
    "parts that overflow": (["split.sizes", [IDS, [1, 2**31 - 1, 2**31 - 1], 1]],),
    "parts of negative size": (["split.sizes", [IDS, [-5, 8], 1]],),
    "a reflection of reflections": (["pad", [IDS, [0, 2**20], "reflect"]],),
    "joined layers of other sizes": (
        ["full", [[4, 3], 1.0]],
        ["_to_copy", [IDS, "float32"]],
        ["bridge.linears", [{"n": 2}, {"n": 1}, None, [2**31 - 1, 2**31 - 1, 1]]],
    ),
    "parts of no size": (["split.Tensor", [IDS, 0]],),
    "a text repeated": (["sym.mul", ["x" * 900, 2**33]],),
    "a list repeated": (["sym.mul", [[1, 2, 3], 2**33]],),
    "a format": (["sym.mod", ["%999999999d", 1]],),
    "sizes of arrays": (["sym.floordiv", [IDS, IDS]],),
    "a huge unit matrix": (["eye", [2**30]],),
    "a huge product": (["full", [[2**28, 1], 1.0]], ["matmul", [{"n": 1}, {"n": 2}]]),
    "an empty count of classes": (["one_hot", [IDS]],),
    "a scalar for an output": (["sym_size.int", [IDS, 0]],),
    "several arrays for an output": (["split.Tensor", [IDS, 1, 1]],),
    "an axis that the table lacks": (["index_select", [IDS, 5, IDS]],),
    "a table that is a number": (["sym_size.int", [IDS, 0]], ["embedding", [{"n": 1}, IDS]]),
    "no arguments": (["embedding", []],),
    "a number for indices": (["embedding", [IDS, 1]],),
}


@pytest.mark.parametrize("fault", CRASHES)
def test_what_would_end_the_process_is_an_error(fault: str) -> None:
    with pytest.raises(BridgeError):
        run(free(*CRASHES[fault]))


@pytest.mark.parametrize("op", ["floor_divide", "remainder.Tensor"])
@pytest.mark.parametrize("divisor", [-1, {"n": 2}])
def test_the_smallest_integer_is_divided_by_minus_one(op: str, divisor: Any) -> None:
    least = (LEAST, ["full_like", [IDS, -1]], ["sub.Tensor", [{"n": 1}, 1]])
    assert run(free(*least, [op, [{"n": 3}, divisor]])).tolist() == [[-(2**63) if op == "floor_divide" else 0] * 3]


def test_an_output_has_the_shape_that_the_graph_says() -> None:
    with pytest.raises(UnsupportedModelError, match=r"last_hidden_state of shape \[1, 1, 4\], expected \[1, 3, 4\]"):
        run(graph(["full", [[1, 1, 4], 1.0]]))


def test_arrays_that_are_alive_at_once_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_hf_bridge.tracing.interpreter.memory_budget", lambda: 4000)
    monkeypatch.setattr(bounds, "memory_budget", lambda: 4000)
    wide = ["full", [[3, 100], 1.0]]
    # One after the other they fit, since the first is freed when the second is made.
    chain = [["neg", [{"n": number}]] for number in range(1, 9)]
    run(free(wide, *chain))
    with pytest.raises(UnsupportedModelError, match=r"makes arrays .full, node 3. of 4.800e.03 bytes.*Pass fewer"):
        run(free(wide, wide, wide, wide, ["cat", [[{"n": number} for number in range(1, 5)]]]))


def test_an_input_that_is_left_out_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = graph(["neg", [IDS]])
    content["inputs"]["bbox"] = {"axes": ["B", "L", 2**23, 2**23], "dtype": "int64", "optional": True}
    with pytest.raises(UnsupportedModelError, match=r"has an input 'bbox' of .*bytes"):
        run(content)


def test_the_budget_is_half_of_what_the_process_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < bounds.memory_budget() <= bounds._physical_memory() // 2
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**40, 2**40))
    assert 0 < bounds._left_of_limit() < 2**40
    monkeypatch.setattr(bounds, "_left_of_limit", lambda: 1000)
    assert bounds.memory_budget.__wrapped__() == 500


@pytest.mark.parametrize("part", ["weight", "scales", "biases"])
def test_a_packed_table_whose_parts_do_not_fit_is_refused(part: str) -> None:
    table = QuantizedEmbedding(mx.random.normal((9, 64)), 64, 4, "affine")
    content = graph(["weight", ["words.weight"]], ["embedding", [{"n": 1}, IDS]], axes={"last_hidden_state": ["?"] * 3})
    assert run(content, {"words.weight": table}).shape == (1, 3, 64)
    table[part] = table[part][:2]
    with pytest.raises(WeightsError, match="and its scales have"):
        run(content, {"words.weight": table})


NODE = {"n": 1}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([IDS], "expected an input, weights"),
        ([IDS, [NODE]], "expected an input, weights"),
        ([IDS, [], None], "expected an input, weights"),
        ([IDS, [1], None], "expected an input, weights"),
        ([IDS, [IDS], None], "expected an input, weights"),
        ([IDS, [NODE], [NODE, NODE]], "expected an input, weights"),
        ([IDS, [NODE, {"n": 2}], None], "do not fit each other"),
    ],
)
def test_linear_layers_that_cannot_be_joined_are_refused(args: list[Any], message: str) -> None:
    content = graph(["weight", ["words.weight"]], ["weight", ["other"]], ["bridge.linears", args])
    with pytest.raises(UnsupportedModelError, match=message):
        fuse_linear_layers(from_json(content), {"words.weight": TABLE, "other": mx.ones((2, 3))})


def test_ids_of_users_are_refused_with_the_range() -> None:
    content = graph(["weight", ["words.weight"]], ["embedding", [{"n": 1}, IDS]])
    model = TracedModel(from_json(content), {"words.weight": TABLE}, mx.float32, compiled=False)
    for ids in ([[1, 9]], [[1, -1]]):
        with pytest.raises(TokenRangeError, match="table of 9 rows"):
            model(TokenBatch(mx.array(ids)))


@pytest.mark.parametrize("size", [(4, 5), (9, 11), (7, 5)])
def test_interpolation_is_that_of_torch(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(x), size=size, mode="bilinear")
    actual = OPERATIONS["upsample_bilinear2d.vec"](mx.array(x), list(size), False, None)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    with pytest.raises(UnsupportedModelError, match="align_corners=True"):
        OPERATIONS["upsample_bilinear2d.vec"](mx.array(x), list(size), True, None)


def test_batch_norms_use_their_stored_statistics_as_in_torch() -> None:
    norm = torch.nn.BatchNorm1d(3).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2)
        x = torch.rand(2, 3, 4)
        expected = norm(x)
    arrays = [mx.array(tensor.detach().numpy()) for tensor in (x, *norm.parameters(), *norm.buffers())]
    actual = OPERATIONS["_native_batch_norm_legit_no_training"](*arrays[:5], 0.1, norm.eps)[0]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
