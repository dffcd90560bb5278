"""The fuzzer's targets work, a few changed inputs of each are read or refused, and what it found stays mended."""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import yaml

from fuzz.__main__ import main
from fuzz.campaign import Result, save_results, shares, table
from fuzz.mutators import SafetensorsMutator
from fuzz.targets import NAMES, find_target
from fuzz.targets.base import safetensors, wordpiece
from fuzz.worker import LONGEST_MESSAGE, Worker, outcome, plain_input
from mlx_hf_bridge.checkpoints.card import read_card_metadata
from mlx_hf_bridge.checkpoints.metadata import read_metadata
from mlx_hf_bridge.checkpoints.safetensors_file import SafetensorsFile
from mlx_hf_bridge.checkpoints.tensor_pickle import Storage, TensorPickleError, _tensor
from mlx_hf_bridge.checkpoints.torch_file import TorchFile
from mlx_hf_bridge.checkpoints.yaml_text import load_yaml
from mlx_hf_bridge.cli.models_file import read_models
from mlx_hf_bridge.conversion.token_ids import check_token_ids
from mlx_hf_bridge.errors import CheckpointError, ConfigError, RepositoryError, TokenRangeError, UnsupportedModelError
from mlx_hf_bridge.inference.template_files import parse_templates
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.pretrained.hub import _verified
from mlx_hf_bridge.sentence_transformers.loading.settings import read_model_config
from mlx_hf_bridge.sentence_transformers.modules.base import Features
from mlx_hf_bridge.sentence_transformers.modules.static import SparseStaticEmbedding, StaticEmbedding
from mlx_hf_bridge.tracing.model import TracedModel
from mlx_hf_bridge.tracing.serial import from_json

# Changed inputs of each target; the fuzzer itself reads a million.
_INPUTS = 12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "tokenizer" else name for name in NAMES]
)
def test_changed_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    """Without an engine, so that what a change of the package breaks is seen where atheris is not installed."""
    target, random = find_target(name), Random(0)
    run = target.prepare(tmp_path)
    for data in [*target.seeds[:3], *(plain_input(target, random) for _ in range(_INPUTS))]:
        assert outcome(run, data) is None, data[:2000]


@pytest.mark.parametrize("name", ["safetensors", "torch-pickle", "graph", "config", "tokenizer", "sentence-model"])
def test_a_targets_own_files_are_read(name: str, tmp_path: Path) -> None:
    target = find_target(name)
    run = target.prepare(tmp_path)
    # One that every reader refuses would find nothing behind the first check.
    run(target.seeds[0])


def refuse(error: type[Exception], message: str = "x") -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        raise error(message)

    return run


def test_what_is_no_error_of_this_package_is_a_finding() -> None:
    assert outcome(refuse(ConfigError), b"") is None
    found = outcome(refuse(KeyError), b"")
    assert found is not None
    assert found[0] == "KeyError: 'x'"


def test_a_finding_is_written_once_with_its_input(tmp_path: Path) -> None:
    worker = Worker(refuse(ZeroDivisionError), tmp_path, 100)
    for data in (b"first", b"second"):
        worker(data)
    assert [path.read_bytes() for path in tmp_path.glob("found-*.input")] == [b"first"]
    assert "ZeroDivisionError" in json.loads(next(tmp_path.glob("found-*.json")).read_text())["trace"]


def test_the_table_has_a_row_for_each_target_and_one_for_all() -> None:
    results = [Result("one", "a", 100, 2.0, 0.5, 2**20), Result("two", "b", 50, 1.0, 0.1, 2**21, [{"what": "hang"}])]
    lines = table(results).splitlines()
    assert lines[2] == "| `one` | a | 100 | 50 | 0 | 0.50 s | 1 MiB |"
    assert lines[-1] == "| **all** |  | 150 | 50 | 1 | 0.50 s | 2 MiB |"


def test_results_of_other_targets_stay_in_the_table(tmp_path: Path) -> None:
    first, second = Result("config", "a", 100), Result("graph", "b", 50)
    save_results([first, second], {"seed": 1}, tmp_path)
    again = replace(first, executions=7)
    # In the order of the targets, whenever they ran.
    assert save_results([again], {"seed": 2}, tmp_path) == [second, again]
    rows = json.loads((tmp_path / "results.json").read_text())["targets"]
    assert [rows[name]["settings"]["seed"] for name in ("config", "graph")] == [2, 1]


def test_all_executions_are_given_out_and_each_target_has_some() -> None:
    given = shares(NAMES, 10_000)
    assert 10_000 <= sum(given.values()) <= 10_000 + len(NAMES)
    assert min(given.values()) > 0


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["no-such-target"])
    assert "there is no target no-such-target" in capsys.readouterr().err


def test_a_changed_header_keeps_its_length() -> None:
    data = safetensors({"a": np.ones((2, 2), np.float32)})
    mutate, random = SafetensorsMutator([data]), Random(0)
    changed = [found for _ in range(40) if (found := mutate(data, random)) is not None]
    assert len(changed) > 20
    assert all(struct.unpack("<Q", found[:8])[0] <= len(found) - 8 for found in changed)


# What the fuzzer found.


def test_a_scalar_among_doubles_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(safetensors({"a": np.array(1.5), "b": np.ones(2)}))
    found = dict(SafetensorsFile(tmp_path / "x.safetensors").arrays())
    assert found["a"].shape == ()
    assert found["a"].item() == 1.5


@pytest.mark.parametrize("shape", [(0, 2**31), (0, 2**63 - 1), (0,) * 65, (0, True)])
def test_a_shape_that_no_array_has_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F64", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match=r"x\.safetensors has no readable safetensors header"):
        SafetensorsFile(tmp_path / "x.safetensors")
    stride, storage = (1,) * len(shape), Storage("FloatStorage", "0", 4)
    with pytest.raises(TensorPickleError, match="a tensor has offset 0"):
        _tensor(storage, 0, shape, stride)


def test_a_panic_of_tokenizers_is_one_error(tmp_path: Path) -> None:
    """It is no Exception, and would end a program that catches all of these."""
    broken = wordpiece(normalizer={"type": "Precompiled", "precompiled_charsmap": ""})
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(RepositoryError, match=r"tokenizer\.json is not a tokenizer that tokenizers .* reads"):
        Tokenizer.from_folder(tmp_path, {})


@pytest.mark.parametrize("key", ["precompiled_charsmap", "precompiled_chars\\u006dap"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_character_map_that_claims_more_than_it_has_is_refused(key: str, nested: bool, tmp_path: Path) -> None:
    """tokenizers would reserve the 3.3 GiB that it claims, and end the process if there is no such memory."""
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "normalizers"}
    content = wordpiece(normalizer={"type": "Sequence", "normalizers": [normalizer]} if nested else normalizer)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content).replace("precompiled_charsmap", key))
    for read in (lambda: Tokenizer.from_folder(tmp_path, {}), lambda: check_token_ids(tmp_path)):
        with pytest.raises((RepositoryError, ConfigError), match="claims a trie of 1793493662 bytes"):
            read()


@pytest.mark.parametrize("text", ["[" * 400, "models: " + "{a: " * 400, "- " * 400])
def test_yaml_that_is_nested_too_deeply_is_refused_at_once(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="more than 32 levels"):
        load_yaml(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": "linear"}, "config.json has a value of another type or form than expected"),
        ({"rope_scaling": [1]}, "config.json has a value of another type or form than expected"),
        ({"model_type": "bert", "head_dim": 8, "num_attention_heads": 40}, "the first must be a multiple"),
    ],
)
def test_values_of_other_types_in_config_json_are_one_error(changes: dict[str, Any], message: str) -> None:
    config = {"model_type": "qwen3", "hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, **changes}
    with pytest.raises(ConfigError, match=message):
        family_for(config).config.from_json(config)


@pytest.mark.parametrize(
    "content",
    [[], {"left_out": 5}, {"card": "mit"}, {"revision": {}}, {"weight_bytes": True}, {"files": {"../../x": 1}}],
)
def test_metadata_of_another_form_is_one_error(content: Any, tmp_path: Path) -> None:
    (tmp_path / "conversion_metadata.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"conversion_metadata\.json"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("text", ["models: !!int models", "models: !!timestamp x", "? [a]\n: !!binary é"])
def test_values_that_yaml_cannot_build_are_one_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_models(tmp_path / "models.yaml")


def test_a_prefix_that_is_no_text_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text('{"query_prefix": 5}')
    with pytest.raises(ConfigError, match="query_prefix=5, expected a text"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("kind", [StaticEmbedding, SparseStaticEmbedding])
def test_a_static_table_behind_another_module_reads_and_writes_no_foreign_memory(kind: type) -> None:
    """The ids are those of another module's tokenizer then, for which the table may be too small."""
    weight = mx.ones((4, 3)) if kind is StaticEmbedding else mx.ones(4)
    features = Features(TokenBatch(mx.array([[1, 2, 2**20]])))
    with pytest.raises(TokenRangeError, match="ids up to 1048576, and the table has 4 rows"):
        kind(None, weight)(features)


def test_a_tokenizer_json_that_cannot_tokenize_is_one_error(tmp_path: Path) -> None:
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": {"the": 0}}
    broken = wordpiece(model={**model, "max_input_chars_per_word": 100}, added_tokens=[], post_processor=None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken))
    tokenizer = Tokenizer.from_folder(tmp_path, {})
    for call in (lambda: tokenizer.encode(["a cat"]), lambda: tokenizer.count_prompt_tokens("a cat")):
        with pytest.raises(ConfigError, match=r"tokenizer\.json cannot tokenize the texts .*Missing \[UNK\]"):
            call()


@pytest.mark.parametrize("axes", [["B"], ["B", 1], []])
def test_an_input_of_a_graph_with_other_axes_than_the_batch_is_one_error(axes: list[Any]) -> None:
    content = json.loads(find_target("graph").seeds[0])
    content["inputs"]["attention_mask"]["axes"] = axes
    weights = {"words": np.ones((20, 4)), "square": np.ones((4, 4)), "bias": np.ones(4)}
    arrays = {name: mx.array(array.astype(np.float32)) for name, array in weights.items()}
    model = TracedModel(from_json(content), arrays, mx.float32, compiled=False)
    batch = TokenBatch(mx.array([[2, 5, 3]]), mx.array([[True, True, True]]))
    with pytest.raises(UnsupportedModelError, match="has an input 'attention_mask' of shape"):
        model(batch)


@pytest.mark.parametrize("letter", ["x", "\x00", "\ud800"])
def test_messages_are_short_and_can_be_printed_whatever_a_file_says(letter: str) -> None:
    config = {"model_type": "bert", "position_embedding_type": letter * 10**6}
    with pytest.raises(
        ConfigError, match=r"config\.json has position_embedding_type=.*or transformers on torch"
    ) as raised:
        family_for(config).config.from_json(config)
    assert len(str(raised.value)) < LONGEST_MESSAGE
    assert str(raised.value).isprintable()


def test_an_entry_that_claims_more_bytes_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    """Python's zipfile allocates what an entry claims before it reads."""
    content = bytearray(find_target("torch-file").seeds[0])
    for entry in re.finditer(b"PK\x01\x02", bytes(content)):
        content[entry.start() + 20 : entry.start() + 28] = struct.pack("<II", 2**31 - 1, 2**31 - 1)
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged .*an entry has"):
        dict(TorchFile(tmp_path / "x.bin").arrays())


def test_embeddings_without_axes_are_no_table(tmp_path: Path) -> None:
    arrays = {"embeddings": np.array(1.0, np.float32), "mapping": np.arange(14)}
    (tmp_path / "model.safetensors").write_bytes(safetensors(arrays))
    with pytest.raises(ConfigError, match=r"expected embedding\.weight or embeddings \(tokens, width\)"):
        StaticEmbedding.read(tmp_path)


def test_a_card_of_brackets_is_read_at_once(tmp_path: Path) -> None:
    """YAML takes time that grows with the square of the depth."""
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: " + "[" * 50_000 + "\n---\n")
    assert read_card_metadata(tmp_path) == {"license": "mit"}
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: [en, de]\n---\n" + "[" * 50_000)
    assert read_card_metadata(tmp_path) == {"license": "mit", "language": ["en", "de"]}


@pytest.mark.parametrize("content", [5, [], {"figures": 5}])
def test_a_verification_of_another_form_has_no_figures(content: Any, tmp_path: Path) -> None:
    (tmp_path / "verification.json").write_text(json.dumps(content))
    assert _verified(tmp_path) == {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "files",
    [
        {"vocab.json": [], "merges.txt": "{", "tokenizer_config.json": {"decoder": {"a": "RobertaTokenizer"}}},
        {"tokenizer.json": {"added_tokens": 1}},
        {"tokenizer.json": wordpiece(), "tokenizer_config.json": {"note": "\ud800"}},
    ],
)
def test_settings_that_replace_parts_of_a_tokenizer_are_one_error(files: dict[str, Any], tmp_path: Path) -> None:
    assert outcome(find_target("tokenizer-build").prepare(tmp_path), json.dumps(files).encode()) is None


@pytest.mark.parametrize(
    "given",
    [
        [{"name": ["tool_use"], "template": "x"}],
        [{"name": "tool_use", "template": {"x": 1}}],
        {"a\x00b": "x"},
        {"x" * 300: "x"},
        {"..\\x": "x"},
        {"half \ud800": "x"},
        {"rag": "half \ud800"},
        "half \udfff",
    ],
    ids=ascii,
)
def test_chat_templates_that_no_file_can_hold_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="expected a template, or templates by name, and no name is a path"):
        parse_templates(given)
