"""Which modules a recipe packs: products and the word table; not what is small and costs quality."""

import mlx.nn as nn

from mlx_hf_bridge.layers.linear import Embedding, Linear

# Position, segment and relative-position tables, poolers and heads: under 1 % of the bytes, more of the error.
WORD_TABLE = "encoder.embeddings.word"
_KEPT_IN_FLOAT = ("pooler.", "head.")


def is_packable(path: str, module: nn.Module) -> bool:
    """Whether a recipe may pack the module at one of our paths."""
    if isinstance(module, Embedding):
        return path == WORD_TABLE
    return isinstance(module, Linear) and not path.startswith(_KEPT_IN_FLOAT)
