"""MLXSentenceTransformer matches sentence-transformers after a round trip through files on disk."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from checkpoints import FAMILIES, FIRST_ROWS, Row, make_checkpoint, row_name
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.checkpoints.pooling_modes import read_pooling_modes
from mlx_hf_bridge.errors import ConfigError, InputError, OverlongTextError, RepositoryError, UnsupportedModelError
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling as MLXPooling

# float32 on different kernels; embeddings of tiny models with weights of std 0.3 reach 10, hence also a relative one.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
TEXTS = ["the cat sat on the mat.", "a dog", "stock market rose today!", "", "i love this film, i hate news ?", "cats"]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def make_repo(folder: Path, *after: Any, pooling: Any = "mean", row: Row | None = None, **options: Any) -> Any:
    """Save a tiny sentence-transformers repo and return its torch model."""
    make_checkpoint(folder / "source", row)
    transformer = Transformer(str(folder / "source"))
    pool = Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling, **options.pop("pooling_options", {}))
    model = SentenceTransformer(modules=[transformer, pool, *after], device="cpu", **options)
    model.save_pretrained(str(folder / "repo"))
    shutil.rmtree(folder / "source")
    return model


def assert_same(folder: Path, torch_model: Any, texts: Any = TEXTS, **arguments: Any) -> None:
    mlx_model = MLXSentenceTransformer(folder / "repo")
    np.testing.assert_allclose(
        mlx_model.encode(texts, **arguments), torch_model.encode(texts, **arguments), **TOLERANCE
    )


@pytest.mark.parametrize("mode", [*MODES, ("cls", "mean"), ("mean", "max", "lasttoken")], ids=str)
def test_pools_as_the_checkpoint_says(mode: Any, tmp_path: Path) -> None:
    assert_same(tmp_path, make_repo(tmp_path, pooling=mode))


def test_texts_with_equal_ids_and_other_token_types_get_vectors_of_their_own(tmp_path: Path) -> None:
    """Both inputs are [CLS] a [SEP] the [SEP]; only the second text of the pair has token type 1."""
    torch_model = make_repo(tmp_path)
    texts = ["a [SEP] the", ("a", "the")]
    assert_same(tmp_path, torch_model, texts)
    first, second = torch_model.encode(texts)
    assert abs(first - second).max() > 100 * TOLERANCE["atol"]


def test_cls_pooling_computes_first_tokens_alone_and_answers_as_with_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_repo(tmp_path, pooling="cls")
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    everything = mlx_model.encode(TEXTS, output_value=None)
    asked: list[bool] = []
    encode = Encoder.__call__

    def counted(self: Encoder, batch: Any, trace: Any, first_token: bool = False) -> Any:
        asked.append(first_token)
        return encode(self, batch, trace, first_token)

    monkeypatch.setattr(Encoder, "__call__", counted)
    vectors = mlx_model.encode(TEXTS)
    assert all(asked)
    np.testing.assert_allclose(vectors, [one["sentence_embedding"] for one in everything], **TOLERANCE)
    asked.clear()
    mlx_model.encode(TEXTS, output_value="token_embeddings")
    mlx_model.set_pooling_include_prompt(False)
    mlx_model.encode(TEXTS, prompt="cat ")
    assert not any(asked)


@pytest.mark.parametrize("mode", MODES)
def test_legacy_pooling_keys_are_read(mode: str, tmp_path: Path) -> None:
    torch_model = make_repo(tmp_path, pooling=mode)
    key = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    legacy = {"word_embedding_dimension": 24, f"pooling_mode_{key.get(mode, mode)}": True}
    (tmp_path / "repo" / "1_Pooling" / "config.json").write_text(json.dumps(legacy))
    assert_same(tmp_path, torch_model)


# sentence-transformers loads through AutoModel, which has no entry for SigLIP's text encoders, and cannot make the
# inputs of MarkupLM and TAPAS. Rows whose outputs depend on padding are tested separately below.
_INPUTS_BEYOND_TEXT = ("markuplm", "tapas")


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in FIRST_ROWS
        if type(row.config) in transformers.MODEL_MAPPING
        and not row.length_dependent
        and row.model_type not in _INPUTS_BEYOND_TEXT
    ],
    ids=row_name,
)
def test_encodes_every_family(row: Row, tmp_path: Path) -> None:
    assert_same(tmp_path, make_repo(tmp_path, row=row))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"activation_function": torch.nn.Identity()},
        {"activation_function": torch.nn.GELU()},
        {"use_residual": True},
        {"use_residual": True, "out_features": 24},
    ],
    ids=str,
)
@pytest.mark.parametrize("normalize", [False, True])
def test_dense_and_normalize_modules_are_computed(options: dict[str, Any], normalize: bool, tmp_path: Path) -> None:
    dense = Dense(24, **{"out_features": 10, **options})
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.normal_(0, 0.3)
    assert_same(tmp_path, make_repo(tmp_path, dense, *([Normalize()] if normalize else [])))


def test_dense_weights_in_torch_form_are_read(tmp_path: Path) -> None:
    torch_model = make_repo(tmp_path, Dense(24, 10))
    folder = tmp_path / "repo" / "2_Dense"
    torch.save(torch_model[2].state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_same(tmp_path, torch_model)


def test_a_plain_repo_gets_mean_pooling(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "repo")
    assert_same(tmp_path, SentenceTransformer(str(tmp_path / "repo"), device="cpu"))


@pytest.mark.parametrize("arguments", [{"prompt_name": "query"}, {"prompt": "the dog "}, {}, {"prompt": ""}], ids=str)
@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", ["mean", "weightedmean", "cls", "max"])
def test_prompts_are_prepended_and_left_out_of_pooling_as_asked(
    arguments: dict[str, Any], include_prompt: bool, mode: str, tmp_path: Path
) -> None:
    torch_model = make_repo(
        tmp_path,
        pooling=mode,
        pooling_options={"include_prompt": include_prompt},
        prompts={"query": "about the news: ", "document": ""},
        default_prompt_name="query",
    )
    assert_same(tmp_path, torch_model, **arguments)


def test_prompts_replaced_by_others_without_the_default_one_put_nothing_before(tmp_path: Path) -> None:
    torch_model = make_repo(tmp_path, prompts={"query": "about the news: "}, default_prompt_name="query")
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    torch_model.prompts = mlx_model.prompts = {"other": "the dog "}
    for arguments in ({}, {"prompt_name": "other"}):
        found, expected = (model.encode(TEXTS, **arguments) for model in (mlx_model, torch_model))
        np.testing.assert_allclose(found, expected, **TOLERANCE)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("width", [None, 7, 24, 99])
def test_truncates_before_it_normalizes(width: int | None, normalize: bool, tmp_path: Path) -> None:
    assert_same(tmp_path, make_repo(tmp_path), truncate_dim=width, normalize_embeddings=normalize)


def test_text_pairs_single_texts_tuples_and_arrays_are_encoded_alike(tmp_path: Path) -> None:
    torch_model = make_repo(tmp_path)
    assert_same(tmp_path, torch_model, [("the cat", "a dog sat"), ("news", "")])
    assert_same(tmp_path, torch_model, "the cat sat")
    assert_same(tmp_path, torch_model, ("the cat", "a dog", "news"))
    assert_same(tmp_path, torch_model, np.array(["the cat", "a dog"]))


def test_an_empty_list_gives_what_sentence_transformers_gives(tmp_path: Path) -> None:
    torch_model, mlx_model = make_repo(tmp_path), MLXSentenceTransformer(tmp_path / "repo")
    assert mlx_model.encode([]).shape == torch_model.encode([]).shape
    assert mlx_model.encode([]).dtype == torch_model.encode([]).dtype
    assert mlx_model.encode([], convert_to_tensor=True).shape == torch_model.encode([], convert_to_tensor=True).shape
    assert mlx_model.encode([], convert_to_numpy=False) == []


def test_tensors_and_lists_on_request(tmp_path: Path) -> None:
    torch_model, mlx_model = make_repo(tmp_path), MLXSentenceTransformer(tmp_path / "repo")
    tensor = mlx_model.encode(TEXTS, convert_to_tensor=True)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), torch_model.encode(TEXTS), **TOLERANCE)
    listed = mlx_model.encode(TEXTS, convert_to_numpy=False)
    np.testing.assert_allclose(np.stack([np.array(row) for row in listed]), torch_model.encode(TEXTS), **TOLERANCE)


@pytest.mark.parametrize(
    "bad", [None, 7, {"doc": "x"}, [1, 2], ["a", None], [("a", "b", "c")], (word for word in "ab")]
)
def test_what_is_not_text_is_refused(bad: Any, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "repo")
    with pytest.raises(InputError, match=r"expected a text"):
        MLXSentenceTransformer(tmp_path / "repo").encode(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"prompt_name": "absent"}, "absent"),
        ({"truncate_dim": 0}, "truncate_dim=0"),
        ({"overlong": "cut"}, "overlong='cut'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "repo")
    with pytest.raises(InputError, match=message):
        MLXSentenceTransformer(tmp_path / "repo").encode(["a"], **arguments)


LONG = " ".join(["cat dog news"] * 40)


@pytest.mark.parametrize("limit", [9, 30, 44, 500])
def test_truncates_to_the_smallest_limit_and_warns_once(
    limit: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_repo(tmp_path)
    config = tmp_path / "repo" / "sentence_bert_config.json"
    config.write_text(json.dumps({"max_seq_length": limit}))
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    assert mlx_model.max_seq_length == min(limit, 44)
    config.write_text(json.dumps({"max_seq_length": min(limit, 44)}))  # the reference raises past its positions
    torch_model = SentenceTransformer(str(tmp_path / "repo"), device="cpu")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_allclose(
                mlx_model.encode([LONG, "a", LONG]), torch_model.encode([LONG, "a", LONG]), **TOLERANCE
            )
    told = [record.getMessage() for record in caplog.records if "truncated" in record.getMessage()]
    assert told == [text for text in told if text.startswith(f"2 of 3 texts have more than {min(limit, 44)} tokens")]
    assert len(told) == 1


def test_overlong_texts_are_refused_on_request(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "repo")
    mlx_model = MLXSentenceTransformer(tmp_path / "repo", overlong="error")
    with pytest.raises(OverlongTextError, match=r"1 of 2 texts have more than 44 tokens.*overlong='truncate'"):
        mlx_model.encode([LONG, "a"])
    assert mlx_model.encode([LONG], overlong="truncate").shape == (1, 24)


def test_max_seq_length_can_be_set_up_to_the_positions(tmp_path: Path) -> None:
    torch_model, mlx_model = make_repo(tmp_path), MLXSentenceTransformer(tmp_path / "repo")
    mlx_model.max_seq_length = torch_model.max_seq_length = 8
    np.testing.assert_allclose(mlx_model.encode([LONG]), torch_model.encode([LONG]), **TOLERANCE)
    with pytest.raises(InputError, match="max_seq_length=45, expected an integer from 1 to 44"):
        mlx_model.max_seq_length = 45


def test_do_lower_case_of_the_transformer_module_is_honoured(tmp_path: Path) -> None:
    make_repo(tmp_path)
    tokenizer = tmp_path / "repo" / "tokenizer_config.json"
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "do_lower_case": False}))
    texts = ["The CAT", "A dog"]
    cased = MLXSentenceTransformer(tmp_path / "repo").encode(texts)
    (tmp_path / "repo" / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    torch_model = SentenceTransformer(str(tmp_path / "repo"), device="cpu")
    lowered = MLXSentenceTransformer(tmp_path / "repo").encode(texts)
    np.testing.assert_allclose(lowered, torch_model.encode(texts), **TOLERANCE)
    assert np.abs(lowered - cased).max() > 1e-3


def test_the_old_layout_with_the_transformer_in_a_folder_is_read(tmp_path: Path) -> None:
    torch_model, repo = make_repo(tmp_path, pooling="cls"), tmp_path / "repo"
    (repo / "0_Transformer").mkdir()
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ):
        (repo / name).rename(repo / "0_Transformer" / name)
    entries = json.loads((repo / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (repo / "modules.json").write_text(json.dumps(entries))
    assert_same(tmp_path, torch_model)


@pytest.mark.parametrize("plain", [False, True])
def test_a_saved_folder_loads_back_here_and_in_sentence_transformers(plain: bool, tmp_path: Path) -> None:
    if plain:
        make_checkpoint(tmp_path / "repo")
    else:
        make_repo(tmp_path, Dense(24, 10), Normalize(), pooling="cls")
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    mlx_model.save_pretrained(tmp_path / "saved")
    expected = mlx_model.encode(TEXTS)
    np.testing.assert_array_equal(MLXSentenceTransformer(tmp_path / "saved").encode(TEXTS), expected)
    torch_model = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(torch_model.encode(TEXTS), expected, **TOLERANCE)


def test_a_quantised_saved_folder_loads_back_here(tmp_path: Path) -> None:
    make_repo(tmp_path, Dense(24, 10), row=FAMILIES[5])
    recipe = {"bits": 8, "group_size": 32}
    mlx_model = MLXSentenceTransformer(tmp_path / "repo", quantization_config=recipe)
    mlx_model.save_pretrained(tmp_path / "saved")
    again = MLXSentenceTransformer(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(TEXTS), mlx_model.encode(TEXTS))


def test_modules_that_are_not_computed_are_named(tmp_path: Path) -> None:
    make_repo(tmp_path)
    path = tmp_path / "repo" / "modules.json"
    entries = json.loads(path.read_text())
    entries.append(
        {"idx": 2, "name": "2", "path": "2_TokenEmbeddings", "type": "sentence_transformers.models.TokenEmbeddings"}
    )
    path.write_text(json.dumps(entries))
    with pytest.raises(
        UnsupportedModelError, match=r"the module TokenEmbeddings \(sentence_transformers\.models\.TokenEmbeddings\)"
    ):
        MLXSentenceTransformer(tmp_path / "repo")


def test_an_unknown_pooling_mode_is_refused(tmp_path: Path) -> None:
    make_repo(tmp_path)
    path = tmp_path / "repo" / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"embedding_dimension": 24, "pooling_mode": "median"}))
    with pytest.raises(ConfigError, match="median"):
        MLXSentenceTransformer(tmp_path / "repo")


@pytest.mark.parametrize(
    ("keys", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_lasttoken": True, "pooling_mode_max_tokens": True}, ("max", "lasttoken")),
        ({"pooling_mode": "max", "pooling_mode_cls_token": True}, ("max",)),
        ({"pooling_mode": None, "pooling_mode_cls_token": True}, None),
        ({"pooling_mode": "", "pooling_mode_cls_token": True}, None),
    ],
)
def test_legacy_pooling_keys_count_only_where_pooling_mode_is_missing(
    keys: dict[str, Any], modes: tuple[str, ...] | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, **keys}))
    if modes is None:
        with pytest.raises((TypeError, ValueError)):
            Pooling.load(str(tmp_path))
        for read in (MLXPooling.read, read_pooling_modes):
            with pytest.raises(ConfigError, match=f"has pooling_mode={keys['pooling_mode']!r}"):
                read(tmp_path)
    else:
        reference = Pooling.load(str(tmp_path)).pooling_mode
        assert modes == ((reference,) if isinstance(reference, str) else reference)
        assert MLXPooling.read(tmp_path).modes == read_pooling_modes(tmp_path) == modes


def test_a_dense_activation_from_elsewhere_is_refused(tmp_path: Path) -> None:
    make_repo(tmp_path, Dense(24, 10))
    path = tmp_path / "repo" / "2_Dense" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "activation_function": "os.system"}))
    with pytest.raises(UnsupportedModelError, match=r"os\.system"):
        MLXSentenceTransformer(tmp_path / "repo")


def test_a_short_name_belongs_to_sentence_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repo(tmp_path)
    commit = "0123456789012345678901234567890123456789"
    cached = tmp_path / "hub" / "models--sentence-transformers--tiny-model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(tmp_path / "repo", cached / "snapshots" / commit)
    mlx_model = MLXSentenceTransformer("tiny-model", cache_folder=tmp_path / "hub")
    np.testing.assert_array_equal(mlx_model.encode(TEXTS), MLXSentenceTransformer(tmp_path / "repo").encode(TEXTS))
    with pytest.raises(RepositoryError, match="sentence-transformers/absent-model"):
        MLXSentenceTransformer("absent-model", cache_folder=tmp_path / "hub")


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_is_that_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    torch_model = make_repo(tmp_path, similarity_fn_name=name)
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    first, second = torch_model.encode(TEXTS), torch_model.encode(TEXTS[:4])
    np.testing.assert_allclose(
        mlx_model.similarity(first, second), torch_model.similarity(first, second), rtol=1e-4, atol=1e-5
    )


def test_order_batch_size_and_company_do_not_change_a_vector(tmp_path: Path) -> None:
    make_repo(tmp_path)
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    expected = mlx_model.encode(TEXTS)
    for batch_size in (1, 2, 1000):
        np.testing.assert_allclose(mlx_model.encode(TEXTS[::-1], batch_size=batch_size)[::-1], expected, **TOLERANCE)
    for text, vector in zip(TEXTS, expected, strict=True):
        np.testing.assert_allclose(mlx_model.encode(text), vector, **TOLERANCE)


def test_sentence_transformers_is_new_enough_to_be_the_reference() -> None:
    assert int(sentence_transformers.__version__.split(".")[0]) >= 6


def test_pairs_get_segments_only_where_the_tokenizer_class_gives_them(tmp_path: Path) -> None:
    """transformers passes no token_type_ids to a RoBERTa with a token type table whose tokenizer does not list them."""
    row = next(row for row in FAMILIES if row.model_type == "roberta")
    make_checkpoint(tmp_path / "repo", row)
    path = tmp_path / "repo" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": ["input_ids", "attention_mask"]}))
    assert_same(tmp_path, SentenceTransformer(str(tmp_path / "repo"), device="cpu"), [("the cat", "a dog sat")])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.encode(["fine", "half \ud800 a pair"]), "text 1 is .* not a text in Unicode"),
        (lambda model: model.encode(["a"], prompt=5), "prompt=5, expected a text"),
    ],
    ids=["surrogate", "prompt"],
)
def test_text_that_cannot_be_read_is_one_clear_error(call: Any, message: str, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "repo")
    with pytest.raises(InputError, match=message):
        call(MLXSentenceTransformer(tmp_path / "repo"))


def test_a_limit_below_the_special_tokens_is_refused(tmp_path: Path) -> None:
    """tokenizers itself would silently not truncate at all."""
    make_checkpoint(tmp_path / "repo")
    model = MLXSentenceTransformer(tmp_path / "repo")
    model.max_seq_length = 1
    with pytest.raises(InputError, match="max_length=1 is less than the 2 special tokens"):
        model.encode("the cat")


@pytest.mark.parametrize("row", [row for row in FAMILIES if row.length_dependent], ids=row_name)
def test_texts_whose_padding_would_show_are_encoded_as_if_alone(row: Row, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "repo", row)
    mlx_model = MLXSentenceTransformer(tmp_path / "repo")
    assert family_for({"model_type": row.model_type}).length_dependent
    torch_model = SentenceTransformer(str(tmp_path / "repo"), device="cpu")
    # transformers' Funnel fails on texts of fewer than five tokens.
    texts = [f"{text} the cat sat on the mat." for text in TEXTS] if row.model_type == "funnel" else TEXTS
    alone = np.stack([torch_model.encode(text) for text in texts])
    np.testing.assert_allclose(mlx_model.encode(texts), alone, **TOLERANCE)
