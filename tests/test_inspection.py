"""`inspect` says before a download what loading then finds."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from checkpoints import make_checkpoint
from replicas.build import build
from replicas.table import replicas
from subprocesses import run_python

import mlx_hf_bridge
from mlx_hf_bridge import Inspection, MLXSentenceTransformer, convert, errors
from mlx_hf_bridge.cli import main

ROWS = {row.repo: row for row in reversed(replicas())}


def inspected(folder: Path, repo: str) -> Inspection:
    build(folder, ROWS[repo])
    return mlx_hf_bridge.inspect(folder)


def test_an_embedder_is_described_as_it_loads(tmp_path: Path) -> None:
    found = inspected(tmp_path / "repo", "sentence-transformers/LaBSE")
    model = MLXSentenceTransformer(tmp_path / "repo")
    assert found.support == "native"
    assert (found.dimension, found.max_length) == (model.get_embedding_dimension(), model.max_seq_length)
    assert found.pooling == ("cls",)
    assert found.modules == ("Transformer", "Pooling", "Dense", "Normalize")
    assert (found.tokenizer, found.tokenizer_form) == ("BertTokenizer", "tokenizer.json")
    assert found.works == ("MLXAutoModel", "MLXSentenceTransformer", 'pipeline("feature-extraction")')
    assert found.refused == {}
    assert found.parameters == sum(array.size for array in _arrays(tmp_path / "repo"))
    for recipe in ("q8", "q4", "mxfp4"):
        planned = convert(tmp_path / "repo", tmp_path / recipe, quantization_config=recipe, dry_run=True)
        assert found.sizes[recipe] == planned.predicted_bytes


def _arrays(folder: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors").values()


# repo -> what is told of it.
FACTS: dict[str, dict[str, Any]] = {
    "Snowflake/snowflake-arctic-embed-m": {"prompts": {"query": "the news about this: "}, "similarity": "cosine"},
    "ProsusAI/finbert": {"labels": ("negative", "neutral", "positive"), "heads": ("text-classification",)},
    "google/bert_uncased_L-2_H-128_A-2": {"heads": ("fill-mask", "next-sentence-prediction", "pre-training")},
    "vinai/phobert-base-v2": {"tokenizer": "PhobertTokenizer", "tokenizer_form": "Python"},
    "jinaai/jina-colbert-v2": {"dimension": 8, "pooling": ()},
    "naver/splade-v3": {"dimension": 400},
    "urchade/gliner_medium-v2.1": {"works": ("MLXGLiNER", 'pipeline("zero-shot-ner")')},
    "sentence-transformers/clip-ViT-B-32": {"modules": ("CLIPModel",), "dimension": 16},
    "minishlab/potion-base-8M": {"works": ("MLXSentenceTransformer",), "modules": ("StaticEmbedding", "Normalize")},
    "intfloat/e5-mistral-7b-instruct": {"support": "traced", "pooling": ("lasttoken",)},
}


@pytest.mark.parametrize("repo", FACTS)
def test_facts_come_from_small_files_and_headers(repo: str, tmp_path: Path) -> None:
    found = asdict(inspected(tmp_path, repo))
    assert {key: found[key] for key in FACTS[repo]} == FACTS[repo]


@pytest.mark.parametrize(
    ("repo", "entry"),
    [
        ("Qwen/Qwen3-Reranker-0.6B", "MLXCrossEncoder"),
        ("facebook/bart-large-mnli", 'pipeline("zero-shot-classification")'),
        ("deepset/minilm-uncased-squad2", 'pipeline("question-answering")'),
        ("jinaai/jina-colbert-v2", "MLXMultiVectorEncoder"),
    ],
)
def test_the_entry_that_fits_is_named(repo: str, entry: str, tmp_path: Path) -> None:
    assert entry in inspected(tmp_path, repo).works


REFUSED = {
    "Xenova/all-MiniLM-L6-v2": "ONNX Runtime",
    "allenai/specter2": "adapters library",
}


@pytest.mark.parametrize("repo", REFUSED)
def test_what_cannot_be_loaded_has_the_reason_of_the_error(
    repo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspected(tmp_path, repo)
    assert (found.support, found.works) == ("refused", ())
    assert REFUSED[repo] in found.reason
    assert main(["inspect", str(tmp_path)]) == 1
    assert REFUSED[repo] in " ".join(capsys.readouterr().out.split())


def test_a_head_without_weights_and_a_foreign_module_are_refused(tmp_path: Path) -> None:
    found = inspected(tmp_path / "head", "microsoft/deberta-v3-base")
    assert found.refused == {}
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    (tmp_path / "head" / "config.json").write_text(json.dumps({**config, "architectures": ["DebertaV2ForMaskedLM"]}))
    assert "lack weights" in mlx_hf_bridge.inspect(tmp_path / "head").refused["DebertaV2ForMaskedLM"]
    make_checkpoint(tmp_path / "module")
    entries = [{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"}]
    (tmp_path / "module" / "modules.json").write_text(json.dumps(entries))
    found = mlx_hf_bridge.inspect(tmp_path / "module")
    assert "custom_st.Transformer" in found.refused["MLXSentenceTransformer"]
    assert found.works == ("MLXAutoModel",)
    with pytest.raises(errors.RepositoryError):
        mlx_hf_bridge.inspect(tmp_path / "nothing")


def test_the_listing_fits_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspected(tmp_path, "Snowflake/snowflake-arctic-embed-m")
    assert main(["inspect", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 or str(tmp_path) in line for line in lines)
    assert "pooling         cls" in lines
    assert "prompt          query: 'the news about this: '" in lines
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pooling"] == ["cls"]


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as is asked for here: a repo's list of files, and the files, also in parts."""

    root: Path
    served: dict[str, int]

    def log_message(self, *args: Any) -> None:
        """Be silent."""

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path, commit = unquote(urlparse(self.path).path), "0" * 40
        files = [one for one in sorted(self.root.rglob("*")) if one.is_file()]
        names = [one.relative_to(self.root).as_posix() for one in files]
        if "/tree/" in path:
            listed = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": name.ljust(40, "0")[:40]}
                for name, file in zip(names, files, strict=True)
            ]
            return self._send(json.dumps(listed).encode(), Content_Type="application/json")
        if path.startswith("/api/models/"):
            found = {"id": "org/name", "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            return self._send(json.dumps(found).encode(), Content_Type="application/json")
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name not in names:
            return self._send(b"", 404, X_Error_Code="EntryNotFound")
        data, tag = (self.root / name).read_bytes(), {"ETag": f'"{name}"', "X_Repo_Commit": commit}
        if wanted := self.headers.get("Range"):
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            part = data[int(start) : int(end) + 1]
            self.served[name] = self.served.get(name, 0) + len(part) * (self.command == "GET")
            place = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
            return self._send(part, 206, Content_Range=place, **tag)
        self.served[name] = self.served.get(name, 0) + len(data) * (self.command == "GET")
        return self._send(data, **tag)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[type[_Hub], dict[str, str]]]:
    """Serve tmp_path / "served" as every repo; return the handler and the environment of a process that asks it."""
    handler = type("Hub", (_Hub,), {"root": tmp_path / "served", "served": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "home")}
    yield handler, {**place, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_torch_files_of_the_hub_are_not_downloaded(hub: Any, tmp_path: Path) -> None:
    _, environment = hub
    build(tmp_path / "served", ROWS["BAAI/bge-m3"])
    code = "from mlx_hf_bridge.cli import main; import sys; sys.exit(main(['inspect', 'org/name']))"
    printed = " ".join(run_python(code, **environment).split())
    assert "sizes known after a download, since .bin files have no header" in printed
    assert "works MLXAutoModel, MLXSentenceTransformer" in printed
    assert list((tmp_path / "home").rglob("*.bin")) == []


@pytest.mark.slow
@pytest.mark.parametrize("repo", ["sentence-transformers/LaBSE", "intfloat/multilingual-e5-large"])
def test_weights_of_the_hub_are_not_downloaded(repo: str, hub: Any, tmp_path: Path) -> None:
    handler, environment = hub
    build(tmp_path / "served", ROWS[repo])
    here = asdict(mlx_hf_bridge.inspect(tmp_path / "served"))
    code = "from mlx_hf_bridge.cli import main; import sys; sys.exit(main(['inspect', 'org/name', '--json']))"
    found = json.loads(run_python(code, **environment))
    assert found["revision"] == "0" * 40
    own = {"name": found["name"], "revision": found["revision"]}
    assert found == json.loads(json.dumps({**here, **own}))
    assert list((tmp_path / "home").rglob("*.safetensors")) == []
    if repo == "sentence-transformers/LaBSE":
        size = (tmp_path / "served" / "model.safetensors").stat().st_size
        assert 0 < handler.served["model.safetensors"] < size
