"""Any other encoder: transformers' own torch module as a graph, and that graph on MLX."""
