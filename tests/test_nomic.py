"""Repos of NomicBERT's remote code (nomic-ai/nomic-bert-2048) against NumPy: experts, biases, blocks, rotation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy_reference import attention, batched, gelu, layer_norm, linear, random_weights, rotate, silu, softmax
from remote_code_repos import TEXTS, as_hub_cache, ragged_ids, tokenized, write_json, write_pooling, write_repo

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForMaskedLM, MLXSentenceTransformer
from mlx_hf_bridge.errors import ConfigError

ABSOLUTE = 2e-5
LAYERS, HEADS = 4, 2
CODE = "nomic-ai/nomic-bert-2048--"
CONFIG: dict[str, Any] = {
    "activation_function": "gelu",
    "add_pooling_layer": False,
    "architectures": ["NomicBertModel"],
    "auto_map": {
        "AutoConfig": f"{CODE}configuration_hf_nomic_bert.NomicBertConfig",
        "AutoModel": f"{CODE}modeling_hf_nomic_bert.NomicBertModel",
    },
    "causal": False,
    "expert_choice_router": False,
    "ffn_div": 1,
    "fused_bias_fc": True,
    "layer_norm_epsilon": 1e-05,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": True,
    "mlp_fc2_bias": True,
    "model_type": "nomic_bert",
    "moe_every_n_layers": 2,
    "moe_impl": "megablocks",
    "moe_normalize_expert_weights": False,
    "moe_resid_pdrop": 0.0,
    "moe_top_k": 2,
    "n_embd": 32,
    "n_head": HEADS,
    "n_inner": 64,
    "n_layer": LAYERS,
    "n_positions": 2048,
    "num_experts": 5,
    "num_shared_experts": 0,
    "pad_token_id": 0,
    "pad_vocab_size_multiple": 64,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": True,
    "rotary_emb_base": 100,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "router_aux_loss_coef": 0.1,
    "tie_word_embeddings": True,
    "type_vocab_size": 1,
    "use_rms_norm": False,
    "vocab_size": 101,
}
# Rounded up to a multiple of 64, as the authors' code does.
ROWS = 128
NO_EXPERTS = {"moe_every_n_layers": 0, "num_experts": 0}
NO_BIASES = {"qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False}
GATES = {"swiglu": silu, "geglu": gelu, "glu": lambda x: 1 / (1 + np.exp(-x))}


def has_experts(config: dict[str, Any], number: int) -> bool:
    return bool(config["moe_every_n_layers"]) and number % config["moe_every_n_layers"] == 1


def weights_for(config: dict[str, Any], head: bool = False) -> dict[str, np.ndarray]:
    width, inner, experts = config["n_embd"], config["n_inner"], config["num_experts"]
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (ROWS, width)}
    shapes["embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], width)
    norms = ["emb_ln"]

    def add(name: str, outputs: int, inputs: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    for number in range(LAYERS):
        layer = f"encoder.layers.{number}"
        add(f"{layer}.attn.Wqkv", 3 * width, width, config["qkv_proj_bias"])
        add(f"{layer}.attn.out_proj", width, width, config["qkv_proj_bias"])
        norms += [f"{layer}.norm1", f"{layer}.norm2"]
        if has_experts(config, number):
            add(f"{layer}.mlp.router.layer", experts, width, False)
            shapes |= {f"{layer}.mlp.experts.mlp.{name}": (experts * inner, width) for name in ("w1", "w2")}
            shapes[f"{layer}.mlp.experts.bias"] = (width,)
            continue
        for name in ("fc11", "fc12") if config["activation_function"] in GATES else ("fc1",):
            add(f"{layer}.mlp.{name}", inner, width, config["mlp_fc1_bias"])
        add(f"{layer}.mlp.fc2", width, inner, config["mlp_fc2_bias"])
    shapes |= {f"{name}.{leaf}": (width,) for name in norms for leaf in ("weight", "bias")}
    if not head:
        return random_weights(shapes)
    shapes = {f"bert.{name}": shape for name, shape in shapes.items()}
    add("cls.predictions.transform.dense", width, width, config["mlp_fc1_bias"])
    shapes |= {f"cls.predictions.transform.layer_norm.{leaf}": (width,) for leaf in ("weight", "bias")}
    if config["mlp_fc1_bias"]:
        shapes["cls.predictions.decoder.bias"] = (ROWS,)
    return random_weights(shapes)


def mixture(weights: dict[str, np.ndarray], name: str, x: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Send each token to its likeliest experts, one at a time (Nussbaum and Duderstadt, arXiv 2502.07972)."""
    shape = (config["num_experts"], config["n_inner"], -1)
    first, second = (weights[f"{name}.experts.mlp.{matrix}"].astype(float).reshape(shape) for matrix in ("w1", "w2"))
    result = np.zeros_like(x) + weights[f"{name}.experts.bias"]
    for row, shares in enumerate(softmax(linear(weights, f"{name}.router.layer", x))):
        for expert in np.argsort(shares)[::-1][: config["moe_top_k"]]:
            result[row] += shares[expert] * (gelu(x[row] @ first[expert].T) @ second[expert])
    return result


def frequencies(config: dict[str, Any], length: int) -> np.ndarray:
    width = config["n_embd"] // HEADS
    base, factor, trained = config["rotary_emb_base"], config["rotary_scaling_factor"], config["max_trained_positions"]
    if factor and length > trained:
        base = base * (factor * length / trained - (factor - 1)) ** (width / (width - 2))
    return np.array([base ** (-2 * pair / width) for pair in range(width // 2)])


def encode(
    text: dict[str, np.ndarray], weights: dict[str, np.ndarray], config: dict[str, Any], length: int
) -> np.ndarray:
    eps, ids, angles = config["layer_norm_epsilon"], text["input_ids"], frequencies(config, length)
    hidden = weights["embeddings.word_embeddings.weight"].astype(float)[ids]
    hidden = hidden + weights["embeddings.token_type_embeddings.weight"][text.get("token_type_ids", ids * 0)]
    hidden = layer_norm(weights, "emb_ln", hidden, eps)
    for number in range(LAYERS):
        layer = f"encoder.layers.{number}"
        qkv = linear(weights, f"{layer}.attn.Wqkv", hidden).reshape(len(ids), 3, HEADS, -1)
        attended = attention(rotate(qkv[:, 0], angles), rotate(qkv[:, 1], angles), qkv[:, 2])
        hidden = layer_norm(
            weights, f"{layer}.norm1", hidden + linear(weights, f"{layer}.attn.out_proj", attended), eps
        )
        if has_experts(config, number):
            block = mixture(weights, f"{layer}.mlp", hidden, config)
        elif gate := GATES.get(config["activation_function"]):
            gated = gate(linear(weights, f"{layer}.mlp.fc12", hidden)) * linear(weights, f"{layer}.mlp.fc11", hidden)
            block = linear(weights, f"{layer}.mlp.fc2", gated)
        else:
            block = linear(weights, f"{layer}.mlp.fc2", gelu(linear(weights, f"{layer}.mlp.fc1", hidden)))
        hidden = layer_norm(weights, f"{layer}.norm2", hidden + block, eps)
    return hidden


def encoded(inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    bare = {name.removeprefix("bert."): array for name, array in weights.items()}
    return batched(encode, inputs, bare, config, inputs["input_ids"].shape[1])


CONFIGS = {
    "v2-moe": {},
    "one expert, every third layer": {"moe_top_k": 1, "moe_every_n_layers": 3},
    "nomic-xlm-2048, no experts": {**NO_EXPERTS, "activation_function": "gelu_fast", "mlp_fc2_bias": False},
    "v1.5, scaled": {
        **NO_EXPERTS,
        **NO_BIASES,
        "activation_function": "swiglu",
        "rotary_scaling_factor": 2,
        "max_trained_positions": 6,
        "type_vocab_size": 2,
    },
    "geglu": {**NO_EXPERTS, **NO_BIASES, "activation_function": "geglu", "mlp_fc1_bias": True},
    "glu": {**NO_EXPERTS, **NO_BIASES, "activation_function": "glu"},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_hidden_states_are_those_of_the_description(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {**CONFIG, **changes}
    weights, inputs = weights_for(config), ragged_ids(token_types=config["type_vocab_size"])
    write_repo(tmp_path, config, weights)
    hidden = MLXAutoModel.from_pretrained(tmp_path)(**inputs).last_hidden_state
    there = inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(hidden[there], encoded(inputs, weights, config)[there], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("name", ["gelu", "swiglu", "geglu"])
def test_the_masked_lm_head_is_that_of_the_description(name: str, tmp_path: Path) -> None:
    """nomic-bert-2048 has no biases in it, nomic-xlm-2048 has them."""
    config = {**CONFIG, **(NO_BIASES if name == "swiglu" else {}), **NO_EXPERTS, "activation_function": name}
    config["architectures"] = ["NomicBertForPreTraining"]
    weights, inputs = weights_for(config, head=True), ragged_ids()
    write_repo(tmp_path, config, weights)
    dense = linear(weights, "cls.predictions.transform.dense", encoded(inputs, weights, config))
    activated = silu(dense) if name == "swiglu" else gelu(dense)
    normed = layer_norm(weights, "cls.predictions.transform.layer_norm", activated, config["layer_norm_epsilon"])
    expected = normed @ weights["bert.embeddings.word_embeddings.weight"].T
    expected = expected + weights.get("cls.predictions.decoder.bias", 0)
    logits = MLXAutoModelForMaskedLM.from_pretrained(tmp_path)(**inputs).logits
    there = inputs["attention_mask"].astype(bool)
    np.testing.assert_allclose(logits[there], expected[there], rtol=0, atol=1e-4)


def v2_moe(folder: Path, width: int = 32) -> np.ndarray:
    """Write a replica of nomic-embed-text-v2-moe, and return what it makes of TEXTS as documents."""
    config = {**CONFIG, "n_embd": width}
    weights = weights_for(config)
    write_repo(folder, config, weights, ["", "1_Pooling", "2_Normalize"])
    write_pooling(folder, width, "mean_tokens")
    prompts = {"query": "film: ", "passage": "news: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "cosine"})
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    inputs = tokenized(tokenizer, [f"news: {text}" for text in TEXTS])
    mask = inputs["attention_mask"][..., None]
    summed = (encoded(inputs, weights, config) * mask).sum(axis=1)
    normalized: np.ndarray = summed / np.linalg.norm(summed, axis=-1, keepdims=True)
    return normalized


def test_v2_moe_answers_through_a_folder_the_hub_and_a_saved_copy(tmp_path: Path) -> None:
    expected = v2_moe(tmp_path / "repo")
    as_hub_cache(tmp_path / "repo", tmp_path / "hub", "nomic-ai/nomic-embed-text-v2-moe")
    options: dict[str, Any] = {"cache_folder": str(tmp_path / "hub"), "local_files_only": True}
    model = MLXSentenceTransformer(str(tmp_path / "repo"))
    model.save_pretrained(str(tmp_path / "saved"))
    for one in (
        model,
        MLXSentenceTransformer("nomic-ai/nomic-embed-text-v2-moe", **options),
        MLXSentenceTransformer(str(tmp_path / "saved")),
    ):
        np.testing.assert_allclose(one.encode(TEXTS, prompt_name="passage"), expected, rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize("recipe", ["q8", "q4-rtn", pytest.param("q4-best", marks=pytest.mark.slow)])
def test_experts_are_quantized_with_the_rest(recipe: str, tmp_path: Path) -> None:
    expected = v2_moe(tmp_path / "repo", 64)
    options: dict[str, Any] = {"model_kwargs": {"quantization_config": recipe}}
    model = MLXSentenceTransformer(str(tmp_path / "repo"), **options)
    block = model[0].loaded.model.encoder.layers[1].feed_forward
    assert [module.bits for module in (block.experts_up, block.experts_down)] == [int(recipe[1])] * 2
    model.save_pretrained(str(tmp_path / "packed"))
    for one in (model, MLXSentenceTransformer(str(tmp_path / "packed"))):
        cosines = (one.encode(TEXTS, prompt_name="passage") * expected).sum(axis=1)
        assert 1e-7 < 1 - cosines.min() < (1e-3 if recipe == "q8" else 0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_choice_router": True}, "expert_choice_router=True"),
        ({"moe_normalize_expert_weights": True}, "moe_normalize_expert_weights=True"),
        ({"moe_top_k": 6}, "num_experts=5 and moe_top_k=6"),
        ({"pad_vocab_size_multiple": "x"}, "pad_vocab_size_multiple='x', expected an integer of 1 or more"),
        ({"activation_function": ["gelu"]}, r"activation_function=\['gelu'\]"),
        ({"rotary_emb_scale_base": 512}, "rotary_emb_scale_base=512"),
        ({"prenorm": True}, r"prenorm=True.*names remote code.*trust_remote_code=True"),
    ],
)
def test_what_is_not_computed_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_repo(tmp_path, {**CONFIG, **changes}, weights_for(CONFIG))
    with pytest.raises(ConfigError, match=message):
        MLXAutoModel.from_pretrained(tmp_path)


@pytest.mark.slow
def test_experts_take_a_mixed_recipe(tmp_path: Path) -> None:
    expected = v2_moe(tmp_path / "repo", 64)
    model = MLXSentenceTransformer(str(tmp_path / "repo"), model_kwargs={"quantization_config": "mixed-4"})
    assert 0.9 < (model.encode(TEXTS, prompt_name="passage") * expected).sum(axis=1).min() < 1
