"""MLXGLiNER finds the entities that the gliner package finds, in models of every architecture that it has.

Expected values were recorded from gliner 0.2.29 on torch by goldens/gliner_entities.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gliner_entities import CALLS, LABELS, TEXTS, WITH_PROBABILITIES, answered
from gliner_models import DEBERTA, MODELS, make, make_tokenizer
from remote_code_repos import as_hub_cache

from mlx_hf_bridge import MLXGLiNER, pipeline
from mlx_hf_bridge.errors import (
    ArgumentTypeError,
    BridgeError,
    ConfigError,
    InputError,
    MissingConfigError,
    RepositoryError,
    UnsupportedModelError,
    WeightsError,
)
from mlx_hf_bridge.gliner import words
from mlx_hf_bridge.gliner.labels import read_labels
from mlx_hf_bridge.gliner.model import Words
from mlx_hf_bridge.loading import load

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "gliner_entities.json").read_text(encoding="utf-8"))
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a model, made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make(tmp_path_factory.mktemp("gliner"), name)
        return made[name]

    return folder


@pytest.fixture(scope="module")
def models(folders: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], MLXGLiNER]:
    """Return a function that gives a model, loaded once."""
    loaded: dict[str, MLXGLiNER] = {}
    cache = tmp_path_factory.mktemp("cache")

    def model(name: str) -> MLXGLiNER:
        if name not in loaded:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLX_HF_BRIDGE_CACHE", str(cache))
                loaded[name] = MLXGLiNER.from_pretrained(folders(name), show_progress=False)
        return loaded[name]

    return model


def logits(model: MLXGLiNER, text: str) -> np.ndarray:
    sets = read_labels(LABELS, 1)
    embeddings = model._label_embeddings(sets, None, 8)
    return model._scores([Words.of(text, model.config.max_len)], sets, embeddings, 8, False)[0]


def edit(folder: Path, **values: Any) -> Path:
    """Set keys of gliner_config.json; a value of `...` removes the key."""
    path = folder / "gliner_config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def check_equal(found: list[list[dict[str, Any]]], expected: list[list[list[Any]]], texts: list[Any]) -> None:
    assert [len(one) for one in found] == [len(one) for one in expected]
    for entities, wanted, text in zip(found, expected, texts, strict=True):
        for entity, (start, end, label, score, *probabilities) in zip(entities, wanted, strict=True):
            assert list(entity)[:5] == ["start", "end", "text", "label", "score"]
            assert (entity["start"], entity["end"], entity["label"]) == (start, end, label)
            assert entity["text"] == text[start:end]
            assert entity["score"] == pytest.approx(score, abs=TOLERANCE)
            for best in probabilities:
                assert entity["class_probs"] == pytest.approx(best, abs=TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_gliner(models: Callable[[str], MLXGLiNER], name: str) -> None:
    found, expected = logits(models(name), TEXTS[2]), np.array(GOLDENS[name]["logits"])
    if not models(name).config.is_token_level:
        # Spans that end beyond the text have logits of other spans there.
        starts, widths = np.indices(found.shape[:2])
        inside = starts + widths < len(found)
        found, expected = found[inside], expected[inside]
    # Logits of random layers reach 12, of which float32 has one part in a million.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=TOLERANCE)


@pytest.mark.parametrize(
    "name", [name if name in ("span", "token") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_entities_are_those_of_gliner(models: Callable[[str], MLXGLiNER], name: str) -> None:
    calls = [*CALLS, WITH_PROBABILITIES]
    for (texts, labels, options), expected in zip(calls, GOLDENS[name]["calls"], strict=True):
        check_equal(models(name).inference(texts, labels, **options), expected["entities"], texts)


@pytest.mark.integrations
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_the_installed_gliner_agrees(
    models: Callable[[str], MLXGLiNER], folders: Callable[[str], Path], name: str
) -> None:
    reference = pytest.importorskip("gliner").GLiNER.from_pretrained(str(folders(name)))
    for texts, labels, options in [*CALLS, WITH_PROBABILITIES]:
        expected = answered(reference, texts, labels, options)
        check_equal(models(name).inference(texts, labels, **options), expected["entities"], texts)


@pytest.mark.parametrize("name", ["span", "markerV1", "token", "poly"])
def test_a_text_has_the_same_entities_in_any_batch(models: Callable[[str], MLXGLiNER], name: str) -> None:
    texts, options = [*TEXTS, "", TEXTS[0]], {"threshold": 0.3, "batch_size": 64}
    together = models(name).inference(texts, LABELS, **options)
    check_equal(
        models(name).inference(texts[::-1], LABELS, **options)[::-1],
        [[list(entity.values())[:2] + list(entity.values())[3:] for entity in found] for found in together],
        texts,
    )
    alone = [models(name).predict_entities(text, LABELS, threshold=0.3) for text in texts]
    assert [[(one["start"], one["label"]) for one in found] for found in alone] == [
        [(one["start"], one["label"]) for one in found] for found in together
    ]


def test_without_labels_or_texts_nothing_is_found(models: Callable[[str], MLXGLiNER]) -> None:
    for name in ("span", "bi-span"):
        assert models(name).predict_entities(TEXTS[0], []) == []
        assert models(name).inference(["", TEXTS[0]], [[], []]) == [[], []]
        assert models(name).predict_entities("", LABELS) == []


def test_embedded_labels_give_the_same_entities(models: Callable[[str], MLXGLiNER]) -> None:
    model = models("bi-span")
    embeddings = model.encode_labels(LABELS)
    assert embeddings.shape == (len(LABELS), model.config.hidden_size)
    assert model.batch_predict_with_embeds(TEXTS, embeddings, LABELS) == model.inference(TEXTS, LABELS)
    assert model.predict_with_embeds(TEXTS[0], embeddings, LABELS) == model.predict_entities(TEXTS[0], LABELS)
    with pytest.raises(InputError, match="labels_embeds has the shape"):
        model.predict_with_embeds(TEXTS[0], embeddings[:2], LABELS)
    with pytest.raises(InputError, match="no embeddings of their own"):
        models("span").encode_labels(LABELS)


def test_the_older_name_warns_as_in_gliner(models: Callable[[str], MLXGLiNER]) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        found = models("span").batch_predict_entities(TEXTS, LABELS, False, 0.3)
    assert found == models("span").inference(TEXTS, LABELS, flat_ner=False, threshold=0.3)


def test_truncation_is_reported_once(folders: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    model = MLXGLiNER.from_pretrained(folders("span"), max_length=3, max_width=2, show_progress=False)
    for _ in range(2):
        found = model.predict_entities(TEXTS[0], LABELS, threshold=0, flat_ner=False, multi_label=True)
    assert {(0, 3), (0, 12), (4, 12), (13, 18)} == {(one["start"], one["end"]) for one in found} - {(4, 18)}
    assert caplog.text.count("have more than 3 words and were truncated") == 1
    model.inference(["ada"], [f"label {number}" for number in range(130)])
    assert caplog.text.count("truncated") == 1


@pytest.mark.parametrize("name", ["span", "poly"])
def test_quantized_bin_files_from_the_cache_and_saved(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Callable[[str], MLXGLiNER]
) -> None:
    def save(tensors: dict[str, np.ndarray], folder: Path) -> None:
        torch.save({key: torch.tensor(array) for key, array in tensors.items()}, folder / "pytorch_model.bin")

    folder = make(tmp_path / "model", name, save)
    recipe = {"bits": 8, "group_size": 32}
    model = MLXGLiNER.from_pretrained(folder, quantization_config=recipe, show_progress=False)
    text = model.loaded.text.loaded
    assert text.recipe is not None and text.recipe.bits == 8
    assert "scales" in text.model.encoder.embeddings.word
    np.testing.assert_allclose(logits(model, TEXTS[2]), logits(models(name), TEXTS[2]), rtol=0, atol=0.3)
    model.save_pretrained(tmp_path / "saved")
    with monkeypatch.context() as patch:
        patch.setattr(load, "write_conversion", None)
        for again in (folder, tmp_path / "saved"):
            given = recipe if again == folder else None
            other = MLXGLiNER.from_pretrained(again, quantization_config=given, show_progress=False)
            np.testing.assert_array_equal(logits(other, TEXTS[2]), logits(model, TEXTS[2]))


def test_what_the_repo_lacks_comes_from_its_backbones_on_the_hub(tmp_path: Path) -> None:
    """Old repos have neither an encoder's config nor a tokenizer."""
    folder, hub = make(tmp_path / "repo", "span"), tmp_path / "hub"
    backbone = tmp_path / "backbone"
    rows = make_tokenizer(backbone)
    (backbone / "config.json").write_text(json.dumps({**DEBERTA, "vocab_size": rows}))
    for path in folder.glob("tokenizer*.json"):
        path.unlink()
    edit(folder, encoder_config=...)
    as_hub_cache(folder, hub, "someone/gliner")
    with pytest.raises(RepositoryError, match=r"its backbone 'tiny/deberta' are needed: .* is not in the Hub's cache"):
        MLXGLiNER.from_pretrained("someone/gliner", cache_dir=hub)
    as_hub_cache(backbone, hub, "tiny/deberta")
    for _ in range(2):
        model = MLXGLiNER.from_pretrained("someone/gliner", cache_dir=hub, show_progress=False)
        check_equal(model.inference(*CALLS[0][:2]), GOLDENS["span"]["calls"][0]["entities"], TEXTS)


def test_pipeline(models: Callable[[str], MLXGLiNER], folders: Callable[[str], Path]) -> None:
    model = models("span")
    pipe = pipeline("zero-shot-ner", model=model, labels=LABELS, threshold=0.3)
    expected = model.inference(TEXTS, LABELS, threshold=0.3)
    assert pipe(TEXTS) == expected
    alone = model.predict_entities(TEXTS[0], LABELS, threshold=0.3)
    assert pipe(TEXTS[0]) == alone
    assert list(pipe(text for text in TEXTS)) == expected
    assert pipe(TEXTS[0], ["city"]) == pipe(TEXTS[0], candidate_labels=["city"])
    assert pipe(TEXTS[0], {"PER": "person"}) == model.predict_entities(TEXTS[0], {"PER": "person"}, threshold=0.3)
    assert repr(pipe).startswith("ZeroShotNERPipeline(MLXGLiNER(")
    by_name = pipeline("zero-shot-ner", model=folders("span"), model_kwargs={"show_progress": False})
    assert by_name(TEXTS[0], LABELS, threshold=0.3) == alone
    for call, error, message in (
        (lambda: by_name(TEXTS[0]), InputError, "needs labels"),
        (lambda: pipe([TEXTS[0], 5]), InputError, "got 5, expected a text"),
        (lambda: pipe(TEXTS[0], top_k=2), ArgumentTypeError, "zero-shot-ner got top_k"),
        (lambda: pipeline("zero-shot-ner", model=model, tokenizer="x"), ArgumentTypeError, "takes no tokenizer"),
        (lambda: pipeline("token-classification", model=model), ArgumentTypeError, "expected a Hub id"),
        (lambda: pipeline("zero-shot-ner"), InputError, "zero-shot-ner"),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels_decoder": "gpt2"}, UnsupportedModelError, "generates labels with a decoder"),
        ({"relations_layer": "biaffine"}, UnsupportedModelError, "extracts relations"),
        ({"model_type": "gliner_streaming_span"}, UnsupportedModelError, "stream of words"),
        ({"span_encoder_config": {"model_type": "rnn"}}, UnsupportedModelError, "a further encoder"),
        ({"fuse_layers": True}, UnsupportedModelError, "fuse_layers=True"),
        ({"represent_spans": True}, UnsupportedModelError, "a second time"),
        ({"precomputed_prompts_mode": True}, UnsupportedModelError, "stored as embeddings"),
        ({"words_splitter_type": "stanza"}, UnsupportedModelError, "words_splitter_type='stanza'"),
        ({"span_mode": "conv_share"}, UnsupportedModelError, "span_mode='conv_share'"),
        ({"subtoken_pooling": "min"}, UnsupportedModelError, "subtoken_pooling='min'"),
        ({"hidden_size": "20"}, ConfigError, "hidden_size='20'"),
        ({"hidden_size": 2**40}, ConfigError, "hidden_size"),
        ({"hidden_size": 2**30}, BridgeError, "size"),
        ({"hidden_size": 21}, ConfigError, "expected an even number"),
        ({"hidden_size": 22}, WeightsError, "tensors of another shape"),
        ({"num_rnn_layers": 10**6}, ConfigError, "num_rnn_layers"),
        ({"num_rnn_layers": 2}, WeightsError, "lacks 8 tensors"),
        ({"max_width": 0}, ConfigError, "max_width=0"),
        ({"max_len": True}, ConfigError, "max_len=True"),
        ({"ent_token": 5}, ConfigError, "ent_token=5"),
        ({"class_token_index": 3, "vocab_size": 90}, BridgeError, "tensors of another shape|has no token"),
        ({"encoder_config": []}, ConfigError, "encoder_config that is not a JSON object"),
        ({"encoder_config": {"model_type": "gpt2"}}, UnsupportedModelError, "model_type='gpt2'"),
        ({"encoder_config": {"model_type": ["x"]}}, BridgeError, "model_type"),
        ({"labels_encoder": "tiny/bert", "labels_encoder_config": None}, RepositoryError, "'tiny/bert' are needed"),
        ({"labels_encoder": "x", "post_fusion_schema": "l2x"}, ConfigError, "post_fusion_schema='l2x'"),
        ({"labels_encoder": "x", "post_fusion_schema": "l2l-" * 999 + "l2l"}, ConfigError, "at most 100 of the steps"),
    ],
)
def test_what_is_not_computed_ends_in_one_error(
    change: dict[str, Any], error: type[Exception], message: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = edit(Path(shutil.copytree(folders("span"), tmp_path / "model")), **change)
    with pytest.raises(error, match=message) as raised:
        MLXGLiNER.from_pretrained(folder, show_progress=False)
    assert len(str(raised.value)) < 1000


def test_errors_of_arguments(
    models: Callable[[str], MLXGLiNER], folders: Callable[[str], Path], tmp_path: Path
) -> None:
    model, text = models("span"), TEXTS[0]
    for call, error, message in (
        (lambda: model.predict_entities(text, [5]), ArgumentTypeError, "labels has 5"),
        (lambda: model.predict_entities(text, None), ArgumentTypeError, "labels is None"),
        (lambda: model.predict_entities(text, {"a": "x", "b": "x"}), InputError, "one description"),
        (lambda: model.inference([text], [["a"], ["b"]]), InputError, "2 sets of labels for 1 texts"),
        (lambda: model.inference([text, text], [["a"], "b"]), ArgumentTypeError, "among sets of labels"),
        (lambda: model.predict_entities(text, LABELS, threshold=2), InputError, "threshold=2"),
        (lambda: model.inference([text], LABELS, return_vectors=True), ArgumentTypeError, "return_vectors"),
        (lambda: model.inference([text], LABELS, input_spans=[]), InputError, "input_spans has 0 lists"),
        (lambda: MLXGLiNER.from_pretrained(folders("span"), max_width=0), InputError, "max_width=0"),
        (lambda: MLXGLiNER.from_pretrained(folders("span"), load_onnx_model=True), ArgumentTypeError, "load_onnx"),
        (lambda: MLXGLiNER.from_pretrained(tmp_path), MissingConfigError, "no gliner_config.json"),
        (lambda: MLXGLiNER(None, "x"), RepositoryError, "from_pretrained"),  # type: ignore[arg-type]
    ):
        with pytest.raises(error, match=message):
            call()
    MLXGLiNER.from_pretrained(folders("span"), map_location="cuda", strict=True, onnx_model_file="model.onnx")


def test_words_without_tokens_are_counted_as_in_gliner() -> None:
    """The second word has no token, so that the third has its number."""
    found = words._word_tokens([None, 0, 0, 1, 3, 3, None], skipped=1, count=3, pooling="mean")
    assert found.tolist() == [[3, -1], [4, 5], [-1, -1]]
