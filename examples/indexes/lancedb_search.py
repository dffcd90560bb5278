"""LanceDB: a table of embeddings on disk, searched by cosine similarity.

python examples/indexes/lancedb_search.py [model]
"""

import sys
import tempfile
from pathlib import Path

import lancedb
from articles import QUESTION, embed

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.indexes import write_lancedb


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = embed(Path(name), model_name)
        query = MLXSentenceTransformer(model_name).encode_query(QUESTION, normalize_embeddings=True)
        table = write_lancedb(folder, lancedb.connect(f"{name}/lance"), "articles")
        print(table.search(query).limit(1).to_list()[0]["text"])


if __name__ == "__main__":
    main(*sys.argv[1:])
