"""sentence-transformers' module types other than Pooling, Dense and Normalize, through files on disk."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tokenizers
import torch
from checkpoints import FAMILIES, make_checkpoint
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    LayerNorm,
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
)
from st_checkpoints import TEXTS, TOLERANCE, randomized, transformer
from subprocesses import run_python

from mlx_hf_bridge import MLXSentenceTransformer, MLXSparseEncoder
from mlx_hf_bridge.errors import ConfigError, InputError, TokenRangeError, UnsupportedModelError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.sentence_transformers.modules.base import Features
from mlx_hf_bridge.sentence_transformers.modules.static import StaticEmbedding as StaticEmbeddingMLX


def saved(folder: Path, *modules: Any, **options: Any) -> Any:
    torch_model = SentenceTransformer(modules=list(modules), device="cpu", **options)
    torch_model.save_pretrained(str(folder / "repo"))
    return torch_model


def assert_same(folder: Path, torch_model: Any, texts: Any = TEXTS, method: str = "encode", **arguments: Any) -> None:
    """Assert that the MLX model, and its saved copy loaded by either library, match the torch model's embeddings."""
    mlx_model = MLXSentenceTransformer(folder / "repo")
    expected = getattr(torch_model, method)(texts, **arguments)
    np.testing.assert_allclose(getattr(mlx_model, method)(texts, **arguments), expected, **TOLERANCE)
    assert mlx_model.get_embedding_dimension() == torch_model.get_embedding_dimension()
    mlx_model.save_pretrained(folder / "saved")
    for again in (MLXSentenceTransformer(folder / "saved"), SentenceTransformer(str(folder / "saved"), device="cpu")):
        np.testing.assert_allclose(getattr(again, method)(texts, **arguments), expected, **TOLERANCE)


def static(folder: Path, seed: int = 0, width: int = 24) -> StaticEmbedding:
    make_checkpoint(folder / f"words{seed}")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / f"words{seed}" / "tokenizer.json"))
    return StaticEmbedding(tokenizer, torch.randn(101, width, generator=torch.Generator().manual_seed(seed)))


def test_layer_norm_and_dropout(tmp_path: Path) -> None:
    norm = randomized(LayerNorm(24))
    assert_same(tmp_path, saved(tmp_path, transformer(tmp_path / "source"), Pooling(24), Dropout(0.4), norm))


@pytest.mark.parametrize("start", [1, 2])
def test_weighted_layer_pooling_mixes_the_layers(start: int, tmp_path: Path) -> None:
    first = transformer(tmp_path / "source", config_kwargs={"output_hidden_states": True})
    weights = torch.nn.Parameter(torch.tensor([0.2, 1.7, 0.6, 1.1][start:]))
    mixed = WeightedLayerPooling(24, num_hidden_layers=3, layer_start=start, layer_weights=weights)
    torch_model = saved(tmp_path, first, mixed, Pooling(24, "cls"))
    assert_same(tmp_path, torch_model)
    plain = MLXSentenceTransformer(tmp_path / "repo", config_kwargs={"output_hidden_states": False}).encode(TEXTS)
    assert np.abs(plain - torch_model.encode(TEXTS)).max() > 1e-2


def test_dense_and_normalize_work_on_tokens_too(tmp_path: Path) -> None:
    dense = randomized(Dense(24, 9, module_input_name="token_embeddings", activation_function=torch.nn.Mish()))
    modules = [dense, Normalize("token_embeddings"), Pooling(9, ("mean", "max"))]
    assert_same(tmp_path, saved(tmp_path, transformer(tmp_path / "source"), *modules))


def test_a_module_may_put_its_answer_elsewhere(tmp_path: Path) -> None:
    dense = randomized(Dense(24, 24, module_input_name="token_embeddings", module_output_name="projected"))
    torch_model = saved(tmp_path, transformer(tmp_path / "source"), dense, Pooling(24))
    assert_same(tmp_path, torch_model)
    everything = MLXSentenceTransformer(tmp_path / "repo").encode("the cat sat", output_value=None)
    expected = torch_model.encode("the cat sat", output_value=None)
    assert set(everything) == set(expected)
    for name in ("input_ids", "attention_mask", "token_embeddings", "projected", "sentence_embedding"):
        np.testing.assert_allclose(np.array(everything[name]), np.asarray(expected[name]), **TOLERANCE)


def test_static_embeddings_are_means_of_words(tmp_path: Path) -> None:
    assert_same(tmp_path, saved(tmp_path, static(tmp_path), Normalize()), prompt="the ")
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    assert mlx_model.max_seq_length == float("inf")
    np.testing.assert_array_equal(mlx_model.encode(""), np.zeros(24))


def test_static_embeddings_in_model2vecs_form_are_read(tmp_path: Path) -> None:
    saved(tmp_path, static(tmp_path))
    path = tmp_path / "repo" / "model.safetensors"
    table = load_file(path)["embedding.weight"]
    mapping = torch.arange(101).flip(0)
    save_file({"embeddings": table, "mapping": mapping, "weights": torch.linspace(0, 2, 101)}, path)
    torch_model = SentenceTransformer(str(tmp_path / "repo"), device="cpu")
    actual = MLXSentenceTransformer(tmp_path / "repo").encode(TEXTS)
    np.testing.assert_allclose(actual, torch_model.encode(TEXTS), **TOLERANCE)
    save_file({"embedding.weight": table[:20].contiguous()}, path)
    with pytest.raises(TokenRangeError, match="the table has 20 rows"):
        MLXSentenceTransformer(tmp_path / "repo").encode(TEXTS)
    # sentence-transformers reads no mapping beside the expanded table, and takes negative rows from the end.
    save_file({"embedding.weight": table, "mapping": mapping}, path)
    same = MLXSentenceTransformer(tmp_path / "repo").encode(TEXTS)
    expected = SentenceTransformer(str(tmp_path / "repo"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(same, expected, **TOLERANCE)
    save_file({"embeddings": table[:20].contiguous(), "mapping": mapping % 40 - 20, "weights": torch.ones(1)}, path)
    negative = MLXSentenceTransformer(tmp_path / "repo").encode(TEXTS)
    expected = SentenceTransformer(str(tmp_path / "repo"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(negative, expected, **TOLERANCE)


_ROWS = "embeddings have rows 0 to 19"


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"mapping": torch.full((101,), 20)}, TokenRangeError, _ROWS),
        ({"mapping": torch.full((101,), -21)}, TokenRangeError, _ROWS),
        ({"mapping": torch.full((101,), 2**32)}, TokenRangeError, _ROWS),
        ({"mapping": torch.full((101,), 2**63 - 1)}, TokenRangeError, _ROWS),
        ({"mapping": torch.arange(101) * 0.1}, ConfigError, "expected one row, an integer"),
        ({"mapping": torch.zeros(101, 2, dtype=torch.int64)}, ConfigError, "expected one row, an integer"),
        ({"weights": torch.ones(19)}, ConfigError, "expected one for each of 20 tokens"),
        ({"weights": torch.ones(20, 1)}, ConfigError, "expected one for each of 20 tokens"),
        ({"embeddings": torch.ones(20, 8, dtype=torch.int8)}, ConfigError, r"expected embedding\.weight or embeddings"),
        ({"embeddings": torch.ones(20)}, ConfigError, r"expected embedding\.weight or embeddings"),
        ({"embedding.weight": torch.ones(20, 2, 2)}, ConfigError, r"expected embedding\.weight or embeddings"),
    ],
)
def test_a_table_of_static_embeddings_is_checked(
    tensors: dict[str, torch.Tensor], error: type[Exception], message: str, tmp_path: Path
) -> None:
    save_file({"embeddings": torch.ones(20, 8)} | tensors, tmp_path / "model.safetensors")
    with pytest.raises(error, match=message):
        StaticEmbeddingMLX.read(tmp_path)


def test_ids_of_a_tokenizer_that_no_table_has_are_an_error(tmp_path: Path) -> None:
    far = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 2**31, "[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(TokenRangeError, match="no table has"):
        Tokenizer(far, {}).encode(["the"], None)


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_a_router_takes_the_route_of_the_task(method: str, tmp_path: Path) -> None:
    document = [transformer(tmp_path / "source"), Pooling(24, "cls")]
    router = Router.for_query_document([static(tmp_path)], document)
    torch_model = saved(tmp_path, router, Normalize(), prompts={"query": "news "})
    assert_same(tmp_path, torch_model, method=method)


@pytest.mark.parametrize(
    ("mappings", "task"),
    [
        ({("find", "text"): "a", (None, "text"): "b"}, "find"),
        ({("find", None): "a", (None, None): "b"}, "other"),
        ({(None, "text"): "b"}, None),
        (None, "b"),
        (None, None),
    ],
)
def test_routes_have_the_precedence_of_sentence_transformers(mappings: Any, task: str | None, tmp_path: Path) -> None:
    routes = {"a": [static(tmp_path, 1)], "b": [static(tmp_path, 2)]}
    torch_model = saved(tmp_path, Router(routes, route_mappings=mappings))
    assert_same(tmp_path, torch_model, task=task)


def test_texts_in_dicts_name_their_task(tmp_path: Path) -> None:
    torch_model = saved(tmp_path, Router.for_query_document([static(tmp_path, 1)], [static(tmp_path, 2)]))
    assert_same(tmp_path, torch_model, [{"query": "the cat"}, {"query": "a dog"}])
    assert_same(tmp_path, torch_model, {"document": "the cat"})
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    with pytest.raises(InputError, match=r"\['document', 'query'\], but a call has a single task"):
        mlx_model.encode([{"query": "a"}, {"document": "b"}])
    with pytest.raises(InputError, match="no route for task='strange'"):
        mlx_model.encode("a", task="strange")


def test_an_old_asym_behind_pooling_is_read(tmp_path: Path) -> None:
    routes = {"query": [randomized(Dense(24, 10))], "document": [randomized(Dense(24, 10)), Normalize()]}
    torch_model = saved(tmp_path, transformer(tmp_path / "source"), Pooling(24), Router(routes))
    path = tmp_path / "repo" / "modules.json"
    content = path.read_text()
    path.write_text(content.replace("base.modules.router.Router", "models.Asym"))
    folder = next((tmp_path / "repo").glob("2_*"))
    (folder / "router_config.json").rename(folder / "config.json")
    for method in ("encode_query", "encode_document"):
        assert_same(tmp_path, torch_model, method=method)


def test_the_pooler_or_an_inner_layer_can_be_what_is_read(tmp_path: Path) -> None:
    for number, name in enumerate((["pooler_output"], ["hidden_states", 2])):
        output = "sentence_embedding" if number == 0 else "token_embeddings"
        config = {"text": {"method": "forward", "method_output_name": name}}
        first = transformer(tmp_path / "source", modality_config=config, module_output_name=output)
        torch_model = saved(tmp_path / name[0], first, *([Pooling(24)] if number else [Normalize()]))
        actual = MLXSentenceTransformer(tmp_path / name[0] / "repo").encode(TEXTS)
        np.testing.assert_allclose(actual, torch_model.encode(TEXTS), **TOLERANCE)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "sentence_transformers.models.TokenEmbeddings",
            r"the module TokenEmbeddings \(sentence_transformers\.models\.TokenEmbeddings\)",
        ),
        (
            "modeling_own.Pooling",
            "modeling_own.Pooling, a class that is not part of sentence-transformers, whose code is not run",
        ),
    ],
)
def test_a_module_that_is_not_computed_is_named(module: str, message: str, tmp_path: Path) -> None:
    saved(tmp_path, transformer(tmp_path / "source"), Pooling(24))
    path = tmp_path / "repo" / "modules.json"
    entries = json.loads(path.read_text())
    entries[1]["type"] = module
    path.write_text(json.dumps(entries))
    with pytest.raises(UnsupportedModelError, match=message):
        MLXSentenceTransformer(tmp_path / "repo")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"transformer_task": "any-to-any"}, "transformer_task='any-to-any'"),
        ({"modality_config": {"text": {"method": "get_text_features"}}}, "through get_text_features"),
        ({"modality_config": {"message": {"method": "forward", "format": "xml"}}}, "message format 'xml'"),
        ({"max_seq_length": "long"}, "max_seq_length='long'"),
        ({"query_expansion": {"strategy": "fixed"}}, "query_expansion="),
    ],
)
def test_a_transformer_that_is_not_computed_is_refused(config: Any, message: str, tmp_path: Path) -> None:
    saved(tmp_path, transformer(tmp_path / "source"), Pooling(24))
    (tmp_path / "repo" / "sentence_bert_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        MLXSentenceTransformer(tmp_path / "repo")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_models_pool_and_normalize_in_float32(dtype: str, tmp_path: Path) -> None:
    """Summing the tokens of a long text overflows float16, and bfloat16 cannot count past 256 tokens."""
    make_checkpoint(tmp_path / "repo")
    mlx_model = MLXSentenceTransformer(tmp_path / "repo", dtype=dtype, prompts={})
    pooling, tokens = mlx_model[1], 400
    features = _half_features(dtype, tokens)
    vectors = np.array(pooling(features)["sentence_embedding"])
    expected = np.asarray(features["token_embeddings"].astype(mx.float32)).mean(axis=1)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert mlx_model.encode(TEXTS).dtype == np.float32
    np.testing.assert_allclose(
        np.linalg.norm(mlx_model.encode(TEXTS, normalize_embeddings=True), axis=1), np.ones(len(TEXTS)), atol=1e-6
    )


def _half_features(dtype: str, tokens: int) -> Features:
    hidden = (mx.random.normal((2, tokens, 24), key=mx.random.key(0)) * 3 + 700).astype(getattr(mx, dtype))
    return Features(TokenBatch(mx.zeros((2, tokens), mx.int32)), {"token_embeddings": hidden})


def test_a_cross_encoders_folder_is_read_as_an_encoder_with_mean_pooling(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "source", None, "ForSequenceClassification", 1)
    torch_model = CrossEncoder(str(tmp_path / "source"), device="cpu", prompts={"query": "not of vectors "})
    torch_model.save_pretrained(str(tmp_path / "repo"))
    expected = SentenceTransformer(str(tmp_path / "repo"), device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(MLXSentenceTransformer(tmp_path / "repo").encode_query(TEXTS), expected, **TOLERANCE)


def test_a_model_of_vectors_is_no_sparse_encoder(tmp_path: Path) -> None:
    """sentence-transformers adds a randomly initialized autoencoder, although `architectures` names a masked LM."""
    saved(tmp_path, transformer(tmp_path / "source"), Pooling(24))
    path = tmp_path / "repo" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(UnsupportedModelError, match="randomly initialized"):
        MLXSparseEncoder(tmp_path / "repo")


def test_push_to_hub_uploads_the_saved_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, transformer(tmp_path / "source"), Pooling(24))
    seen: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None) -> None:
            seen["token"] = token

        def create_repo(self, **options: Any) -> Any:
            seen.update(options)
            return SimpleNamespace(repo_id=options["repo_id"])

        def upload_folder(self, folder_path: Path, **options: Any) -> Any:
            seen["files"] = {path.name for path in folder_path.iterdir()}
            return SimpleNamespace(commit_url="the commit", pr_url="the pull request")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    assert mlx_model.push_to_hub("me/model", token="secret", private=True) == "the commit"
    assert (seen["token"], seen["private"], seen["exist_ok"]) == ("secret", True, False)
    assert {"modules.json", "config_sentence_transformers.json", "model.safetensors", "1_Pooling"} <= seen["files"]
    assert mlx_model.push_to_hub("me/model", create_pr=True) == "the pull request"


def test_packed_models_pool_and_normalize_in_float32(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, FAMILIES[5])
    mlx_model = MLXSentenceTransformer(tmp_path, quantization_config={"bits": 8, "group_size": 32})
    tokens = [np.array(one, np.float64) for one in mlx_model.encode(TEXTS, output_value="token_embeddings")]
    vectors = mlx_model.encode(TEXTS, normalize_embeddings=True)
    means = np.stack([one.mean(axis=0) for one in tokens])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=0, atol=2e-7)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from mlx_hf_bridge import MLXCrossEncoder, MLXMultiVectorEncoder, MLXSentenceTransformer
from mlx_hf_bridge.errors import BackendError
model = MLXSentenceTransformer(sys.argv[1])
vectors = model.encode(["the cat", "a dog"], normalize_embeddings=True)
assert isinstance(model.similarity(vectors, vectors), np.ndarray)
ranked = MLXCrossEncoder(sys.argv[2]).rank("the cat", ["a dog", "news"])
assert len(ranked) == 2
tokens = MLXMultiVectorEncoder(modules=[model[0]])
scores = tokens.similarity(tokens.encode_query(["the cat"]), tokens.encode_document(["a dog", "news"]))
assert scores.shape == (1, 2)
try:
    model.encode("the cat", convert_to_tensor=True)
except BackendError as error:
    print(error)
"""


def test_without_torch_everything_runs_but_tensors(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "encoder")
    make_checkpoint(tmp_path / "classifier", None, "ForSequenceClassification", 1)
    said = run_python(WITHOUT_TORCH, tmp_path / "encoder", tmp_path / "classifier")
    assert said.startswith(
        "convert_to_tensor=True returns torch tensors, but torch is not installed. pip install torch"
    )
