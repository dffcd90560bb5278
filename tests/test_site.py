"""Tests of the documentation site's sources: its navigation, its pages of errors and of the API, and its checks.

`scripts/docs` builds the site itself.
"""

import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_docs import ROOT, prose

import mlx_hf_bridge
from mlx_hf_bridge import errors

DOCS = ROOT / "docs"


def script(name: str) -> ModuleType:
    """Import a script of scripts/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(navigation: Any) -> Iterator[str]:
    """Return the pages of a navigation, in order."""
    for entry in navigation if isinstance(navigation, list) else navigation.values():
        if isinstance(entry, str):
            yield entry
        else:
            yield from pages_of(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = list(pages_of(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    assert len(listed) == len(set(listed))
    of_the_root = set(script("site_sources").PAGES.values()) - {"index.md"}
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} | of_the_root
    assert set(listed) == pages


def test_every_error_is_on_the_page_of_troubleshooting() -> None:
    rows = re.findall(r"^\| `(\w+Error)` \| ([\w, ]+) \| (.*) \| (.*) \|$", prose(DOCS / "troubleshooting.md"), re.M)
    assert sorted(row[0] for row in rows) == sorted({*errors.__all__} - {"BridgeError"})
    for name, types, cause, remedy in rows:
        bases = {base.__name__ for base in getattr(errors, name).__mro__ if base.__module__ == "builtins"}
        assert set(types.split(", ")) <= bases, name
        assert cause and remedy, name


def test_every_public_name_is_in_the_reference_of_the_api() -> None:
    text = "".join(prose(path) for path in (DOCS / "api").glob("*.md"))
    documented = {line.rpartition(".")[2] for line in re.findall(r"^::: ([\w.]+)$", text, re.M)}
    whole = ("mlx_hf_bridge.pretrained.auto", "mlx_hf_bridge.errors")
    assert all(f"::: {module}\n" in text for module in whole)
    names = {
        name
        for name in mlx_hf_bridge.__all__
        if getattr(mlx_hf_bridge, name).__module__ not in whole and "ipython" not in name
    }
    assert names - documented == set()


def test_the_names_in_the_reference_of_the_api_exist() -> None:
    for path in (DOCS / "api").glob("*.md"):
        # The modules of the integrations need the other tools.
        for name in re.findall(r"^::: (?!mlx_hf_bridge.integrations)([\w.]+)$", prose(path), re.M):
            module, _, attribute = name.rpartition(".")
            assert importlib.import_module(module) and (
                hasattr(sys.modules[module], attribute) or importlib.util.find_spec(name)
            ), name


def test_links_out_of_docs_lead_to_pages_of_the_site() -> None:
    sources = script("site_sources")
    files: set[Path] = set()
    page = DOCS / "integrations.md"
    text = sources.with_links(page, Path("integrations.md"), files)
    assert "](files/examples/integrations/langchain_search.py.md)" in text
    assert ROOT / "examples/integrations/langchain_search.py" in files
    assert "](contributing.md)" in sources.with_links(ROOT / "README.md", Path("index.md"), files)


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//fonts.example/x.css">', "loads //fonts.example/x.css"),
        ('<img src="missing.png">', "there is no such page"),
        ('<a href="#nowhere">x</a>', "the page has no such heading"),
        ('<a href="other/#nowhere">x</a>', "there is no such page"),
        ('<a href="https://example.org">x</a><h2 id="here"></h2><a href="#here">x</a>', ""),
    ],
)
def test_the_check_of_the_site_finds_faults(html: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(html, encoding="utf-8")
    found, _ = script("site_check").faults(tmp_path)
    assert (fault in "".join(found)) if fault else not found
