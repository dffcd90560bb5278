"""What answers is what is saved: each change of a loaded model survives saving, copying and other processes."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers as reference
import tokenizers
import torch
import transformers
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, WeightedLayerPooling
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from st_checkpoints import TOLERANCE, randomized, transformer

import mlx_hf_bridge
from mlx_hf_bridge.errors import FixedSettingError

TEXTS = ["[unused1] THE cat sat on the mat. stock market rose", "news", "a dog sat"]
SPECIAL = tokenizers.AddedToken("[unused1]", normalized=False, special=True)


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model of each kind."""
    folder = tmp_path_factory.mktemp("repos")
    words = tokenizers.Tokenizer.from_file(str(_words(folder) / "tokenizer.json"))
    fast = transformers.AutoTokenizer.from_pretrained(folder / "words")
    states = transformer(folder / "a", config_kwargs={"output_hidden_states": True})
    layers = randomized(WeightedLayerPooling(24, num_hidden_layers=states.config.num_hidden_layers, layer_start=1))
    project = randomized(Dense(24, 10, bias=False, activation_function=None, module_input_name="token_embeddings"))
    models: dict[str, Any] = {
        "SentenceTransformer": [transformer(folder / "b"), Pooling(24), randomized(Dense(24, 10)), Normalize()],
        "layers SentenceTransformer": [states, layers, Pooling(24)],
        "static SentenceTransformer": [StaticEmbedding(words, torch.randn(101, 8))],
        "SparseEncoder": [
            transformer(folder / "c", None, "ForMaskedLM", transformer_task="fill-mask"),
            SpladePooling(),
        ],
        "static SparseEncoder": [SparseStaticEmbedding(fast, torch.rand(101))],
        "MultiVectorEncoder": [
            transformer(folder / "d"),
            project,
            MultiVectorMask(["."]),
            Normalize("token_embeddings"),
        ],
    }
    for name, modules in models.items():
        getattr(reference, name.split()[-1])(modules=modules, device="cpu").save_pretrained(str(folder / name))
    make_checkpoint(folder / "CrossEncoder", None, "ForSequenceClassification", 1)
    return folder


def _words(folder: Path) -> Path:
    make_checkpoint(folder / "words")
    return folder / "words"


def answers(model: Any) -> list[np.ndarray]:
    """Return the results for TEXTS, one at a time, as dense arrays."""
    if hasattr(model, "predict"):
        return [model.predict([(text, TEXTS[0]) for text in TEXTS])]
    rows = [method(text) for text in TEXTS for method in (model.encode_query, model.encode_document, model.encode)]
    return [np.asarray(row.to_dense() if getattr(row, "is_sparse", False) else row) for row in rows]


def set_prompt(model: Any) -> None:
    model.prompts["x"], model.default_prompt_name = "the dog ", "x"


CHANGES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda model: None,
    "max_seq_length": lambda model: setattr(model, "max_seq_length", 5),
    "model_max_length": lambda model: setattr(model.tokenizer, "model_max_length", 5),
    "truncation_side": lambda model: (
        setattr(model.tokenizer, "truncation_side", "left"),
        setattr(model, "max_seq_length", 5),
    ),
    "special token": lambda model: model.tokenizer.backend.add_special_tokens([SPECIAL]),
    "prompt": set_prompt,
    "truncate_dim": lambda model: setattr(model, "truncate_dim", 5),
    "max_active_dims": lambda model: setattr(model, "max_active_dims", 3),
    "include_prompt": lambda model: (set_prompt(model), model.set_pooling_include_prompt(False)),
    "query_expansion": lambda model: setattr(
        model[0], "query_expansion", {"strategy": "fixed", "length": 12, "attend": True}
    ),
    "document_length": lambda model: setattr(model[0], "document_length", 6),
    "static truncation": lambda model: setattr(
        model.tokenizer, "saved_truncation", {"max_length": 3, "strategy": "longest_first"}
    ),
}
TOKENIZER = ("nothing", "max_seq_length", "model_max_length", "truncation_side", "special token")
CASES = {
    "SentenceTransformer": (*TOKENIZER, "prompt", "truncate_dim", "include_prompt"),
    "static SentenceTransformer": ("special token", "static truncation"),
    "SparseEncoder": ("truncation_side", "max_active_dims"),
    "static SparseEncoder": ("max_seq_length", "special token"),
    "MultiVectorEncoder": ("special token", "query_expansion", "document_length"),
    "CrossEncoder": ("truncation_side", "prompt"),
}


def assert_survives(model: Any, kind: str, folder: Path) -> None:
    """Assert that copies, and what either library loads from the saved folder, answer as the model does."""
    name = kind.split()[-1]
    expected = answers(model)
    model.save_pretrained(folder / "saved")
    again = getattr(mlx_hf_bridge, f"MLX{name}")(folder / "saved")
    # A worker of a pool gets the model by pickling.
    others = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), again]
    for other in [*others, getattr(reference, name)(str(folder / "saved"), device="cpu")]:
        for actual, wanted in zip(answers(other), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, **TOLERANCE)


@pytest.mark.parametrize(("kind", "change"), [(kind, change) for kind, names in CASES.items() for change in names])
def test_a_changed_model_stays_changed(kind: str, change: str, repos: Path, tmp_path: Path) -> None:
    model = getattr(mlx_hf_bridge, f"MLX{kind.split()[-1]}")(repos / kind)
    before = answers(model)
    CHANGES[change](model)
    pairs = zip(before, answers(model), strict=True)
    changed = [one.shape != other.shape or abs(one - other).max() > 1e-4 for one, other in pairs]
    assert any(changed) == (change != "nothing")
    assert_survives(model, kind, tmp_path)


def test_options_of_the_constructor_are_saved(repos: Path, tmp_path: Path) -> None:
    """Without output_hidden_states the layers' weights have no effect."""
    path = repos / "layers SentenceTransformer" / "config.json"
    path.write_text(path.read_text().replace('"output_hidden_states": true', '"output_hidden_states": false'))
    model = mlx_hf_bridge.MLXSentenceTransformer(
        path.parent,
        config_kwargs={"output_hidden_states": True},
        processor_kwargs={"truncation_side": "left", "model_max_length": 6},
    )
    assert model[0].loaded.raw_config["output_hidden_states"]
    assert_survives(model, "SentenceTransformer", tmp_path)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_that_truncates_and_pads_by_itself(side: str, repos: Path, tmp_path: Path) -> None:
    """sentence-transformers ignores the padding in tokenizer.json, and truncates static embeddings by it."""
    tokenizer = tokenizers.Tokenizer.from_file(str(repos / "static SentenceTransformer" / "tokenizer.json"))
    tokenizer.enable_truncation(3, direction=side)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    weights = load_file(repos / "static SentenceTransformer" / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "modules.json").write_bytes((repos / "static SentenceTransformer" / "modules.json").read_bytes())
    model = mlx_hf_bridge.MLXSentenceTransformer(tmp_path)
    expected = answers(reference.SentenceTransformer(str(tmp_path), device="cpu"))
    np.testing.assert_allclose(answers(model), expected, **TOLERANCE)
    assert_survives(model, "SentenceTransformer", tmp_path)


def test_static_embeddings_have_no_maximum_length_to_set(repos: Path) -> None:
    model = mlx_hf_bridge.MLXSentenceTransformer(repos / "static SentenceTransformer")
    with pytest.raises(
        FixedSettingError, match="max_seq_length=2 cannot be set: StaticEmbedding has no maximum"
    ) as got:
        model.max_seq_length = 2
    assert isinstance(got.value, AttributeError)
    assert model.max_seq_length == float("inf")
