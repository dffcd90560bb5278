"""The page of the server in headless Chromium: every tool, by mouse and by keyboard, on three widths, light and dark.

`pytest -m integrations` runs it where playwright and a Chromium are installed (CHROMIUM names another one), and with
axe-core's rules for accessibility where AXE names its axe.min.js. SCREENSHOTS names a folder for pictures.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_models import make_classifiers, on_loopback

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

WIDTHS = (360, 800, 1280)
BUTTONS = {"search": "Search", "matrix": "Compare", "rerank": "Rank", "labels": "Label", "map": "Draw"}


@pytest.fixture(scope="module")
def address(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folders = make_classifiers(tmp_path_factory.mktemp("page"))
    models = {"all-MiniLM-L6-v2": str(minilm), "reranker": folders["reranker"], "nli": folders["nli"]}
    with on_loopback(models) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page with all that it said and asked for."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda one: one.url.startswith((address, "data:")) or self.outside.append(one.url))
        self.page.goto(address)
        self.page.wait_for_selector("#models li")

    def use(self, name: str) -> str:
        """Choose a tool, use it, and return what it says at the end."""
        self.page.click(f"#tab-{name}")
        self.page.click(f"#panel-{name} button")
        # By selectors: the page admits no functions that are made of texts.
        self.page.wait_for_selector(f"#panel-{name} button:enabled")
        return str(self.page.text_content("#status"))

    def picture(self, name: str) -> None:
        """Keep a picture, if SCREENSHOTS says where."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_tool_works_without_a_word_on_the_console(browser: Any, address: str, width: int, scheme: str) -> None:
    visit = Visit(browser, address, width, scheme)
    for name in BUTTONS:
        assert visit.use(name) == "Done", name
        visit.picture(f"{name}-{width}-{scheme}")
        # Nothing but the matrix is wider than the page.
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, name
    assert (visit.said, visit.outside) == ([], [])
    visit.context.close()


def test_the_best_match_is_found_and_files_are_read(browser: Any, address: str, tmp_path: Path) -> None:
    visit = Visit(browser, address, 1280, "light")
    visit.use("search")
    assert visit.page.text_content("#panel-search tbody tr:first-child td") in (
        "The cat sleeps on the sofa.",
        "Kittens play with a ball of wool.",
    )
    table = tmp_path / "table.csv"
    table.write_text('id,title\n1,"A ""quoted"" text, with\na line break"\n2,Another one\n', encoding="utf-8")
    visit.page.set_input_files("#file", str(table))
    visit.page.wait_for_selector("#count:text-is('2 texts')")
    assert visit.page.input_value("#texts") == 'A "quoted" text, with a line break\nAnother one'
    visit.page.select_option("#column", label="id")
    assert visit.page.input_value("#texts") == "1\n2"
    assert visit.said == []
    visit.context.close()


def test_the_page_is_used_by_keyboard(browser: Any, address: str) -> None:
    visit = Visit(browser, address, 800, "light")
    press = visit.page.keyboard.press
    press("Tab")
    assert visit.page.evaluate("document.activeElement.textContent") == "Skip to the texts"
    press("Enter")
    for _ in range(10):
        press("Tab")
        if visit.page.evaluate("document.activeElement.getAttribute('role')") == "tab":
            break
    for name in list(BUTTONS)[1:]:
        press("ArrowRight")
        assert visit.page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert visit.page.is_visible(f"#panel-{name}")
    press("Home")
    press("Tab")
    assert visit.page.evaluate("document.activeElement.id") == "query"
    press("Enter")
    visit.page.wait_for_selector("#panel-search tbody tr")
    assert visit.said == []
    visit.context.close()


def test_errors_are_said_on_the_page(browser: Any, address: str) -> None:
    visit = Visit(browser, address, 360, "dark")
    visit.page.fill("#texts", " ")
    assert "There are no texts" in visit.use("search")
    assert visit.page.get_attribute("#status", "role") == "status"
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(browser: Any, address: str, scheme: str) -> None:
    if not (script := os.environ.get("AXE")):
        pytest.skip("AXE does not name axe.min.js (npm pack axe-core)")
    visit = Visit(browser, address, 800, scheme)
    found = []
    for name in BUTTONS:
        visit.use(name)
        # The page itself admits no script from elsewhere.
        visit.page.evaluate(Path(script).read_text(encoding="utf-8"))
        found += visit.page.evaluate(
            "axe.run().then((one) => one.violations.map((v) => v.id + ': ' + v.nodes[0].html))"
        )
    assert found == []
    visit.context.close()
