"""Every kind of layer on the device against MLX's CPU device, in each dtype, on texts padded in every way."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.inference.model import Model, build_model
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.runtime.device import activation_dtype
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.selfcheck.check import BOUNDS, Check, bounded, guarded, on_cpu, on_device, relative_error, worst

GROUP = "layers"
VOCABULARY = 99
_SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 640,
    "pad_token_id": 0,
}
_T5: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
}
_TWO_HEADS = {**_SIZES, "num_attention_heads": 2}
MECHANISMS: Mapping[str, Mapping[str, Any]] = {
    "norm after each block, heads of 32": {"model_type": "bert", **_SIZES},
    "norm after each block, heads of 64": {"model_type": "bert", **_TWO_HEADS},
    "norm after each block, heads of 80": {"model_type": "bert", **_TWO_HEADS, "hidden_size": 160},
    "norm before each block": {"model_type": "roberta-prelayernorm", **_SIZES},
    "norms on both sides, shared keys": {
        "model_type": "gemma3_text",
        **_SIZES,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "use_bidirectional_attention": True,
    },
    "rotary positions, gated": {"model_type": "qwen3", **_SIZES, "num_key_value_heads": 2, "head_dim": 32},
    "local attention": {"model_type": "modernbert", **_SIZES},
    "relative positions": {"model_type": "t5", **_T5},
    "disentangled attention": {
        "model_type": "deberta-v2",
        **_SIZES,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
    },
    "convolution": {"model_type": "convbert", **_SIZES, "embedding_size": 128},
    "Fourier transform": {"model_type": "fnet", **_SIZES},
}
# Tokens of each row of a batch.
_LENGTHS = (1, 9, 33, 513)
_LONG = 256


def random_model(config: Mapping[str, Any], dtype: mx.Dtype, scale: float = 0.07) -> Model:
    """Build a small model with random weights, the same on every machine.

    Args:
        config: The content of config.json.
        dtype: The dtype that the weights are stored in; what is computed in depends on the device.
        scale: Standard deviation of the weights; those of norms are around 1.

    Returns:
        The model, evaluated.
    """
    raw = dict(config)
    family = family_for(raw)
    model = build_model(family, family.config.from_json(raw), BASE_TASK, pooler=False)
    random = np.random.default_rng(0)
    weights = []
    flat: Any = tree_flatten(model.parameters())
    for name, array in flat:
        values = np.asarray(random.normal(0, scale, array.shape)) + float("norm" in name and name.endswith("weight"))
        rounded = mx.array(values.astype(np.float32)).astype(dtype)
        weights.append((name, rounded.astype(activation_dtype(dtype))))

    def update() -> Any:
        model.update(tree_unflatten(weights))
        return model.parameters()

    run(update)
    return model


def in_float32(model: Model) -> dict[str, Any]:
    """Return a model's parameters as float32, and integers as they are.

    Args:
        model: The model.

    Returns:
        A tree as of `model.parameters()`, not evaluated.
    """
    cast: dict[str, Any] = tree_map(
        lambda array: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array, model.parameters()
    )
    return cast


def padded_batch(length: int) -> tuple[TokenBatch, np.ndarray]:
    """Return texts padded right, left, in the middle, and not at all; of long ones only the first two.

    Args:
        length: Tokens of each row.

    Returns:
        The batch of two or four rows, and its mask of shape (rows, length), bool.
    """
    rows = 2 if length > _LONG else 4
    ids = np.random.default_rng(length).integers(3, VOCABULARY, (rows, length)).astype(np.int32)
    mask = np.ones((4, length), bool)
    if length > 4:
        mask[0, length // 2 :] = mask[1, : length // 3] = mask[2, 2:-2] = False
    mask = mask[:rows]
    return TokenBatch(mx.array(np.where(mask, ids, 0).astype(np.int32)), mx.array(mask)), mask


def check_mechanisms() -> Iterator[Check]:
    """Compare hidden states of the device with those of MLX's CPU device in float32.

    Yields:
        One check for each mechanism and dtype.
    """
    batches = [padded_batch(length) for length in _LENGTHS]
    for name, config in MECHANISMS.items():
        reference = random_model(config, mx.float32)
        expected = [on_cpu(partial(_hidden, reference, batch)) for batch, _ in batches]
        for dtype, bound in BOUNDS.items():
            label = f"{name}, {str(dtype).rpartition('.')[2]}"
            yield guarded(GROUP, label, partial(_check, config, batches, expected, dtype, bound, label))


def _hidden(model: Model, batch: TokenBatch) -> mx.array:
    return model(batch).hidden


def _check(
    config: Mapping[str, Any],
    batches: Sequence[tuple[TokenBatch, np.ndarray]],
    expected: Sequence[np.ndarray],
    dtype: mx.Dtype,
    bound: float,
    label: str,
) -> Check:
    model = random_model(config, dtype)
    errors = [
        relative_error(on_device(partial(_hidden, model, batch))[mask], wanted[mask])
        for (batch, mask), wanted in zip(batches, expected, strict=True)
    ]
    return bounded(GROUP, label, worst(errors), bound)
