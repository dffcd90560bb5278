"""`backend="mlx"` inside sentence-transformers' own classes.

Importing `mlx_hf_bridge.sentence_transformers` installs it; the classes of this package do not need it.
"""
