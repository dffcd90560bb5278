"""Tests of the cache's inventory and of `mlx-hf-bridge cache`: list, verify, prune and remove."""

import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint
from convert_checkpoints import SMALL, Capture, snapshot
from filelock import FileLock

from mlx_hf_bridge import MLXAutoModel
from mlx_hf_bridge.cache import CachedModel, remove, scan_cache, states, verify
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.conversion import usage
from mlx_hf_bridge.errors import BridgeError

DAY = 86400


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a source, and a cache of two conversions of it: float and q8."""
    folder = tmp_path_factory.mktemp("filled")
    make_checkpoint(folder / "first", SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_HF_BRIDGE_CACHE", str(folder / "cache"))
        for recipe in (None, "q8"):
            MLXAutoModel.from_pretrained(folder / "first", quantization_config=recipe)
    return folder


@pytest.fixture
def cache(filled: Path, bridge_cache: Path) -> Path:
    """Fill the test's own cache with a copy of both conversions."""
    shutil.copytree(filled / "cache", bridge_cache)
    return bridge_cache / "converted"


def one(recipe: str) -> CachedModel:
    """Return the model of a recipe in the cache."""
    (model,) = (model for model in scan_cache().models if model.recipe == recipe)
    return model


def answer(capsys: Capture, *arguments: str, code: int = 0) -> Any:
    """Run `mlx-hf-bridge cache ... --json` and return the document."""
    assert main(["cache", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def outdate(model: CachedModel) -> None:
    """Make a model look as if it was converted with another version of transformers."""
    path = model.folder / "conversion_metadata.json"
    metadata = json.loads(path.read_text())
    metadata["libraries"]["transformers"] = "5.0"
    del metadata["checksum"]
    path.write_text(json.dumps(metadata))


def test_an_empty_cache_is_empty_and_stays_so(bridge_cache: Path, capsys: Capture) -> None:
    assert answer(capsys, "list") == {"cache": str(bridge_cache), "size": 0, "models": [], "leftovers": []}
    assert main(["cache", "prune"]) == main(["cache", "verify"]) == 0
    assert not bridge_cache.exists()


def test_list_shows_source_recipe_size_ages_and_state(
    filled: Path, cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(cache.parent)
    shown = answer(capsys, "list", "--sort", "size")
    assert [model["recipe"] for model in shown["models"]] == ["float", "q8"]
    model = shown["models"][1]
    assert (model["source"], model["revision"], model["state"]) == (str(filled / "first"), None, "current")
    assert model["size"] == sum(path.stat().st_size for path in Path(model["folder"]).rglob("*") if path.is_file())
    assert time.time() - 3600 < scan_cache().models[0].created < time.time()
    assert model["last_used"] >= model["created"][:10]
    assert shown["size"] == sum(model["size"] for model in shown["models"])
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["cache", "ls"]) == 0
    text = capsys.readouterr().out
    for word in (str(filled / "first"), "q8", "just now", "current", model["id"], "2 models"):
        assert word in text
    assert snapshot(cache.parent) == before


def test_a_source_that_a_terminal_would_obey_is_written_out(cache: Path, capsys: Capture) -> None:
    path = one("q8").folder / "conversion_metadata.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    path.write_text(json.dumps({**content, "source": "a[red]b\x1b[2J\nc", "identity": {}}))
    for arguments in (["list"], ["verify"], ["prune", "--dry-run"]):
        main(["cache", *arguments])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "a[red]b\\x1b[2J\\nc" in shown


def test_verify_reads_every_byte_and_says_what_decayed(cache: Path, capsys: Capture) -> None:
    assert [model["damage"] for model in answer(capsys, "verify")["models"]] == [[], []]
    folder = one("q8").folder
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    (folder / "config.json").unlink()
    (found,) = (model for model in answer(capsys, "verify", "first", code=1)["models"] if model["recipe"] == "q8")
    assert [damage["file"] for damage in found["damage"]] == ["config.json", "model.safetensors"]
    assert found["damage"][0]["what"] == "is missing"
    assert main(["cache", "verify", "q8"]) == 1
    text = capsys.readouterr().out
    assert "DAMAGED" in text
    assert "  config.json is missing" in text
    assert "1 of 1 damaged" in text
    assert answer(capsys, "verify", "--fix")["models"][1]["removed"] is True
    assert not folder.exists()
    assert one("float").folder.exists()


def test_verify_of_an_older_folder_without_checksums_uses_what_it_has(cache: Path) -> None:
    path = one("q8").folder / "conversion_metadata.json"
    content = json.loads(path.read_text())
    for key in ("sha256", "checksum"):
        del content[key]
    path.write_text(json.dumps(content))
    assert verify(one("q8")) == []
    os.truncate(one("q8").folder / "tokenizer.json", 5)
    assert [damage.file for damage in verify(one("q8"))] == ["tokenizer.json"]


@pytest.mark.parametrize("way", ["source", "name", "id", "folder", "recipe", "option"])
def test_remove_takes_what_a_user_knows(way: str, filled: Path, cache: Path, capsys: Capture) -> None:
    model = one("q8")
    targets = {
        "source": [str(filled / "first"), "--recipe", "q8"],
        "name": ["FIRST", "--recipe", "q8"],
        "id": [model.id],
        "folder": [str(model.folder)],
        "recipe": ["q8"],
        "option": ["--recipe", "q8"],
    }
    before = snapshot(cache)
    tried = answer(capsys, "remove", *targets[way], "--dry-run")
    assert snapshot(cache) == before
    done = answer(capsys, "rm", *targets[way], "-y")
    assert [item["id"] for item in tried["items"]] == [item["id"] for item in done["removed"]] == [model.id]
    assert done["freed"] == tried["size"] == model.size
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [one("float").id]
    assert not (cache.parent / "in_use" / model.id).exists()
    # It is only a cache.
    MLXAutoModel.from_pretrained(filled / "first", quantization_config="q8")
    assert one("q8").id == model.id


def test_remove_asks_and_no_is_no(cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["cache", "remove", "q8"]) == 1
    assert "Pass --yes, or --dry-run" in capsys.readouterr().err
    for reply, code in (("", 1), ("n\n", 1), ("maybe\n", 1), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", io.StringIO(reply))
        monkeypatch.setattr("sys.stdin.isatty", lambda: True)
        assert main(["cache", "remove", "q8"]) == code
        assert any(model.recipe == "q8" for model in scan_cache().models) == bool(code)


def test_a_target_that_is_not_there_is_named(cache: Path, capsys: Capture) -> None:
    done = answer(capsys, "remove", "org/absent", "q8", "--yes", code=1)
    assert done["missing"] == ["org/absent"]
    assert len(done["removed"]) == 1
    assert main(["cache", "verify", "absent"]) == 1
    assert "not in the cache: absent" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cache", "remove", "--yes"])


def test_prune_takes_what_no_load_finds_and_nothing_else(cache: Path, capsys: Capture) -> None:
    outdate(one("q8"))
    (cache / ".x-float-0-abc.scratch").mkdir()
    (cache / ".x-float-0-abc.scratch" / "lock").touch()
    for name in (f"gone-float-{'0' * 16}.lock", f"../in_use/gone-float-{'0' * 16}"):
        (cache / name).touch()
    for name in ("0" * 32, "photos"):
        (cache.parent / "calibration" / name).mkdir(parents=True)
        os.utime(cache.parent / "calibration" / name, (0, 0))
    # Somebody else's, though they lie in the cache.
    (cache / "mine").mkdir()
    (cache / "mine" / "file").touch()
    (cache / ".notes.scratch").mkdir()
    (cache / ".notes.scratch" / "file").touch()
    os.utime(cache / ".notes.scratch", (0, 0))
    (cache / f"link-float-{'1' * 16}").symlink_to(cache / "mine")
    kinds = [item.get("kind", item.get("state")) for item in answer(capsys, "prune", "--dry-run")["items"]]
    assert kinds == ["outdated", "scratch", "lock", "lock", "calibration"]
    assert main(["cache", "prune", "--yes"]) == 0
    assert scan_cache().prunable() == []
    names = {path.name for path in cache.iterdir() if path.is_dir()}
    assert names == {"mine", ".notes.scratch", f"link-float-{'1' * 16}", one("float").id}
    assert (cache / "mine" / "file").exists()
    assert [path.name for path in (cache.parent / "calibration").iterdir()] == ["photos"]


def test_unused_models_are_pruned_when_asked(cache: Path, capsys: Capture) -> None:
    model = one("q8")
    for path in (usage.lock_path(model.folder), model.folder / "conversion_metadata.json"):
        os.utime(path, (time.time() - 40 * DAY,) * 2)
    assert [model.recipe for model in scan_cache().prunable(unused_days=30)] == ["q8"]
    assert answer(capsys, "prune", "--unused-for", "50", "--yes")["removed"] == []
    assert [item["recipe"] for item in answer(capsys, "prune", "--unused-for", "30d", "--yes")["removed"]] == ["q8"]
    with pytest.raises(SystemExit):
        main(["cache", "prune", "--unused-for", "-1"])


def test_states_say_why(filled: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outdate(one("q8"))
    assert one("q8").reasons == (f"it was converted with transformers 5.0, and {version()} is installed",)
    (one("float").folder / "tokenizer.json").write_text("{}")
    assert one("float").state == "broken"
    assert "tokenizer.json has 2 bytes" in one("float").reasons[0]
    (one("float").folder / "conversion_metadata.json").write_text("[")
    (broken,) = (model for model in scan_cache().models if model.state == "broken")
    assert (broken.source, broken.recipe) == (None, None)
    monkeypatch.setattr(states, "installed_version", lambda name: "5.0" if name == "transformers" else version(name))
    assert one("q8").state == "current"
    written = states.FORMAT
    monkeypatch.setattr(states, "FORMAT", 99)
    assert one("q8").reasons == (f"it has the format {written}, and this version writes 99",)


def version(name: str = "transformers") -> str:
    from importlib import metadata

    return metadata.version(name)


def test_a_changed_or_missing_source_outdates_its_conversions(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "source", SMALL)
    MLXAutoModel.from_pretrained(tmp_path / "source")
    assert one("float").state == "current"
    os.utime(tmp_path / "source" / "config.json", (1, 1))
    assert one("float").reasons == (f"files of its source {tmp_path / 'source'} have changed",)
    shutil.rmtree(tmp_path / "source")
    assert one("float").reasons == (f"its source {tmp_path / 'source'} is gone",)


def test_a_model_that_is_loaded_is_not_removed(filled: Path, cache: Path, capsys: Capture) -> None:
    model = MLXAutoModel.from_pretrained(filled / "first", quantization_config="q8")
    assert one("q8").in_use
    done = answer(capsys, "remove", "first", "--yes", code=1)
    assert [item["reason"] for item in done["kept"]] == ["is in use by a process"]
    assert [item["recipe"] for item in done["removed"]] == ["float"]
    again = MLXAutoModel.from_pretrained(model.folder)
    del model
    assert one("q8").in_use
    del again
    assert not one("q8").in_use
    assert remove([one("q8")]).kept == ()


def test_a_model_that_is_being_converted_is_not_removed(cache: Path) -> None:
    model = one("q8")
    with FileLock(f"{model.folder}.lock"):
        assert remove([model]).kept == ((model, "is being converted by a process"),)
    assert model.folder.is_dir()


def test_what_vanishes_meanwhile_is_removed(cache: Path) -> None:
    model = one("q8")
    shutil.rmtree(model.folder)
    assert remove([model]).removed == (model,)


def test_a_load_after_a_removal_has_a_lock_of_its_own(filled: Path, cache: Path) -> None:
    """One whose file was removed while it waited would protect nothing."""
    folder = one("q8").folder
    with usage.exclusive(folder) as is_free:
        assert is_free
        shutil.rmtree(folder)
    held = usage.use(folder)
    with usage.exclusive(folder) as is_free:
        assert not is_free
    del held


def test_a_cache_that_cannot_be_written_has_no_locks_and_loads(
    filled: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(usage.os, "utime", refuse)
    assert usage.use(one("q8").folder) is None
    MLXAutoModel.from_pretrained(filled / "first", quantization_config="q8")


def test_what_is_no_model_of_the_cache_is_a_bridge_error(cache: Path) -> None:
    wrong: list[Any] = [lambda: verify("q8"), lambda: remove(["q8"]), lambda: remove(5), lambda: scan_cache().find(5)]  # type: ignore[arg-type,list-item]
    for call in wrong:
        with pytest.raises(BridgeError):
            call()
