"""sentence-transformers' modules: one small class each, features in, features out."""
