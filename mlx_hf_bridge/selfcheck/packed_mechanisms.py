"""Every kind of layer with quantized weights of every format on the device, against float32 on MLX's CPU device."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.inference.model import Model, set_activation_dtype
from mlx_hf_bridge.layers.linear import Embedding, Linear, QuantizedModule
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.device import activation_dtype
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.selfcheck.check import BOUNDS, Check, guarded, on_cpu, on_device, relative_error, without_paths
from mlx_hf_bridge.selfcheck.mechanisms import MECHANISMS, in_float32, padded_batch, random_model
from mlx_hf_bridge.selfcheck.packing import FORMATS, label_of

GROUP = "quantized layers"
# Long enough for the matmuls of many rows; those of few are checked by themselves (packing.py).
_TOKENS = 33


def check_packed_mechanisms() -> Iterator[Check]:
    """Compare hidden states of quantized models with those of the same weights in float32.

    Yields:
        One check for each mechanism, with the error of each format among its details.
    """
    for name, config in MECHANISMS.items():
        yield guarded(GROUP, name, partial(_check, name, config))


def _check(name: str, config: Mapping[str, Any]) -> Check:
    bound = BOUNDS[activation_dtype(mx.float16)]
    errors: dict[str, float | str] = {}
    reference = random_model(config, mx.float16)
    reference.update(run(lambda: in_float32(reference)))
    for mode, bits, group in FORMATS:
        label = label_of(mode, bits, group)
        try:
            errors[label] = _error(config, reference, mode, bits, group)
        except Exception as error:  # of a kernel that is missing: the other formats are still worth running
            errors[label] = without_paths(f"{type(error).__name__}: {error}")
    failed = [label for label, error in errors.items() if isinstance(error, str) or not error <= bound]
    largest = max((error for error in errors.values() if isinstance(error, float)), default=float("nan"))
    figure = f"{largest:.1e}, {len(errors)} formats" if not failed else f"{failed[0]}: {errors[failed[0]]}"
    return Check(GROUP, name, not failed, figure, f"at most {bound:.0e}", errors)


def _error(config: Mapping[str, Any], reference: Model, mode: str, bits: int, group: int) -> float:
    """Return the error of a model in one format, relative to a float32 model with the same weights dequantized."""
    model = random_model(config, mx.float16)
    batch, mask = padded_batch(_TOKENS)
    run(partial(_quantize, model, mode, bits, group))
    actual = on_device(partial(_hidden, model, batch))
    expected = on_cpu(partial(_hidden_of_dequantized, model, reference, batch))
    return relative_error(actual[mask], expected[mask])


def _quantize(model: Model, mode: str, bits: int, group: int) -> Any:
    def has_groups(path: str, module: nn.Module) -> bool:
        kind = isinstance(module, Linear) or (isinstance(module, Embedding) and path.endswith("word"))
        return kind and module.weight.shape[-1] % group == 0

    nn.quantize(model, group, bits, mode=mode, class_predicate=has_groups)
    for module in model.modules():
        if isinstance(module, QuantizedModule):
            # As they are stored; the scales of the floating-point modes are integer codes.
            module.scales, biases = module.scales_as(mx.float16)
            if biases is not None:
                module.biases = biases
    set_activation_dtype(model, activation_dtype(mx.float16))
    return model.parameters()


def _hidden_of_dequantized(model: Model, reference: Model, batch: TokenBatch) -> mx.array:
    modules = dict(reference.named_modules())
    before = {}
    for path, module in model.named_modules():
        if isinstance(module, QuantizedModule):
            before[path] = modules[path].weight
            modules[path].weight = module.dequantize(mx.float32)
    hidden = reference(batch).hidden
    # Another format may leave weights as they are, whose width its groups do not divide.
    for path, weight in before.items():
        modules[path].weight = weight
    return hidden


def _hidden(model: Model, batch: TokenBatch) -> mx.array:
    return model(batch).hidden
