"""GLiNER: named entities with labels that are given with each call. `MLXGLiNER` is in model.py."""
