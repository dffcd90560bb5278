"""Similarity and search over embeddings: dense, sparse and late interaction."""
