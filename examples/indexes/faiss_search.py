"""faiss: an HNSW index of embeddings in one byte for each dimension.

python examples/indexes/faiss_search.py [model]
"""

import sys
import tempfile
from pathlib import Path

from articles import QUESTION, TEXTS, embed

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.indexes import faiss_index


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = embed(Path(name), model_name)
        query = MLXSentenceTransformer(model_name).encode_query(QUESTION, normalize_embeddings=True)
        index, ids = faiss_index(folder, "HNSW32,SQ8")
        _, rows = index.search(query[None], 1)
        print(TEXTS[ids[rows[0, 0]]])


if __name__ == "__main__":
    main(*sys.argv[1:])
