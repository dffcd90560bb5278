"""Four articles, embedded into a folder, for the other programs here to search."""

import json
from pathlib import Path

from mlx_hf_bridge.corpora import embed_files

TEXTS = [
    "The bakery on the corner opens at six in the morning.",
    "A new bridge will connect the two banks of the river next year.",
    "Interest rates were left unchanged by the central bank.",
    "The orchestra rehearses every Thursday evening.",
]
QUESTION = "When can I buy bread?"


def embed(folder: Path, model_name: str) -> Path:
    """Embed the articles.

    Args:
        folder: An empty folder.
        model_name: A Hub id or folder.

    Returns:
        The folder with their embeddings.
    """
    corpus = folder / "articles.jsonl"
    corpus.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    embed_files(corpus, folder / "out", model_name, id_column="id", keep_columns=["text"], normalize_embeddings=True)
    return folder / "out"
