"""Similarity of embeddings (dense, sparse and late interaction), semantic search and clustering.

Computing embeddings is in `encoding/`; the functions here take those of any library.
"""
