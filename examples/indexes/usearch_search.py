"""usearch: an HNSW index in memory.

python examples/indexes/usearch_search.py [model]
"""

import sys
import tempfile
from pathlib import Path

from articles import QUESTION, TEXTS, embed

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.indexes import usearch_index


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = embed(Path(name), model_name)
        query = MLXSentenceTransformer(model_name).encode_query(QUESTION, normalize_embeddings=True)
        index, ids = usearch_index(folder)
        print(TEXTS[ids[int(index.search(query, 1).keys[0])]])


if __name__ == "__main__":
    main(*sys.argv[1:])
