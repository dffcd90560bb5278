"""Tests that the files, modules and commands named in the documentation exist, and that its links work."""

import re
from pathlib import Path

import pytest
from reliability import KINDS

import mlx_hf_bridge
from mlx_hf_bridge.runtime import device

ROOT = Path(mlx_hf_bridge.__file__).parent.parent
PACKAGE = ROOT / "mlx_hf_bridge"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Files of transformers and sentence-transformers, and files that the reader creates.
_ELSEWHERE = ("transformers/", "sentence_transformers/util", "script.py", "conversion_mapping.py", "modeling_")


def prose(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, heading = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", prose(found), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}
            assert heading in anchors, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_source_files_that_are_named_exist(page: Path) -> None:
    for name in set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.py)`", prose(page))):
        if name.startswith(_ELSEWHERE) or "<" in name:
            continue
        places = (ROOT / name, PACKAGE / name, PACKAGE / "sentence_transformers" / name)
        named = any(place.exists() for place in places) or any(PACKAGE.rglob(name)) or any(ROOT.glob(f"*/{name}"))
        assert named, f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_benchmarks_that_are_named_exist(page: Path) -> None:
    for name in set(re.findall(r"python -m benchmarks\.(\w+)", prose(page))):
        script = ROOT / "benchmarks" / name
        assert script.with_suffix(".py").exists() or (script / "__main__.py").exists(), f"{page.name} names {script}"


def test_every_room_is_on_the_page_of_the_architecture() -> None:
    page = prose(ROOT / "docs" / "architecture.md")
    rooms = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"`{room}/`" not in page] == []


@pytest.mark.skipif(device.BACKEND != "cpu", reason="the sentence has the numbers of both")
def test_the_size_of_a_batch_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert f"`batch_size` x {device.TOKENS_PER_TEXT} positions, padding included, on a CPU" in text


def test_the_attacks_that_are_counted_are_tests_and_on_the_page() -> None:
    page = prose(ROOT / "docs" / "reliability.md")
    for name, kind in KINDS.items():
        assert f"| {name} | {kind.what} | " in page
        for test in kind.tests:
            file, _, function = test.partition("::")
            content = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert not function or f"def {function}(" in content, f"tests/reliability.py names {test}"
