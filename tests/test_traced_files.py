"""Graph files are untrusted input: anything that conversion would not write is rejected, and no code is executed."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_hf_bridge.conversion import traced as loading_traced
from mlx_hf_bridge.errors import BridgeError, InputError, TokenRangeError, UnsupportedModelError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.tracing.guards import Guard
from mlx_hf_bridge.tracing.model import TracedModel
from mlx_hf_bridge.tracing.serial import from_json, to_json


def graph(*nodes: Any, **changed: Any) -> dict[str, Any]:
    """Return the contents of graph.json: input ids of shape (B, L), then the nodes, the last of which is the output."""
    facts = {
        "model_class": "OwnModel", "model_type": "own", "task": "feature-extraction", "base_prefix": "",
        "vocab_size": 9,
        "hidden_size": 4, "layers": 1, "heads": 1, "segments": 0, "max_length": 100, "pad_token_id": 0,
        "padding_shows": False,
    }  # fmt: skip
    listed = [["input", ["input_ids"]], *nodes]
    content = {
        "format": 1,
        "facts": facts,
        "inputs": {"input_ids": {"axes": ["B", "L"], "dtype": "int64", "optional": False}},
        "outputs": {"last_hidden_state": len(listed) - 1},
        "axes": {"last_hidden_state": ["B", "L", 4]},
        "guards": [],
        "nodes": listed,
    }
    return {**content, **changed}


LOOK_UP = (["weight", ["words.weight"]], ["embedding", [{"n": 1}, {"n": 0}]])
IDS = {"n": 0}
DEEP: Any = 1
for _ in range(8):
    DEEP = [DEEP]

HOSTILE = {
    "no graph": ([], "has format='list'"),
    "another format": (graph(*LOOK_UP, format=99), "has format=99, and this version reads 1"),
    "an unknown operation": (graph(["os.system", ["rm"]]), "has the operation 'os.system' at node 1"),
    "a dunder for an operation": (graph(["__class__", [IDS]]), "has the operation '__class__'"),
    "a later node": (graph(["neg", [{"n": 2}]], ["neg", [IDS]]), "expected a node before it"),
    "itself": (graph(["neg", [{"n": 1}]]), "expected a node before it"),
    "a negative node": (graph(["neg", [{"n": -1}]]), "expected a node before it"),
    "another reference": (graph(["neg", [{"file": "/etc/passwd"}]]), "expected a node before it"),
    "deep lists": (graph(["view", [IDS, DEEP]]), "at depth 4 in node 1"),
    "long lists": (graph(["view", [IDS, [1] * 5000]]), "has a list of 5000"),
    "huge numbers": (graph(["view", [IDS, [2**70]]]), "out of bounds"),
    "options that are no names": (graph(["neg", [IDS], {"a b": 1}]), "expected names with values"),
    "a long chain": (graph(*(["neg", [{"n": at}]] for at in range(6000))), "a chain of more than 5000 nodes"),
    "a raw infinity": (graph(["add.Scalar", [IDS, float("inf")]]), "has inf for an argument of node 1"),
    "a format that is true": (graph(*LOOK_UP, format=True), "has format=True"),
    "an output out of range": (graph(*LOOK_UP, outputs={"last_hidden_state": 7}), "has the node 7 for the output"),
    "no outputs": (graph(*LOOK_UP, outputs={}, axes={}), "has no outputs"),
    "an input that is none": (graph(["input", ["secrets"]]), "reads an input 'secrets'"),
    "facts of another type": (graph(*LOOK_UP, facts={**graph()["facts"], "max_length": "1"}), "max_length='1'"),
    "unknown facts": (graph(*LOOK_UP, facts={"run": "this"}), r"has facts \['run'\]"),
    "axes of nonsense": (graph(*LOOK_UP, axes={"last_hidden_state": ["B", "eval"]}), "expected B, L, . and sizes"),
    "code in a guard": (graph(*LOOK_UP, guards=["__import__('os').system('true')"]), "has Call, which guards cannot"),
    "an attribute in a guard": (graph(*LOOK_UP, guards=["B.real == 1"]), "has Attribute, which guards cannot"),
    "a power in a guard": (graph(*LOOK_UP, guards=["9 ** 9 ** 9 > B"]), "has BinOp, which guards cannot"),
    "another name in a guard": (graph(*LOOK_UP, guards=["print == 1"]), "has Name, which guards cannot"),
    "a comprehension in a guard": (graph(*LOOK_UP, guards=["[L for L in (1,)]"]), "has ListComp, which guards cannot"),
    "a guard without end": (graph(*LOOK_UP, guards=["L" + " + L" * 5000]), "is not a string of 2000 characters"),
    "a deep guard": (graph(*LOOK_UP, guards=["-" * 100 + "L"]), "nested deeper than 40"),
    "half a guard": (graph(*LOOK_UP, guards=["L =="]), "cannot be read"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_graph_that_no_conversion_writes_is_refused(fault: str) -> None:
    content, message = HOSTILE[fault]
    with pytest.raises(UnsupportedModelError, match=message):
        from_json(content)


def test_a_graph_file_that_is_too_large_or_too_deep_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "graph.json"
    file.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(BridgeError, match=r"nested too deeply|is not JSON"):
        loading_traced.read_graph(tmp_path)
    monkeypatch.setattr(loading_traced, "MAX_BYTES", 1000)
    with pytest.raises(UnsupportedModelError, match="has 200000 bytes, expected 1000 at most"):
        loading_traced.read_graph(tmp_path)


def model(content: dict[str, Any]) -> TracedModel:
    return TracedModel(from_json(content), {"words.weight": mx.ones((9, 4))}, mx.float32, compiled=False)


BATCH = TokenBatch(mx.array([[1, 2, 3]]))
RUNNING = {
    "a huge array": (graph(["full", [[2**20, 2**20], 1.0]]), "makes an array of 4.398e[+]12 bytes"),
    "a huge range": (graph(["arange", [2**40]]), "makes an array of 8.796e[+]12 bytes"),
    "a huge view": (graph(["expand", [["n"], [1]]]), "cannot be computed"),
    "a huge spread": (graph(["unsqueeze", [IDS, 0]], ["expand", [{"n": 1}, [2**40, -1, -1]]]), "be computed"),
    "a spread of no size in 64 bits": (
        graph(["full", [[], 1.0]], ["expand", [{"n": 1}, [2**30] * 4]]),
        "makes arrays .expand",
    ),
    "huge copies": (graph(["repeat", [IDS, [2**29, 2**29]]]), "makes arrays .repeat"),
    "a tower of powers": (graph(["sym.pow", [9, 999999999]]), "to the power 999999999"),
    "a size beyond bounds": (graph(["sym.mul", [2**62, 2**62]]), "computes a size of"),
    "operands that do not fit": (graph(["matmul", [IDS, 3]]), "node 1 of the graph .matmul. cannot be computed"),
    "unknown options": (graph(["neg", [IDS], {"path": "x"}]), "node 1 of the graph .neg. cannot be computed"),
}


@pytest.mark.parametrize("fault", RUNNING)
def test_a_graph_that_asks_for_too_much_is_refused_before_it_is_computed(fault: str) -> None:
    content, message = RUNNING[fault]
    with pytest.raises(UnsupportedModelError, match=message):
        model(content)(BATCH)


def test_a_look_up_outside_its_table_is_refused() -> None:
    """MLX itself would read out of bounds."""
    content = graph(["weight", ["words.weight"]], ["add.Tensor", [IDS, 7]], ["embedding", [{"n": 1}, {"n": 2}]])
    with pytest.raises(TokenRangeError, match="reads the indices 8 to 10 of a table of 9 rows"):
        model(content)(BATCH)


def test_a_shape_outside_the_guards_is_padded_or_refused() -> None:
    held = model(graph(*LOOK_UP, guards=["L % 4 == 0"]))
    assert held(BATCH).hidden.shape == (1, 3, 4)
    with pytest.raises(
        InputError, match=r"1 texts of 3 tokens do not fit the graph of OwnModel, which is valid for L < 3"
    ):
        model(graph(*LOOK_UP, guards=["L < 3"]))(BATCH)
    shows = graph(*LOOK_UP, guards=["L % 4 == 0"])
    shows["facts"]["padding_shows"] = True
    with pytest.raises(InputError, match="L % 4 == 0"):
        model(shows)(BATCH)


def test_guards_say_what_python_says() -> None:
    texts = [
        "L == 4",
        "-L + 4 * B >= max(2, L // 3)",
        "not B > 2 and (L % 5 != 0 or B == 1)",
        "1 <= B < 3",
        "L // B > 9",
    ]
    for text in texts:
        for sizes in ({"B": texts, "L": tokens} for texts in (1, 2, 3) for tokens in (1, 4, 5, 30)):
            assert Guard(text).holds(sizes) == eval(text, {"max": max}, sizes)
    assert not Guard("L // 0 == 1").holds({"B": 1, "L": 1})


def test_a_graph_survives_json() -> None:
    content = graph(*LOOK_UP, ["masked_fill.Scalar", [{"n": 2}, {"n": 0}, {"f": "-inf"}], {}], guards=["L <= 4"])
    again = json.loads(json.dumps(to_json(from_json(content)), allow_nan=False))
    assert again == {**content, "nodes": [node[:2] for node in content["nodes"]]}
