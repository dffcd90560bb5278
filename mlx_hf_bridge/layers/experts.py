"""A mixture of experts in place of the feed-forward block.

Sources: the sparse mixture, Shazeer et al., arXiv 1701.06538; its use in text embeddings, Nussbaum and Duderstadt,
arXiv 2502.07972.

Axes: B texts, L tokens, D hidden size, F intermediate size of an expert, E experts, K experts of a token.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.activations import Activation
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.transposed_linear import TransposedLinear


class Router(nn.Module):
    """The weight of every expert for every token: its probability if it is one of the K likeliest, else 0.

    Takes x (..., D) and returns (..., E). The weights are never quantized: they are few, and a rounding error would
    choose other experts.

    Args:
        hidden_size: D.
        experts: E.
        chosen: K. The weights of a token are not normalized again, so they sum to less than 1.
    """

    def __init__(self, hidden_size: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.weight = mx.zeros((experts, hidden_size))
        self.chosen = chosen

    def __call__(self, x: mx.array) -> mx.array:
        # float32, as in the authors' code: close probabilities decide which expert is taken.
        shares = mx.softmax((x @ self.weight.T).astype(mx.float32), axis=-1)  # (..., E)
        # The rank of each expert; sorting twice is exact where two probabilities are equal.
        ranks = mx.argsort(mx.argsort(-shares, axis=-1), axis=-1)
        return mx.where(ranks < self.chosen, shares, 0).astype(x.dtype)


class MixtureOfExperts(nn.Module):
    """Feed-forward blocks of which each token uses a few: the sum of weight x down(activation(up(x))), plus a bias.

    Takes x (B, L, D) and returns (B, L, D). All experts are computed as one wide block whose inner values are
    multiplied by the router's weights: two large matmuls, and no step that depends on which experts were chosen.

    Args:
        hidden_size: D.
        intermediate_size: F.
        activation: Function between the two layers of an expert.
        experts: E.
        chosen: K.
    """

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: Activation, experts: int, chosen: int
    ) -> None:
        super().__init__()
        self.router = Router(hidden_size, experts, chosen)
        # Expert by expert, as the files join them: rows of the first layer are outputs, of the second inputs.
        self.experts_up = Linear(hidden_size, experts * intermediate_size, bias=False)
        self.experts_down = TransposedLinear(experts * intermediate_size, hidden_size)
        self.bias = mx.zeros((hidden_size,))
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        weights = self.router(x)[..., None]  # (B, L, E, 1)
        inner = self.activation(self.experts_up(x))  # (B, L, E * F)
        weighted = (inner.reshape(*weights.shape[:-1], -1) * weights).reshape(inner.shape)
        down: mx.array = self.experts_down(weighted)
        return down + self.bias
