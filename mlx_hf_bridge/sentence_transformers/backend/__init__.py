"""`backend="mlx"` inside sentence-transformers' own classes."""
