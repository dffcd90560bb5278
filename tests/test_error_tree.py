"""Whatever a public function is given, what it raises is a BridgeError with a short message.

The functions and methods are found by walking the package, so that a new one is tested without being listed here.
"""

import io
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import click
import numpy as np
import pytest
import sentence_transformers
from checkpoints import make_checkpoint
from gliner_models import make as make_gliner
from public_api import BAD, calls, foreign, public_functions, public_methods, public_names
from safetensors.numpy import load_file, save_file
from test_multi_vector_encoder import colbert

import mlx_hf_bridge
from benchmarks.traced_variants import VARIANTS
from mlx_hf_bridge import cli, errors
from mlx_hf_bridge.cli.parser import program
from mlx_hf_bridge.errors import BridgeError, InputError
from mlx_hf_bridge.pipelines import TASKS, pipeline
from mlx_hf_bridge.runtime import boundary
from mlx_hf_bridge.runtime.boundary import PublicAPI, guarded
from mlx_hf_bridge.sentence_transformers import base, semantic_search

pytestmark = pytest.mark.filterwarnings("ignore")
# Heads of the tiny checkpoints, and what they are made for.
HEADS = {
    "Model": 3,
    "ForMaskedLM": 3,
    "ForSequenceClassification": 3,
    "ForTokenClassification": 3,
    "ForQuestionAnswering": 2,
    "ForMultipleChoice": 3,
    "ForNextSentencePrediction": 2,
    "ForPreTraining": 2,
    "Ranking": 1,
}
# Heads of LUKE's tiny checkpoints.
ENTITY_HEADS = ("EntityClassification", "EntityPairClassification", "EntitySpanClassification")
# The head that a sentence-transformers class or a task needs, where it is not the bare encoder.
NEEDED = {
    "MLXCrossEncoder": "ForSequenceClassification",
    "MLXSparseEncoder": "ForMaskedLM",
    "MLXMultiVectorEncoder": "colbert/repo",
    "MLXGLiNER": "gliner",
    **{f"MLXAutoModelFor{head}": head for head in ENTITY_HEADS},
    "MLXAutoModelForTableQuestionAnswering": "tapas",
    "fill-mask": "ForMaskedLM",
    "question-answering": "ForQuestionAnswering",
    "text-classification": "ForSequenceClassification",
    "text-ranking": "Ranking",
    "token-classification": "ForTokenClassification",
    "zero-shot-classification": "ForSequenceClassification",
    "zero-shot-ner": "gliner",
}
CLASSES = [
    name.rpartition(".")[2]
    for name, value in public_names().items()
    if name.count(".") == 1 and isinstance(value, type) and issubclass(value, PublicAPI)
]


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny BERT with each head, a ColBERT, a GLiNER, a LUKE with each head for entities and a TAPAS."""
    folder = tmp_path_factory.mktemp("repos")
    for head, labels in HEADS.items():
        make_checkpoint(folder / head, head="ForSequenceClassification" if head == "Ranking" else head, labels=labels)
    colbert(folder / "colbert")
    make_gliner(folder / "gliner", "span")
    luke = next(variant for variant in VARIANTS if variant.name == "luke:entities")
    for head in ENTITY_HEADS:
        replace(luke, classes=f"LukeFor{head}").module().save_pretrained(folder / head)
    tapas = next(variant for variant in VARIANTS if variant.name == "tapas")
    replace(tapas, classes="TapasForQuestionAnswering").module().save_pretrained(folder / "tapas")
    return folder


@pytest.fixture(autouse=True)
def no_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in a folder of its own, start no processes, and look that nothing half-written stays."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def refuse(*_: Any) -> Any:
        raise InputError("no processes in this test")

    monkeypatch.setattr(base, "start_pool", refuse)
    yield
    assert [path.name for path in tmp_path.rglob(".*")] == []
    mlx_hf_bridge.uninstall()


def check(named: dict[str, Callable[..., Any]], many: bool) -> None:
    # pytest raises what handlers of the log would print: values that cannot be written out.
    logging.disable(logging.CRITICAL)
    try:
        labeled = [labeled for name, function in named.items() for labeled in calls(name, function, many)]
        wrong = [found for label, call in labeled if (found := foreign(label, call))]
    finally:
        logging.disable(logging.NOTSET)
    assert wrong == [], f"{len(wrong)} calls:\n" + "\n".join(wrong[:30])


EXTENT = [pytest.param(False, id="one value"), pytest.param(True, id="ten values", marks=pytest.mark.slow)]


@pytest.mark.parametrize("many", EXTENT)
def test_functions_and_constructors_raise_bridge_errors_only(many: bool) -> None:
    check(public_functions(), many)


@pytest.mark.parametrize("many", EXTENT)
@pytest.mark.parametrize("name", CLASSES)
def test_methods_raise_bridge_errors_only(name: str, many: bool, repos: Path) -> None:
    owner = getattr(mlx_hf_bridge, name)
    usual = name.removeprefix("MLXAutoModel") if name.startswith("MLXAutoModelFor") else "Model"
    repo = repos / NEEDED.get(name, usual)
    model = owner.from_pretrained(repo) if hasattr(owner, "from_pretrained") else owner(repo)
    check(dict(public_methods(model)), many)
    if isinstance(model, base.MLXBaseModel):
        check(dict(public_methods(model.tokenizer)), many)


@pytest.mark.parametrize("many", EXTENT)
# Questions about tables need pandas; tests/test_tapas.py has their errors.
@pytest.mark.parametrize("task", [task for task in TASKS if task != "table-question-answering"])
def test_pipelines_raise_bridge_errors_only(task: str, many: bool, repos: Path) -> None:
    check(dict(public_methods(pipeline(task, str(repos / NEEDED.get(task, "Model"))))), many)


def test_errors_of_the_callers_own_code_pass_as_they_are(repos: Path) -> None:
    class OwnError(ValueError):
        pass

    def fail(*_: Any) -> Any:
        raise OwnError("mine")

    def texts() -> Iterator[str]:
        yield "the cat"
        raise OwnError("mine")

    model = mlx_hf_bridge.MLXSentenceTransformer(repos / "Model")
    for call in (
        lambda: model.evaluate(fail),
        lambda: list(model.encode_stream(texts())),
        lambda: semantic_search(model.encode("the cat"), model.encode(["a dog"]), score_function=fail),
    ):
        with pytest.raises(OwnError, match=r"^mine$"):
            call()


def of_the_package(source: str) -> Callable[..., Any]:
    """Return the function `made` of a source text, as if it stood in the package."""
    namespace: dict[str, Any] = {"__name__": "mlx_hf_bridge.made"}
    exec(source, namespace)
    return guarded(namespace["made"])  # type: ignore[no-any-return]


def with_nan(repo: Path, folder: Path) -> Path:
    """Copy a model, with NaN in its embeddings of words."""
    shutil.copytree(repo, folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5] = np.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_nan_is_returned_as_by_transformers_with_a_warning(
    repos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_nan(repos / "Model", tmp_path / "nan")
    model = mlx_hf_bridge.MLXAutoModel.from_pretrained(folder)
    assert np.isfinite(model([[6, 7]]).last_hidden_state).all()
    assert "computed NaN or infinity" not in caplog.text
    for _ in range(2):
        assert np.isnan(model([[5, 6]]).last_hidden_state).any()
    assert caplog.text.count("computed NaN or infinity") == 1
    with pytest.raises(errors.NonFiniteError):
        mlx_hf_bridge.MLXSentenceTransformer(folder).encode("the cat")


def test_sentence_transformers_on_mlx_warns_of_nan(
    repos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_nan(repos / "Model", tmp_path / "nan")
    model = sentence_transformers.SentenceTransformer(str(folder), backend="mlx", device="cpu")
    texts = ["the cat"] * 40 + ["the cat sat on the mat"] * 40
    assert np.isnan(model.encode(texts, batch_size=80)).any()
    assert caplog.text.count("computed NaN or infinity") == 1


def test_a_wrong_recipe_in_the_environment_is_an_error_at_the_first_load(
    repos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_HF_BRIDGE_QUANTIZATION", "q5000")
    message = r"MLX_HF_BRIDGE_QUANTIZATION='q5000' cannot be used: .* is not a recipe; use one of"
    for call in (mlx_hf_bridge.install, lambda: mlx_hf_bridge.MLXAutoModel.from_pretrained(repos / "Model")):
        with pytest.raises(errors.QuantizationError, match=message):
            call()


def test_the_message_names_the_argument_that_is_not_of_its_type() -> None:
    scale = of_the_package("def made(values: list[int], factor: int | None = None): return values * len(factor)")
    with pytest.raises(errors.ArgumentTypeError) as raised:
        scale([1], 2.5)
    expected = "made() got factor=2.5, expected int | None (TypeError: object of type 'float' has no len())"
    assert expected in str(raised.value)
    assert type(raised.value.__cause__) is TypeError
    with pytest.raises(errors.ArgumentTypeError, match=r"got values=\[1\]; factor=2 \(TypeError"):
        scale([1], 2)


@pytest.mark.parametrize(
    "kind", [OSError, ImportError, TypeError, AttributeError, KeyError, IndexError, OverflowError, ValueError, EOFError]
)
def test_every_builtin_type_of_error_has_a_child(kind: type[Exception]) -> None:
    with pytest.raises(BridgeError) as raised:
        of_the_package(f"def made(): raise {kind.__name__}('x')")()
    assert isinstance(raised.value, kind) or kind is EOFError
    assert raised.value.__cause__.args == ("x",)  # type: ignore[union-attr]


def test_long_and_unprintable_messages_are_shown_short() -> None:
    error = InputError("given " + "x" * 10**6 + "\x1b[2J\ud800. Do this.")
    assert len(str(error)) < 2000
    assert str(error).startswith("given xxx")
    assert str(error).endswith("\\x1b[2J\\ud800. Do this.")
    io.TextIOWrapper(io.BytesIO(), "utf-8").write(str(error))


def test_bad_values_are_of_many_kind() -> None:
    assert {type(make()) for make in BAD.values()} >= {int, str, bytes, list, dict, float, tuple, set}


# Words of a command line that are wrong nearly everywhere.
WORDS = [
    "",
    "the cat",
    "-1",
    "9" * 400,
    "1e999",
    "x" * 5000,
    "a\udcff",
    "/dev/null/x",
    ".",
    "{}",
    "a\x1b[2Jb",
    "no/such",
]
# Words with which each command succeeds; "@" stands for the folder of a model, "!" for a path that is free.
COMMANDS = {
    "encode": ["@", "the cat"],
    "classify": ["@", "the cat"],
    "convert": ["--model", "@", "--dry-run"],
    "export-metal": ["@", "!"],
    "verify": ["@"],
    "models": [],
    "cache list": [],
    "cache verify": [],
    "cache prune": ["--dry-run"],
    "cache remove": ["x", "--yes"],
}


def command_lines(command: str, model: str, free: str) -> Iterator[list[str]]:
    """Yield command lines of a command, with one wrong word each."""
    given = [{"@": model, "!": free}.get(word, word) for word in COMMANDS[command]]
    start = command.split()
    for number in range(len(given)):
        for word in WORDS:
            yield [*start, *given[:number], word, *given[number + 1 :]]
    parser: Any = program()
    for name in start:
        parser = parser.load(name)
    for option in parser.params:
        if isinstance(option, click.Option) and not option.is_flag:
            for step in range(3):
                word = WORDS[(crc32(str(option.opts).encode()) + 5 * step) % len(WORDS)]
                yield [*start, *given, option.opts[0], word]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_ends_in_one_line_and_its_exit_code(
    command: str, repos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat"))
    monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(tmp_path / "cache"))
    # As Python's own standard error.
    cast("io.TextIOWrapper", sys.stderr).reconfigure(errors="backslashreplace")
    wrong = []
    for words in command_lines(command, str(repos / "ForSequenceClassification"), str(tmp_path / "new")):
        try:
            code = cli.main(words)
        except SystemExit as stopped:
            code = 2 if stopped.code == 2 else f"exit code {stopped.code}"
        except BaseException as error:
            code = repr(error)
        text = capsys.readouterr().err
        last = text.splitlines()[-1:] or [""]
        if code not in (0, 1, 2) or "Traceback" in text or (code == 1 and not last[0].startswith("error: ")):
            wrong.append(f"{words!s:.200}: {code!s:.200} {text[-200:]!r}")
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[" * 10**5),
        ("config.json", '{"model_type": ["bert"]}'),
        ("config.json", '{"model_type": "bert", "layer_norm_eps": 1' + "0" * 400 + "}"),
        ("config.json", '{"model_type": "bert", "vocab_size": 1' + "0" * 30 + "}"),
        ("modules.json", "[]"),
        (
            "modules.json",
            '[{"idx": 0, "name": "0", "path": "a\\u0000b", "type": "sentence_transformers.models.Pooling"}]',
        ),
        ("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "' + "x" * 10**6 + '"}'),
        ("tokenizer_config.json", '{"tokenizer_class": 5, "model_max_length": "x"}'),
        ("tokenizer.json", "{}"),
        ("model.safetensors", "\xff" * 100),
    ],
    ids=lambda value: value[:40],
)
def test_the_command_line_says_in_one_line_what_is_wrong_with_a_file(
    name: str, content: str, repos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(repos / "Model", tmp_path / "model")
    (tmp_path / "model" / name).write_text(content, encoding="latin-1")
    assert cli.main(["encode", str(tmp_path / "model"), "the cat"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: "), text
    assert text.count("\n") == 1
    assert len(text) < 2100


def test_an_error_that_no_check_foresaw_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: Any) -> int:
        raise ZeroDivisionError("by zero\nat all")

    monkeypatch.setattr("mlx_hf_bridge.cli.models.run", fail)
    assert cli.main(["models"]) == 1
    assert capsys.readouterr().err == "error: models failed with ZeroDivisionError: by zero at all\n"


# Values that a file may hold in place of others.
BROKEN = [5, 10**400, float("nan"), "a\ud800", [None], {"a": 5}, None]
FIELDS = [
    ("config.json", ("architectures",)),
    ("config.json", ("id2label", "0")),
    ("config.json", ("layer_norm_eps",)),
    ("config.json", ("hidden_act",)),
    ("config.json", ("model_type",)),
    ("tokenizer.json", ("added_tokens",)),
    ("tokenizer.json", ("added_tokens", 0, "id")),
    ("tokenizer.json", ("added_tokens", 0, "content")),
    ("tokenizer.json", ("model",)),
    ("tokenizer.json", ("model", "vocab")),
    ("tokenizer.json", ("normalizer",)),
    ("tokenizer.json", ("post_processor",)),
    ("tokenizer_config.json", ("tokenizer_class",)),
    ("tokenizer_config.json", ("model_max_length",)),
    ("tokenizer_config.json", ("cls_token",)),
    ("modules.json", (0, "path")),
    ("modules.json", (0, "type")),
    ("modules.json", (1,)),
    ("sentence_bert_config.json", ("module_output_name",)),
    ("sentence_bert_config.json", ("modality_config",)),
    ("sentence_bert_config.json", ("max_seq_length",)),
    ("config_sentence_transformers.json", ("prompts",)),
    ("config_sentence_transformers.json", ("default_prompt_name",)),
    ("config_sentence_transformers.json", ("similarity_fn_name",)),
]


@pytest.mark.parametrize(("name", "path"), FIELDS, ids=lambda value: str(value))
def test_a_value_of_another_type_in_a_file_is_named_by_its_reader(
    name: str, path: tuple[Any, ...], repos: Path, tmp_path: Path
) -> None:
    original = repos / "colbert" / "repo"
    for value in (BROKEN[len(str(path)) % len(BROKEN)], BROKEN[(len(str(path)) + 3) % len(BROKEN)]):
        folder = tmp_path / f"repo {BROKEN.index(value)}"
        shutil.copytree(original, folder)
        content = json.loads((folder / name).read_text())
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (folder / name).write_text(json.dumps(content))
        try:
            mlx_hf_bridge.MLXMultiVectorEncoder(folder).encode_query(["the cat"])
        except BridgeError as error:
            # An error of the boundary would not say that it is about a file.
            assert not vars(error).get(boundary._UNFORESEEN), error
            assert len(str(error)) < 2000
