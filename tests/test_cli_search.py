"""Tests of `mlx-hf-bridge search` and of the index behind it."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_checkpoints import Capture, make_bert

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.cli import main
from mlx_hf_bridge.errors import InputError, RepositoryError
from mlx_hf_bridge.folder_index.documents import _CHARACTERS, find_files, read_passages
from mlx_hf_bridge.folder_index.index import FolderIndex
from mlx_hf_bridge.sentence_transformers import semantic_search


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_bert(tmp_path_factory.mktemp("models") / "bert"))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "no.txt").write_text("the cat")
    (folder / "a.txt").write_text("the cat sat on the mat.\n")
    (folder / "sub" / "b.md").write_text("# news\nstock market rose\n\n# film\ni love this film\n")
    (folder / "other.csv").write_text("the cat")
    return folder


def search(capsys: Capture, *words: str, code: int = 0) -> Any:
    assert main(["search", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_passages_know_their_lines_and_headings_begin_new_ones(notes: Path) -> None:
    assert [path.name for path in find_files(notes)] == ["a.txt", "b.md"]
    passages = read_passages(notes / "sub" / "b.md")
    assert [(one.first_line, one.text) for one in passages] == [
        (1, "# news\nstock market rose"),
        (4, "# film\ni love this film"),
    ]
    assert passages[1].last_line >= 5


def test_long_paragraphs_are_divided_and_nothing_is_lost(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(1000)]
    text = ". ".join(" ".join(words[at : at + 12]) for at in range(0, 1000, 12))
    for content in (text, text.replace(" ", "\n"), text.replace(". ", ".\n\n"), "漢" * 1000, "x" * 3000):
        (tmp_path / "long.txt").write_text(content, encoding="utf-8")
        passages = read_passages(tmp_path / "long.txt")
        assert "".join("".join(one.text.split()) for one in passages) == "".join(content.split())
        assert max(len(one.text) for one in passages) <= 1.3 * _CHARACTERS
        assert all(one.first_line <= one.last_line for one in passages)


def test_hits_are_those_of_semantic_search(bert: str, notes: Path, capsys: Capture) -> None:
    found = search(capsys, str(notes), "the", "film", "--model", bert, "--top-k", "2")
    model = MLXSentenceTransformer(bert, quantization_config="q8")
    texts = [one.text for path in find_files(notes) for one in read_passages(path)]
    [expected] = semantic_search(model.encode("the film"), model.encode(texts), top_k=2)
    assert [one["text"] for one in found["results"]] == [texts[int(hit["corpus_id"])] for hit in expected]
    np.testing.assert_allclose(
        [one["score"] for one in found["results"]], [hit["score"] for hit in expected], atol=2e-5
    )
    assert (found["query"], found["recipe"]) == ("the film", "q8")
    assert main(["search", str(notes), "film", "--no-update", "--top-k", "1"]) == 0
    shown = capsys.readouterr().out.splitlines()[0].split()
    assert shown[0] == "1"
    assert shown[2].startswith(("a.txt:", "sub/b.md:"))


def test_the_index_follows_the_files_and_reads_only_what_changed(
    bert: str, notes: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = search(capsys, str(notes), "film", "--model", bert)["update"]
    assert (update["added"], update["unchanged"]) == (["a.txt", "sub/b.md"], 0)
    texts: list[str] = []
    encode = MLXSentenceTransformer.encode_document
    monkeypatch.setattr(
        MLXSentenceTransformer,
        "encode_document",
        lambda self, inputs, **options: texts.extend(inputs) or encode(self, inputs, **options),
    )
    os.utime(notes / "a.txt")  # the time alone
    (notes / "sub" / "b.md").unlink()
    (notes / "c.txt").write_text("stock news")
    (notes / "latin.txt").write_bytes(b"caf\xe9")
    found = search(capsys, str(notes), "news")  # the model is that of the index
    update = found["update"]
    assert (update["added"], update["changed"], update["removed"]) == (["c.txt"], [], ["sub/b.md"])
    assert "is not UTF-8 text" in update["skipped"]["latin.txt"]
    assert texts == ["stock news"]
    assert {one["file"] for one in found["results"]} == {"a.txt", "c.txt"}
    fresh = FolderIndex(notes, bert, path=notes.parent / "fresh.index")
    fresh.update()
    expected = fresh.search("news")
    assert [one["file"] for one in found["results"]] == [one.file for one in expected]
    assert [one["score"] for one in found["results"]] == pytest.approx([one.score for one in expected], abs=2e-5)


def test_an_index_of_another_model_or_recipe_or_a_damaged_one_is_built_again(
    bert: str, notes: Path, tmp_path: Path, capsys: Capture
) -> None:
    index = tmp_path / "my.index"
    options = (str(notes), "film", "--model", bert, "--index", str(index))
    search(capsys, *options)
    assert search(capsys, *options)["update"]["added"] == []
    assert len(search(capsys, *options, "--recipe", "q4-rtn")["update"]["added"]) == 2
    content = bytearray(index.read_bytes())
    content[-30] ^= 1
    index.write_bytes(content)
    assert len(search(capsys, *options, "--recipe", "q4-rtn")["update"]["added"]) == 2
    index.write_bytes(b"my own file")
    with pytest.raises(RepositoryError, match=r"my\.index is not an index of `search`"):
        FolderIndex(notes, bert, path=index)
    assert index.read_bytes() == b"my own file"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".my")] == []


def test_pdf_files_need_pypdf_and_know_their_pages(
    bert: str, notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (notes / "paper.pdf").write_bytes(b"%PDF-1.4")
    monkeypatch.setitem(sys.modules, "pypdf", None)
    skipped = search(capsys, str(notes), "film", "--model", bert)["update"]["skipped"]
    assert skipped == {"paper.pdf": "PDF files need the package pypdf: pip install 'mlx-hf-bridge[pdf]'."}

    class Page:
        def extract_text(self) -> str:
            return "the cat sat"

    pypdf = type("pypdf", (), {"PdfReader": lambda path: type("Reader", (), {"pages": [Page(), Page()]})})
    monkeypatch.setitem(sys.modules, "pypdf", pypdf)
    assert [(one.text, one.first_line) for one in read_passages(notes / "paper.pdf")] == [
        ("the cat sat", 1),
        ("the cat sat", 2),
    ]


def test_a_folder_that_is_missing_or_has_no_text_is_an_error(bert: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["search", str(tmp_path / "gone"), "x"]) == 1
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no \.txt, \.md"):
        FolderIndex(tmp_path / "empty", bert).search("x")
    with pytest.raises(SystemExit):
        main(["search", str(tmp_path)])
