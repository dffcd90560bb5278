"""Runs the Python code of README and docs, one page after the other, with small local models under the named ids."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import transformers
from checkpoints import make_checkpoint, make_wordpiece
from convert_checkpoints import SMALL
from test_docs import PAGES, ROOT, prose
from test_multi_vector_encoder import colbert
from three_pipelines import ROWS, make_for

from mlx_hf_bridge.quantization import curvature

pytestmark = pytest.mark.slow
# Blocks that only show a form, and clients of a server, which tests/test_serving_clients.py runs.
_NOT_RUN = {"docs/adding-a-model.md", "docs/serving.md"}
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = [page for page in PAGES if str(page.relative_to(ROOT)) not in _NOT_RUN and _BLOCK.search(prose(page))]
_CLASSIFIERS = {
    "typeform/distilbert-base-uncased-mnli": "distilbert",
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": "distilbert",
    "cross-encoder/ms-marco-MiniLM-L6-v2": "bert",
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a Hub cache with tiny random models under the ids that the pages name."""
    made, cache = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("hub")
    for name, family in _CLASSIFIERS.items():
        labels = 1 if name.startswith("cross-encoder/") else 3
        if labels == 1:
            make_checkpoint(made / name, SMALL, "ForSequenceClassification", labels=1)
        else:
            make_for(made / name, ROWS[family], "ForSequenceClassification")
    make_for(made / "dslim/bert-base-NER", ROWS["bert"], "ForTokenClassification")
    make_for(made / "deepset/roberta-base-squad2", ROWS["roberta"], "ForQuestionAnswering")
    for name in ("google-bert/bert-base-uncased", "naver/splade-v3"):
        make_for(made / name, ROWS["bert"], "ForMaskedLM")
    minilm = made / "sentence-transformers/all-MiniLM-L6-v2"
    config = transformers.BertConfig(  # as wide as the page about search truncates embeddings
        vocab_size=256, hidden_size=128, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    transformers.BertModel(config).save_pretrained(minilm)
    make_wordpiece(minilm)
    colbert(made / "colbert" / "of_tests")
    add(cache, "lightonai/GTE-ModernColBERT-v1", made / "colbert" / "of_tests" / "repo")
    for folder in [*made.glob("*/*")]:
        add(cache, f"{folder.parent.name}/{folder.name}", folder)
    return cache


def add(cache: Path, name: str, folder: Path) -> None:
    """Put a folder into a Hub cache under an id."""
    entry = cache / f"models--{name.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    (entry / "snapshots").mkdir()
    (entry / "snapshots" / ("a" * 40)).symlink_to(folder)


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(curvature, "GRADIENT_SAMPLES", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("When can I buy bread?\n\n"))
    Path("texts.txt").write_text("\n".join(f"the cat number {number} sat" for number in range(32)), encoding="utf-8")
    names: dict[str, object] = {"__name__": page.stem}
    for number, block in enumerate(_BLOCK.findall(prose(page)), 1):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)
