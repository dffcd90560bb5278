"""Qdrant: a collection in memory; give QdrantClient the address of a server instead.

python examples/indexes/qdrant_search.py [model]
"""

import sys
import tempfile
from pathlib import Path

from articles import QUESTION, embed
from qdrant_client import QdrantClient

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.indexes import write_qdrant


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = embed(Path(name), model_name)
        query = MLXSentenceTransformer(model_name).encode_query(QUESTION, normalize_embeddings=True)
        client = QdrantClient(":memory:")
        write_qdrant(folder, client, "articles")
        [hit] = client.query_points("articles", query=query.tolist(), limit=1).points
        print(hit.payload["text"])


if __name__ == "__main__":
    main(*sys.argv[1:])
