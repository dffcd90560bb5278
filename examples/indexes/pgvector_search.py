"""pgvector: a table of PostgreSQL; the variable DATABASE_URL says which server.

python examples/indexes/pgvector_search.py [model]
"""

import os
import sys
import tempfile
from pathlib import Path

import psycopg
from articles import QUESTION, TEXTS, embed

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.indexes import write_pgvector


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = embed(Path(name), model_name)
        query = MLXSentenceTransformer(model_name).encode_query(QUESTION, normalize_embeddings=True)
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            write_pgvector(folder, connection, "mlx_articles")
            nearest = "SELECT id FROM mlx_articles ORDER BY embedding <=> %s::vector LIMIT 1"
            [(number,)] = connection.execute(nearest, (str(query.tolist()),)).fetchall()
        print(TEXTS[number])


if __name__ == "__main__":
    main(*sys.argv[1:])
