"""Targets: whole folders, loaded and called by the public classes; every file of a folder is changed."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutators import JsonMutator
from fuzz.targets.base import Run, Target, as_json, read_object, safetensors, wordpiece
from fuzz.targets.modules import _DENSE, _MODULES, _entry, weights_of
from mlx_hf_bridge import MLXAutoModel, MLXSentenceTransformer
from mlx_hf_bridge.pretrained.hub import build_model_card

_TEXTS = ["the cat", "", "a dog sat ."]


def _write(folder: Path, data: bytes) -> bool:
    """Replace the files of a folder by those of an input, a JSON object of contents by name."""
    content = read_object(data)
    for name, file in content.items():
        path = folder / name
        # Names are those of the seeds; the paths in the files are what is tested.
        if name in _NAMES:
            path.write_text(json.dumps(file))
    for name in _NAMES:
        if name not in content and (folder / name).is_file():
            (folder / name).unlink()
    return bool(content)


def _sentences(folder: Path) -> Run:
    for name in ("0_StaticEmbedding", "1_Dense", "2_Normalize"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(weights_of(name.partition("_")[2]))

    def run(data: bytes) -> None:
        if not _write(folder, data):
            return
        model = MLXSentenceTransformer(folder)
        found = model.encode(_TEXTS)
        assert found.shape == (3, model.get_embedding_dimension()), found.shape
        model.similarity(found, found)

    return run


def _encoder(folder: Path) -> Run:
    (folder / "model.safetensors").write_bytes(safetensors(_bert(), {"format": "pt"}))

    def run(data: bytes) -> None:
        if not _write(folder, data):
            return
        # Tracing a module of transformers takes seconds.
        model = MLXAutoModel.from_pretrained(folder, trace="never")
        hidden = np.array(model(np.array([[2, 5, 3]])).last_hidden_state)
        assert hidden.shape == (1, 3, 8), hidden.shape
        build_model_card(folder, "user/name", "feature-extraction")

    return run


def _bert() -> dict[str, np.ndarray]:
    shapes = {"embeddings.word_embeddings": (14, 8), "embeddings.position_embeddings": (16, 8)}
    shapes |= {"embeddings.token_type_embeddings": (2, 8)}
    layer = "encoder.layer.0."
    square = [f"{layer}attention.{name}" for name in ("self.query", "self.key", "self.value", "output.dense")]
    tensors = {f"{name}.weight": np.full(shape, 0.1, np.float32) for name, shape in shapes.items()}
    linear = {**dict.fromkeys(square, (8, 8)), f"{layer}intermediate.dense": (12, 8), f"{layer}output.dense": (8, 12)}
    for name, shape in linear.items():
        tensors |= {f"{name}.weight": np.full(shape, 0.2, np.float32), f"{name}.bias": np.zeros(shape[0], np.float32)}
    for name in ("embeddings.LayerNorm", f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"):
        tensors |= {f"{name}.weight": np.ones(8, np.float32), f"{name}.bias": np.zeros(8, np.float32)}
    return tensors


_STATIC: dict[str, Any] = {
    "modules.json": [
        _entry("0", "0_StaticEmbedding", "StaticEmbedding"), _entry("1", "1_Dense", "Dense"),
        _entry("2", "2_Normalize", "Normalize"),
    ],
    "config_sentence_transformers.json": {
        "prompts": {"query": "the "}, "default_prompt_name": None, "similarity_fn_name": "cosine",
    },
    "0_StaticEmbedding/tokenizer.json": wordpiece(),
    "1_Dense/config.json": _DENSE,
    "2_Normalize/config.json": {},
}  # fmt: skip
_CONVERTED: dict[str, Any] = {
    "config.json": {
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 14, "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 16, "type_vocab_size": 2,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0, "dtype": "float32",
    },
    "conversion_metadata.json": {
        "source": "bert", "revision": "0" * 40, "files": {}, "recipe": None, "left_out": ["cls.weight"],
        "card": {"license": "mit", "language": ["en"]}, "weight_bytes": 5000, "dtype": "float32", "adapter": None,
        "fidelity": {"cosine": 0.999},
    },
    "verification.json": {"figures": {"cosine": 0.99}},
}  # fmt: skip
_NAMES = (*_STATIC, *_CONVERTED)
_SENTENCES, _ENCODERS = as_json(_STATIC), as_json(_CONVERTED)
_KINDS = tuple(f"{_MODULES}{kind}" for kind in ("Pooling", "Dense", "Normalize", "Dropout", "Router", "LayerNorm"))

TARGETS = (
    Target("sentence-model", "a whole folder, and encode", _sentences, _SENTENCES, JsonMutator(_SENTENCES, _KINDS)),
    Target("converted-model", "a converted folder, a call, its card", _encoder, _ENCODERS, JsonMutator(_ENCODERS)),
)
