"""FolderIndex: search in a folder of text, Markdown and PDF files by the meaning of their passages."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import BridgeError, InputError
from mlx_hf_bridge.folder_index.documents import SUFFIXES, Passage, find_files, read_passages
from mlx_hf_bridge.folder_index.index_file import Index, IndexedFile, load_index, save_index
from mlx_hf_bridge.quantization.recipes import QuantizationLike, recipe_from, recipe_name
from mlx_hf_bridge.runtime.boundary import guard_methods
from mlx_hf_bridge.runtime.environment import bridge_cache
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer
from mlx_hf_bridge.sentence_transformers.scoring.retrieval import semantic_search

logger = logging.getLogger(__name__)

DEFAULT_MODEL, DEFAULT_RECIPE = "sentence-transformers/all-MiniLM-L6-v2", "q8"
_ENDING = ".index"


@dataclass(frozen=True)
class Hit:
    """A passage that a query found.

    Attributes:
        file: The path of the file in the folder.
        first_line: The first line of the passage, from 1; the page of a PDF.
        last_line: Its last line; the page of a PDF.
        score: The cosine similarity to the query.
        text: The passage.
    """

    file: str
    first_line: int
    last_line: int
    score: float
    text: str


@dataclass(frozen=True)
class Update:
    """What an update of an index found.

    Attributes:
        added: Files that are new.
        changed: Files whose content has changed.
        removed: Files that are gone.
        unchanged: How many files were not read.
        passages: How many passages the index has now.
        skipped: Files that cannot be read, with the reason.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    unchanged: int
    passages: int
    skipped: dict[str, str]


@guard_methods
class FolderIndex:
    """An index of the passages of a folder's .txt, .md and .pdf files, kept in a file and updated by what changes.

    Args:
        folder: The folder to search in. Folders in it count, except hidden ones.
        model: The Hub id or folder of an embedding model. Default: that of the index if there is one, else
            all-MiniLM-L6-v2.
        quantization_config: Its recipe. Default: that of the index, else "q8".
        revision: Branch, tag or commit on the Hub.
        path: The index file. Default: a file in the package's cache, named after the folder.

    Raises:
        InputError: If the folder does not exist.
        RepositoryError: If the model is not found, or `path` is another kind of file.

    Example:
        >>> from mlx_hf_bridge.folder_index.index import FolderIndex
        >>> index = FolderIndex("~/notes")
        >>> index.update()
        >>> index.search("how long does dough have to rise?", top_k=3)
    """

    def __init__(
        self,
        folder: str | Path,
        model: str | None = None,
        quantization_config: QuantizationLike = None,
        revision: str | None = None,
        path: str | Path | None = None,
    ) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise InputError(f"{str(folder)!r} is not a folder. Give the folder with the files to search in.")
        self.path = Path(path).expanduser() if path else _default_path(self.folder)
        stored = load_index(self.path)
        self.model = model or (stored.model if stored else DEFAULT_MODEL)
        is_same_model = stored is not None and stored.model == self.model
        recipe = quantization_config
        if recipe is None:
            recipe = stored.recipe if stored is not None and is_same_model else DEFAULT_RECIPE
        self._recipe = recipe_from(recipe)
        self.recipe = None if self._recipe is None else recipe_name(self._recipe)
        self._revision = revision
        identity = _identity(self.model, revision, self._recipe)
        fits = stored is not None and stored.identity == identity
        if stored is not None and not fits:
            logger.info("the index was made with another model or quantization, and is built again")
        self._index = stored if stored is not None and fits else Index(self.model, self.recipe, identity)
        self._is_stored = fits
        self._encoder: MLXSentenceTransformer | None = None

    def update(self, show_progress: bool = False) -> Update:
        """Index files that are new or have changed, and forget those that are gone.

        A file of the same size and modification time is not read again; one of the same content keeps its embeddings.

        Args:
            show_progress: Whether to show a progress bar. Default: False.

        Returns:
            What was found.

        Raises:
            RepositoryError: If the index cannot be written.
        """
        before = self._index.files
        files: dict[str, IndexedFile] = {}
        added: list[str] = []
        changed: list[str] = []
        skipped: dict[str, str] = {}
        pending: dict[str, IndexedFile] = {}
        unchanged = 0
        for path in find_files(self.folder):
            name = path.relative_to(self.folder).as_posix()
            old = before.get(name)
            try:
                stat = path.stat()
                if old and (old.mtime_ns, old.size) == (stat.st_mtime_ns, stat.st_size):
                    files[name] = old
                    unchanged += 1
                    continue
                digest = _file_digest(path)
                passages = old.passages if old and old.digest == digest else read_passages(path)
            except (BridgeError, OSError) as error:
                skipped[name] = str(error)
                continue
            same = old is not None and old.digest == digest
            vectors = old.vectors if old and same else np.zeros((0, 0), np.float32)
            files[name] = IndexedFile(stat.st_mtime_ns, stat.st_size, digest, passages, vectors)
            if not same:
                (changed if old else added).append(name)
                pending[name] = files[name]
        self._encode(files, pending, show_progress)
        removed = [name for name in before if name not in files]
        if files != before or not self._is_stored:
            self._index.files = files
            save_index(self._index, self.path)
            self._is_stored = True
        count = sum(len(file.passages) for file in files.values())
        return Update(added, changed, removed, unchanged, count, skipped)

    def search(self, query: str, top_k: int = 5) -> list[Hit]:
        """Return the passages that are most similar to a query.

        Args:
            query: The query.
            top_k: How many at most. Default: 5.

        Returns:
            The passages, best first.

        Raises:
            InputError: If the index is empty.
        """
        passages = self._index.passages()
        if not passages:
            raise InputError(f"{self.folder} has no {', '.join(SUFFIXES)} files with text. Give another folder.")
        vector = self._model().encode_query(query, normalize_embeddings=True)
        [hits] = semantic_search(vector, self._index.vectors(), top_k=top_k)
        return [_hit(*passages[int(hit["corpus_id"])], float(hit["score"])) for hit in hits]

    def _encode(self, files: dict[str, IndexedFile], pending: dict[str, IndexedFile], show_progress: bool) -> None:
        """Put the embeddings of the passages of `pending` into `files`."""
        texts = [passage.text for file in pending.values() for passage in file.passages]
        if not texts:
            return
        vectors = self._model().encode_document(texts, normalize_embeddings=True, show_progress_bar=show_progress)
        row = 0
        for name, file in pending.items():
            own = np.asarray(vectors[row : row + len(file.passages)], np.float32)
            files[name] = IndexedFile(file.mtime_ns, file.size, file.digest, file.passages, own)
            row += len(file.passages)

    def _model(self) -> MLXSentenceTransformer:
        if self._encoder is None:
            self._encoder = MLXSentenceTransformer(
                self.model, revision=self._revision, quantization_config=self._recipe
            )
        return self._encoder


def _hit(name: str, passage: Passage, score: float) -> Hit:
    return Hit(name, passage.first_line, passage.last_line, score, passage.text)


def _default_path(folder: Path) -> Path:
    resolved = folder.resolve()
    number = hashlib.sha256(str(resolved).encode(errors="surrogateescape")).hexdigest()[:16]
    return bridge_cache() / "search" / f"{resolved.name or 'root'}-{number}{_ENDING}"


def _identity(model: str, revision: str | None, recipe: Any) -> str:
    """Return a digest of all that the embeddings depend on, other than the passages."""
    identity = locate(model, HubOptions(revision)).identity
    content = json.dumps([identity, recipe and recipe.to_dict()], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
