"""Adapters for tools that require classes of their own; one module for each tool, named after it.

Each does what its tool's own wrapper of sentence-transformers does; `models.py` has what they share. They are needed
only without sentence-transformers: if it is installed, these tools take its classes with backend="mlx".
"""
