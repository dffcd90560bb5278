"""Runs the cells of the notebooks in this process, with the packaged model and small local ones under the named ids.

`scripts/notebooks` runs those that need no other model than the packaged one in Jupyter's kernels.
"""

import contextlib
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from checkpoints import make_checkpoint
from convert_checkpoints import SMALL
from test_docs import ROOT
from test_docs_code import add
from three_pipelines import ROWS, make_for

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> list[str]:
    """Return the sources of a notebook's code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """Create a Hub cache with the packaged model, and tiny random ones for the others."""
    made, cache = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("hub")
    make_checkpoint(made / "reranker", SMALL, "ForSequenceClassification", labels=1)
    make_for(made / "mnli", ROWS["distilbert"], "ForSequenceClassification")
    add(cache, "cross-encoder/ms-marco-MiniLM-L6-v2", made / "reranker")
    add(cache, "typeform/distilbert-base-uncased-mnli", made / "mnli")
    add(cache, "sentence-transformers/all-MiniLM-L6-v2", minilm)
    return cache


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_the_cells_of_a_notebook_run(
    notebook: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    names: dict[str, object] = {"__name__": notebook.stem}
    for number, source in enumerate(code_of(notebook), 1):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(source, f"{notebook.name}, cell {number}", "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_has_no_errors_and_no_paths_of_its_author(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    content = json.loads(text)
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", ())]
    assert all(output["output_type"] != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)
    assert "/home/" not in text and "/tmp/" not in text and len(text) < 400_000
