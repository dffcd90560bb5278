"""Check the pages of a built site: no requests to other hosts, and links that lead to pages and headings.

python scripts/site_check.py FOLDER
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Elements that make a browser load something, and the attribute with its address.
_LOADED = {
    ("audio", "src"),
    ("embed", "src"),
    ("iframe", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("link", "href"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
}
# `link` elements that browsers do not load.
_NOT_LOADED = {"canonical", "next", "prev", "alternate"}


class Page(HTMLParser):
    """The ids, links and loaded files of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") in _NOT_LOADED:
            return
        self.loaded += [value for name, value in values.items() if (tag, name) in _LOADED]


def faults(folder: Path) -> tuple[list[str], int]:
    """Return what is wrong with the site in a folder, and how many links were followed."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    found, followed = [], 0
    for path, page in sorted(pages.items()):
        name = path.relative_to(folder.resolve())
        found += [f"{name} loads {address}" for address in page.loaded if is_outside(address)]
        for link in [*page.links, *page.loaded]:
            if urlsplit(link).scheme or is_outside(link) or name.name == "404.html":
                continue
            followed += 1
            if problem := missing(link, path, pages):
                found.append(f"{name} links to {link}: {problem}")
    for path in folder.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.name} loads from another host"] * any(mark in text for mark in ("url(http", "@import"))
    return found, followed


def is_outside(address: str) -> bool:
    """Return whether an address is one of another host."""
    return address.startswith(("http:", "https:", "//"))


def missing(link: str, path: Path, pages: dict[Path, Page]) -> str:
    """Return what a link lacks: its page or its heading."""
    parts = urlsplit(link)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return "there is no such page"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].ids and not anchor.startswith("__"):
        return "the page has no such heading"
    return ""


if __name__ == "__main__":
    problems, count = faults(Path(sys.argv[1]))
    sys.stdout.write("".join(f"{problem}\n" for problem in problems) + f"{count} links followed\n")
    sys.exit(bool(problems))
