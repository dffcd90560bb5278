"""Repos of model_type "new" (Alibaba-NLP/new-impl) against NumPy, and against transformers' GTE where the two agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy_reference import (
    attention,
    batched,
    gelu,
    layer_norm,
    linear,
    random_weights,
    rms_norm,
    rotate,
)
from remote_code_repos import TEXTS, as_hub_cache, ragged_ids, tokenized, write_json, write_pooling, write_repo
from safetensors.numpy import save_file

import mlx_hf_bridge
from mlx_hf_bridge import MLXAutoModel, MLXCrossEncoder, MLXSentenceTransformer, MLXSparseEncoder, verify
from mlx_hf_bridge.errors import ConfigError, UnsupportedModelError
from mlx_hf_bridge.facade import facade

# float32 against float64.
ABSOLUTE = 2e-5
WIDTH, HEADS, INNER, LAYERS = 24, 2, 40, 2
CODE = "Alibaba-NLP/new-impl--modeling.New"
CONFIG: dict[str, Any] = {
    "architectures": ["NewModel"],
    "attention_probs_dropout_prob": 0.0,
    "auto_map": {"AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig", "AutoModel": f"{CODE}Model"},
    "classifier_dropout": None,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False,
    "logn_attention_scale": False,
    "max_position_embeddings": 64,
    "model_type": "new",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pack_qkv": True,
    "pad_token_id": 0,
    "position_embedding_type": "rope",
    "rope_scaling": {"factor": 2.0, "type": "ntk"},
    "rope_theta": 500,
    "torch_dtype": "float32",
    "transformers_version": "4.39.1",
    "type_vocab_size": 2,
    "unpad_inputs": False,
    "use_memory_efficient_attention": False,
    "vocab_size": 101,
}
HEAD_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "Model": {},
    "ForSequenceClassification": {
        "new.pooler.dense.weight": (WIDTH, WIDTH),
        "new.pooler.dense.bias": (WIDTH,),
        "classifier.weight": (1, WIDTH),
        "classifier.bias": (1,),
    },
    "ForTokenClassification": {"classifier.weight": (1, WIDTH), "classifier.bias": (1,)},
    "ForMaskedLM": {
        "lm_head.dense.weight": (WIDTH, WIDTH),
        "lm_head.dense.bias": (WIDTH,),
        "lm_head.norm.weight": (WIDTH,),
        "lm_head.norm.bias": (WIDTH,),
        "lm_head.decoder.bias": (101,),
    },
}


def weights_for(config: dict[str, Any], head: str = "Model") -> dict[str, np.ndarray]:
    """Return random tensors under the authors' names, with the prefix of files that have a head."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (101, width)}
    if config["type_vocab_size"]:
        shapes["embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], width)
    norms = ["embeddings.LayerNorm"]
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        names = ["qkv_proj"] if config["pack_qkv"] else ["q_proj", "k_proj", "v_proj"]
        for name in (*names, "o_proj"):
            rows = 3 * width if name == "qkv_proj" else width
            shapes |= {f"{layer}.attention.{name}.weight": (rows, width), f"{layer}.attention.{name}.bias": (rows,)}
        shapes |= {f"{layer}.mlp.up_gate_proj.weight": (2 * inner, width)}
        shapes |= {f"{layer}.mlp.down_proj.weight": (width, inner), f"{layer}.mlp.down_proj.bias": (width,)}
        norms += [f"{layer}.attn_ln", f"{layer}.mlp_ln"]
    rms = config["layer_norm_type"] == "rms_norm"
    for name in norms:
        shapes[f"{name}.weight"] = (width,)
        if not rms or name == "embeddings.LayerNorm":
            shapes[f"{name}.bias"] = (width,)
    prefix = "" if head == "Model" else "new."
    return random_weights({f"{prefix}{name}": shape for name, shape in shapes.items()} | HEAD_SHAPES[head])


def frequencies(config: dict[str, Any]) -> np.ndarray:
    """Return the angles of one position by the NTK rule: Su, https://kexue.fm/archives/9706."""
    width = WIDTH // HEADS
    pairs, theta, scaling = np.arange(width // 2), float(config["rope_theta"]), config["rope_scaling"]
    if scaling is None:
        return theta ** (-2 * pairs / width)
    factor = scaling["factor"]
    if "mixed_b" not in scaling:
        return (theta * factor) ** (-2 * pairs / width) / factor ** (2 / width)
    growth = np.log(factor) / (width / 2) ** scaling["mixed_b"]
    return theta ** (-2 * pairs / width) / np.exp(growth * (pairs + 1) ** scaling["mixed_b"])


def encode(text: dict[str, np.ndarray], weights: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    """Return the hidden states of one text, (L, D)."""
    eps, ids = config["layer_norm_eps"], text["input_ids"]
    norm = rms_norm if config["layer_norm_type"] == "rms_norm" else layer_norm
    hidden = weights["embeddings.word_embeddings.weight"].astype(np.float64)[ids]
    if config["type_vocab_size"]:
        hidden = hidden + weights["embeddings.token_type_embeddings.weight"][text.get("token_type_ids", ids * 0)]
    hidden = layer_norm(weights, "embeddings.LayerNorm", hidden, eps)
    angles, activation = frequencies(config), {"gelu": gelu, "relu": lambda x: np.maximum(x, 0)}[config["hidden_act"]]
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        if config["pack_qkv"]:
            parts = np.split(linear(weights, f"{layer}.attention.qkv_proj", hidden), 3, axis=-1)
        else:
            parts = [linear(weights, f"{layer}.attention.{name}_proj", hidden) for name in "qkv"]
        queries, keys, values = (part.reshape(len(ids), HEADS, -1) for part in parts)
        attended = attention(rotate(queries, angles), rotate(keys, angles), values)
        hidden = norm(weights, f"{layer}.attn_ln", hidden + linear(weights, f"{layer}.attention.o_proj", attended), eps)
        up, gate = np.split(linear(weights, f"{layer}.mlp.up_gate_proj", hidden), 2, axis=-1)
        down = linear(weights, f"{layer}.mlp.down_proj", activation(gate) * up)
        hidden = norm(weights, f"{layer}.mlp_ln", hidden + down, eps)
    return hidden


def encoded(inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    return batched(encode, inputs, {name.removeprefix("new."): array for name, array in weights.items()}, config)


def scores(inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray], config: dict[str, Any], head: str) -> Any:
    hidden = encoded(inputs, weights, config)
    if head == "ForSequenceClassification":
        return linear(weights, "classifier", np.tanh(linear(weights, "new.pooler.dense", hidden[:, 0])))
    if head == "ForTokenClassification":
        return linear(weights, "classifier", hidden)
    dense = gelu(linear(weights, "lm_head.dense", hidden))
    normed = layer_norm(weights, "lm_head.norm", dense, config["layer_norm_eps"])
    return normed @ weights["new.embeddings.word_embeddings.weight"].T + weights["lm_head.decoder.bias"]


MULTILINGUAL = {"rope_scaling": {"factor": 8.0, "type": "ntk"}, "rope_theta": 20, "type_vocab_size": 1}
CONFIGS = {
    "gte-base-en-v1.5": {"type_vocab_size": 0},
    "gte-large-en-v1.5": {},
    "gte-multilingual-base": MULTILINGUAL,
    "snowflake-arctic-embed-m-v2.0": {"rope_scaling": None, "type_vocab_size": 1},
    "every other key": {
        "pack_qkv": False,
        "layer_norm_type": "rms_norm",
        "layer_norm_eps": 1e-3,
        "hidden_act": "relu",
        "rope_scaling": {"factor": 3.0, "type": "ntk", "mixed_b": 0.625},
    },
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_hidden_states_are_those_of_the_description(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {**CONFIG, **changes}
    weights, inputs = weights_for(config), ragged_ids(token_types=config["type_vocab_size"])
    write_repo(tmp_path, config, weights)
    hidden = MLXAutoModel.from_pretrained(tmp_path)(**inputs).last_hidden_state
    there = inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(hidden[there], encoded(inputs, weights, config)[there], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForMaskedLM"])
def test_heads_are_those_of_the_description(head: str, tmp_path: Path) -> None:
    config = {**CONFIG, **MULTILINGUAL, "architectures": [f"New{head}"], "id2label": {"0": "LABEL_0"}}
    weights, inputs = weights_for(config, head), ragged_ids()
    write_repo(tmp_path, config, weights)
    logits = getattr(mlx_hf_bridge, f"MLXAutoModel{head}").from_pretrained(tmp_path)(**inputs).logits
    kept = slice(None) if head == "ForSequenceClassification" else inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(logits[kept], scores(inputs, weights, config, head)[kept], rtol=0, atol=1e-4)


def test_the_ntk_rule_is_a_linear_one_of_transformers_own_class(tmp_path: Path) -> None:
    """As huggingface/transformers#48416 converts it: a base `factor` times as large, and longer periods."""
    ntk = {**CONFIG, "type_vocab_size": 2}
    weights, inputs = weights_for(ntk), ragged_ids(token_types=2)
    stretched = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0 ** (2 / (WIDTH // HEADS))}
    config = transformers.GteConfig(
        **{key: ntk[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "type_vocab_size")},
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        pad_token_id=0,
        rope_parameters=stretched,
    )
    for folder, content in (("new", ntk), ("linear", config.to_dict()), ("ntk", {**ntk, "model_type": "gte"})):
        write_repo(tmp_path / folder, content, weights)
    torch_model = transformers.GteModel.from_pretrained(tmp_path / "linear").eval()
    with torch.no_grad():
        expected = torch_model(**{name: torch.tensor(array) for name, array in inputs.items()}).last_hidden_state
    there = inputs["attention_mask"].astype(bool)
    for folder in ("new", "linear", "ntk"):
        hidden = MLXAutoModel.from_pretrained(tmp_path / folder)(**inputs).last_hidden_state
        np.testing.assert_allclose(hidden[there], expected.numpy()[there], rtol=0, atol=ABSOLUTE, err_msg=folder)


def stella(folder: Path) -> dict[str, np.ndarray]:
    """Write a replica of stella_en_400M_v5, which has a folder with a Dense module for each width, and its weights."""
    config = {**CONFIG, "unpad_inputs": True, "use_memory_efficient_attention": True}
    weights = weights_for(config)
    write_repo(folder, config, weights, ["", "1_Pooling", "2_Dense_1024"])
    write_pooling(folder, WIDTH, "mean_tokens")
    for width in (16, 1024):
        dense = {"in_features": WIDTH, "out_features": width, "bias": True}
        path = folder / f"2_Dense_{width}"
        write_json(path / "config.json", {**dense, "activation_function": "torch.nn.modules.linear.Identity"})
        found = random_weights({"linear.weight": (width, WIDTH), "linear.bias": (width,)}, seed=width)
        save_file(found, path / "model.safetensors")
        weights |= {f"{width}.{name}": array for name, array in found.items()}
    prompts = {"s2p_query": "the news: ", "s2s_query": "a film: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    return weights


def test_stella_answers_through_a_folder_the_hub_q8_and_a_saved_copy(tmp_path: Path) -> None:
    weights = stella(tmp_path / "repo")
    as_hub_cache(tmp_path / "repo", tmp_path / "hub", "dunzhang/stella_en_400M_v5")
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path / "repo")
    inputs = tokenized(tokenizer, [f"the news: {text}" for text in TEXTS])
    mask = inputs["attention_mask"][..., None]
    pooled = (encoded(inputs, weights, CONFIG) * mask).sum(axis=1) / mask.sum(axis=1)
    expected = linear(weights, "1024.linear", pooled)
    options: dict[str, Any] = {"cache_folder": str(tmp_path / "hub"), "local_files_only": True}
    model = MLXSentenceTransformer(str(tmp_path / "repo"))
    np.testing.assert_allclose(model.encode(TEXTS, prompt_name="s2p_query"), expected, rtol=0, atol=ABSOLUTE)
    model.save_pretrained(str(tmp_path / "saved"))
    for again in (
        MLXSentenceTransformer("dunzhang/stella_en_400M_v5", **options),
        MLXSentenceTransformer(str(tmp_path / "saved")),
    ):
        np.testing.assert_allclose(again.encode(TEXTS, prompt_name="s2p_query"), expected, rtol=0, atol=ABSOLUTE)


def test_one_token_type_is_added_whatever_ids_say(tmp_path: Path) -> None:
    """As in the authors' code, where the table has one row."""
    config = {**CONFIG, **MULTILINGUAL}
    weights, inputs = weights_for(config), ragged_ids(token_types=2)
    write_repo(tmp_path, config, weights)
    hidden = MLXAutoModel.from_pretrained(tmp_path)(**inputs).last_hidden_state
    there = inputs["attention_mask"].astype(bool)
    del inputs["token_type_ids"]
    np.testing.assert_allclose(hidden[there], encoded(inputs, weights, config)[there], rtol=0, atol=ABSOLUTE)


def test_a_packed_copy_is_verified_without_the_repos_code(tmp_path: Path) -> None:
    config = {**CONFIG, "hidden_size": 64, "intermediate_size": 128}
    write_repo(tmp_path, config, weights_for(config), ["", "1_Pooling"])
    write_pooling(tmp_path, 64, "cls_token")
    report = verify(str(tmp_path), quantization_config="q8", texts=TEXTS)
    assert report.figures["cosine_mean"] > 0.99
    assert "mlx_hf_bridge in float32" in report.reference


def test_there_is_no_facade_without_a_class_of_transformers(tmp_path: Path) -> None:
    write_repo(tmp_path, CONFIG, weights_for(CONFIG))
    with pytest.raises(UnsupportedModelError, match=r"no class for model_type 'new'.* Call the MLX model itself"):
        facade(MLXAutoModel.from_pretrained(tmp_path))


def test_the_reranker_ranks_as_described(tmp_path: Path) -> None:
    head = "ForSequenceClassification"
    config = {**CONFIG, **MULTILINGUAL, "architectures": [f"New{head}"], "id2label": {"0": "LABEL_0"}}
    config |= {"label2id": {"LABEL_0": 0}, "type_vocab_size": 1}
    weights = weights_for(config, head)
    write_repo(tmp_path, config, weights)
    pairs = [("a cat", text) for text in TEXTS]
    inputs = tokenized(transformers.BertTokenizer.from_pretrained(tmp_path), pairs)
    # There is one token type, and so no second segment.
    expected = scores({**inputs, "token_type_ids": inputs["input_ids"] * 0}, weights, config, head)[:, 0]
    actual = MLXCrossEncoder(str(tmp_path)).predict(pairs)
    np.testing.assert_allclose(actual, 1 / (1 + np.exp(-expected)), rtol=0, atol=ABSOLUTE)


def test_opensearchs_sparse_documents_are_those_of_the_description(tmp_path: Path) -> None:
    config = {**CONFIG, "architectures": ["NewForMaskedLM"], "type_vocab_size": 0}
    weights = weights_for(config, "ForMaskedLM")
    write_repo(tmp_path, config, weights, [""])
    write_json(
        tmp_path / "modules.json",
        [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}],
    )
    kinds = "sentence_transformers.sparse_encoder.models."
    types = {
        "query_0_SparseStaticEmbedding": f"{kinds}SparseStaticEmbedding.SparseStaticEmbedding",
        "": f"{kinds}MLMTransformer.MLMTransformer",
        "document_1_SpladePooling": f"{kinds}SpladePooling.SpladePooling",
    }
    structure = {"query": ["query_0_SparseStaticEmbedding"], "document": ["", "document_1_SpladePooling"]}
    parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    write_json(tmp_path / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    write_json(tmp_path / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    pooling = {"pooling_strategy": "max", "activation_function": "log1p_relu", "word_embedding_dimension": 101}
    write_json(tmp_path / "document_1_SpladePooling" / "config.json", pooling)
    query = tmp_path / "query_0_SparseStaticEmbedding"
    write_repo(query, {"frozen": False}, random_weights({"weight": (101,)}, seed=1))
    inputs = tokenized(transformers.BertTokenizer.from_pretrained(tmp_path), TEXTS)
    activated = np.log1p(np.log1p(np.maximum(scores(inputs, weights, config, "ForMaskedLM"), 0)))
    expected = (activated * inputs["attention_mask"][..., None]).max(axis=1)
    model = MLXSparseEncoder(str(tmp_path))
    actual = model.encode_document(TEXTS, convert_to_sparse_tensor=False).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ABSOLUTE)
    assert np.count_nonzero(model.encode_query(TEXTS, convert_to_sparse_tensor=False).numpy()[1])


def test_quantized_hidden_states_are_near(tmp_path: Path) -> None:
    config = {**CONFIG, "hidden_size": 64, "intermediate_size": 128}
    write_repo(tmp_path / "repo", config, weights_for(config))
    inputs = ragged_ids()
    expected = MLXAutoModel.from_pretrained(tmp_path / "repo")(**inputs).last_hidden_state
    packed = MLXAutoModel.from_pretrained(tmp_path / "repo", quantization_config="q8")
    packed.save_pretrained(tmp_path / "packed")
    for model in (packed, MLXAutoModel.from_pretrained(tmp_path / "packed")):
        there = inputs["attention_mask"].astype(bool)
        assert model.loaded.recipe.bits == 8
        assert 0 < np.abs(model(**inputs).last_hidden_state - expected)[there].max() < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logn_attention_scale": True}, "logn_attention_scale=True"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type='absolute'"),
        ({"layer_norm_type": "batch_norm"}, "layer_norm_type='batch_norm'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type='linear'.*'default', 'ntk'"),
        ({"rope_scaling": {"type": "ntk", "factor": 0.5}}, r"factor=0\.5, expected a number of 1 or more"),
        ({"rope_scaling": {"type": "ntk"}}, "factor=None"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": "x"}}, "mixed_b='x'"),
    ],
)
def test_what_is_not_computed_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_repo(tmp_path, {**CONFIG, **changes}, weights_for(CONFIG))
    with pytest.raises(ConfigError, match=message):
        MLXAutoModel.from_pretrained(tmp_path)
