"""Targets: modules.json, the modules' config files, and the settings of sentence-transformers."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fuzz.mutators import JsonMutator
from fuzz.targets.base import WORDS, Run, Target, as_json, read_object, safetensors, table, wordpiece
from mlx_hf_bridge.checkpoints.checkpoint import read_modules
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.sentence_transformers.loading.arguments import LoadArguments
from mlx_hf_bridge.sentence_transformers.loading.colbert import _pylate
from mlx_hf_bridge.sentence_transformers.loading.loader import READERS, ModuleLoader
from mlx_hf_bridge.sentence_transformers.loading.settings import merge_prompts, read_model_config
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import read_settings

_MODULES = "sentence_transformers.models."
_DENSE = {"in_features": 4, "out_features": 3, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
_TENSORS = {
    "linear.weight": np.ones((3, 4), np.float32), "linear.bias": np.ones(3, np.float32),
    "weight": np.ones(4, np.float32),
    "norm.weight": np.ones(4, np.float32), "norm.bias": np.ones(4, np.float32), "layer_weights": np.ones(3, np.float32),
    "W_enc.weight": np.ones((8, 4), np.float32), "b_enc": np.ones(8, np.float32), "b_dec": np.ones(4, np.float32),
    "embedding.weight": table(),
}  # fmt: skip
# The tensors of each kind of module that has weights; others would be refused as not used.
_NAMES = {
    "Dense": ("linear.weight", "linear.bias"),
    "LayerNorm": ("norm.weight", "norm.bias"),
    "WeightedLayerPooling": ("layer_weights",),
    "SparseAutoEncoder": ("W_enc.weight", "b_enc", "b_dec"),
    "StaticEmbedding": ("embedding.weight",),
    "SparseStaticEmbedding": ("weight",),
}


def weights_of(kind: str) -> bytes:
    """Return the weights file of a kind of module."""
    return safetensors({name: _TENSORS[name] for name in _NAMES.get(kind, ("weight",))})


def _entry(name: str, path: str, kind: str) -> dict[str, Any]:
    return {"idx": 0, "name": name, "path": path, "type": f"{_MODULES}{kind}"}


_CONFIGS: dict[str, dict[str, Any]] = {
    "Pooling": {
        "word_embedding_dimension": 4, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "include_prompt": True, "pooling_mode": "mean",
    },
    "Normalize": {"module_input_name": SENTENCE_EMBEDDING},
    "LayerNorm": {"dimension": 4},
    "Dropout": {"dropout": 0.1},
    "Dense": _DENSE,
    "WeightedLayerPooling": {"word_embedding_dimension": 4, "layer_start": 1, "num_hidden_layers": 2},
    "StaticEmbedding": {},
    "SparseStaticEmbedding": {"frozen": True, "path": "weights.json"},
    "SpladePooling": {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": 4},
    "SparseAutoEncoder": {"input_dim": 4, "hidden_dim": 8, "k": 2, "k_aux": 2, "normalize": False},
    "LogitScore": {"true_token_id": 1, "false_token_id": 2},
    "MultiVectorMask": {"skiplist_words": ["."], "skiplist_tasks": ["document"], "keep_only_token_ids": None},
    "HierarchicalTokenPooling": {"pool_factor": 2, "num_protected_tokens": 1, "tasks": ["document"]},
    "Router": {
        "types": {"query_0_Pooling": f"{_MODULES}Pooling", "document_0_Dense": f"{_MODULES}Dense"},
        "structure": {"query": ["query_0_Pooling"], "document": ["document_0_Dense"]},
        "parameters": {"default_route": "query", "route_mappings": {"('query', 'text')": "query"}},
    },
}  # fmt: skip
_ENTRIES = [
    [_entry("0", "0_StaticEmbedding", "StaticEmbedding"), _entry("1", "1_Normalize", "Normalize")],
    [_entry("0", "", "Transformer"), _entry("1", "1_Pooling", "Pooling"), _entry("2", "2_Dense", "Dense")],
    [{**_entry("0", "0_Router", "Router"), "type": "sentence_transformers.base.modules.router.Router"}],
]


class _Loader(ModuleLoader):
    """A ModuleLoader that reads everything but encoders."""

    def load_transformer(self, *arguments: Any, **options: Any) -> Any:
        raise UnsupportedModelError("an encoder is not read here.")


def _write_folder(folder: Path) -> None:
    """Write a folder for each kind of module, with weights that fit its config."""
    for kind, config in _CONFIGS.items():
        for place in (folder / f"0_{kind}", folder / f"1_{kind}", folder / f"2_{kind}"):
            _write_module(place, kind, config)
    for name, kind in (("query_0_Pooling", "Pooling"), ("document_0_Dense", "Dense")):
        _write_module(folder / "0_Router" / name, kind, _CONFIGS[kind])
    (folder / "config.json").write_text("{}")


def _write_module(place: Path, kind: str, config: dict[str, Any]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "weights.json").write_text(json.dumps({"cat": 1.5, "the": 0.1}))
    (place / "model.safetensors").write_bytes(weights_of(kind))
    (place / "tokenizer.json").write_bytes(as_json(wordpiece())[0])


def _loader(folder: Path) -> ModuleLoader:
    return _Loader(locate(folder, HubOptions()), LoadArguments())


def _modules(folder: Path) -> Run:
    _write_folder(folder)
    loader = _loader(folder)

    def run(data: bytes) -> None:
        (folder / "modules.json").write_bytes(data)
        read_modules(folder)
        entries = loader.read_entries()
        _call(loader.load_modules(entries or ()))

    return run


def _module_config(folder: Path) -> Run:
    _write_folder(folder)
    (folder / "modules.json").write_text("[]")
    loader = _loader(folder)

    def run(data: bytes) -> None:
        content = read_object(data)
        named = str(content.get("kind"))
        kind = named if named in _CONFIGS else list(_CONFIGS)[len(data) % len(_CONFIGS)]
        name = "router_config.json" if kind == "Router" and "structure" in content else "config.json"
        (folder / f"0_{kind}" / name).write_text(json.dumps(content.get("config")))
        (folder / f"0_{kind}" / "weights.json").write_text(json.dumps(content.get("weights")))
        _call([loader.load_module(f"0_{kind}", kind)])

    return run


def _call(modules: list[Module]) -> None:
    """Call modules on a batch, as `encode` would."""
    ids = mx.array([[2, 5, 6, 3], [2, 11, 3, 0]])
    states = mx.arange(32, dtype=mx.float32).reshape(2, 4, 4)
    arrays = {TOKEN_EMBEDDINGS: states, SENTENCE_EMBEDDING: states[:, 0]}
    features = Features(TokenBatch(ids, ids > 0), arrays, (states,) * 3, task="query")
    for module in modules:
        features = module(features)
    for array in features.arrays.values():
        mx.eval(array)


def _settings(folder: Path) -> Run:
    def run(data: bytes) -> None:
        (folder / "sentence_bert_config.json").write_bytes(data)
        for kind in ("Transformer", "MLMTransformer"):
            settings = read_settings(folder, kind, {})
            assert settings.head and settings.modality_config

    return run


def _model_config(folder: Path) -> Run:
    def run(data: bytes) -> None:
        (folder / "config_sentence_transformers.json").write_bytes(data)
        saved = read_model_config(folder)
        prompts = merge_prompts({"query": None}, None, saved)
        assert all(isinstance(text, str) for text in prompts.values())
        _pylate(saved)

    return run


_MODULE_CONFIGS = as_json(
    *({"kind": kind, "config": config, "weights": {"cat": 1.5}} for kind, config in _CONFIGS.items()),
    {"kind": "Pooling", "config": {"pooling_mode": ["cls", "weightedmean", "lasttoken"], "embedding_dimension": 4}},
    {"kind": "Dense", "config": {**_DENSE, "use_residual": True, "module_output_name": TOKEN_EMBEDDINGS}},
    {"kind": "Router", "config": _CONFIGS["Router"], "structure": True},
)
_SETTINGS = as_json(
    {"max_seq_length": 128, "do_lower_case": False},
    {
        "transformer_task": "feature-extraction", "module_output_name": TOKEN_EMBEDDINGS, "query_length": 32,
        "modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}},
        "processing_kwargs": {"text": {"max_length": 20, "truncation": True}}, "document_length": 180,
        "query_expansion": {"strategy": "fixed", "length": 32, "attend": True, "token": "[MASK]"},
        "model_kwargs": {"dtype": "float16"}, "tokenizer_args": {},
    },
)  # fmt: skip
_MODEL_CONFIGS = as_json(
    {"__version__": {"pytorch": "2"}, "prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None},
    {
        "model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 32,
        "document_length": 180, "do_query_expansion": True, "attend_to_expansion_tokens": False,
        "skiplist_words": ["!", "."], "similarity_fn_name": "cosine", "prompts": None, "activation_fn": "torch.nn.Tanh",
    },
)  # fmt: skip
_MODULE_FILES = as_json(*_ENTRIES)
_KINDS = (
    *(f"{_MODULES}{kind}" for kind in (*READERS, "Router", "Asym", "Dense", "Transformer")),
    "0_Router",
    "0_Dense",
)

TARGETS = (
    Target("modules", "modules.json, modules, and a call", _modules, _MODULE_FILES, JsonMutator(_MODULE_FILES, _KINDS)),
    Target(
        "module-config", "config.json of each module, and a call", _module_config, _MODULE_CONFIGS,
        JsonMutator(_MODULE_CONFIGS, (*_KINDS, *WORDS)),
    ),
    Target("transformer-settings", "sentence_bert_config.json", _settings, _SETTINGS, JsonMutator(_SETTINGS)),
    Target(
        "prompts", "config_sentence_transformers.json", _model_config, _MODEL_CONFIGS, JsonMutator(_MODEL_CONFIGS)
    ),
)  # fmt: skip
