"""JinaBERT and MosaicBERT checkpoints answer as an independent NumPy implementation, through every entry point."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import remote_code
from checkpoints import make_checkpoint
from numpy_reference import gelu, linear
from remote_code import (
    ACTIVATIONS,
    SIZES,
    D,
    F,
    Tensors,
    attend,
    code_of,
    dense,
    embed,
    norm,
    norms,
    paper_slopes,
)
from weight_files import edit_config

from mlx_hf_bridge import (
    MLXAutoModel,
    MLXAutoModelForMaskedLM,
    MLXAutoModelForSequenceClassification,
    MLXCrossEncoder,
    MLXSentenceTransformer,
)
from mlx_hf_bridge.errors import ConfigError, WeightsError
from mlx_hf_bridge.layers import alibi
from mlx_hf_bridge.models import family_for

ABSOLUTE = 2e-5
TEXTS = ["the cat sat on the mat", "a dog", "stock market news today is good , i love this film !"]
JINA = {
    **SIZES, "model_type": "bert", "architectures": ["JinaBertForMaskedLM"], "position_embedding_type": "alibi",
    "emb_pooler": "mean", "attn_implementation": None, "model_max_length": 64,
    "auto_map": code_of("jinaai/jina-bert-implementation"),
}  # fmt: skip
CODE = {**JINA, "auto_map": code_of("jinaai/jina-bert-v2-qk-post-norm"), "feed_forward_type": "geglu"}
MOSAIC = {
    **SIZES, "model_type": "bert", "architectures": ["BertForMaskedLM"], "alibi_starting_size": 16,
    "position_embedding_type": "absolute", "auto_map": {"AutoModel": "bert_layers.BertModel"},
}  # fmt: skip
CONFIGS = {
    "geglu": {**JINA, "feed_forward_type": "geglu"},
    "reglu": {**JINA, "feed_forward_type": "reglu", "num_attention_heads": 8},
    "original": {**JINA, "feed_forward_type": "original"},
    "code": CODE,
    "mosaic": MOSAIC,
}
SEPARATE = ("query", "key", "value")


def shapes_of(kind: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Return the tensors of a checkpoint, as its authors' code names them."""
    table = {"word": SIZES["vocab_size"], "token_type": SIZES["type_vocab_size"]}
    found: dict[str, tuple[int, ...]] = {f"embeddings.{name}_embeddings.weight": (n, D) for name, n in table.items()}
    found |= norms("embeddings.LayerNorm") | dense("pooler.dense", D, D)
    for index in range(SIZES["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        found |= dense(f"{layer}.attention.output.dense", D, D) | norms(f"{layer}.attention.output.LayerNorm")
        if kind == "mosaic":
            found |= dense(f"{layer}.attention.self.Wqkv", 3 * D, D)
        else:
            found |= {k: v for name in SEPARATE for k, v in dense(f"{layer}.attention.self.{name}", D, D).items()}
        if kind == "code":
            found |= norms(*(f"{layer}.{name}" for name in ("layer_norm_1", "layer_norm_2")))
            found |= norms(*(f"{layer}.attention.self.layer_norm_{name}" for name in "qk"))
            found |= dense(f"{layer}.mlp.up_gated_layer", 2 * F, D, False) | dense(f"{layer}.mlp.down_layer", D, F)
        elif kind == "original":
            found |= dense(f"{layer}.intermediate.dense", F, D) | dense(f"{layer}.output.dense", D, F)
            found |= norms(f"{layer}.output.LayerNorm")
        else:
            found |= dense(f"{layer}.mlp.gated_layers", 2 * F, D, False) | dense(f"{layer}.mlp.wo", D, F)
            found |= norms(f"{layer}.mlp.layernorm")
    return {prefix + name: shape for name, shape in found.items()}


def expected(kind: str, tensors: Tensors, ids: Any, types: Any = 0, slopes: list[float] | None = None) -> np.ndarray:
    """Return the last hidden states of one text, (L, D)."""
    tensors = {name.removeprefix("bert."): array for name, array in tensors.items()}
    x = norm(tensors, "embeddings.LayerNorm", embed(tensors, np.asarray(ids), types))
    for index in range(SIZES["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        inner = f"{layer}.attention.self"
        if kind == "mosaic":
            parts = np.split(linear(tensors, f"{inner}.Wqkv", x), 3, axis=-1)
        else:
            parts = [linear(tensors, f"{inner}.{name}", x) for name in SEPARATE]
        if kind == "code":
            parts[:2] = [norm(tensors, f"{inner}.layer_norm_{name}", parts["qk".index(name)]) for name in "qk"]
        attended = attend(*parts, slopes or paper_slopes(CONFIGS[kind]["num_attention_heads"]))
        attended = linear(tensors, f"{layer}.attention.output.dense", attended)
        y = norm(tensors, f"{layer}.attention.output.LayerNorm", x + attended)
        x = feed_forward(kind, tensors, layer, norm(tensors, f"{layer}.layer_norm_1", x + y) if kind == "code" else y)
    return x


def feed_forward(kind: str, tensors: Tensors, layer: str, x: np.ndarray) -> np.ndarray:
    """Return a layer's output from that of its attention block."""
    if kind == "original":
        inner = linear(tensors, f"{layer}.output.dense", gelu(linear(tensors, f"{layer}.intermediate.dense", x)))
        return norm(tensors, f"{layer}.output.LayerNorm", x + inner)
    if kind == "code":
        up, gate = np.split(linear(tensors, f"{layer}.mlp.up_gated_layer", x), 2, axis=-1)
        return norm(tensors, f"{layer}.layer_norm_2", x + linear(tensors, f"{layer}.mlp.down_layer", up * gelu(gate)))
    gate, up = np.split(linear(tensors, f"{layer}.mlp.gated_layers", x), 2, axis=-1)
    activation = ACTIVATIONS["geglu" if kind == "mosaic" else kind]
    return norm(tensors, f"{layer}.mlp.layernorm", x + linear(tensors, f"{layer}.mlp.wo", activation(gate) * up))


def make_repo(folder: Path, kind: str, **settings: Any) -> Tensors:
    """Save a checkpoint of sentence embeddings: mean pooling, and no more, as jina-embeddings-v2 has it."""
    tensors = remote_code.random_tensors(shapes_of(kind))
    transformer = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    remote_code.save(folder, {**CONFIGS[kind], **settings}, tensors, modules=[transformer, pooling])
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(f'{{"word_embedding_dimension": {D}}}')
    return tensors


def embeddings_of(kind: str, tensors: Tensors, model: Any) -> np.ndarray:
    """Return the expected embeddings of TEXTS."""
    ids = [tokens.ids for tokens in model.tokenizer.encode(TEXTS)]
    return np.array([expected(kind, tensors, one).mean(0) for one in ids])


@pytest.mark.parametrize("kind", CONFIGS)
def test_hidden_states_are_those_of_the_reference(kind: str, tmp_path: Path) -> None:
    """Right- and left-padded batches with token types, and attention weights."""
    tensors = remote_code.random_tensors(shapes_of(kind))
    remote_code.save(tmp_path, CONFIGS[kind], tensors)
    model = MLXAutoModel.from_pretrained(tmp_path)
    random = np.random.default_rng(0)
    ids, types = random.integers(5, 101, (3, 11)), random.integers(0, 2, (3, 11))
    for mask in (np.arange(11) < [[11], [6], [3]], np.arange(11) >= [[0], [5], [8]]):
        given = {"input_ids": ids, "attention_mask": mask.astype(int), "token_type_ids": types}
        found, weighed = model(**given).last_hidden_state, model(**given, output_attentions=True)
        for row, seen in enumerate(mask):
            want = expected(kind, tensors, ids[row][seen], types[row][seen])
            np.testing.assert_allclose(found[row][seen], want, rtol=0, atol=ABSOLUTE)
            np.testing.assert_allclose(weighed.last_hidden_state[row][seen], want, rtol=0, atol=ABSOLUTE)
            # MosaicBERT does not compute padded positions, which are then zeros.
            assert kind != "mosaic" or not np.any(found[row][~seen])


@pytest.mark.parametrize("kind", ["geglu", "code", "mosaic"])
def test_sentence_embeddings_from_a_folder_and_the_hub_quantized_and_saved(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = make_repo(tmp_path / "repo", kind)
    model = MLXSentenceTransformer(str(tmp_path / "repo"))
    want = embeddings_of(kind, tensors, model)
    np.testing.assert_allclose(model.encode(TEXTS), want, rtol=0, atol=ABSOLUTE)
    model.max_seq_length = 5000  # beyond the trained length: there is no table of positions
    model.save_pretrained(str(tmp_path / "saved"))
    remote_code.put_on_hub(tmp_path / "repo", tmp_path / "hub", "org/name")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in (str(tmp_path / "saved"), "org/name"):
        np.testing.assert_allclose(MLXSentenceTransformer(name).encode(TEXTS), want, rtol=0, atol=ABSOLUTE)
    packed = MLXSentenceTransformer("org/name", quantization_config={"bits": 8, "group_size": 32})
    found = packed.encode(TEXTS)
    assert 0 < np.abs(found - want).max() < 0.1
    # In a batch with padding as alone, quantized too.
    np.testing.assert_allclose(packed.encode(TEXTS[1]), found[1], rtol=0, atol=ABSOLUTE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["geglu", "code"])
def test_calibrated_recipes_quantize_gated_units(kind: str, tmp_path: Path) -> None:
    tensors = make_repo(tmp_path / "repo", kind)
    recipe = {"bits": 4, "group_size": 32, "method": "gptq"}
    packed = MLXSentenceTransformer(str(tmp_path / "repo"), quantization_config=recipe)
    found, want = packed.encode(TEXTS), embeddings_of(kind, tensors, packed)
    cosines = (found * want).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(want, axis=1)
    assert 0.9 < cosines.min() < 1


def test_heads_read_the_encoder_as_in_bert(tmp_path: Path) -> None:
    head = {"classifier.weight": (3, D), "classifier.bias": (3,), "cls.predictions.bias": (101,)}
    head |= dense("cls.predictions.transform.dense", D, D) | norms("cls.predictions.transform.LayerNorm")
    for kind in ("geglu", "mosaic"):
        tensors = remote_code.random_tensors(shapes_of(kind, "bert.") | head)
        remote_code.save(tmp_path / kind, {**CONFIGS[kind], "num_labels": 3}, tensors)
        ids = np.arange(9, 20)
        hidden = expected(kind, tensors, ids)
        pooled = np.tanh(linear(tensors, "bert.pooler.dense", hidden[0]))
        found = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path / kind)(input_ids=ids[None]).logits[0]
        np.testing.assert_allclose(found, linear(tensors, "classifier", pooled), rtol=0, atol=ABSOLUTE)
        words = norm(
            tensors,
            "cls.predictions.transform.LayerNorm",
            gelu(linear(tensors, "cls.predictions.transform.dense", hidden)),
        )
        scores = words @ tensors["bert.embeddings.word_embeddings.weight"].T + tensors["cls.predictions.bias"]
        found = MLXAutoModelForMaskedLM.from_pretrained(tmp_path / kind)(input_ids=ids[None]).logits[0]
        np.testing.assert_allclose(found, scores, rtol=0, atol=5 * ABSOLUTE)


def test_rerankers_have_one_label_and_slopes_of_their_own(tmp_path: Path) -> None:
    """jina-reranker-v1's config names no labels, and its code halves the slopes beyond a power of two."""
    tensors = remote_code.random_tensors(shapes_of("geglu", "bert.") | dense("classifier", 1, D))
    code = code_of("jinaai/jina-reranker-v1-turbo-en")
    remote_code.save(
        tmp_path, {**CONFIGS["geglu"], "architectures": ["JinaBertForMaskedLM"], "auto_map": code}, tensors
    )
    model = MLXCrossEncoder(str(tmp_path))
    pairs = [("the cat sat", "a dog on the mat"), ("news", "stock market today , is good")]
    slopes = paper_slopes(6)[:4] + [slope / 2 for slope in paper_slopes(6)[4:]]
    want = []
    for tokens in model.tokenizer.encode(pairs):
        hidden = expected("geglu", tensors, tokens.ids, np.array(tokens.token_type_ids), slopes)
        want.append(linear(tensors, "classifier", np.tanh(linear(tensors, "bert.pooler.dense", hidden[0]))))
    scores = 1 / (1 + np.exp(-np.array(want)[:, 0]))
    np.testing.assert_allclose(model.predict(pairs), scores, rtol=0, atol=ABSOLUTE)
    classifier = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    logits = classifier(input_ids=tokens.ids[None], token_type_ids=tokens.token_type_ids[None]).logits
    np.testing.assert_allclose(logits, want[-1:], rtol=0, atol=ABSOLUTE)


def test_slopes_follow_the_code_that_config_json_names() -> None:
    def halved(**keys: Any) -> bool:
        raw = {**CONFIGS["geglu"], "num_attention_heads": 12, **keys}
        found = family_for(raw).config.from_json(raw).slopes
        return bool(np.allclose(found, [*paper_slopes(12)[:8], *(slope / 2 for slope in paper_slopes(12)[8:])]))

    own = code_of("")
    assert not halved(hidden_size=768)
    assert not halved(hidden_size=768, auto_map=own)  # a copy of jina-embeddings-v2-base with its code
    assert not halved(hidden_size=384, auto_map=code_of("jinaai/jina-bert-implementation"))
    assert halved(hidden_size=384, auto_map=own)  # jina-reranker-v1-turbo-en and -tiny-en
    assert halved(hidden_size=96, auto_map=code_of("jinaai/jina-reranker-v1-tiny-en"))


@pytest.mark.parametrize("heads", [1, 3, 8, 12, 20])
def test_slopes_are_the_papers(heads: int) -> None:
    np.testing.assert_allclose(alibi.alibi_slopes(heads), paper_slopes(heads), rtol=1e-12)


def test_long_texts_are_computed_in_blocks_of_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote_code.save(tmp_path, CONFIGS["code"], remote_code.random_tensors(shapes_of("code")))
    model = MLXAutoModel.from_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(5, 101, (2, 30))
    given = {"input_ids": ids, "attention_mask": (np.arange(30) < [[30], [17]]).astype(int)}
    whole = model(**given).last_hidden_state
    monkeypatch.setattr(alibi, "_MAX_BIASES", 6 * 30 * 2 * 7)  # blocks of seven queries
    np.testing.assert_allclose(model(**given).last_hidden_state, whole, rtol=0, atol=ABSOLUTE)


def test_no_bert_is_read_as_another(tmp_path: Path) -> None:
    """Keys choose the architecture, and tensors that do not fit it are an error, in both directions."""
    plain = {key: value for key, value in JINA.items() if key != "position_embedding_type"}
    assert [family_for(raw).model_type for raw in (JINA, CODE, MOSAIC, plain)] == [
        "jina_bert", "jina_bert", "mosaic_bert", "bert",
    ]  # fmt: skip
    # The authors' code in auto_map alone changes nothing.
    make_checkpoint(tmp_path / "bert")
    edit_config(tmp_path / "bert", auto_map=JINA["auto_map"])
    MLXAutoModel.from_pretrained(tmp_path / "bert")
    for keys in ({"position_embedding_type": "alibi"}, {"alibi_starting_size": 512}):
        edit_config(tmp_path / "bert", **keys)
        with pytest.raises(WeightsError, match="no parameter for"):
            MLXAutoModel.from_pretrained(tmp_path / "bert")
        edit_config(tmp_path / "bert", **dict.fromkeys(keys, ...))
    for kind in ("geglu", "mosaic"):
        tensors = remote_code.random_tensors(shapes_of(kind))
        config = {k: v for k, v in plain.items() if k not in ("alibi_starting_size", "feed_forward_type")}
        remote_code.save(tmp_path / kind, config, tensors)
        with pytest.raises(WeightsError, match=r"no parameter for.* remote code of the repo"):
            MLXAutoModel.from_pretrained(tmp_path / kind)
    with pytest.raises(ConfigError, match="position_embedding_type='absolute'"):
        family_for(CODE).config.from_json({**CODE, "position_embedding_type": "absolute"})
