"""Targets: config.json of every model type, packing, adapters, cards, and the file of models to convert."""

from pathlib import Path
from typing import Any

import yaml

from fuzz.mutators import JsonMutator, TextMutator
from fuzz.targets.base import Run, Target, as_json
from mlx_hf_bridge.architecture.config_defaults import default_values
from mlx_hf_bridge.architecture.gliner import GLINER_FILE, ZERO_SHOT_NER
from mlx_hf_bridge.architecture.unsupported import UNSUPPORTED
from mlx_hf_bridge.checkpoints.adapter import ADAPTER_FILE, read_adapter
from mlx_hf_bridge.checkpoints.card import CARD_FILE, read_card_metadata
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_checkpoint, read_json
from mlx_hf_bridge.checkpoints.gliner import LABELS_TOKENIZER, read_gliner
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo
from mlx_hf_bridge.checkpoints.sources import HubOptions, Source
from mlx_hf_bridge.cli.models_file import read_models
from mlx_hf_bridge.inference.model import build_model
from mlx_hf_bridge.models import family_for, model_types
from mlx_hf_bridge.weights.name_mapping import NameMapping
from mlx_hf_bridge.weights.quantized import read_packing, recipe_from_packing
from mlx_hf_bridge.weights.sizes import check_raw_sizes, check_sizes

# Of a tiny model, whose tensors every config is compared with.
_INFOS = {f"encoder.layer.{number}.weight": TensorInfo("F32", (32, 32)) for number in range(4)}


def _source(folder: Path) -> Source:
    return Source(str(folder), folder, None, {}, HubOptions())


def _config(folder: Path, build: bool = False) -> Run:
    source = _source(folder)

    def run(data: bytes) -> None:
        (folder / CONFIG_FILE).write_bytes(data)
        raw = read_checkpoint(source).config
        recipe_from_packing(read_packing(raw))
        check_raw_sizes(raw, _INFOS, "the folder")
        family = family_for(raw)
        config = family.config.from_json(raw)
        # What callers read of every config.
        assert config.num_labels >= 0 and config.max_length is not None and config.max_sequence_length > 0
        assert config.pooler_has_weights in (True, False) and config.extra_inputs is not None
        check_sizes(config, _INFOS, "the folder")
        if build:
            NameMapping(family, config, "feature-extraction")
            build_model(family, config, "feature-extraction", pooler=True)

    return run


def _tiny(model_type: str) -> dict[str, Any]:
    """Return a config of a model type with all keys that have defaults, and small sizes."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    small |= {
        "vocab_size": 101,
        "max_position_embeddings": 64,
        "embedding_size": 16,
        "head_dim": 8,
        "num_key_value_heads": 2,
    }
    values = {**default_values(model_type), **small, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "pad_token_id": 0}
    config_class = family_for({"model_type": model_type}).config
    named = {config_class.attribute_map.get(key, key): value for key, value in values.items()}
    labels = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}, "problem_type": None}
    return {"model_type": model_type, **named, **labels, "architectures": ["Model"], "dtype": "float32"}


_PACKING = {"group_size": 64, "bits": 4, "mode": "affine", "encoder.layer.0.attention": {"group_size": 32, "bits": 8}}
_MORE = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    "rope_scaling": {"type": "linear", "factor": 2.0}, "layer_types": ["full_attention", "sliding_attention"],
    "attention_window": [4, 4], "position_embedding_type": "absolute", "transformers_weights": "model.safetensors",
}  # fmt: skip
_CONFIGS = as_json(
    *(_tiny(model_type) for model_type in model_types()),
    *({**_tiny(model_type), **_MORE} for model_type in model_types()),
    {**_tiny("bert"), "quantization": _PACKING, "quantization_config": _PACKING},
)
_TYPES = (*model_types(), *UNSUPPORTED)


def _adapter(folder: Path) -> Run:
    source = _source(folder)

    def run(data: bytes) -> None:
        (folder / ADAPTER_FILE).write_bytes(data)
        adapter = read_adapter(source, read_json(folder / ADAPTER_FILE))
        for module in ("encoder.layer.0.attention.self.query", "pooler.dense"):
            assert adapter.scale(module, 4) == adapter.scale(module, 4)

    return run


_ADAPTER = {
    "peft_type": "LORA", "base_model_name_or_path": "bert", "revision": None, "lora_alpha": 16, "r": 8,
    "alpha_pattern": {"layer.0.*query": 32, "(query|key)": 8}, "rank_pattern": {"query": 4}, "use_rslora": True,
    "use_dora": False, "init_lora_weights": True, "target_modules": ["query", "value"], "modules_to_save": None,
    "bias": "none", "fan_in_fan_out": False, "task_type": "FEATURE_EXTRACTION", "layer_replication": None,
    "trainable_token_indices": None,
}  # fmt: skip
_ADAPTERS = as_json(_ADAPTER)
_EXPRESSIONS = ("(a+)+$", "[", "x{9999}", "(?=", "(.*)*Q", "layer.0.*query")


def _card(folder: Path) -> Run:
    def run(data: bytes) -> None:
        (folder / CARD_FILE).write_bytes(data)
        for value in read_card_metadata(folder).values():
            assert isinstance(value, (str, list)), type(value)

    return run


_CARDS = [
    b"---\nlanguage:\n- en\n- de\nlicense: mit\ntags: [a, b]\nbase_model: &x bert\ndatasets: *x\n---\n# A model\n",
    b"---\nlicense: other\nlicense_name: own\npipeline_tag: sentence-similarity\nmodel-index:\n- name: x\n---\n",
]
_YAML = ("---\n", "\n---\n", "&a [*a]", "*x", "&x ", "!!python/object:os.system", "!!binary ", "!!timestamp ", "!!int ")
_YAML += ("? ", ": ", "- ", "{", "[", "}", "]", "|\n", ">\n", "%YAML 9.9\n", "0x", "1_000", "2001-99-99", "12:61:61")
_YAML += ("<<: *x\n", "language: ", "license: ", "models:\n", "bits: ", "name: ", "'", '"', "\\x", "\t", "\r", "\x85")


def _models_file(folder: Path) -> Run:
    path = folder / "models.yaml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        assert read_models(path)

    return run


_MODELS = [
    yaml.safe_dump(
        {
            "models": [
                {"name": "one", "hf_name": "bert", "task": "fill-mask", "revision": "main"},
                {"name": "two", "hf_name": "b/c", "quantization": {"bits": 4, "group_size": 64, "mode": "affine"}},
                {"name": "three", "hf_name": "b", "quantization": {"bits": 8, "dtype": "int8", "target_size_mb": 1.5}},
            ]
        }
    ).encode()
]


def _gliner(folder: Path) -> Run:
    source = _source(folder)
    (folder / LABELS_TOKENIZER).mkdir()
    for place in (folder, folder / LABELS_TOKENIZER):
        (place / "tokenizer_config.json").write_text("{}")

    def run(data: bytes) -> None:
        (folder / GLINER_FILE).write_bytes(data)
        text, labels = read_gliner(source)
        for checkpoint, task in ((text, ZERO_SHOT_NER), (labels, "feature-extraction")):
            if checkpoint is not None:
                check_raw_sizes(checkpoint.config, _INFOS, "the folder")
                family = family_for(checkpoint.config)
                config = family.config.from_json(checkpoint.config)
                check_sizes(config, _INFOS, "the folder")
                NameMapping(family, config, task)
                build_model(family, config, task, pooler=False)

    return run


_GLINER: dict[str, Any] = {
    "max_width": 12, "max_len": 384, "hidden_size": 32, "span_mode": "markerV0", "subtoken_pooling": "first",
    "num_rnn_layers": 1, "embed_ent_token": True, "class_token_index": -1, "vocab_size": -1, "ent_token": "<<ENT>>",
    "sep_token": "<<SEP>>", "words_splitter_type": "whitespace", "model_name": "no/such", "fuse_layers": False,
    "encoder_config": _tiny("deberta-v2"),
}  # fmt: skip
_FUSED = {"labels_encoder": "no/other", "labels_encoder_config": _tiny("bert"), "post_fusion_schema": "l2l-l2t-t2l"}
_GLINERS = as_json(_GLINER, {**_GLINER, **_FUSED, "num_post_fusion_layers": 2}, {**_GLINER, "span_mode": "token_level"})
_GLINER_WORDS = ("marker", "markerV1", "markerV2", "token_level", "mean", "max", "l2l-l2t", "t2t", *model_types())

TARGETS = (
    Target("config", "config.json of all model types", _config, _CONFIGS, JsonMutator(_CONFIGS, _TYPES)),
    Target(
        "config-build", "config.json, and the model built", lambda folder: _config(folder, True), _CONFIGS,
        JsonMutator(_CONFIGS, _TYPES),
    ),
    Target("adapter", "adapter_config.json", _adapter, _ADAPTERS, JsonMutator(_ADAPTERS, _EXPRESSIONS)),
    Target("card", "model cards", _card, _CARDS, TextMutator(_YAML)),
    Target("gliner-config", "gliner_config.json", _gliner, _GLINERS, JsonMutator(_GLINERS, _GLINER_WORDS)),
    Target("models-yaml", "the file of models to convert", _models_file, _MODELS, TextMutator(_YAML)),
)  # fmt: skip
