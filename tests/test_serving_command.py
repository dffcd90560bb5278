"""`mlx-hf-bridge serve`: names of models, services, and what is refused."""

import argparse
import plistlib
from pathlib import Path
from typing import Any

import pytest
from convert_checkpoints import Capture

from mlx_hf_bridge.cli import main, serve
from mlx_hf_bridge.cli.parser import parse
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.serving.settings import LOOPBACK


def arguments(*words: str) -> argparse.Namespace:
    return parse(["serve", *words])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a/b", "c/d"], ["a/b", "c/d"]),
        (["small=a/b", "c/d"], {"small": "a/b", "d": "c/d"}),
        (["a/b=c"], ["a/b=c"]),
    ],
)
def test_models_are_given_with_or_without_an_alias(given: list[str], expected: Any) -> None:
    assert serve.dict_of(given) == expected


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="have one name"):
        serve.dict_of(["b=x/y", "a/b"])


def test_a_server_of_this_machine_takes_no_other_hosts_and_a_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLX_HF_BRIDGE_API_KEY", "secret")
    found = serve._settings(arguments("a/b"))
    assert (found.api_key, tuple(found.allowed_hosts), tuple(found.cors_origins)) == ("secret", LOOPBACK, ())
    open_to_all = serve._settings(arguments("a/b", "--host", "0.0.0.0", "--api-key", "other", "--auto-truncate"))
    assert (open_to_all.api_key, open_to_all.allowed_hosts, open_to_all.auto_truncate) == ("other", [], True)


def test_limits_are_options() -> None:
    found = serve._limits(arguments("a/b", "--max-body-mb", "1", "--timeout", "5", "--max-batch-tokens", "99"))
    assert (found.max_body_bytes, found.request_seconds, found.max_batch_tokens) == (2**20, 5.0, 99)
    assert found.max_concurrent_requests == 512


def test_services_run_the_command_without_the_key(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["serve", "a/b", "--api-key", "secret", "--port", "9000", "--print-unit"]
    assert main([*words, "systemd"]) == 0
    text = capsys.readouterr().out
    assert "mlx_hf_bridge serve a/b --port 9000\n" in text
    assert main([*words, "launchd"]) == 0
    content = plistlib.loads(capsys.readouterr().out.encode())
    assert content["ProgramArguments"][1:] == ["-m", "mlx_hf_bridge", "serve", "a/b", "--port", "9000"]
    assert "secret" not in text + str(content)
    assert main(["serve", "a/b", "--install"]) == 0
    printed = capsys.readouterr().out
    [path] = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert path.name in printed.replace("\n", "")
    assert "serve a/b" in path.read_text().replace("</string>\n\t\t<string>", " ")


def test_a_model_that_is_not_there_is_one_error(capsys: Capture) -> None:
    assert main(["serve", "./no/such/folder"]) == 1
    assert "is neither a folder on this machine nor a Hub id" in capsys.readouterr().err.replace("\n", " ")
