"""Write the sources of the documentation site: docs/, pages of the repository's root, and the files that they link to.

python scripts/site_sources.py FOLDER

Pages link to each other as on GitHub. A link out of docs/, to an example or a notebook, leads to a page that shows the
file, so that the site is complete by itself.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Pages outside docs/, under the names that they have on the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".svg": "xml"}


def main(folder: str) -> None:
    """Write all pages, and those of the files that they link to."""
    target = Path(folder)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target, ignore=shutil.ignore_patterns("*.toml"))
    pages = {path: path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    pages |= {ROOT / name: Path(page) for name, page in PAGES.items() if name != "README.md"}
    files: set[Path] = set()
    for source, page in sorted(pages.items()):
        text = with_links(source, page, files)
        (target / page).write_text(text, encoding="utf-8")
    for path in sorted(files):
        page = target / page_of(path)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(shown(path), encoding="utf-8")


def with_links(source: Path, page: Path, files: set[Path]) -> str:
    """Return a page's text with its links as they are on the site, and add the files that it links to."""

    def replaced(found: re.Match[str]) -> str:
        before, link, after = found.groups()
        path = Path(os.path.normpath(source.parent / link))
        if ":" in link or not path.exists() or (is_in_docs(path) and is_in_docs(source)):
            return found[0]
        if not is_in_docs(path) and str(path.relative_to(ROOT)) not in PAGES:
            files.add(path)
        return f"{before}{os.path.relpath(page_of(path), page.parent)}{after}"

    parts = re.split(r"(^ *```.*?^ *```$)", source.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return "".join(part if number % 2 else _LINK.sub(replaced, part) for number, part in enumerate(parts))


def is_in_docs(path: Path) -> bool:
    """Return whether a file is copied as it is."""
    return path.is_relative_to(ROOT / "docs")


def page_of(path: Path) -> Path:
    """Return where on the site a file of the repository is shown."""
    if is_in_docs(path):
        return path.relative_to(ROOT / "docs")
    name = path.relative_to(ROOT)
    return Path(PAGES[str(name)]) if str(name) in PAGES else Path("files") / f"{name}.md"


def shown(path: Path) -> str:
    """Return a page that shows a file, a notebook, or the names in a folder."""
    title = f"# {path.relative_to(ROOT)}\n\n"
    if path.is_dir():
        names = sorted(entry.relative_to(path) for entry in path.rglob("*.*") if "__pycache__" not in entry.parts)
        return title + "".join(f"- `{name}`\n" for name in names)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return "\n\n".join(cell(one) for one in json.loads(text)["cells"]) + "\n"
    return f"{title}````{_LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n````\n"


def cell(content: dict) -> str:
    """Return a notebook's cell as Markdown, with the texts and pictures that it printed."""
    source = "".join(content["source"])
    if content["cell_type"] == "markdown":
        return source
    parts = [f"```python\n{source}\n```"]
    for output in content["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(f"![Output](data:image/png;base64,{''.join(data['image/png']).strip()})")
        elif text := "".join(output.get("text", data.get("text/plain", ""))):
            parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
