"""Tests that the shell, YAML and TOML blocks of README and docs can be parsed, and that commands have their options."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from test_docs import PAGES, prose

from mlx_hf_bridge.cli.parser import parse

_PROGRAM = "mlx-hf-bridge"
# What ends the words of a command; what is behind a redirection is no option.
_SEPARATORS = {"|", "||", "&&", ";", "&", ">", "<"}


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page in some languages."""
    return re.findall(rf"^ *```(?:{'|'.join(languages)})\n(.*?)^ *```$", prose(page), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """Return the words of the calls of mlx-hf-bridge in a shell block, without the program's name."""
    found: list[list[str]] = []
    for line in block.replace("\\\n", " ").splitlines():
        current: list[str] = []
        for word in [*shlex.split(line, comments=True), ";"]:
            if word not in _SEPARATORS:
                current.append(word)
                continue
            while current and re.fullmatch(r"\w+=.*", current[0]):
                current = current[1:]
            if current[:1] == [_PROGRAM]:
                found.append(current[1:])
            current = []
    return found


SHELL = [page for page in PAGES if blocks(page, "sh", "bash")]
CALLS = [(page.name, call) for page in SHELL for block in blocks(page, "sh", "bash") for call in commands(block)]


@pytest.mark.parametrize("page", SHELL, ids=lambda page: page.stem)
def test_the_shell_blocks_of_a_page_can_be_parsed(page: Path) -> None:
    for block in blocks(page, "sh", "bash"):
        checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(("page", "call"), CALLS, ids=[f"{page}-{' '.join(call)[:40]}" for page, call in CALLS])
def test_the_commands_of_a_page_have_their_options(page: str, call: list[str]) -> None:
    try:
        parse(call)
    except SystemExit as error:
        pytest.fail(f"{page}: {_PROGRAM} {shlex.join(call)} ends with exit code {error.code}")


def test_a_command_with_an_unknown_option_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    [call] = commands("NAME=1 mlx-hf-bridge encode MODEL \\\n  'a text' --no-such-option  # a comment")
    assert call == ["encode", "MODEL", "a text", "--no-such-option"]
    with pytest.raises(SystemExit):
        parse(call)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.stem)
def test_the_yaml_blocks_of_a_page_can_be_parsed(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block)
