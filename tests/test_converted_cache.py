"""Tests of the conversion cache: one complete model folder per source, recipe and dtype."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from checkpoints import (
    FAMILIES,
    FIRST_ROWS,
    Row,
    make_checkpoint,
    make_model,
    make_wordpiece,
    mlx_class,
    plainest_head,
    ragged_inputs,
    row_name,
    save_model,
    torch_class,
)
from filelock import FileLock
from weight_files import max_difference, output_array

from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, MLXSentenceTransformer
from mlx_hf_bridge.checkpoints import fingerprint
from mlx_hf_bridge.checkpoints import sources as source_module
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion import cache
from mlx_hf_bridge.conversion import write as write_module
from mlx_hf_bridge.conversion.api import convert
from mlx_hf_bridge.conversion.cache import cache_folder
from mlx_hf_bridge.conversion.write import FORMAT
from mlx_hf_bridge.errors import CheckpointError, RepositoryError, WeightsError
from mlx_hf_bridge.loading import load as load_module
from mlx_hf_bridge.quantization.recipes import recipe_from
from mlx_hf_bridge.runtime.environment import bridge_cache as bridge_cache_place

BERT = FAMILIES[0]
INPUTS = ragged_inputs(BERT)
# float32 rounding of different kernels, as in test_parity.py; largest difference seen 1e-6.
ABSOLUTE = 2e-5
FIRST, SECOND = "a" * 40, "b" * 40


def conversions(bridge_cache: Path) -> list[Path]:
    """Return the conversion folders in the cache."""
    return [path for path in (bridge_cache / "converted").iterdir() if path.suffix != ".lock"]


def hidden(model: Any) -> np.ndarray:
    """Return the hidden states of a model for INPUTS."""
    return output_array(model, INPUTS, "last_hidden_state")


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Create a Hub cache with two commits of org/name (main and v1, then v2, which has another model in `inner`)."""
    folder = tmp_path / "hub" / "models--org--name"
    make_checkpoint(folder / "snapshots" / FIRST, seed=1)
    make_checkpoint(folder / "snapshots" / SECOND, seed=2)
    make_checkpoint(folder / "snapshots" / SECOND / "inner", seed=3)
    (folder / "refs").mkdir()
    for name, commit in (("main", FIRST), ("v1", FIRST), ("v2", SECOND)):
        (folder / "refs" / name).write_text(commit)
    return tmp_path / "hub"


def spoil(path: Path) -> None:
    """Overwrite a file with other bytes, keeping its size and mtime."""
    stat = path.stat()
    path.write_bytes(b"\xff" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the paths that Python opens or passes to mx.load from now on."""
    paths: list[str] = []
    listening = True

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "open":
            paths.append(str(arguments[0]))

    sys.addaudithook(listen)
    real = mx.load
    monkeypatch.setattr(mx, "load", lambda path, *rest, **named: paths.append(str(path)) or real(path, *rest, **named))
    yield paths
    listening = False


@pytest.mark.parametrize("recipe", [None, "mxfp4"])
def test_second_load_reads_only_samples_of_the_source(recipe: str | None, tmp_path: Path, opened: list[str]) -> None:
    make_checkpoint(tmp_path)
    first = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    assert str(tmp_path / "model.safetensors") in opened
    opened.clear()
    second = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    np.testing.assert_array_equal(hidden(first), hidden(second))
    # Once, for its digest.
    assert opened.count(str(tmp_path / "model.safetensors")) == 1
    assert str(second.folder / "model.safetensors") in opened


def test_second_load_of_a_hub_repo_needs_no_source_weights(hub: Path) -> None:
    first = MLXAutoModel.from_pretrained("org/name", cache_dir=hub)
    (hub / "models--org--name" / "snapshots" / FIRST / "model.safetensors").unlink()
    second = MLXAutoModel.from_pretrained("org/name", cache_dir=hub)
    np.testing.assert_array_equal(hidden(first), hidden(second))


def key(name: str | Path, recipe: Any = None, dtype: mx.Dtype | None = None, **options: Any) -> Path:
    """Return the cache folder of a conversion."""
    return cache_folder(locate(name, HubOptions(**options)), recipe_from(recipe), dtype, FORMAT)


def test_each_recipe_and_dtype_has_a_place_of_its_own(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    recipes = [
        None,
        "q8",
        "q4",
        "q4-rtn",
        {"bits": 4, "group_size": 32},
        "mxfp4",
        {"bits": 4, "modules_to_not_convert": ["value"]},
    ]
    places = {key(tmp_path, recipe, dtype) for recipe in recipes for dtype in (None, mx.float16, mx.bfloat16)}
    assert len(places) == 3 * len(recipes)
    assert key(tmp_path, "q4-rtn") == key(tmp_path, {"bits": 4}) == key(tmp_path, {"bits": 4, "group_size": 64})


def test_another_version_of_transformers_converts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may build another tokenizer."""
    make_checkpoint(tmp_path)
    before = key(tmp_path)
    monkeypatch.setattr(cache, "installed_version", lambda package: "99.0")
    assert key(tmp_path) != before


WATCHED = [
    "config.json",
    "model.safetensors",
    "vocab.txt",
    "tokenizer.json",
    "modules.json",
    "1_Pooling/config.json",
    "2_Dense/model.safetensors",
    "0_Transformer/vocab.txt",
    "0_Transformer/sentencepiece.bpe.model",
    "0_Transformer/pytorch_model.bin",
    "mods/1_Pooling/config.json",
    "route/0_Router/query_0_Transformer/config.json",
    "chat_template.jinja",
]


@pytest.mark.parametrize("file", WATCHED)
@pytest.mark.parametrize("change", ["size", "mtime", "content", "replaced"])
def test_a_local_folders_place_changes_with_its_files(file: str, change: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("{}")
    before, stat = key(tmp_path), path.stat()
    if change == "content":
        spoil(path)
    elif change == "replaced":
        path.with_name("new").write_text("{}")
        os.utime(path.with_name("new"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
        path.with_name("new").replace(path)
    elif change == "size":
        path.write_text("{ }")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert key(tmp_path) != before


@pytest.mark.parametrize("size", [0, 100, 2**20, 2**20 + 1, 3 * 2**20])
def test_a_digest_tells_the_beginning_the_end_and_the_whole(size: int, tmp_path: Path) -> None:
    contents = {bytes(size), b"x" * size, b"x" * min(size, 1) + bytes(max(size - 1, 0)), bytes(size + 1)}
    contents.add(bytes(max(size - 1, 0)) + b"x" * min(size, 1))
    digests = set()
    for content in contents:
        (tmp_path / "file").write_bytes(content)
        digests.add(fingerprint.digest(tmp_path / "file"))
    assert len(digests) == len(contents)


def test_the_state_of_a_folder_with_links_in_a_circle_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "config.json").write_text("{}")
    (tmp_path / "deep" / "back").symlink_to(tmp_path)
    for name in ("checkpoint-5", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert [entry[0] for entry in fingerprint.folder_state(tmp_path)] == ["deep/er/config.json"]


def test_a_hub_file_that_is_edited_by_hand_converts_again(hub: Path) -> None:
    before = key("org/name", cache_dir=hub)
    path = hub / "models--org--name" / "snapshots" / FIRST / "config.json"
    path.write_text(path.read_text().replace("gelu", "relu"))
    assert key("org/name", cache_dir=hub) != before


def test_a_keyword_without_effect_on_the_weights_lets_no_tensor_pass(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    for options in ({}, {"output_attentions": False}, {"hidden_act": "relu"}, {"num_labels": 5}, {}):
        with pytest.raises(WeightsError, match="tensors that the model has no parameter for"):
            MLXAutoModel.from_pretrained(tmp_path, **options)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert MLXAutoModel.from_pretrained(tmp_path, num_hidden_layers=1).config.num_hidden_layers == 1
    with pytest.raises(WeightsError, match="another shape"):
        MLXAutoModel.from_pretrained(tmp_path, intermediate_size=7)
    MLXAutoModel.from_pretrained(tmp_path)


def test_a_source_that_changes_during_its_conversion_is_an_error(
    tmp_path: Path, bridge_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path)
    real = write_module.copy_modules

    def change(*arguments: Any) -> None:
        spoil(tmp_path / "model.safetensors")
        real(*arguments)

    monkeypatch.setattr(write_module, "copy_modules", change)
    with pytest.raises(CheckpointError, match=r"changed while it was converted.* Load it again"):
        MLXAutoModel.from_pretrained(tmp_path)
    assert conversions(bridge_cache) == []

    def cut(*arguments: Any) -> None:
        os.truncate(tmp_path / "model.safetensors", 5000)
        raise RuntimeError("[read] Unable to read from file.")

    make_checkpoint(tmp_path)
    monkeypatch.setattr(write_module, "_convert_one", cut)
    with pytest.raises(CheckpointError, match="changed while it was converted"):
        MLXAutoModel.from_pretrained(tmp_path)


def test_what_killed_conversions_left_is_removed_and_work_in_progress_is_not(
    tmp_path: Path, bridge_cache: Path
) -> None:
    make_checkpoint(tmp_path)
    folder = bridge_cache / "converted"
    # "foreign" is no folder of this package. A process whose folder is removed before it has a lock makes another one.
    left, empty, foreign, running = (folder / f".{name}-x1.scratch" for name in ("a", "b", "foreign", "running"))
    for scratch in (left, empty, foreign, running):
        scratch.mkdir(parents=True)
    (left / "lock").touch()
    (foreign / "notes.txt").touch()
    with FileLock(running / "lock"):
        MLXAutoModel.from_pretrained(tmp_path)
        assert sorted(folder.glob(".*")) == [foreign, running]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("[write] Unable to write 99 bytes to file.")]
)
def test_a_full_disk_names_the_cache(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path)

    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.raises(RepositoryError, match=r"converted cannot be written .* Set MLX_HF_BRIDGE_CACHE"):
        MLXAutoModel.from_pretrained(tmp_path)


def test_a_cache_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path / "model")
    (tmp_path / "file").touch()
    for cache_path in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("MLX_HF_BRIDGE_CACHE", str(cache_path))
        with pytest.raises(RepositoryError, match=r"converted cannot be written .* Set MLX_HF_BRIDGE_CACHE"):
            MLXAutoModel.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("kind", [MLXAutoModel.from_pretrained, MLXSentenceTransformer])
def test_a_model_of_a_converted_folder_that_changes_is_not_copied_as_another(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "model", quantization_config=None, show_progress=False)
    monkeypatch.chdir(tmp_path)
    model = kind("model")
    model.save_pretrained("model")
    (tmp_path / "model" / "README.md").write_text("a card")
    monkeypatch.chdir(tmp_path / "source")
    pickled = pickle.dumps(model)
    assert type(copy.deepcopy(model)) is type(pickle.loads(pickled)) is type(model)
    make_checkpoint(tmp_path / "source", seed=5)
    convert(tmp_path / "source", tmp_path / "model", quantization_config=None, show_progress=False, overwrite=True)
    uses: list[Callable[[], Any]] = [
        lambda: copy.deepcopy(model),
        lambda: pickle.loads(pickled),
        lambda: model.save_pretrained(tmp_path / "other"),
    ]
    for use in uses:
        with pytest.raises(CheckpointError, match=r"model\.safetensors in .* changed since the model was loaded"):
            use()
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"loaded from .*/model, which is gone"):
        copy.deepcopy(model)


def test_errors_name_what_was_given_and_not_the_cache(hub: Path) -> None:
    MLXAutoModel.from_pretrained("org/name", cache_dir=hub)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"^org/name lacks \d+ tensors") as error:
            MLXAutoModelForSequenceClassification.from_pretrained("org/name", cache_dir=hub)
        assert "converted" not in str(error.value)
        assert "snapshots" not in str(error.value)
    path = hub / "models--org--name" / "snapshots" / SECOND / "model.safetensors"
    path.write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match=r"^org/name/model\.safetensors"):
        MLXAutoModel.from_pretrained("org/name", cache_dir=hub, revision="v2")


def test_a_folder_has_one_place_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    spellings = [tmp_path / "model", "model", "./model", "model/", "link", "model/../model"]
    assert len({key(spelling) for spelling in spellings}) == 1
    assert key("model").name.startswith("model-float-")


def test_a_hub_repos_place_follows_its_commit(hub: Path) -> None:
    place = {
        revision: key("org/name", revision=revision, cache_dir=str(hub)) for revision in (None, "main", "v1", "v2")
    }
    assert place[None] == place["main"] == place["v1"] == key("org/name", revision=FIRST, cache_dir=str(hub))
    assert place["v2"] != place["v1"]
    assert place["v2"] != key("org/name", revision="v2", subfolder="inner", cache_dir=str(hub))
    assert place["v1"].name.startswith("org--name-float-")


def test_revision_subfolder_and_cache_dir_are_honoured(hub: Path, bridge_cache: Path) -> None:
    for options, seed in (({}, 1), ({"revision": "v2"}, 2), ({"revision": SECOND, "subfolder": "inner"}, 3)):
        mlx_model = MLXAutoModel.from_pretrained("org/name", cache_dir=hub, **options)
        assert max_difference(hidden(mlx_model), hidden(make_model(BERT, seed=seed)), INPUTS) < ABSOLUTE
    (hub / "models--org--name" / "refs" / "main").write_text(SECOND)
    moved = MLXAutoModel.from_pretrained("org/name", cache_dir=hub)
    assert max_difference(hidden(moved), hidden(make_model(BERT, seed=2)), INPUTS) < ABSOLUTE
    assert len(conversions(bridge_cache)) == 3


def test_subfolder_of_a_local_folder_is_honoured(tmp_path: Path) -> None:
    torch_model = make_checkpoint(tmp_path / "inner")
    mlx_model = MLXAutoModel.from_pretrained(tmp_path, subfolder="inner")
    assert max_difference(hidden(mlx_model), hidden(torch_model), INPUTS) < ABSOLUTE
    with pytest.raises(RepositoryError, match=r"has no folder 'other'\. Check `subfolder`"):
        MLXAutoModel.from_pretrained(tmp_path, subfolder="other")


@pytest.mark.parametrize("missing", [{"revision": "v3"}, {"subfolder": "other"}, {"cache_dir": "elsewhere"}])
def test_what_the_hub_cache_lacks_is_an_error_offline(missing: dict[str, str], hub: Path, tmp_path: Path) -> None:
    options = {
        "cache_dir": str(hub),
        **{name: str(tmp_path / v) if name == "cache_dir" else v for name, v in missing.items()},
    }
    with pytest.raises(RepositoryError, match="org/name"):
        MLXAutoModel.from_pretrained("org/name", **options)


def test_hub_arguments_reach_huggingface_hub(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    real = huggingface_hub.snapshot_download

    def record(repo: str, **options: Any) -> str:
        asked.append(options)
        return real(repo, **{**options, "local_files_only": True, "token": None})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    monkeypatch.setattr(source_module.constants, "is_offline_mode", lambda: False)
    options = {"token": "secret", "cache_dir": str(hub), "local_files_only": True, "force_download": True}
    MLXAutoModel.from_pretrained("org/name", revision="v2", **options)
    assert {name: {call[name] for call in asked} for name in options} == {
        name: {value} for name, value in options.items()
    }
    assert [call["revision"] for call in asked] == ["v2", *[SECOND] * (len(asked) - 1)]
    asked.clear()
    MLXAutoModel.from_pretrained("org/name", cache_dir=str(hub))
    assert not any(call["local_files_only"] or call["force_download"] for call in asked)
    weights = [pattern for call in asked for pattern in call["allow_patterns"] if "safetensors" in pattern]
    assert weights == ["model.safetensors"]


def python(script: str, *arguments: Any, **environment: str) -> subprocess.Popen[str]:
    """Start a script in a fresh Python process."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


LOAD_AND_COUNT = """
import sys, json
from mlx_hf_bridge import MLXAutoModel, MLXAutoModelForSequenceClassification, MLXSentenceTransformer
from mlx_hf_bridge.loading import load
real = load.write_conversion
load.write_conversion = lambda *arguments: (open(sys.argv[2], "a").write("x"), real(*arguments))
model = MLXAutoModel.from_pretrained(sys.argv[1], quantization_config="mxfp4")
print(json.dumps(model([[5, 6, 7]]).last_hidden_state.tolist()))
"""


@pytest.mark.slow
def test_processes_that_convert_at_once_make_one_conversion(tmp_path: Path, bridge_cache: Path) -> None:
    make_checkpoint(tmp_path)
    processes = [python(LOAD_AND_COUNT, tmp_path, tmp_path / "count") for _ in range(4)]
    answers = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "x"
    assert len(answers) == 1
    assert json.loads(answers.pop())
    assert len(conversions(bridge_cache)) == 1


def test_hub_cache_variable_says_where_repos_and_conversions_lie(hub: Path, tmp_path: Path) -> None:
    script = "import sys; from mlx_hf_bridge import MLXAutoModel as A; print(A.from_pretrained('org/name').folder)"
    process = python(script, HF_HUB_CACHE=str(hub), MLX_HF_BRIDGE_CACHE="")
    folder = Path(process.communicate(timeout=120)[0].strip())
    assert process.returncode == 0
    assert folder.parent == tmp_path / "mlx_hf_bridge" / "converted"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"MLX_HF_BRIDGE_CACHE": "/a/b", "HF_HUB_CACHE": "/c/hub"}, "/a/b"),
        ({"HF_HUB_CACHE": "/c/hub"}, "/c/mlx_hf_bridge"),
        ({"HUGGINGFACE_HUB_CACHE": "/c/hub"}, "/c/mlx_hf_bridge"),
        ({"HF_HOME": "/d"}, "/d/mlx_hf_bridge"),
        ({"XDG_CACHE_HOME": "/e"}, "/e/huggingface/mlx_hf_bridge"),
        ({"HOME": "/f"}, "/f/.cache/huggingface/mlx_hf_bridge"),
        ({"HOME": "/f", "MLX_HF_BRIDGE_CACHE": "~/g"}, "/f/g"),
    ],
)
def test_conversions_lie_beside_the_hubs_cache(
    environment: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLX_HF_BRIDGE_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert bridge_cache_place() == Path(place)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_conversion_that_fails_midway_leaves_nothing(
    error: BaseException, tmp_path: Path, bridge_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path)
    real = load_module.write_conversion

    def fail(plan: Any, folder: Path, show_progress: bool) -> None:
        real(plan, folder, show_progress)
        raise error

    monkeypatch.setattr(load_module, "write_conversion", fail)
    with pytest.raises(type(error)):
        MLXAutoModel.from_pretrained(tmp_path)
    assert conversions(bridge_cache) == []
    monkeypatch.undo()
    MLXAutoModel.from_pretrained(tmp_path)


def flip(path: Path, place: int) -> None:
    """Flip a bit of a byte of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


BREAKAGES = {
    "weights truncated": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "tokenizer missing": lambda folder: (folder / "tokenizer.json").unlink(),
    "config longer": lambda folder: (folder / "config.json").write_text("{}" * 4000),
    "metadata missing": lambda folder: (folder / "conversion_metadata.json").unlink(),
    "metadata cut": lambda folder: os.truncate(folder / "conversion_metadata.json", 50),
    "metadata of another kind": lambda folder: (folder / "conversion_metadata.json").write_text("[]"),
    "metadata without files": lambda folder: (folder / "conversion_metadata.json").write_text('{"files": 3}'),
    "weights zeroed": lambda folder: spoil(folder / "model.safetensors"),
    "config blank": lambda folder: spoil(folder / "config.json"),
    "a header's bit": lambda folder: flip(folder / "model.safetensors", 8),
    "the last weight": lambda folder: flip(folder / "model.safetensors", -1),
    "everything missing": lambda folder: [path.unlink() for path in folder.iterdir()],
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_converted_folder_is_made_again(
    breakage: str, tmp_path: Path, bridge_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_checkpoint(tmp_path)
    first = MLXAutoModel.from_pretrained(tmp_path)
    BREAKAGES[breakage](first.folder)
    second = MLXAutoModel.from_pretrained(tmp_path)
    assert f"{first.folder} is incomplete or damaged; converting again" in caplog.text
    np.testing.assert_array_equal(hidden(first), hidden(second))
    assert conversions(bridge_cache) == [first.folder]


@pytest.mark.parametrize("recipe", [None, "mxfp4"])
def test_a_converted_folder_loads_in_place(recipe: str | None, tmp_path: Path, bridge_cache: Path) -> None:
    make_checkpoint(tmp_path)
    first = MLXAutoModel.from_pretrained(tmp_path, quantization_config=recipe)
    again = MLXAutoModel.from_pretrained(first.folder)
    same = MLXAutoModel.from_pretrained(first.folder, quantization_config=recipe)
    assert again.folder == same.folder == first.folder
    assert again.quantization_config == first.quantization_config
    np.testing.assert_array_equal(hidden(first), hidden(again))
    assert conversions(bridge_cache) == [first.folder]


@pytest.mark.parametrize("recipe", [None, "q8", "mxfp8"])
def test_a_saved_model_loads_back_without_its_source_and_cache(recipe: str | None, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "source")
    first = MLXAutoModel.from_pretrained(tmp_path / "source", quantization_config=recipe)
    first.save_pretrained(tmp_path / "saved")
    shutil.rmtree(first.folder)
    shutil.rmtree(tmp_path / "source")
    second = MLXAutoModel.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(hidden(first), hidden(second))
    second.save_pretrained(tmp_path / "saved")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")("the cat").input_ids[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("row", FIRST_ROWS, ids=row_name)
def test_an_unquantised_save_loads_in_transformers_with_equal_outputs(row: Row, tmp_path: Path) -> None:
    save_model(tmp_path / "source", row, plainest_head(row)[0])
    inputs = ragged_inputs(row)
    for head, name in (("Model", "last_hidden_state"), plainest_head(row)):
        mlx_model = mlx_class(head).from_pretrained(tmp_path / "source")
        mlx_model.save_pretrained(tmp_path / name)
        loaded, report = torch_class(row, head).from_pretrained(tmp_path / name, output_loading_info=True)
        assert not report["mismatched_keys"]
        dropped = ("pooler", *row.not_converted)
        assert all(any(word in missing for word in dropped) for missing in report["missing_keys"])
        assert (
            max_difference(output_array(loaded, inputs, name), output_array(mlx_model, inputs, name), inputs) < ABSOLUTE
        )
    # Compared with the source as loaded by the same class: Chinese CLIP's zeros the padding embedding on loading.
    reread = torch_class(row, head).from_pretrained(tmp_path / "source").state_dict()
    for name, tensor in reread.items():
        if not any(word in name for word in row.not_converted):
            assert torch.equal(loaded.state_dict()[name], tensor), name


def test_save_pretrained_onto_a_file_says_so(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    with pytest.raises(RepositoryError, match=r"config\.json is a file, expected a folder to save into"):
        mlx_model.save_pretrained(tmp_path / "config.json")


def make_old_layout(folder: Path) -> Any:
    """Save a sentence-transformers repo in the old layout: 0_Transformer, 1_Pooling, 2_Dense, 3_Normalize."""
    torch_model = save_model(folder / "0_Transformer", BERT)
    make_wordpiece(folder / "0_Transformer")
    (folder / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 11}')
    for name in ("1_Pooling", "2_Dense", "3_Normalize"):
        (folder / name).mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "2_Dense" / "config.json").write_text('{"in_features": 24}')
    torch.save({"linear.weight": torch.ones(3, 24)}, folder / "2_Dense" / "pytorch_model.bin")
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    entries = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "dot"}')
    return torch_model


def test_a_converted_folder_keeps_modules_and_moves_the_transformer_to_its_root(tmp_path: Path) -> None:
    torch_model = make_old_layout(tmp_path)
    mlx_model = MLXAutoModel.from_pretrained(tmp_path)
    assert max_difference(hidden(mlx_model), hidden(torch_model), INPUTS) < ABSOLUTE
    names = {path.relative_to(mlx_model.folder).as_posix() for path in mlx_model.folder.rglob("*")}
    kept = {
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
        "3_Normalize",
        "tokenizer.json",
    }
    assert names >= kept | {
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    }
    assert "0_Transformer" not in names
    entries = json.loads((mlx_model.folder / "modules.json").read_text())
    assert [entry["path"] for entry in entries] == ["", "1_Pooling", "2_Dense", "3_Normalize"]
    for name in ("1_Pooling/config.json", "2_Dense/pytorch_model.bin", "config_sentence_transformers.json"):
        assert (mlx_model.folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_hub_repo_in_the_old_layout_brings_its_module_folders(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--old"
    torch_model = make_old_layout(folder / "snapshots" / FIRST)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(FIRST)
    mlx_model = MLXAutoModel.from_pretrained("org/old", cache_dir=tmp_path)
    assert max_difference(hidden(mlx_model), hidden(torch_model), INPUTS) < ABSOLUTE
    assert (mlx_model.folder / "2_Dense" / "pytorch_model.bin").is_file()


def test_metadata_says_what_was_made_from_what(hub: Path) -> None:
    mlx_model = MLXAutoModel.from_pretrained("org/name", revision="v2", cache_dir=hub, quantization_config="mxfp4")
    metadata = json.loads((mlx_model.folder / "conversion_metadata.json").read_text())
    assert (metadata["source"], metadata["revision"]) == ("org/name", SECOND)
    assert metadata["recipe"] == {"bits": 4, "group_size": 32, "mode": "mxfp4", "modules_to_not_convert": []}
    assert metadata["weight_bytes"] == (mlx_model.folder / "model.safetensors").stat().st_size
    assert metadata["files"] == {
        path.relative_to(mlx_model.folder).as_posix(): path.stat().st_size
        for path in mlx_model.folder.rglob("*")
        if path.is_file() and path.name != "conversion_metadata.json"
    }
