"""What a release relies on: one fallback version, the changelog's order, and files that a wheel brings."""

import re
import tomllib
from pathlib import Path

import mlx_hf_bridge

ROOT = Path(mlx_hf_bridge.__file__).parent.parent


def test_checkouts_without_tags_have_one_version() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    fallback = settings["tool"]["hatch"]["version"]["raw-options"]["fallback_version"]
    assert f'_built = "{fallback}"' in (ROOT / "mlx_hf_bridge" / "version.py").read_text(encoding="utf-8")


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])


def test_the_wheel_has_the_models_file() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert all((ROOT / source).is_file() for source in included)
    assert included["config/models.yaml"] == "mlx_hf_bridge/cli/models.yaml"
