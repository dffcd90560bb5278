"""Adapters of the torch-free classes to tools that check for classes of their own; one file a tool, named after it.

Where sentence-transformers is installed the tools need none of this: they take its classes with backend="mlx".
"""
