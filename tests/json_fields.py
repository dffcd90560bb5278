"""Every field of the small JSON files of a repo, set to values that it should not have.

python tests/json_fields.py [FILE ...] [--share I/N]

The outcome of a case is "same" (what sentence-transformers computes from the same files, within 2e-5; or from the files
as they were, where it reads a field that has no effect), "error" (one BridgeError), or a fault, of which there must be
none: another result, an error of another kind, or no end.
"""

import argparse
import contextlib
import io
import json
import logging
import shutil
import signal
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from checkpoints import make_checkpoint
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    BoW,
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from test_traced_files import LOOK_UP, graph

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.conversion.traced import read_graph
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.tracing.model import TracedModel

import mlx.core as mx  # isort: skip  which mlx_hf_bridge imports with a BLAS

SAME, ERROR = "same", "error"
TEXTS = ["the cat sat on the mat.", "a dog", ""]
_SECONDS = 20
ABSENT = object()
VALUES: dict[str, Any] = {
    "null": None,
    "absent": ABSENT,
    "true": True,
    "zero": 0,
    "negative": -1,
    "huge": 10**30,
    "float": 0.5,
    "empty text": "",
    "text": "the cat",
    "long text": "x" * 10**5,
    "empty list": [],
    "empty dict": {},
    "nested": [[[[]]]],
}


@dataclass(frozen=True)
class Case:
    """One value at one place of one file of a repo."""

    repo: str
    file: str
    place: tuple[str | int, ...]
    value: str

    @property
    def name(self) -> str:
        """A name for messages and for the choice of a share."""
        return f"{self.repo} {self.file} {'.'.join(map(str, self.place)) or 'all'} {self.value}"


def make_repos(folder: Path) -> dict[str, Path]:
    """Write the repos whose files are changed, by name.

    Args:
        folder: An empty folder.
    """
    make_checkpoint(folder / "bert")
    encoder = Transformer(str(folder / "bert"), max_seq_length=12)
    width = encoder.get_word_embedding_dimension()
    torch.manual_seed(0)
    chain = [encoder, Pooling(width, "mean"), Dense(width, 8), LayerNorm(8), Normalize()]
    model = SentenceTransformer(modules=chain, device="cpu", prompts={"query": "the "}, default_prompt_name="query")
    model.save_pretrained(str(folder / "sentences"))
    special = {"unk_token": "[UNK]", "cls_token": {"content": "[CLS]", "lstrip": False}, "pad_token": "[PAD]"}
    (folder / "sentences" / "special_tokens_map.json").write_text(json.dumps(special))
    weighted = [Transformer(str(folder / "bert")), Pooling(width, "weightedmean")]
    SentenceTransformer(modules=weighted, device="cpu").save_pretrained(str(folder / "weighted"))
    MLXSentenceTransformer(str(folder / "sentences"), quantization_config=None).save_pretrained(folder / "converted")
    _make_word_repos(folder)
    _make_model_repos(folder)
    return {name: folder / name for name in FILES}


def _make_word_repos(folder: Path) -> None:
    """Write models of words: vectors with CNN and LSTM, a bag, and a Router of static embeddings."""
    torch.manual_seed(0)
    words = ["PADDING_TOKEN", "the", "cat", "sat", "dog", "mat", "a"]
    vectors = WordEmbeddings(WhitespaceTokenizer(words, stop_words=["the"]), torch.randn(len(words), 8))
    chain = [vectors, WordWeights(words, {"cat": 2.5}, 0.5), CNN(8, 6, [1, 3]), LSTM(12, 5), Pooling(10, "mean")]
    bag = BoW(words, {"cat": 2.5}, 0.5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "bert").backend_tokenizer
    routes = [
        StaticEmbedding(tokenizer, embedding_weights=np.random.default_rng(n).normal(size=(101, 6))) for n in (0, 1)
    ]
    router = Router({"query": [routes[0]], "document": [routes[1], Normalize()]}, default_route="query")
    for name, modules in {"words": chain, "bag": [bag], "routes": [router]}.items():
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / name))


def _make_model_repos(folder: Path) -> None:
    """Write a model in shards, a LoRA adapter, and a graph."""
    shutil.copytree(folder / "weighted", folder / "shards")
    (folder / "shards" / "model.safetensors").unlink()
    model = transformers.AutoModel.from_pretrained(folder / "bert")
    model.save_pretrained(folder / "shards", max_shard_size="40KB")
    (folder / "adapter").mkdir()
    name, generator = "base_model.model.encoder.layer.0.attention.self.value", torch.Generator().manual_seed(3)
    sums = {"A": torch.randn(4, 24, generator=generator), "B": torch.randn(24, 4, generator=generator)}
    save_file({f"{name}.lora_{part}.weight": one for part, one in sums.items()}, folder / "adapter" / ADAPTER_WEIGHTS)
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder / "bert"), "r": 4, "lora_alpha": 6}
    settings |= {"task_type": "FEATURE_EXTRACTION", "use_rslora": False, "alpha_pattern": {"value": 6}, "bias": "none"}
    settings |= {"rank_pattern": {}, "target_modules": ["value"], "modules_to_save": None, "fan_in_fan_out": False}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "graph").mkdir()
    (folder / "graph" / "graph.json").write_text(json.dumps(graph(*LOOK_UP, guards=["L <= 100"])))


FILES = {
    "sentences": (
        *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "1_Pooling/config.json", "2_Dense/config.json", "3_LayerNorm/config.json"),
    ),
    "weighted": ("1_Pooling/config.json",),
    "converted": ("conversion_metadata.json",),
    "words": (
        *("wordembedding_config.json", "whitespacetokenizer_config.json", "1_WordWeights/config.json"),
        *("2_CNN/cnn_config.json", "3_LSTM/lstm_config.json"),
    ),
    "bag": ("0_BoW/config.json",),
    "routes": ("router_config.json",),
    "shards": ("model.safetensors.index.json",),
    "adapter": ("adapter_config.json",),
    "graph": ("graph.json",),
}
# Values of these mean another model, which nothing here computes: peft is no dependency of the tests.
OTHER_MODELS = {"adapter": ("lora_alpha", "alpha_pattern", "use_rslora")}
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_COMPARED = ("sentences", "weighted", "converted", "words", "bag", "routes", "shards")
# At most so many tensors of a list, which are all alike.
_MOST_ENTRIES = 12


def cases(repos: Mapping[str, Path]) -> Iterator[Case]:
    """Yield every case."""
    for repo, files in FILES.items():
        for file in files:
            for place in _places(json.loads((repos[repo] / file).read_text())):
                if repo == "graph" and place[:1] == ("nodes",):
                    continue  # a program, which tests/test_traced_files.py and the fuzzer change
                for value in VALUES:
                    if place or VALUES[value] is not ABSENT:
                        yield Case(repo, file, place, value)


def _places(content: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield place
    if len(place) < 4:
        items = (
            content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
        )
        for key, inner in islice(items, _MOST_ENTRIES):
            yield from _places(inner, (*place, key))


def change(folder: Path, case: Case) -> None:
    """Write the case's value into its file."""
    path = folder / case.file
    content = {"": json.loads(path.read_text())}
    holder: Any = content
    place = ("", *case.place)
    for key in place[:-1]:
        holder = holder[key]
    if VALUES[case.value] is ABSENT:
        del holder[place[-1]]
    else:
        holder[place[-1]] = VALUES[case.value]
    path.write_text(json.dumps(content[""]))


def outcome(case: Case, repos: Mapping[str, Path], unchanged: Mapping[str, np.ndarray], compare: bool = True) -> str:
    """Return what becomes of a case: "same", "error", or what is wrong.

    Args:
        case: The case.
        repos: The repos by name.
        unchanged: What they give as they are.
        compare: Whether to compute a result with sentence-transformers too.
    """
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(scratch) / "repo"
        shutil.copytree(repos[case.repo], folder)
        change(folder, case)
        try:
            found = _in_time(lambda: encode(folder))
        except BridgeError as error:
            return ERROR if len(str(error)) < 2000 else f"an error of {len(str(error))} characters"
        except BaseException as error:
            return f"raw {type(error).__name__}: {error!s:.200}"
        if _close(found, unchanged[case.repo]) or not compare:
            return SAME
        if case.repo not in _COMPARED:
            return SAME if case.place[0] in OTHER_MODELS.get(case.repo, ()) else "another result"
        try:
            expected = np.asarray(SentenceTransformer(str(folder), device="cpu").encode(TEXTS))
        except Exception as error:
            return f"another result, where sentence-transformers has {type(error).__name__}: {error!s:.100}"
        return SAME if _close(found, expected) else "another result"


def encode(folder: Path) -> np.ndarray:
    """Return the embeddings of some texts by a repo; of ids by a graph."""
    if (folder / "graph.json").is_file():
        weights = {"words.weight": mx.arange(36, dtype=mx.float32).reshape(9, 4)}
        batch = TokenBatch(mx.array([[2, 5, 3]]), mx.array([[True, True, True]]))
        return np.array(TracedModel(read_graph(folder), weights, mx.float32, compiled=False)(batch).hidden)
    return np.asarray(MLXSentenceTransformer(str(folder)).encode(TEXTS))


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, atol=2e-5, equal_nan=True)


def _in_time(call: Callable[[], Any]) -> Any:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        return call()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def share_of(repos: Mapping[str, Path], index: int, count: int) -> list[Case]:
    """Return one of `count` shares of all cases, chosen by their names, so that adding a case moves no other."""
    return [case for case in cases(repos) if zlib.crc32(case.name.encode()) % count == index]


def main() -> None:
    """Run the cases of the command line, and print the table and the faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--share", default="0/1", help="I/N: one of N shares")
    arguments = parser.parse_args()
    index, count = map(int, arguments.share.split("/"))
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        repos = make_repos(Path(scratch))
        unchanged = {name: encode(folder) for name, folder in repos.items()}
        for case in share_of(repos, index, count):
            if arguments.files and case.file not in arguments.files:
                continue
            result = outcome(case, repos, unchanged)
            table.setdefault(f"{case.repo} {case.file}", Counter())[result if result in (SAME, ERROR) else "fault"] += 1
            if result not in (SAME, ERROR):
                sys.stdout.write(f"{case.name}: {result}\n")
                sys.stdout.flush()
    for name, found in table.items():
        sys.stdout.write(f"{name}: {dict(found)}\n")
    raise SystemExit(any(found["fault"] for found in table.values()))


if __name__ == "__main__":
    main()
