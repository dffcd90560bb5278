"""Which modules a recipe quantizes: linear layers and the token embedding table."""

import mlx.nn as nn

from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.transposed_linear import TransposedLinear

# The token embedding table. Other tables (positions, token types, relative positions), poolers and heads stay in float:
# they are under 1 % of the bytes and would cause more of the error.
TOKEN_EMBEDDING = "encoder.embeddings.word"
_FLOAT_PREFIXES = ("pooler.", "head.")


def is_packable(path: str, module: nn.Module) -> bool:
    """Whether a recipe may quantize the module at a path of the model."""
    if isinstance(module, Embedding):
        return path == TOKEN_EMBEDDING
    return isinstance(module, (Linear, TransposedLinear)) and not path.startswith(_FLOAT_PREFIXES)
