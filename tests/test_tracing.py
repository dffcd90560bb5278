"""Traced models match transformers and the native families after a round trip through files on disk."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from checkpoints import FAMILIES, Row, make_checkpoint, make_wordpiece, mlx_class, ragged_inputs, row_name
from subprocesses import run_python
from tolerances import tolerance

from benchmarks.traced_models import run_variant
from benchmarks.traced_variants import VARIANTS
from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer, pipeline
from mlx_hf_bridge.conversion import traced as loading_traced
from mlx_hf_bridge.errors import ArgumentTypeError, BackendError, ConfigError, InputError, UnsupportedModelError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.compiled import MAX_COMPILED_SHAPES
from mlx_hf_bridge.runtime.device import COMPILES_GRAPHS
from mlx_hf_bridge.tracing.model import LENGTH_MULTIPLE, TracedModel


def with_config(row: Row, **values: Any) -> Row:
    return dataclasses.replace(row, config=type(row.config).from_dict({**row.config.to_dict(), **values}))


# torch.export takes seconds for each layer, and a second layer is traced as the first.
BERT = with_config(FAMILIES[0], num_hidden_layers=1)
# Absolute float32 tolerance across kernels, for tiny models with weights of std 0.3; worst observed 1e-6.
ABSOLUTE = 2e-5


def row_of(model_type: str) -> Any:
    return next(row for row in FAMILIES if row.model_type == model_type)


def reference(model: Any, inputs: Mapping[str, Any], **options: Any) -> Any:
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()}, **options)


def assert_close(actual: Any, expected: Any, mask: np.ndarray) -> None:
    """Assert that every output matches at non-padding positions."""
    valid = mask.astype(bool)
    assert list(actual) == list(expected)
    for name in actual:
        pairs = (
            zip(actual[name], expected[name], strict=True)
            if name == "hidden_states"
            else [(actual[name], expected[name])]
        )
        for mlx_value, torch_model in pairs:
            kept = valid if torch_model.shape[:2] == valid.shape else slice(None)
            np.testing.assert_allclose(np.array(mlx_value)[kept], torch_model.numpy()[kept], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("head", ["Model", pytest.param("ForMaskedLM", marks=pytest.mark.slow)])
def test_a_traced_bert_answers_as_transformers(head: str, tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path, BERT, head)
    traced = mlx_class(head).from_pretrained(tmp_path, trace="always")
    inputs = ragged_inputs(BERT)
    assert traced.is_traced
    expected = reference(torch_model, inputs, output_hidden_states=True)
    assert_close(traced(**inputs, output_hidden_states=True), expected, inputs["attention_mask"])


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Return a traced RoBERTa, and its transformers model."""
    folder = tmp_path_factory.mktemp("roberta")
    torch_model = make_checkpoint(folder / "source", with_config(row_of("roberta"), num_hidden_layers=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(folder / "cache"))
        traced = MLXAutoModel.from_pretrained(folder / "source", trace="always")
    return traced, torch_model


def test_a_quantised_trace_equals_the_quantised_native_model(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, with_config(BERT, **BERT.wide))
    inputs = ragged_inputs(BERT)
    valid = inputs["attention_mask"].astype(bool)
    native, traced = (
        MLXAutoModel.from_pretrained(tmp_path, trace=trace, quantization_config="q4-rtn")
        for trace in ("never", "always")
    )
    assert traced.quantization_config == native.quantization_config
    one, other = (model(**inputs) for model in (native, traced))
    np.testing.assert_allclose(
        other.last_hidden_state[valid],
        one.last_hidden_state[valid],
        rtol=0,
        atol=tolerance(1e-5 * abs(one.last_hidden_state).max(), one.last_hidden_state),
    )
    np.testing.assert_allclose(other.pooler_output, one.pooler_output, rtol=0, atol=tolerance(1e-5))
    sizes = [(model.folder / "model.safetensors").stat().st_size for model in (native, traced)]
    assert sizes[1] < 1.02 * sizes[0]


VIEWS = {"Transpose", "Reshape", "Broadcast", "Slice", "ExpandDims", "Squeeze", "Flatten", "Unflatten", "Split"}


def primitives(model: Any, batch: TokenBatch, folder: Path) -> int:
    """Return the number of MLX operations of one forward pass, not counting views."""
    mx.export_to_dot(str(folder / "graph.dot"), model(batch).hidden)
    text = (folder / "graph.dot").read_text()
    names = re.findall(r'label ?= ?"([A-Za-z]\w+)"[^\n]*shape ?= ?rectangle', text)
    assert names, "export_to_dot writes something else now"
    return sum(name not in VIEWS for name in names)


@pytest.mark.parametrize(
    "model_type", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mpnet", "t5", "modernbert"))]
)
def test_a_trace_takes_few_more_operations_than_the_native_model(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = BERT if model_type == "bert" else row_of(model_type)
    make_checkpoint(tmp_path, row)
    inputs = ragged_inputs(row)
    models = [MLXAutoModel.from_pretrained(tmp_path, trace=trace).loaded.model for trace in ("never", "always")]
    # On CPUs, MLX expands its fused kernels into several operations; count each kernel as one.
    for kernel in ("layer_norm", "rms_norm", "rope"):
        monkeypatch.setattr(mx.fast, kernel, lambda x, *others, **options: mx.abs(x))
    batch = TokenBatch(mx.array(inputs["input_ids"].astype(np.int32)), mx.array(inputs["attention_mask"].astype(bool)))
    native, traced = (primitives(model, batch, tmp_path) for model in models)
    # On GPUs a graph's inputs are padded to one of few shapes, and native models take fewer operations than on CPUs.
    padding = 12 if COMPILES_GRAPHS else 0
    assert traced <= 1.3 * native + padding, f"{traced} against {native}"


class OwnConfig(transformers.PreTrainedConfig):
    """Config of a custom model that is not part of transformers."""

    model_type = "own_encoder_of_these_tests"

    def __init__(self, vocab_size: int = 101, hidden_size: int = 24, **kwargs: Any) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        super().__init__(**kwargs)


class OwnModel(transformers.PreTrainedModel):
    """Custom encoder that adds a gated mean of the token embeddings to each of them."""

    config_class = OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.words = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.gate = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = torch.nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.words

    def forward(self, input_ids: Any, attention_mask: Any = None, return_dict: bool = True) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        words = self.words(input_ids) * mask[..., None]
        mean = words.sum(1, keepdim=True) / mask.sum(1)[:, None, None].clamp(min=1)
        hidden = self.norm(words + torch.sigmoid(self.gate(words)) * torch.nn.functional.softsign(mean))
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=hidden)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the folder and model of a custom class that is registered with transformers."""
    transformers.AutoConfig.register(OwnConfig.model_type, OwnConfig, exist_ok=True)
    transformers.AutoModel.register(OwnConfig, OwnModel, exist_ok=True)
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    model = OwnModel(OwnConfig()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    make_wordpiece(folder)
    return folder, model


def test_a_class_of_ones_own_converts_and_runs(own: tuple[Path, Any]) -> None:
    folder, torch_model = own
    model = MLXAutoModel.from_pretrained(folder)
    inputs = {name: array for name, array in ragged_inputs(BERT).items() if name != "token_type_ids"}
    assert model.is_traced
    assert_close(model(**inputs), reference(torch_model, inputs), inputs["attention_mask"])


def test_a_traced_model_encodes_texts(own: tuple[Path, Any]) -> None:
    folder, torch_model = own
    texts = ["the cat sat on the mat", "a good film"]
    model = MLXSentenceTransformer(folder)
    expected = []
    for text in texts:
        ids = torch.tensor(model.tokenizer.encode([text])[0].ids)[None]
        with torch.no_grad():
            expected.append(torch_model(ids).last_hidden_state[0].mean(0).numpy())
    np.testing.assert_allclose(model.encode(texts), np.stack(expected), rtol=0, atol=ABSOLUTE)


@pytest.mark.slow
def test_encoders_and_pipelines_are_traced_on_request(tmp_path: Path) -> None:
    """Traced encoders and pipelines match the native ones."""
    make_checkpoint(tmp_path, BERT, "ForSequenceClassification")
    texts = ["the cat sat on the mat", "a good film"]
    traced = MLXSentenceTransformer(tmp_path, model_kwargs={"trace": "always"})
    assert isinstance(traced[0].loaded.model, TracedModel)
    np.testing.assert_allclose(traced.encode(texts), MLXSentenceTransformer(tmp_path).encode(texts), rtol=0, atol=2e-5)
    traced_pipe, native_pipe = (pipeline("text-classification", tmp_path, trace=trace) for trace in ("always", "never"))
    assert traced_pipe.model.is_traced
    assert not native_pipe.model.is_traced
    for one, other in zip(traced_pipe(texts, top_k=None), native_pipe(texts, top_k=None), strict=True):
        assert [row["label"] for row in one] == [row["label"] for row in other]
        np.testing.assert_allclose([row["score"] for row in one], [row["score"] for row in other], rtol=0, atol=1e-5)


def test_a_saved_trace_loads_and_runs_without_torch(own: tuple[Path, Any], tmp_path: Path) -> None:
    MLXAutoModel.from_pretrained(own[0]).save_pretrained(tmp_path / "saved")
    script = """
import sys
sys.modules["torch"] = None
from mlx_hf_bridge import MLXAutoModel
model = MLXAutoModel.from_pretrained(sys.argv[1])
print(model.is_traced, model([[5, 6, 7]]).last_hidden_state.shape, sys.modules.get("torch"))
"""
    assert run_python(script, tmp_path / "saved") == "True (1, 3, 24) None"


def test_without_torch_a_conversion_says_what_it_needs(
    own: tuple[Path, Any], bridge_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        if "tracing" in name:
            raise ImportError("No module named 'torch'")
        return real(name)

    real = loading_traced.importlib.import_module
    monkeypatch.setattr(loading_traced.importlib, "import_module", missing)
    with pytest.raises(BackendError, match=r"needs torch, and torch cannot be imported .* pip install torch"):
        MLXAutoModel.from_pretrained(own[0])
    assert not list(bridge_cache.glob("converted/*/model.safetensors"))


def test_never_and_unknown_words_are_refused(own: tuple[Path, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="model_type='own_encoder_of_these_tests'; supported are"):
        MLXAutoModel.from_pretrained(own[0], trace="never")
    with pytest.raises(ConfigError, match="trace='sometimes', expected 'auto', 'never', 'always'"):
        MLXAutoModel.from_pretrained(own[0], trace="sometimes")
    with pytest.raises(ArgumentTypeError, match="is a traced model, which takes no other config"):
        MLXAutoModel.from_pretrained(own[0], hidden_size=12)


def test_what_a_graph_cannot_answer_is_one_clear_error(own: tuple[Path, Any]) -> None:
    model = MLXAutoModel.from_pretrained(own[0])
    for asked, message in (
        ({"output_attentions": True}, "output_attentions was passed, and the traced OwnModel has no attentions"),
        (
            {"output_hidden_states": True},
            "output_hidden_states was passed, and the traced OwnModel has no hidden states",
        ),
        ({"position_ids": [[0, 1, 2]]}, "the traced OwnModel takes neither"),
    ):
        with pytest.raises(InputError, match=message):
            model([[5, 6, 7]], **asked)


def test_texts_longer_than_the_positions_are_refused(roberta: Any) -> None:
    model, torch_model = roberta
    assert model.loaded.config.max_length == torch_model.config.max_position_embeddings - 3  # positions start at 3
    with pytest.raises(InputError, match="the texts have 42 tokens"):
        model(np.full((1, 42), 7))


def test_compiled_shapes_are_bucketed_and_bounded(roberta: Any) -> None:
    plain = roberta[0].loaded.model
    compiled = TracedModel(plain._graph, plain.table, mx.float32, compiled=True)
    mx.disable_compile()
    try:
        for tokens in range(1, 40):
            batch = TokenBatch(mx.full((1, tokens), 7, mx.int32))
            np.testing.assert_allclose(compiled(batch).hidden, plain(batch).hidden, rtol=0, atol=ABSOLUTE)
        assert compiled.compiled_shapes == -(-39 // LENGTH_MULTIPLE)
        for texts in range(1, MAX_COMPILED_SHAPES + 5):
            compiled(TokenBatch(mx.full((texts, 4), 7, mx.int32)))
        assert compiled.compiled_shapes == MAX_COMPILED_SHAPES
    finally:
        mx.enable_compile()


def test_half_precision_stays_half_and_close(roberta: Any) -> None:
    loaded = roberta[0].loaded
    halved = {
        name: array.astype(mx.float16) if array.dtype == mx.float32 else array
        for name, array in loaded.model.table.items()
    }
    half = TracedModel(loaded.model._graph, halved, mx.float16, compiled=False)
    batch = TokenBatch(mx.array([[5, 6, 7, 8], [5, 6, 0, 0]]), mx.array([[1, 1, 1, 1], [1, 1, 0, 0]]).astype(mx.bool_))
    actual, expected = (np.array(model(batch).hidden.astype(mx.float32))[0] for model in (half, loaded.model))
    assert half(batch).hidden.dtype == mx.float16
    assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()


# test_parity.py compares every family with transformers, and the test below does so for every kind of graph. This test
# covers building blocks that only some native families have, with one family for each.
ONE_OF_A_KIND = (
    "albert", "convbert", "deberta-v2", "esm", "eurobert", "fnet", "gemma3_text", "mobilebert", "modernbert", "mpnet",
    "nomic_bert", "roformer", "squeezebert", "t5", "xlm",
)  # fmt: skip
ORACLE = [next(row for row in FAMILIES if row.model_type == name) for name in ONE_OF_A_KIND]


@pytest.mark.slow
@pytest.mark.parametrize("row", ORACLE, ids=row_name)
def test_a_native_family_answers_as_its_own_trace(row: Any, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, row)
    inputs = ragged_inputs(row)
    valid = inputs["attention_mask"].astype(bool)
    native, traced = (MLXAutoModel.from_pretrained(tmp_path, trace=trace) for trace in ("never", "always"))
    one, other = (model(**inputs).last_hidden_state for model in (native, traced))
    np.testing.assert_allclose(other[valid], one[valid], rtol=0, atol=1e-4 * np.abs(one[valid]).max())


# One model for each kind of attention, position and embedding among the variants, and those that were hard to trace.
SAMPLE = (
    "albert", "xlnet", "tapas", "roc_bert", "luke:entities", "xmod", "openai_privacy_filter", "bart:encoder",
    "m2m_100:encoder", "nystromformer", "layoutlmv3:text", "longt5:local", "t5gemma2:text_encoder", "clip_text_model",
    "aimv2:text", "groupvit:text", "videoprism:text", "clvp:encoder", "ultrabert",
)  # fmt: skip
# Those that run with every other test; each trace takes seconds.
QUICK = ("luke:entities",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SAMPLE]
)
def test_a_variant_answers_as_transformers_at_other_shapes(name: str) -> None:
    variant = next(variant for variant in VARIANTS if variant.name == name)
    found = run_variant(variant)
    assert found.passed, f"{found.difference} {found.reason}"
