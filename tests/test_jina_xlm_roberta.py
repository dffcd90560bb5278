"""Jina AI's XLM-RoBERTa checkpoints in their own layout: joined names, rotary positions, and a LoRA for each task."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import remote_code
import torch
import transformers
from numpy_reference import gelu, linear, rotate
from remote_code import SIZES, D, F, Tensors, attend, dense, embed, norm, norms
from weight_files import read_tensors, rename, rewrite

from mlx_hf_bridge import MLXAutoModel, MLXCrossEncoder, MLXMultiVectorEncoder, MLXSentenceTransformer
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnsupportedModelError
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions

ABSOLUTE = 2e-5
TEXTS = ["the cat sat on the mat", "a dog", " stock market news today is good "]
TASKS = ["retrieval.query", "retrieval.passage", "separation"]
HEADS, THETA, RANK, ALPHA = 6, 20_000.0, 4, 3.0
_CODE = "jinaai/xlm-roberta-flash-implementation--"
V3: dict[str, Any] = {
    **SIZES, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "num_attention_heads": HEADS,
    "position_embedding_type": "rotary", "rotary_emb_base": THETA, "type_vocab_size": 1, "pad_token_id": 0,
    "auto_map": {
        "AutoConfig": f"{_CODE}configuration_xlm_roberta.XLMRobertaFlashConfig",
        "AutoModel": f"{_CODE}modeling_lora.XLMRobertaLoRA",
    },
    "lora_adaptations": TASKS, "lora_rank": RANK, "lora_alpha": ALPHA, "lora_dropout_p": 0.0,
    "load_trained_adapters": True, "matryoshka_dimensions": [32, 64, D], "use_flash_attn": True, "truncate_dim": None,
    "task_instructions": {"retrieval.query": "query : ", "retrieval.passage": "about ", "separation": ""},
}  # fmt: skip
COLBERT = {key: value for key, value in V3.items() if not key.startswith(("lora", "task"))}


def shapes(prefix: str = "roberta.") -> dict[str, tuple[int, ...]]:
    """Return the tensors of the encoder, with joined queries, keys and values."""
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (SIZES["vocab_size"], D),
        "embeddings.token_type_embeddings.weight": (1, D),
        **norms("emb_ln"),
        **dense("pooler.dense", D, D),
    }
    for index in range(SIZES["num_hidden_layers"]):
        layer = f"encoder.layers.{index}"
        found |= dense(f"{layer}.mixer.Wqkv", 3 * D, D) | dense(f"{layer}.mixer.out_proj", D, D)
        found |= dense(f"{layer}.mlp.fc1", F, D) | dense(f"{layer}.mlp.fc2", D, F)
        found |= norms(f"{layer}.norm1", f"{layer}.norm2")
    return {prefix + name: shape for name, shape in found.items()}


def with_loras(tensors: Tensors) -> Tensors:
    """Return the tensors as torch.nn.utils.parametrize names them, with a LoRA for each task and matrix."""
    random, found = np.random.default_rng(1), {}
    for name, array in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf != "weight" or array.ndim != 2:
            found[name] = array
            continue
        rows, columns = array.shape
        # A table of embeddings has its factors the other way round: rows of A are tokens.
        table = "_embeddings" in module
        first, second = ((rows, RANK), (RANK, columns)) if table else ((RANK, columns), (rows, RANK))
        found[f"{module}.parametrizations.weight.original"] = array
        for leaf, shape in (("lora_A", first), ("lora_B", second)):
            made = random.normal(0, 0.3, (len(TASKS), *shape)).astype(np.float32)
            found[f"{module}.parametrizations.weight.0.{leaf}"] = made
    return found


def merged(tensors: Tensors, task: str | None) -> Tensors:
    """Return plain weights with the LoRA of a task added."""
    found = {}
    for name, array in tensors.items():
        module, mark, leaf = name.partition(".parametrizations.weight.")
        if not mark:
            found[name] = array
        elif leaf == "original":
            weight = array.astype(np.float64)
            if task:
                a, b = (tensors[f"{module}{mark}0.lora_{one}"][TASKS.index(task)].astype(np.float64) for one in "AB")
                weight = weight + ALPHA / RANK * (a @ b if "_embeddings" in module else b @ a)
            found[f"{module}.weight"] = weight
    return found


def expected(tensors: Tensors, ids: Any) -> np.ndarray:
    """Return the last hidden states of one text, (L, D)."""
    tensors = {name.removeprefix("roberta."): array for name, array in tensors.items()}
    x = embed(tensors, np.asarray(ids), 0)
    width = D // HEADS
    frequencies = THETA ** (-np.arange(width // 2) * 2 / width)
    if (table := tensors.get("embeddings.position_embeddings.weight")) is not None:
        # Absolute positions, counted from the padding token's id + 1, take the place of rotation.
        x, frequencies = x + table[np.arange(len(x)) + SIZES["pad_token_id"] + 1], frequencies * 0
    x = norm(tensors, "emb_ln", x)
    for index in range(SIZES["num_hidden_layers"]):
        layer = f"encoder.layers.{index}"
        queries, keys, values = np.split(linear(tensors, f"{layer}.mixer.Wqkv", x), 3, axis=-1)
        turned = [rotate(part.reshape(-1, HEADS, width), frequencies).reshape(-1, D) for part in (queries, keys)]
        attended = attend(*turned, values, [0.0] * HEADS)
        x = norm(tensors, f"{layer}.norm1", x + linear(tensors, f"{layer}.mixer.out_proj", attended))
        inner = linear(tensors, f"{layer}.mlp.fc2", gelu(linear(tensors, f"{layer}.mlp.fc1", x)))
        x = norm(tensors, f"{layer}.norm2", x + inner)
    return x


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """A replica of jina-embeddings-v3."""
    folder = tmp_path_factory.mktemp("v3")
    tensors = with_loras(remote_code.random_tensors(shapes()))
    types = ["custom_st.Transformer", *(f"sentence_transformers.models.{name}" for name in ("Pooling", "Normalize"))]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules: list[dict[str, Any]] = [
        {"idx": index, "name": str(index), "path": path, "type": types[index]} for index, path in enumerate(paths)
    ]
    modules[0]["kwargs"] = ["task"]
    settings = {"prompts": V3["task_instructions"], "default_prompt_name": None, "similarity_fn_name": "cosine"}
    remote_code.save(folder, V3, tensors, modules=modules, config_sentence_transformers=settings)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": D}))
    return folder, tensors


def vectors(model: MLXSentenceTransformer, tensors: Tensors, task: str | None, prompt: str = "") -> np.ndarray:
    """Return the expected embeddings of TEXTS."""
    weights = merged(tensors, task)
    ids = [one.ids for one in model.tokenizer.encode([(prompt + text).strip() for text in TEXTS])]
    means = np.array([expected(weights, one).mean(0) for one in ids])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_each_task_adds_its_lora_and_none_is_the_plain_weights(v3: tuple[Path, Tensors], tmp_path: Path) -> None:
    folder, tensors = v3
    model = MLXSentenceTransformer(str(folder))
    assert model.get_model_kwargs() == ["task"]
    for task in (None, *TASKS):
        prompt = V3["task_instructions"].get(task, "")
        want = vectors(model, tensors, task, prompt)
        found = model.encode(TEXTS, task=task, prompt_name=task)
        np.testing.assert_allclose(found, want, rtol=0, atol=ABSOLUTE)
    # A task names no prompt by itself.
    found = model.encode(TEXTS, task="retrieval.query", truncate_dim=32)
    np.testing.assert_allclose(found, vectors(model, tensors, "retrieval.query")[:, :32], rtol=0, atol=ABSOLUTE)
    model.save_pretrained(str(tmp_path))
    again = MLXSentenceTransformer(str(tmp_path), model_kwargs={"default_task": "separation"})
    np.testing.assert_allclose(again.encode(TEXTS), vectors(model, tensors, "separation"), rtol=0, atol=ABSOLUTE)
    again[0].default_task = None
    np.testing.assert_allclose(again.encode(TEXTS), vectors(model, tensors, None), rtol=0, atol=ABSOLUTE)
    hidden = MLXAutoModel.from_pretrained(folder)(input_ids=np.array([[5, 9, 7]])).last_hidden_state[0]
    np.testing.assert_allclose(hidden, expected(merged(tensors, None), [5, 9, 7]), rtol=0, atol=ABSOLUTE)


def test_a_lora_is_exact_beside_quantized_weights(
    v3: tuple[Path, Tensors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers equal those of the quantized weights, read back as floats, with the LoRA merged into them."""
    folder, tensors = v3
    remote_code.put_on_hub(folder, tmp_path, "org/v3")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = MLXSentenceTransformer("org/v3", quantization_config={"bits": 4, "group_size": 32}, dtype="float32")
    packed, rounded = read_tensors(model.folder), dict(tensors)
    for name in tensors:
        module, mark, leaf = name.removeprefix("roberta.").partition(".parametrizations.weight.original")
        if mark and not leaf and f"{module}.scales" in packed:
            parts = [mx.array(packed[f"{module}.{part}"].numpy()) for part in ("weight", "scales", "biases")]
            rounded[name] = np.array(mx.dequantize(*parts, group_size=32, bits=4))
    for task in (None, "retrieval.passage"):
        want = vectors(model, rounded, task)
        assert np.abs(want - vectors(model, tensors, task)).max() > 0.01
        np.testing.assert_allclose(model.encode(TEXTS, task=task), want, rtol=0, atol=5 * ABSOLUTE)


def test_unknown_tasks_are_errors(v3: tuple[Path, Tensors], tmp_path: Path) -> None:
    model = MLXSentenceTransformer(str(v3[0]))
    # encode_query passes the task "query", which the authors' module refuses too.
    for call in (lambda: model.encode(TEXTS, task="classification"), lambda: model.encode_query(TEXTS)):
        with pytest.raises(InputError, match=r"has retrieval.query, retrieval.passage, separation"):
            call()
    with pytest.raises(InputError, match="task='other'"):
        MLXSentenceTransformer(str(v3[0]), model_kwargs={"default_task": "other"})
    remote_code.save(tmp_path, COLBERT, remote_code.random_tensors(shapes()))
    with pytest.raises(ArgumentTypeError, match="has no LoRA by task"):
        MLXSentenceTransformer(str(tmp_path), model_kwargs={"default_task": "separation"})
    with pytest.raises(UnsupportedModelError, match="lora_adaptations"):
        family_for({**V3, "position_embedding_type": "absolute"})


def test_colbert_with_rotary_positions(tmp_path: Path) -> None:
    """Stanford's layout, as jina-colbert-v2 has it: linear.weight beside the encoder, lengths in artifact.metadata."""
    tensors = remote_code.random_tensors(shapes() | {"linear.weight": (8, D)})
    config = {**COLBERT, "architectures": ["HF_ColBERT"], "rotary_emb_base": THETA}
    remote_code.save(tmp_path, config, tensors)
    markers = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "attend_to_mask_tokens": True}
    (tmp_path / "artifact.metadata").write_text(json.dumps({**markers, "query_maxlen": 12, "doc_maxlen": 20, "dim": 8}))
    model = MLXMultiVectorEncoder(str(tmp_path))
    tokens = model[0].tokens(["the cat sat"], EncodeOptions(task="query", prompt="[unused0] "))
    assert len(tokens[0].ids) == 12
    projected = expected(tensors, tokens[0].ids) @ tensors["linear.weight"].T
    want = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode_query("the cat sat"), want, rtol=0, atol=ABSOLUTE)


def test_reranker_with_joined_names_and_no_model_type(tmp_path: Path) -> None:
    """jina-reranker-v2: XLM-RoBERTa itself under the names of the authors' code, compared with transformers."""
    config = transformers.XLMRobertaConfig(
        vocab_size=101, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
        max_position_embeddings=44, type_vocab_size=1, pad_token_id=0, num_labels=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = transformers.XLMRobertaForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0, 0.3)
    reference.save_pretrained(tmp_path)
    rewrite(tmp_path, joined)
    rename(tmp_path, joined_name)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["model_type"]
    code = {"AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig"}
    raw |= {"auto_map": code, "position_embedding_type": "absolute", "use_flash_attn": True, "num_labels": 1}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    remote_code.make_wordpiece(tmp_path)
    edit_tokenizer(tmp_path, model_input_names=["input_ids", "attention_mask"])
    model = MLXCrossEncoder(str(tmp_path))
    pairs = [("the cat sat", "a dog on the mat"), ("news", "stock market today , is good")]
    tokens = model.tokenizer.encode(pairs)
    logits = [reference(torch.tensor(one.ids[None].astype(np.int64))).logits.detach().numpy()[0, 0] for one in tokens]
    np.testing.assert_allclose(model.predict(pairs), 1 / (1 + np.exp(-np.array(logits))), rtol=0, atol=ABSOLUTE)
    packed = MLXCrossEncoder(str(tmp_path), quantization_config="q8")
    np.testing.assert_allclose(packed.predict(pairs), model.predict(pairs), rtol=0, atol=0.02)


def edit_tokenizer(folder: Path, **keys: Any) -> None:
    """Set keys of tokenizer_config.json."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def joined(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Join queries, keys and values, as the authors' code does."""
    found = dict(tensors)
    for name in [name for name in tensors if ".self.query." in name]:
        parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        found[name.replace("query", "Wqkv")] = torch.cat(parts)
    return found


def joined_name(name: str) -> str:
    """Return the authors' name of a tensor."""
    for ours, theirs in (
        ("embeddings.LayerNorm", "emb_ln"), ("encoder.layer.", "encoder.layers."),
        ("attention.self.Wqkv", "mixer.Wqkv"),
        ("attention.output.dense", "mixer.out_proj"), ("attention.output.LayerNorm", "norm1"),
        ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"), ("output.LayerNorm", "norm2"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name
