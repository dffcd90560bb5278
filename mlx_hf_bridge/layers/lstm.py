"""LSTMs over padded sequences, with torch's parameters.

Reference: torch.nn.LSTM on a packed sequence. Axes: B texts, L positions, D width, H width of one direction.
"""

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn

DIRECTIONS = ("", "_reverse")


def run_lstm(
    x: mx.array, lengths: mx.array, parameters: Mapping[str, mx.array], num_layers: int, bidirectional: bool
) -> mx.array:
    """Run an LSTM over the real positions of each row; padding on the right has no influence and gets zeros.

    Args:
        x: Inputs, (B, L, D).
        lengths: Number of real positions of each row, (B,), int32; at least one is read.
        parameters: torch's tensors by name: "weight_ih_l0" (4 H, D), "weight_hh_l0", "bias_hh_l0_reverse", ...
        num_layers: Number of layers.
        bidirectional: Whether each layer runs in both directions.

    Returns:
        Hidden states of the last layer, (B, L, H), or (B, L, 2 H) in two directions.
    """
    lengths = mx.maximum(lengths, 1)[:, None]
    positions = mx.arange(x.shape[1], dtype=mx.int32)[None]
    real = (positions < lengths)[:, :, None]
    backwards = mx.maximum(lengths - 1 - positions, 0)[:, :, None]
    for layer in range(num_layers):
        outputs = [_run_direction(x, parameters, f"l{layer}")]
        if bidirectional:
            turned = _run_direction(mx.take_along_axis(x, backwards, axis=1), parameters, f"l{layer}_reverse")
            outputs.append(mx.take_along_axis(turned, backwards, axis=1))
        x = mx.where(real, mx.concatenate(outputs, axis=-1), 0)
    return x


def _run_direction(x: mx.array, parameters: Mapping[str, mx.array], suffix: str) -> mx.array:
    """Return the hidden states (B, L, H) of one layer in one direction."""
    from_input, from_state, *biases = (
        parameters[f"{name}_{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gates = x @ from_input.T + (biases[0] + biases[1])
    state = cell = mx.zeros((x.shape[0], from_state.shape[1]), x.dtype)
    states = []
    for position in range(x.shape[1]):
        # torch's order: input, forget, cell, output.
        taken, kept, new, shown = mx.split(gates[:, position] + state @ from_state.T, 4, axis=-1)
        cell = mx.sigmoid(kept) * cell + mx.sigmoid(taken) * mx.tanh(new)
        state = mx.sigmoid(shown) * mx.tanh(cell)
        states.append(state)
    return mx.stack(states, axis=1)


class BidirectionalLSTM(nn.Module):
    """torch.nn.LSTM in two directions, with its parameters as attributes: `weight_ih_l0`, `bias_hh_l0_reverse`, ...

    Takes x (B, L, D) and lengths (B,), and returns (B, L, 2 H).

    Args:
        inputs: Width D.
        hidden: Width H of one direction.
        num_layers: Number of layers.
    """

    def __init__(self, inputs: int, hidden: int, num_layers: int) -> None:
        super().__init__()
        self._num_layers = num_layers
        for layer in range(num_layers):
            width = inputs if layer == 0 else 2 * hidden
            for direction in DIRECTIONS:
                suffix = f"l{layer}{direction}"
                setattr(self, f"weight_ih_{suffix}", mx.zeros((4 * hidden, width)))
                setattr(self, f"weight_hh_{suffix}", mx.zeros((4 * hidden, hidden)))
                setattr(self, f"bias_ih_{suffix}", mx.zeros((4 * hidden,)))
                setattr(self, f"bias_hh_{suffix}", mx.zeros((4 * hidden,)))

    def __call__(self, x: mx.array, lengths: mx.array) -> mx.array:
        return run_lstm(x, lengths, self, self._num_layers, bidirectional=True)
