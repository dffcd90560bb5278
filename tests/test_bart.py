"""BART and its kin: the decoder's pass, end tokens, shared token tables, and zero-shot classification."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from checkpoints import FAMILIES, Row, make_checkpoint, ragged_inputs, save_model
from weight_files import edit_config, read_tensors, rewrite

import mlx_hf_bridge
from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, MLXSentenceTransformer, pipeline
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, InputError, WeightsError
from mlx_hf_bridge.facade import Facade
from mlx_hf_bridge.inference.batching import make_batch
from mlx_hf_bridge.quantization.replay import Replay
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.verification.layers import layer_errors
from mlx_hf_bridge.verification.reference import Reference

# float32 tolerance across kernels, as in test_parity.py.
ABSOLUTE = 2e-5
BART = next(row for row in FAMILIES if row.model_type == "bart")
MBART = next(row for row in FAMILIES if row.model_type == "mbart")
CLASSIFIER = "ForSequenceClassification"
LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
TEXTS = ["the cat sat on the mat", "stock market rose today .", "i love this film ! a good film about the dog", "news"]


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BART with the labels of natural language inference, and a tokenizer."""
    folder = tmp_path_factory.mktemp("nli")
    make_checkpoint(folder, BART, CLASSIFIER)
    edit_config(folder, id2label=LABELS, label2id={label: number for number, label in LABELS.items()})
    return folder


def logits_of(folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(MLXAutoModelForSequenceClassification.from_pretrained(folder)(**inputs).logits)


def reference(model: Any, inputs: dict[str, np.ndarray]) -> Any:
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()})


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_answers_as_transformers(nli: Path, multi_label: bool) -> None:
    options = {"candidate_labels": ["sport", "the stock market", "film"], "multi_label": multi_label}
    expected = transformers.pipeline("zero-shot-classification", model=str(nli), device="cpu")(TEXTS, **options)
    actual = pipeline("zero-shot-classification", model=nli)(TEXTS, **options)
    for one, other in zip(actual, expected, strict=True):
        assert one["labels"] == other["labels"]
        np.testing.assert_allclose(one["scores"], other["scores"], rtol=0, atol=ABSOLUTE)


@pytest.mark.parametrize(("recipe", "tolerance"), [("q8", 0.02), pytest.param("q4-fit", 0.3, marks=pytest.mark.slow)])
def test_zero_shot_works_quantized(recipe: str, tolerance: float, tmp_path: Path) -> None:
    """Weights of the decoder are packed as those of the encoder."""
    wide = type(BART.config)(**{**BART.config.to_dict(), **BART.wide, "id2label": LABELS, "label2id": None})
    row = replace(BART, config=wide)
    make_checkpoint(tmp_path, row, CLASSIFIER)
    edit_config(tmp_path, id2label=LABELS, label2id={label: number for number, label in LABELS.items()})
    classify = pipeline("zero-shot-classification", model=tmp_path, quantization_config=recipe)
    packed = [name for name in read_tensors(classify.model.folder) if name.endswith(".scales")]
    assert sum(".decoder.layers.1." in name for name in packed) == 10
    expected = transformers.pipeline("zero-shot-classification", model=str(tmp_path), device="cpu")
    labels = {"candidate_labels": ["sport", "film"], "multi_label": True}
    mine, theirs = (
        dict(zip(one["labels"], one["scores"], strict=True))
        for one in (classify(TEXTS[0], **labels), expected(TEXTS[0], **labels))
    )
    assert mine == pytest.approx(theirs, abs=tolerance)


def test_texts_in_one_batch_may_differ_in_end_tokens_where_each_is_a_text_of_its_own(nli: Path) -> None:
    """transformers' pipelines compute one text at a time, so that "[SEP]" within a text is no error."""
    texts = ["the cat", "good [SEP] bad film", "[SEP] [SEP] news"]
    expected = transformers.pipeline("text-classification", model=str(nli), device="cpu")(texts, top_k=None)
    actual = pipeline("text-classification", model=nli)(texts, top_k=None)
    for one, other in zip(actual, expected, strict=True):
        assert [label["label"] for label in one] == [label["label"] for label in other]
        np.testing.assert_allclose(
            [label["score"] for label in one], [label["score"] for label in other], rtol=0, atol=ABSOLUTE
        )


@pytest.mark.parametrize("row", [BART, MBART], ids=["bart", "mbart"])
def test_padding_on_the_right_changes_no_logits(row: Row, tmp_path: Path) -> None:
    save_model(tmp_path, row, CLASSIFIER)
    inputs = ragged_inputs(row)
    model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    batched = model(**inputs).logits
    for number, length in enumerate(inputs["attention_mask"].sum(axis=1)):
        alone = model(**{name: array[number : number + 1, :length] for name, array in inputs.items()}).logits
        np.testing.assert_allclose(batched[number], alone[0], rtol=0, atol=ABSOLUTE)


def test_end_tokens_are_checked_as_in_transformers(tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, BART, CLASSIFIER)
    model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    inputs = ragged_inputs(BART)
    uneven, none = ({**inputs, "input_ids": inputs["input_ids"].copy()} for _ in range(2))
    uneven["input_ids"][0, 1] = 9
    none["input_ids"][none["input_ids"] == 3] = 9
    for given, message in ((uneven, "the texts have from 2 to 3 end tokens"), (none, r"no end token \(id 3\)")):
        with pytest.raises(ValueError, match="<eos> token"):
            reference(torch_model, given)
        with pytest.raises(InputError, match=message):
            model(**given)


def test_other_inputs_of_the_decoder_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, BART)
    inputs = ragged_inputs(BART)
    with pytest.raises(ArgumentTypeError, match=r"decoder_input_ids.* Its decoder reads input_ids, shifted"):
        MLXAutoModel.from_pretrained(tmp_path)(**inputs, decoder_input_ids=inputs["input_ids"])


SPELLINGS = {
    "as transformers saves it": lambda tensors: tensors,
    "an older file with every copy": lambda tensors: {
        **tensors,
        **dict.fromkeys(
            ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
            tensors["model.shared.weight"],
        ),
        "final_logits_bias": torch.ones(1, 101),
        "model.encoder.version": torch.full((1,), 3.0),
        "model.decoder.version": torch.full((1,), 3.0),
    },
    "the encoder's copy alone": lambda tensors: renamed(tensors, "model.encoder.embed_tokens.weight"),
    "the decoder's copy alone": lambda tensors: renamed(tensors, "model.decoder.embed_tokens.weight"),
}


def renamed(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    return {name if found == "model.shared.weight" else found: array for found, array in tensors.items()}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_shared_table_is_read(spelling: str, tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, BART, CLASSIFIER)
    rewrite(tmp_path, SPELLINGS[spelling])
    inputs = ragged_inputs(BART)
    model = MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_allclose(model(**inputs).logits, reference(torch_model, inputs).logits, rtol=0, atol=ABSOLUTE)
    assert [name for name in read_tensors(model.folder) if "embed_tokens" in name or "shared" in name] == [
        "model.shared.weight"
    ]


def test_different_tables_of_encoder_and_decoder_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, BART, CLASSIFIER)
    rewrite(
        tmp_path,
        lambda tensors: {**tensors, "model.decoder.embed_tokens.weight": tensors["model.shared.weight"] * 2},
    )
    with pytest.raises(WeightsError, match=r"decoder\.embed_tokens\.weight and .*shared\.weight differ"):
        MLXAutoModel.from_pretrained(tmp_path)


def test_sentence_embeddings_of_a_bare_bart_are_those_of_sentence_transformers(tmp_path: Path) -> None:
    """AutoModel's last hidden states are the decoder's."""
    make_checkpoint(tmp_path, BART)
    expected = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(MLXSentenceTransformer(str(tmp_path)).encode(TEXTS), expected, rtol=0, atol=ABSOLUTE)
    # Enough texts that a batch of sentence-transformers is computed in parts.
    behind = sentence_transformers.SentenceTransformer(str(tmp_path), backend="mlx").encode(TEXTS * 20, batch_size=80)
    np.testing.assert_allclose(behind, np.tile(expected, (20, 1)), rtol=0, atol=ABSOLUTE)


def test_errors_by_layer_are_those_of_encoder_and_decoder(nli: Path) -> None:
    folder = MLXAutoModel.from_pretrained(nli).folder
    errors = layer_errors(folder, Reference(str(nli), None, nli), TEXTS[:1])
    assert errors == (0,) * (BART.config.encoder_layers + BART.config.decoder_layers + 2)


def test_general_keys_win_and_three_labels_are_the_default_as_in_transformers(tmp_path: Path) -> None:
    torch_model = save_model(tmp_path, BART, CLASSIFIER)
    edit_config(tmp_path, num_hidden_layers=3, encoder_layers=7, id2label=..., label2id=...)
    inputs = ragged_inputs(BART)
    np.testing.assert_allclose(
        logits_of(tmp_path, inputs), reference(torch_model, inputs).logits, rtol=0, atol=ABSOLUTE
    )
    edit_config(tmp_path, decoder_start_token_id=101)
    with pytest.raises(ConfigError, match="decoder_start_token_id=101, expected an id below vocab_size=101"):
        MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)
    edit_config(tmp_path, decoder_start_token_id=4, decoder_attention_heads=5)
    with pytest.raises(ConfigError, match="d_model=24 and decoder_attention_heads=5"):
        MLXAutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_a_model_of_text_generation_loads_without_its_lm_head(tmp_path: Path) -> None:
    whole = save_model(tmp_path, replace(BART, base="ForConditionalGeneration"))
    inputs = ragged_inputs(BART)
    output = MLXAutoModel.from_pretrained(tmp_path)(**inputs)
    expected = reference(whole.model, inputs)
    for name in ("last_hidden_state", "encoder_last_hidden_state"):
        np.testing.assert_allclose(output[name], expected[name], rtol=0, atol=ABSOLUTE)


def test_programs_of_transformers_run_on_mlx_in_zero_change_mode(nli: Path) -> None:
    labels = {"candidate_labels": ["sport", "film"]}
    inputs = {name: torch.tensor(array) for name, array in ragged_inputs(BART).items()}
    expected = transformers.pipeline("zero-shot-classification", model=str(nli), device="cpu")(TEXTS[0], **labels)
    with torch.no_grad():
        output = transformers.AutoModelForSequenceClassification.from_pretrained(nli)(**inputs)
    mlx_hf_bridge.install(strict=True)
    try:
        classify = transformers.pipeline("zero-shot-classification", model=str(nli), device="cpu")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(nli)
        actual = classify(TEXTS[0], **labels)
        with torch.no_grad():
            here = model(**inputs)
    finally:
        mlx_hf_bridge.uninstall()
    assert isinstance(classify.model, Facade)
    assert isinstance(model, Facade)
    assert actual["labels"] == expected["labels"]
    np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=0, atol=ABSOLUTE)
    assert type(here) is type(output)
    for name in ("logits", "encoder_last_hidden_state"):
        np.testing.assert_allclose(here[name], output[name], rtol=0, atol=ABSOLUTE)


def test_calibration_computes_finished_layers_of_encoder_and_decoder_once(nli: Path) -> None:
    loaded = MLXAutoModelForSequenceClassification.from_pretrained(nli).loaded
    model = loaded.model

    def replay() -> None:
        ids = [ragged_inputs(BART, (length, length), seed=length)["input_ids"] for length in (5, 9)]
        batches = [make_batch(loaded.config, one) for one in ids]
        expected = [np.array(model(batch).logits) for batch in batches]
        before = [path for path, _ in model.named_modules()]
        cached = Replay(model, batches)
        for path, done in (
            ("encoder.layers.2.feed_forward.up", [2, 0]),
            ("encoder.decoder.layers.1.cross_attention.kv", [3, 1]),
            ("head.out", [3, 1]),
        ):
            cached.advance_to(path)
            for index, logits in enumerate(expected):
                batch = cached.prepare(index)
                layers = (*model.encoder.layers, *model.encoder.decoder.layers)
                assert sum("Cached" in type(layer).__name__ for layer in layers) == sum(done)
                assert np.array_equal(model(batch).logits, logits)
        cached.restore()
        assert [path for path, _ in model.named_modules()] == before

    run(replay)
