"""Tests of backend="mlx" in sentence-transformers' own classes, compared with their torch backend."""

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from checkpoints import make_checkpoint
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder, util
from sentence_transformers.base.modules import Dense, Router
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from subprocesses import run_python

import mlx_hf_bridge.sentence_transformers  # noqa: F401  adds the backend
from mlx_hf_bridge.errors import (
    ArgumentTypeError,
    QuantizationError,
    UnservedUseError,
    UnsupportedModelError,
    WeightsError,
)
from mlx_hf_bridge.sentence_transformers.backend import batching

# float32 rounding of different kernels, for token embeddings and sentence embeddings.
TOLERANCE = 2e-5
TEXTS = ["the cat sat on a mat", "a dog", "", "stock market news is good today . i love this example", "cats"]
PAIRS = [("the cat", text) for text in TEXTS]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model of Transformer, mean pooling, Dense and Normalize with prompts, and return its folder."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("encoder")
    make_checkpoint(base)
    modules = [Transformer(str(base)), Pooling(24, "mean"), Dense(24, 10), Normalize()]
    prompts = {"query": "the ", "document": "a "}
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def pair(encoder: Path) -> tuple[SentenceTransformer, SentenceTransformer]:
    """Return the model on torch and on MLX."""
    torch_model = SentenceTransformer(str(encoder), device="cpu")
    return torch_model, SentenceTransformer(str(encoder), device="cpu", backend="mlx")


def arrays(value: Any) -> list[np.ndarray]:
    """Return all arrays nested in lists and dicts, without the modality, in a fixed order."""
    if isinstance(value, dict):
        return [array for key in sorted(value) if key != "modality" for array in arrays(value[key])]
    if isinstance(value, list):
        return [array for one in value for array in arrays(one)]
    return [value.to_dense().float().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)]


def check_same(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Assert equal types, shapes and dtypes, and values within the tolerance."""
    assert type(found) is type(expected)
    for one, other in zip(arrays(found), arrays(expected), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert np.abs(one.astype(np.float64) - other).max(initial=0) < tolerance


PROGRAM = """
import sys
import mlx_hf_bridge.sentence_transformers
heavy = [name for name in ("torch", "sentence_transformers") if name in sys.modules]
finders = len(sys.meta_path)
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import transformer
assert transformer.__spec__.loader is transformer.__loader__ and "mlx" not in type(transformer.__loader__).__module__
model = SentenceTransformer(sys.argv[1], backend="mlx", device="cpu")
print(heavy, type(model).__module__, model.get_backend(), type(model[0].model).__name__, float(model.encode("cats")[0]))
"""


@pytest.mark.slow
def test_the_import_loads_neither_torch_nor_their_package_and_adds_the_backend(encoder: Path, pair: Any) -> None:
    heavy, module, backend, name, value = run_python(PROGRAM, encoder).rsplit(" ", 4)
    assert (heavy, module, backend, name) == (
        "[]",
        "sentence_transformers.sentence_transformer.model",
        "mlx",
        "BertModel",
    )
    assert abs(float(value) - pair[0].encode("cats")[0]) < TOLERANCE


def test_only_the_one_method_is_replaced_and_other_backends_are_left_alone(encoder: Path) -> None:
    assert Transformer._load_model.__wrapped__.__module__ == Transformer.__module__
    assert Transformer._load_model.__module__ == Transformer.__module__
    assert type(SentenceTransformer(str(encoder), device="cpu")[0].model) is transformers.BertModel
    with pytest.raises(ValueError, match="Unsupported backend 'none'"):
        SentenceTransformer(str(encoder), device="cpu", backend="none")


def test_the_classes_are_the_real_ones(pair: Any) -> None:
    assert type(pair[1]) is SentenceTransformer
    assert isinstance(pair[1][0].model, transformers.BertModel) and pair[1].transformers_model is pair[1][0].model
    assert pair[1].get_backend() == "mlx" and pair[1].device == pair[0].device and pair[1].dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 2},
        {"prompt_name": "query"},
        {"prompt": "i love "},
        {"output_value": "token_embeddings"},
        {"output_value": None},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"normalize_embeddings": True, "truncate_dim": 5},
        {"device": "cpu"},
    ],
    ids=str,
)
def test_every_way_to_encode_gives_what_torch_gives(options: dict[str, Any], pair: Any) -> None:
    expected, found = (model.encode(TEXTS, **options) for model in pair)
    if options.get("output_value", "") is None:
        for row in (*expected, *found):  # values at padded positions are arbitrary
            row["token_embeddings"] = row["token_embeddings"] * row["attention_mask"][:, None]
    check_same(found, expected)


def test_a_large_ragged_batch_is_computed_in_parts(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(["the cat"] * (number % 19)) for number in range(200)]
    computed = []
    compute = batching._compute
    monkeypatch.setattr(batching, "_compute", lambda *given: computed.append(1) or compute(*given))
    monkeypatch.setattr(batching, "group_by_length", partial(budgeted_into, 30))
    check_same(pair[1].encode(texts, batch_size=200), pair[0].encode(texts, batch_size=200))
    assert len(computed) == 7
    tokens = pair[1].encode(texts, batch_size=200, output_value="token_embeddings")
    check_same(tokens, pair[0].encode(texts, batch_size=200, output_value="token_embeddings"))


def budgeted_into(rows: int, lengths: list[int], batch_size: int) -> Any:
    """Split texts sorted by descending length into groups of `rows`, in place of group_by_length."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return (order[start : start + rows] for start in range(0, len(order), rows))


def test_pairs_queries_documents_and_single_texts_are_encoded(pair: Any) -> None:
    check_same(pair[1].encode(PAIRS), pair[0].encode(PAIRS))
    check_same(pair[1].encode_query(TEXTS), pair[0].encode_query(TEXTS))
    check_same(pair[1].encode_document(TEXTS[0]), pair[0].encode_document(TEXTS[0]))
    assert pair[1].encode(TEXTS, precision="ubinary").dtype == np.uint8


def test_evaluators_and_util_work_on_it(pair: Any) -> None:
    evaluator = EmbeddingSimilarityEvaluator(TEXTS, TEXTS[::-1], [0.1, 0.7, 0.3, 0.2, 0.9], show_progress_bar=False)
    expected, found = (model.evaluate(evaluator) for model in pair)
    # The cosines are all close to 1, and their correlation magnifies rounding differences.
    assert found == pytest.approx(expected, abs=2e-3)
    mined = [util.paraphrase_mining(model, TEXTS) for model in pair]
    assert np.abs(np.array(mined[1]) - np.array(mined[0])).max() < TOLERANCE
    vectors = [model.encode(TEXTS, convert_to_tensor=True) for model in pair]
    hits = [util.semantic_search(given, given, top_k=2) for given in vectors]
    assert [[hit["corpus_id"] for hit in row] for row in hits[1]] == [
        [hit["corpus_id"] for hit in row] for row in hits[0]
    ]


def test_a_router_has_a_model_of_mlx_on_each_route(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_checkpoint(tmp_path / str(seed), seed=seed)
    routes = [[Transformer(str(tmp_path / str(seed))), Pooling(24, mode)] for seed, mode in ((0, "cls"), (1, "max"))]
    router = Router.for_query_document(*routes)
    SentenceTransformer(modules=[router], device="cpu").save_pretrained(str(tmp_path / "routed"))
    expected, found = (
        SentenceTransformer(str(tmp_path / "routed"), device="cpu", backend=name) for name in ("torch", "mlx")
    )
    check_same(found.encode_query(TEXTS), expected.encode_query(TEXTS))
    check_same(found.encode_document(TEXTS), expected.encode_document(TEXTS))


@pytest.mark.parametrize("labels", [1, 3])
def test_cross_encoders_predict_and_rank_as_on_torch(labels: int, tmp_path: Path) -> None:
    make_checkpoint(tmp_path, head="ForSequenceClassification", labels=labels)
    expected, found = (CrossEncoder(str(tmp_path), device="cpu", backend=name) for name in ("torch", "mlx"))
    check_same(found.predict(PAIRS), expected.predict(PAIRS))
    check_same(found.predict(PAIRS, apply_softmax=labels > 1), expected.predict(PAIRS, apply_softmax=labels > 1))
    if labels == 1:
        ranks = [model.rank("the cat", TEXTS, return_documents=True) for model in (found, expected)]
        assert [hit["corpus_id"] for hit in ranks[0]] == [hit["corpus_id"] for hit in ranks[1]]
        assert np.abs(np.array([a["score"] - b["score"] for a, b in zip(*ranks, strict=True)])).max() < TOLERANCE


def test_sparse_encoders_encode_and_decode_as_on_torch(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, head="ForMaskedLM")
    expected, found = (SparseEncoder(str(tmp_path), device="cpu", backend=name) for name in ("torch", "mlx"))
    check_same(
        found.encode(TEXTS, convert_to_sparse_tensor=False), expected.encode(TEXTS, convert_to_sparse_tensor=False)
    )
    check_same(found.encode(TEXTS), expected.encode(TEXTS))
    words = [[word for word, _ in model.decode(model.encode(TEXTS[0]), top_k=5)] for model in (found, expected)]
    assert words[0] == words[1]


def test_multi_vector_encoders_score_as_on_torch(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    torch.manual_seed(0)
    MultiVectorEncoder(str(tmp_path), device="cpu").save_pretrained(str(tmp_path / "saved"))
    models = [MultiVectorEncoder(str(tmp_path / "saved"), device="cpu", backend=name) for name in ("torch", "mlx")]
    expected, found = (model.similarity(model.encode_query(TEXTS), model.encode_document(TEXTS)) for model in models)
    check_same(found, expected, 20 * TOLERANCE)  # scores are sums over tokens


@pytest.mark.parametrize(("change", "tolerance"), [("half", 4e-3), ("bfloat16", 3e-2), ("double", TOLERANCE)])
def test_dtypes_can_be_changed_with_modules_behind(change: str, tolerance: float, encoder: Path) -> None:
    expected, found = (SentenceTransformer(str(encoder), device="cpu", backend=name) for name in ("torch", "mlx"))
    getattr(expected, change)(), getattr(found, change)()
    assert found.dtype == expected.dtype
    check_same(found.encode(TEXTS, convert_to_tensor=True), expected.encode(TEXTS, convert_to_tensor=True), tolerance)


def test_copies_pickles_and_compiled_models_encode_the_same(pair: Any, encoder: Path) -> None:
    expected = pair[1].encode(TEXTS)
    assert np.array_equal(copy.deepcopy(pair[1]).encode(TEXTS), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(pair[1])).encode(TEXTS), expected)
    compiled = SentenceTransformer(str(encoder), device="cpu", backend="mlx")
    compiled[0].model.compile()
    assert np.array_equal(compiled.encode(TEXTS), expected)


POOL = """
import sys
import mlx_hf_bridge.sentence_transformers
from sentence_transformers import SentenceTransformer
if __name__ == "__main__":
    import numpy as np
    model = SentenceTransformer(sys.argv[1], backend="mlx", device="cpu")
    texts = ["the cat", "a dog", "news"] * 4
    pool = model.start_multi_process_pool(["cpu"])
    found = model.encode(texts, pool=pool, chunk_size=6)
    model.stop_multi_process_pool(pool)
    print(np.abs(found - model.encode(texts)).max())
"""


@pytest.mark.slow
def test_worker_processes_encode_the_same(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(POOL)
    run = f"import runpy, sys; sys.argv = ['program.py', {str(encoder)!r}]; "
    assert float(run_python(run + f"runpy.run_path({str(tmp_path / 'program.py')!r}, run_name='__main__')")) < TOLERANCE


@pytest.mark.parametrize("kwargs", [{"quantization_config": "q8"}, {"dtype": "float16"}, {"dtype": torch.bfloat16}])
def test_model_kwargs_choose_recipe_and_dtype(kwargs: dict[str, Any], tmp_path: Path) -> None:
    row_of = transformers.BertConfig(vocab_size=101, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=128, max_position_embeddings=44)  # fmt: skip
    make_checkpoint(tmp_path)
    torch.manual_seed(0)
    transformers.BertModel(row_of).save_pretrained(tmp_path)
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    model = SentenceTransformer(str(tmp_path), device="cpu", backend="mlx", model_kwargs=kwargs)
    wanted = {"float16": torch.float16, torch.bfloat16: torch.bfloat16}.get(kwargs.get("dtype"), torch.float32)
    assert model.dtype == wanted
    found = model.encode(TEXTS, convert_to_tensor=True).float().numpy()
    difference = np.abs(found - expected).max()
    assert 1e-5 < difference < 0.05, "the option had no effect, or too much"


@pytest.mark.parametrize(
    ("kwargs", "error", "told"),
    [
        ({"quantization_config": "q99"}, QuantizationError, "q99"),
        ({"load_in_8bit": True}, ArgumentTypeError, "load_in_8bit"),
        ({"provider": "CPUExecutionProvider"}, TypeError, "provider"),
        ({"gguf_file": "x.gguf"}, ArgumentTypeError, "gguf_file"),
    ],
)
def test_model_kwargs_that_are_not_served_are_a_clear_error(
    kwargs: dict[str, Any], error: type[Exception], told: str, encoder: Path
) -> None:
    with pytest.raises(error, match=told):
        SentenceTransformer(str(encoder), device="cpu", backend="mlx", model_kwargs=kwargs)


def test_a_config_that_changes_the_result_counts_or_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises((WeightsError, UnsupportedModelError), match=r"ForSequenceClassification|classifier"):
        CrossEncoder(str(tmp_path), device="cpu", backend="mlx")
    kwargs = {"config_kwargs": {"hidden_act": "relu"}, "device": "cpu"}
    expected, found = (SentenceTransformer(str(tmp_path), backend=name, **kwargs) for name in ("torch", "mlx"))
    check_same(found.encode(TEXTS), expected.encode(TEXTS))


def test_a_task_without_an_encoder_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises(
        UnsupportedModelError, match="is loaded for 'text-generation', and backend='mlx' supports feature"
    ):
        Transformer(str(tmp_path), transformer_task="text-generation", backend="mlx")


def test_training_is_refused(encoder: Path) -> None:
    model = SentenceTransformer(str(encoder), device="cpu", backend="mlx").train()
    with pytest.raises(UnservedUseError, match="forward was called in training mode"):
        model(model.preprocess(TEXTS))


def test_a_saved_model_loads_on_torch_and_a_packed_one_here(pair: Any, tmp_path: Path) -> None:
    pair[1].save_pretrained(str(tmp_path / "saved"))
    check_same(SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS), pair[0].encode(TEXTS))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu", backend="mlx")
    check_same(again.encode(TEXTS), pair[0].encode(TEXTS))


def test_the_version_is_one_that_has_the_method() -> None:
    assert int(sentence_transformers.__version__.split(".")[0]) >= 6
