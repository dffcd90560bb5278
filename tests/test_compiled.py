"""Tests of compiled forward passes, as on GPUs: padded to few shapes, equal to those that are not compiled."""

import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from checkpoints import FAMILIES, FIRST_ROWS, Row, heads_of, mlx_class, save_model
from subprocesses import run_python

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.architecture.family import independent_length_of
from mlx_hf_bridge.inference.batching import make_batch
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.loading import load as load_module
from mlx_hf_bridge.runtime.compiled import MAX_COMPILED_SHAPES, rounded_up

# Absolute float32 tolerance, for tiny models with weights of std 0.3; worst observed 2.2e-6.
ABSOLUTE = 2e-5
# One row for each way to count positions, to pool and to be length-dependent; the others are slow.
QUICK = ("bert", "roberta", "clip_text_model", "siglip_text_model", "bart", "t5", "modernbert", "fnet", "xlm")
CASES = [
    pytest.param(row, head, id=f"{row.model_type}-{head}", marks=() if quick else pytest.mark.slow)
    for row in FIRST_ROWS
    for index, head in enumerate(heads_of(row))
    for quick in [row.model_type in QUICK and index < 2]
]


def compiled_and_plain(folder: Path, head: str = "Model") -> tuple[Any, Any, Any]:
    """Return a model that compiles its forward pass, one with the same weights that does not, and the config."""
    loaded = mlx_class(head).from_pretrained(folder).loaded
    plain = loaded.model
    plain._compiled = None
    compiled = copy.copy(plain)
    compiled.compile(loaded.config, independent_length_of(loaded.family, loaded.config))
    return compiled, plain, loaded.config


def batches(config: Any) -> Iterator[TokenBatch]:
    """Yield one text, and nine with and without padding; every text has each id that heads look for three times."""
    for texts in (1, 9):
        ids = np.random.default_rng(texts).integers(5, min(config.vocab_size, 90), (texts, 17))
        for name in ("eos_token_id", "sep_token_id", "question_token_id"):
            if getattr(config, name, None) is not None:
                ids[:, 3:12:4] = getattr(config, name)
        yield make_batch(config, ids)
    mask = np.ones((9, 17), np.int64)
    mask[2, 13:] = 0
    yield make_batch(config, np.where(mask == 1, ids, config.pad_token_id or 0), mask)


@pytest.mark.parametrize(("row", "head"), CASES)
def test_padding_to_few_shapes_changes_no_output(row: Row, head: str, tmp_path: Path, without_fusion: None) -> None:
    save_model(tmp_path, row, head, labels=2)
    compiled, plain, config = compiled_and_plain(tmp_path, head)
    for batch in batches(config):
        real = np.array(batch.token_mask(mx.bool_))[:, :, 0]
        for outputs_only in (False, True):
            actual, expected = (model(batch, outputs_only=outputs_only) for model in (compiled, plain))
            named = [{"hidden": one.hidden, "pooled": one.pooled, **one.outputs} for one in (actual, expected)]
            assert named[0].keys() == named[1].keys()
            for name, array in named[1].items():
                if array is None:
                    assert named[0][name] is None
                    continue
                given, wanted = np.array(named[0][name]), np.array(array)
                assert given.shape == wanted.shape
                kept = real if wanted.shape[:2] == real.shape else slice(None)
                np.testing.assert_allclose(given[kept], wanted[kept], rtol=0, atol=ABSOLUTE, err_msg=name)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    folder = tmp_path_factory.mktemp("bert")
    save_model(folder, FAMILIES[0])
    return compiled_and_plain(folder)


def test_shapes_are_bounded(bert: tuple[Any, Any, Any], without_fusion: None) -> None:
    sizes = range(1, 2000)
    assert all(size <= rounded_up(size) <= max(8, size * 1.125) for size in sizes)
    assert len({rounded_up(size) for size in range(1, 513)}) == 56
    model = copy.copy(bert[0])
    model.compile(bert[2], 512)
    for texts in range(1, 13):
        for tokens in range(1, 13):
            model(TokenBatch(mx.full((texts, tokens), 7, mx.int32)))
    assert model._compiled.shapes == MAX_COMPILED_SHAPES


def test_other_inputs_and_outputs_are_not_compiled(bert: tuple[Any, Any, Any], without_fusion: None) -> None:
    compiled, plain, _ = copy.copy(bert[0]), *bert[1:]
    compiled.compile(bert[2], 512)
    batch = TokenBatch(mx.full((2, 5), 7, mx.int32))
    states = compiled(batch, output_hidden_states=True).hidden_states
    compiled(batch, output_attentions=True)
    vectors = TokenBatch(batch.ids, inputs_embeds=mx.ones((2, 5, bert[2].hidden_size)))
    np.testing.assert_array_equal(compiled(vectors).hidden, plain(vectors).hidden)
    assert len(states) == bert[2].num_hidden_layers + 1
    assert compiled._compiled.shapes == 0


def test_an_error_in_a_trace_leaves_the_weights(bert: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, plain, _ = bert
    batch = TokenBatch(mx.full((2, 3), 7, mx.int32))
    expected = np.array(plain(batch).hidden)

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(compiled.encoder.layers[-1]), "__call__", fail)
        compiled(batch)
    np.testing.assert_array_equal(plain(batch).hidden, expected)


def test_layers_that_read_values_are_not_compiled(bert: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, plain, _ = bert
    batch = TokenBatch(mx.full((2, 19), 7, mx.int32))
    expected = np.array(plain(batch).hidden)
    norm = type(compiled.encoder.embeddings.norm)
    compute = norm.__call__
    monkeypatch.setattr(norm, "__call__", lambda self, x: compute(self, x * float(np.array(x).size > 0)))
    np.testing.assert_array_equal(compiled(batch).hidden, expected)


@pytest.mark.slow  # MLX calls the system's C++ compiler
def test_compiled_models_follow_their_weights_in_every_thread(bert: tuple[Any, Any, Any]) -> None:
    compiled, plain, _ = bert
    batch = TokenBatch(mx.full((2, 3), 7, mx.int32))
    for factor in (1.0, 1.5):
        norm = compiled.encoder.embeddings.norm
        norm.weight = norm.weight * factor
        np.testing.assert_allclose(compiled(batch).hidden, plain(batch).hidden, rtol=0, atol=ABSOLUTE)
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.append(np.array(compiled(batch).hidden)))
    thread.start()
    thread.join()
    np.testing.assert_allclose(found[0], plain(batch).hidden, rtol=0, atol=ABSOLUTE)


def test_loaded_models_are_compiled_where_the_device_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, FAMILIES[0])
    for choice in (False, True):
        monkeypatch.setattr(load_module, "COMPILES_GRAPHS", choice)
        assert (MLXAutoModel.from_pretrained(tmp_path).loaded.model._compiled is not None) == choice


@pytest.mark.slow  # a process for each
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "False"),
        ({"MLX_HF_BRIDGE_COMPILE": "1"}, "True"),
        ({"MLX_HF_BRIDGE_ACT_AS": "metal"}, "True"),
        ({"MLX_HF_BRIDGE_ACT_AS": "metal", "MLX_HF_BRIDGE_COMPILE": "0"}, "False"),
        ({"MLX_HF_BRIDGE_ACT_AS": "metal", "MLX_HF_BRIDGE_UNPACK": "keep"}, "False"),
    ],
)
def test_a_variable_and_the_device_decide_about_compilation(variables: dict[str, str], expected: str) -> None:
    printed = "from mlx_hf_bridge.runtime.device import COMPILES_GRAPHS; print(COMPILES_GRAPHS)"
    # An empty variable counts as unset, and these tests also run with the choices of a GPU (tests/as_gpu.py).
    assert run_python(printed, **{"MLX_HF_BRIDGE_ACT_AS": ""} | variables) == expected


# Kernels of one forward pass with mean pooling and normalization on Metal, compiled; more are a regression.
PRIMITIVES = {
    ("MiniLM-L6", "float16"): 82,
    ("MiniLM-L6", "q8"): 91,
    ("BERT-base", "float16"): 130,
    ("BERT-base", "q8"): 145,
}
COUNTED = """
from benchmarks.primitives import STORED, count
import mlx.core as mx
mx.enable_compile()  # also with MLX_DISABLE_COMPILE=1 (scripts/test-as-gpu)
for shape in ("MiniLM-L6", "BERT-base"):
    for stored in STORED[1:]:
        print(shape, stored, sum(count(shape, stored, compiled=True).values()))
"""


def test_a_compiled_forward_pass_launches_no_more_kernels_than_it_did() -> None:
    lines = [line.split() for line in run_python(COUNTED).splitlines()]
    found = {(shape, stored): int(number) for shape, stored, number in lines}
    assert found.keys() == PRIMITIVES.keys()
    assert all(found[case] <= most for case, most in PRIMITIVES.items()), found
