"""Older names of arguments, and methods of torch.nn.Module, that programs written for sentence-transformers use."""

import ast
import inspect
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from checkpoints import make_checkpoint
from sentence_transformers.sentence_transformer import modules as torch_modules
from sentence_transformers.util import decorators
from st_checkpoints import PAIRS, TEXTS, TOLERANCE

import mlx_hf_bridge
from mlx_hf_bridge.errors import ArgumentTypeError, BridgeError, InputError, UnservedUseError
from mlx_hf_bridge.sentence_transformers import older_names
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.sparse import SpladePooling

CLASSES = ("SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder")


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repos")
    make_checkpoint(folder / "SentenceTransformer")
    make_checkpoint(folder / "SparseEncoder", None, "ForMaskedLM")
    make_checkpoint(folder / "CrossEncoder", None, "ForSequenceClassification", 1)
    return folder


def renames(function: Any) -> set[str]:
    """Return the older names that a function of sentence-transformers takes, read from its source's decorators."""
    node = parsed(function)
    found: set[str] = set()
    for decorator in node.decorator_list:
        name = ast.unparse(decorator).partition("(")[0]
        if name == "deprecated_kwargs":
            found |= {str(keyword.arg) for keyword in decorator.keywords if keyword.arg}
        elif name.endswith("_args_decorator"):
            found |= literals(getattr(decorators, name))
    return found


def parsed(function: Any) -> Any:
    """Return the syntax tree of a function, with its decorators."""
    text = inspect.getsource(function)
    # An indented method needs a block around it.
    return ast.parse("if True:\n" + text).body[0].body[0] if text[0] == " " else ast.parse(text).body[0]  # type: ignore


def literals(decorator: Any) -> set[str]:
    """Return the older names that a decorator of util/decorators.py mentions: what it pops or renames."""
    tree = parsed(decorator)
    keys = {key.value for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}  # type: ignore
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    popped = {call.args[0].value for call in calls if ast.unparse(call.func) == "kwargs.pop" and call.args[0:1]
              and isinstance(call.args[0], ast.Constant)}  # fmt: skip
    renamed = {one.arg for call in calls if ast.unparse(call.func) == "deprecated_kwargs" for one in call.keywords}
    return {name for name in keys | popped | renamed if isinstance(name, str)}


@pytest.mark.parametrize("name", CLASSES)
def test_every_older_name_of_sentence_transformers_is_taken(name: str) -> None:
    """Signatures do not show them; the decorators do."""
    theirs, ours = getattr(sentence_transformers, name), getattr(mlx_hf_bridge, f"MLX{name}")
    seen = 0
    for method, function in inspect.getmembers(theirs, inspect.isfunction):
        if not function.__module__.startswith("sentence_transformers") or (
            method.startswith("_") and method != "__init__"
        ):
            continue
        older = renames(function)
        seen += len(older)
        known = getattr(getattr(ours, method), "older_names", ()) if older else ()
        if method in ("predict", "rank"):
            # `predict` drops what it declares no more, by its own signature.
            older -= {"apply_softmax"} if method == "predict" else set()
        assert older <= set(known), (method, older - set(known))
    assert seen >= {"SentenceTransformer": 5, "CrossEncoder": 12, "SparseEncoder": 5, "MultiVectorEncoder": 1}[name]


def test_older_arguments_give_the_results_of_todays(repos: Path) -> None:
    for name in ("SentenceTransformer", "SparseEncoder"):
        model = getattr(mlx_hf_bridge, f"MLX{name}")(repos / name, tokenizer_kwargs={"model_max_length": 6})
        assert model.max_seq_length == 6
        for method in ("encode", "encode_query", "encode_document"):
            actual, expected = (getattr(model, method)(**{key: TEXTS}) for key in ("sentences", "inputs"))
            dense = [one.to_dense() if name == "SparseEncoder" else one for one in (actual, expected)]
            np.testing.assert_array_equal(np.asarray(dense[0]), np.asarray(dense[1]))


def test_older_arguments_of_a_cross_encoder(repos: Path, caplog: pytest.LogCaptureFixture) -> None:
    older_names._logged.clear()
    path = str(repos / "CrossEncoder")
    model = mlx_hf_bridge.MLXCrossEncoder(
        model_name=path,
        automodel_args={"attn_implementation": "eager"},
        tokenizer_args={"truncation_side": "left"},
        config_args={"hidden_act": "relu"},
        cache_dir=None,
        default_activation_function=torch.nn.Tanh(),
        classifier_dropout=0.5,
    )
    options: Any = {"processor_kwargs": {"truncation_side": "left"}, "config_kwargs": {"hidden_act": "relu"}}
    expected = mlx_hf_bridge.MLXCrossEncoder(path, activation_fn=torch.nn.Tanh(), **options).predict(PAIRS)
    np.testing.assert_array_equal(model.predict(sentences=PAIRS, num_workers=2), expected)
    assert "`model_name` argument was renamed and is now deprecated. Use `model_name_or_path`" in caplog.text
    raw = model.predict(PAIRS, activation_fct=torch.nn.Identity())
    np.testing.assert_allclose(np.tanh(raw), expected, **TOLERANCE)
    assert abs(raw - expected).max() > 1e-5
    ranked = model.rank("the cat", TEXTS[:2], num_workers=0, apply_softmax=True, convert_to_tensor=True)
    assert len(ranked) == 2
    by_position = mlx_hf_bridge.MLXCrossEncoder(path, 1, 7, torch.nn.Identity(), "cpu")
    assert (by_position.max_seq_length, type(by_position.activation_fn)) == (7, torch.nn.Identity)


@pytest.mark.parametrize(
    "activation", [torch.sigmoid, lambda x: torch.sigmoid(x), lambda x: x.sigmoid(), torch.nn.Sigmoid(), None]
)
def test_activations_may_be_functions_of_tensors(activation: Any, repos: Path) -> None:
    model = mlx_hf_bridge.MLXCrossEncoder(repos / "CrossEncoder")
    np.testing.assert_allclose(model.predict(PAIRS, activation_fn=activation), model.predict(PAIRS), **TOLERANCE)
    with pytest.raises(InputError, match="neither to an MLX array nor to a torch tensor"):
        model.predict(PAIRS, activation_fn=lambda x: x.no_such_method())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("max_length", {}),
        ("default_activation_function", {}),
        ("get_sentence_embedding_dimension", {}),
    ],
)
def test_older_methods_warn_as_theirs_do(name: str, arguments: Any, repos: Path) -> None:
    kind = "SentenceTransformer" if name.startswith("get") else "CrossEncoder"
    theirs = getattr(sentence_transformers, kind)(str(repos / kind), device="cpu")
    category = FutureWarning if name.startswith("get") else DeprecationWarning
    for model in (theirs, getattr(mlx_hf_bridge, f"MLX{kind}")(repos / kind)):
        with pytest.warns(category):
            value = getattr(model, name)
            value() if name.startswith("get") else None


@pytest.mark.parametrize("name", CLASSES)
def test_unknown_arguments_of_a_constructor_are_named_with_the_known_ones(name: str) -> None:
    cls = getattr(mlx_hf_bridge, f"MLX{name}")
    with pytest.raises(
        ArgumentTypeError, match=rf"MLX{name}\(\) got frobnicate, .*it takes model_name_or_path, .*prompts"
    ):
        cls("anything", frobnicate=1)
    with pytest.raises(ArgumentTypeError, match=rf"MLX{name}\(\) got \d arguments by position, expected the model's"):
        cls("anything", *range(6))


def test_older_arguments_of_modules(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="pooling_mode_cls_token"):
        pooling = Pooling(word_embedding_dimension=24, pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    assert (pooling.modes, pooling.pooling_output_dimension) == (("cls",), 24)
    theirs = torch_modules.Pooling(24, ("cls", "max"))
    assert Pooling(24, ("cls", "max")).pooling_output_dimension == theirs.pooling_output_dimension
    assert SpladePooling(word_embedding_dimension=5).get_embedding_dimension() == 5
    with pytest.raises(ArgumentTypeError, match=r"Pooling\(\) got pooling_mode_median"):
        Pooling(24, pooling_mode_median=True)


def test_methods_of_torch_modules_work_or_say_why_not(repos: Path) -> None:
    model = mlx_hf_bridge.MLXSentenceTransformer(repos / "SentenceTransformer")
    same = [model.float(), model.cpu(), model.cuda(), model.train(False), model.eval(), model.requires_grad_(False)]
    same += [model.to("cuda"), model.to(dtype="float32"), model.to(torch.float32), model.to(device="cpu")]
    assert all(one is model for one in same)
    for call in (model.half, model.bfloat16, lambda: model.to(torch.float16), lambda: model.to(dtype="float16")):
        with pytest.raises(ArgumentTypeError, match=r"a loaded model keeps its own, .*float32"):
            call()
    for refused in (model.parameters, model.named_parameters, model.state_dict, model.train, model.requires_grad_):
        with pytest.raises(
            UnservedUseError, match=r"\(\) was called on MLXSentenceTransformer on MLX, which is for inference"
        ):
            refused()
    assert list(model.modules()) == [model, *model]
    assert [name for name, _ in model.named_children()] == ["0", "1"]
    assert (model._first_module(), model._last_module()) == (model[0], model[1])
    assert (model.backend, str(model._target_device)) == ("mlx", "cpu")
    assert model[0].get_word_embedding_dimension() == model[1].pooling_output_dimension == 24
    model.model_card_data.set_evaluation_metrics(None, {})


@pytest.mark.parametrize("kind", ["np", "torch"])
def test_calling_a_model_on_tokens_gives_what_encode_gives(kind: str, repos: Path) -> None:
    model = mlx_hf_bridge.MLXSentenceTransformer(repos / "SentenceTransformer")
    tokens = model.tokenize(TEXTS)
    if kind == "torch":
        tokens = {name: torch.from_numpy(one) if isinstance(one, np.ndarray) else one for name, one in tokens.items()}
    outputs = model(tokens)
    assert isinstance(outputs["sentence_embedding"], torch.Tensor if kind == "torch" else np.ndarray)
    np.testing.assert_allclose(np.asarray(outputs["sentence_embedding"]), model.encode(TEXTS), **TOLERANCE)
    hidden = np.asarray(model.forward(tokens)["token_embeddings"])[1][:4]
    np.testing.assert_allclose(hidden, np.array(model.encode(TEXTS, output_value="token_embeddings")[1]), **TOLERANCE)
    for wrong in ("a text", {}, {"input_ids": [[1, 2]], "attention_mask": [[0, 1]]}, {"input_ids": [[10**6]]}):
        with pytest.raises(BridgeError):
            model(wrong)


def test_the_tokenizer_has_the_methods_that_programs_call(repos: Path) -> None:
    path = repos / "SentenceTransformer"
    ours, theirs = (
        mlx_hf_bridge.MLXSentenceTransformer(path).tokenizer,
        transformers.AutoTokenizer.from_pretrained(path),
    )
    for arguments in ({}, {"padding": True}, {"truncation": True, "max_length": 4}, {"add_special_tokens": False},
                      {"padding": "max_length", "max_length": 12}):  # fmt: skip
        assert ours(TEXTS[:3], **arguments) == dict(theirs(TEXTS[:3], **arguments))
    assert ours("a dog", "the cat") == dict(theirs("a dog", "the cat"))
    arrays = ours(TEXTS[:3], padding=True, return_tensors="np")
    np.testing.assert_array_equal(
        arrays["input_ids"], theirs(TEXTS[:3], padding=True, return_tensors="np")["input_ids"]
    )
    ids = ours(TEXTS[0])["input_ids"]
    assert ours.tokenize(TEXTS[0]) == theirs.tokenize(TEXTS[0])
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert (ours.vocab_size, len(ours), ours.get_vocab()) == (theirs.vocab_size, len(theirs), theirs.get_vocab())
    for name in (
        "cls_token",
        "cls_token_id",
        "sep_token_id",
        "mask_token",
        "pad_token_id",
        "padding_side",
        "bos_token",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert set(ours.all_special_ids) == set(theirs.all_special_ids)
    with pytest.raises(AttributeError, match="AutoTokenizer"):
        ours.no_such_method  # noqa: B018
    with pytest.raises(InputError, match="Pass padding=True"):
        ours(TEXTS[:3], return_tensors="np")


def test_older_names_are_logged_once(repos: Path, caplog: pytest.LogCaptureFixture) -> None:
    older_names._logged.clear()
    model = mlx_hf_bridge.MLXSentenceTransformer(repos / "SentenceTransformer")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model.encode(sentences=["a"])
    (message,) = [record.message for record in caplog.records if "sentences" in record.message]
    assert message.startswith(
        "The MLXSentenceTransformer.encode `sentences` argument was renamed and is now deprecated"
    )
