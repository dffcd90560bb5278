"""Tests that every public name has a docstring, and that those of the public API have all sections.

The docstrings are in Google style, a summary line, then `Args:`, `Returns:` and `Raises:`, and each must be
understandable by itself, as editors show it. They are read from the source, without importing the modules.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import mlx_hf_bridge

ROOT = Path(mlx_hf_bridge.__file__).parent
# What users call, and the blocks that authors of model files compose: all sections are required here.
FULL = (
    "architecture",
    "cache",
    "conversion/api.py",
    "conversion/metal_export.py",
    "corpora/api.py",
    "facade",
    "integrations",
    "layers",
    "loading/load.py",
    "pipelines",
    "pretrained",
    "quantization/recipes.py",
    "sentence_transformers",
    "verification/verify.py",
    "zero_change/__init__.py",
)
# The most used names of the public API, whose docstrings contain a short example.
WITH_EXAMPLE = {
    "conversion/api.py": {"convert"},
    "conversion/metal_export.py": {"export_metal"},
    "facade/__init__.py": {"facade"},
    "pipelines/__init__.py": {"pipeline"},
    "pretrained/auto.py": {"MLXAutoModel.from_pretrained"},
    "pretrained/model.py": {"MLXPreTrainedModel.save_pretrained", "MLXPreTrainedModel.push_to_hub"},
    "quantization/recipes.py": {"MLXQuantizationConfig"},
    "sentence_transformers/cross_encoder.py": {"MLXCrossEncoder", "MLXCrossEncoder.predict", "MLXCrossEncoder.rank"},
    "sentence_transformers/multi_vector_encoder.py": {"MLXMultiVectorEncoder"},
    "sentence_transformers/scoring/retrieval.py": {"semantic_search", "paraphrase_mining", "community_detection"},
    "sentence_transformers/sentence_transformer.py": {
        "MLXSentenceTransformer",
        "MLXSentenceTransformer.encode",
        "MLXSentenceTransformer.similarity",
    },
    "sentence_transformers/sparse_encoder.py": {"MLXSparseEncoder"},
    "verification/verify.py": {"verify"},
    "zero_change/__init__.py": {"install"},
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Public:
    """A public class, function or method: its file, name and definition."""

    file: str
    name: str
    node: Function | ast.ClassDef

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def decorators(self) -> set[str]:
        return {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in self.node.decorator_list}

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"


def _public(file: str, body: list[ast.stmt], inside: str = "") -> Iterator[Public]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            found = Public(file, f"{inside}{node.name}", node)
            if not found.decorators & {"overload", "setter"}:
                yield found
            if isinstance(node, ast.ClassDef):
                yield from _public(file, node.body, f"{inside}{node.name}.")


@cache
def public_names() -> tuple[Public, ...]:
    """Return every public definition of the package."""
    found: list[Public] = []
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += _public(path.relative_to(ROOT).as_posix(), tree.body)
    return tuple(found)


def is_full(found: Public) -> bool:
    """Return whether all sections are required."""
    return any(found.file == part or found.file.startswith(f"{part}/") for part in FULL)


def parameters(node: Function | ast.ClassDef) -> list[str]:
    """Return the parameters of a function, or those of the __init__ or dataclass fields of a class."""
    if isinstance(node, ast.ClassDef):
        init = next((item for item in node.body if isinstance(item, Function) and item.name == "__init__"), None)
        return parameters(init) if init else []
    arguments = node.args
    named = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    named += [argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [name for name in named if name not in ("self", "cls") and not name.startswith("_")]


def section(doc: str, name: str) -> str:
    """Return the lines of a section, without its heading."""
    match = re.search(rf"^{name}:\n((?:[ \t]+.*\n|\n)*)", f"{doc}\n", re.MULTILINE)
    return match.group(1) if match else ""


def described(doc: str, name: str = "Args") -> set[str]:
    """Return the names that a section describes: `name:`, `name (type):`, `a, b:` or `*args, **kwargs:`."""
    lines = re.findall(r"^[ \t]{4}([\w*`, ]+?)(?: \([^)]*\))?:", section(doc, name), re.MULTILINE)
    return {word.strip(" *`") for line in lines for word in line.split(",")}


def returns_something(node: Function) -> bool:
    """Return whether the function is annotated to return a value."""
    return node.returns is None or ast.unparse(node.returns) not in ("None", "NoReturn")


def test_every_module_class_and_function_says_what_it_is_for() -> None:
    lacking = [str(found) for found in public_names() if not found.doc]
    assert not lacking, "\n".join(lacking)


def test_every_summary_is_a_sentence_of_its_own() -> None:
    odd = []
    for found in public_names():
        summary = found.doc.split("\n\n")[0].replace("\n", " ").strip()
        if summary.startswith("The same") or not summary.endswith((".", "!", "?", ":")):
            odd.append(f"{found}: {summary}")
    assert not odd, "\n".join(odd)


def test_every_argument_of_the_public_api_is_described() -> None:
    lacking = []
    for found in filter(is_full, public_names()):
        missing = [name for name in parameters(found.node) if name not in described(found.doc)]
        if missing and not found.decorators & {"property", "shares_docstring"}:
            lacking.append(f"{found}: {', '.join(missing)}")
    assert not lacking, "\n".join(lacking)


def test_no_docstring_describes_an_argument_that_is_not_there() -> None:
    stale = []
    for found in public_names():
        if isinstance(found.node, ast.ClassDef) and "dataclass" in found.decorators:
            continue
        given = described(found.doc)
        if extra := given - set(parameters(found.node)) if given else set():
            stale.append(f"{found}: {', '.join(sorted(extra))}")
    assert not stale, "\n".join(stale)


def test_every_result_of_the_public_api_is_described() -> None:
    lacking = [
        str(found)
        for found in filter(is_full, public_names())
        if not isinstance(found.node, ast.ClassDef)
        and not found.decorators & {"property", "cached_property", "shares_docstring"}
        and returns_something(found.node)
        and not (section(found.doc, "Returns") or section(found.doc, "Yields"))
    ]
    assert not lacking, "\n".join(lacking)


def test_every_error_that_the_public_api_raises_itself_is_described() -> None:
    lacking = []
    for found in filter(is_full, public_names()):
        if isinstance(found.node, ast.ClassDef) or "shares_docstring" in found.decorators:
            continue
        raised = {
            ast.unparse(node.exc.func)
            for node in ast.walk(found.node)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        }
        if missing := raised - described(found.doc, "Raises"):
            lacking.append(f"{found}: {', '.join(sorted(missing))}")
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize("file", WITH_EXAMPLE)
def test_the_most_used_names_have_an_example(file: str) -> None:
    found = {one.name: one.doc for one in public_names() if one.file == file}
    for name in WITH_EXAMPLE[file]:
        assert section(found[name], "Example") or section(found[name], "Examples"), f"{file}: {name}"


SHARED = [
    (name, method)
    for name in ("MLXSentenceTransformer", "MLXSparseEncoder", "MLXMultiVectorEncoder", "MLXCrossEncoder")
    for method in ("", "encode", "encode_query", "encode_document", "predict", "rank")
    if not method or hasattr(getattr(mlx_hf_bridge, name), method)
]


@pytest.mark.parametrize(("name", "method"), SHARED)
def test_shared_docstrings_describe_the_whole_signature(name: str, method: str) -> None:
    """Constructors and methods that forward arguments document these as well, for `help()` and notebooks."""
    owner = getattr(mlx_hf_bridge, name)
    shown = getattr(owner, method) if method else owner
    taken = [parameter for parameter in inspect.signature(shown).parameters if parameter not in ("self", "kwargs")]
    assert [parameter for parameter in taken if parameter not in described(inspect.getdoc(shown) or "")] == []
