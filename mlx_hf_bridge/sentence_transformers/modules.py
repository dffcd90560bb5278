"""The modules that follow the Transformer in modules.json: what they compute, read from their own folders.

Reference: sentence_transformers/sentence_transformer/modules/pooling.py and base/modules/{dense,normalize}.py.
B texts, L tokens, D hidden, V vector width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.errors import ConfigError, RepositoryError, UnsupportedModelError
from mlx_hf_bridge.inference.pooling import POOLINGS, normalized, pool
from mlx_hf_bridge.layers.feed_forward import gelu
from mlx_hf_bridge.loading.checkpoint import ModuleEntry, read_json
from mlx_hf_bridge.loading.tensors import SINGLE_FILE, SafetensorsFile, WeightFile
from mlx_hf_bridge.loading.torch_file import TorchFile

# Keys of sentence-transformers before 5.6, in the order in which several are concatenated.
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# torch's activation classes by their last name, which is how Dense names its own.
_ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "Identity": lambda x: x,
    "Tanh": mx.tanh,
    "ReLU": nn.relu,
    "GELU": gelu,
    "SiLU": nn.silu,
    "Sigmoid": mx.sigmoid,
}


@dataclass(frozen=True)
class Pooling:
    """hidden (B, L, D) -> (B, D x modes) in float32."""

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True

    def __call__(self, hidden: mx.array, batch: TokenBatch, prompt_length: int = 0) -> mx.array:
        return pool(hidden, batch, self.modes, 0 if self.include_prompt else prompt_length)


@dataclass(frozen=True)
class Dense:
    """vectors (B, V) -> activation of a product (B, W), with the input added where the file says so."""

    weight: mx.array
    bias: mx.array | None
    activation: Callable[[mx.array], mx.array]
    residual: mx.array | None = None
    adds_input: bool = False

    def __call__(self, vectors: mx.array) -> mx.array:
        product = vectors @ self.weight.T
        answer = self.activation(product if self.bias is None else product + self.bias)
        if not self.adds_input:
            return answer
        return answer + (vectors if self.residual is None else vectors @ self.residual.T)


@dataclass(frozen=True)
class Normalize:
    """vectors (B, V) -> unit length each."""

    def __call__(self, vectors: mx.array) -> mx.array:
        return normalized(vectors)


@dataclass(frozen=True)
class Modules:
    """One Pooling, and what its vectors run through afterwards."""

    pooling: Pooling
    after: tuple[Dense | Normalize, ...] = ()

    def __call__(self, hidden: mx.array, batch: TokenBatch, prompt_length: int = 0) -> mx.array:
        vectors = self.pooling(hidden, batch, prompt_length)
        for module in self.after:
            vectors = module(vectors)
        return vectors


def read_after_transformer(folder: Path, entries: tuple[ModuleEntry, ...] | None) -> Modules:
    """modules.json's entries -> Modules; a plain repo gets mean pooling, as in sentence-transformers.

    UnsupportedModelError names a module that is not computed here, or an order that makes no vectors.
    """
    if entries is None:
        return Modules(Pooling())
    kinds = [entry.kind for entry in entries]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise UnsupportedModelError(
            f"{folder} has modules.json with {', '.join(kinds)}; computed here is Transformer, Pooling, then any of "
            "Dense, Normalize, Dropout. Use sentence-transformers on torch for this model."
        )
    pooling = _pooling(folder / entries[1].path)
    after = [module for entry in entries[2:] if (module := _after(folder, entry)) is not None]
    return Modules(pooling, tuple(after))


def _after(folder: Path, entry: ModuleEntry) -> Dense | Normalize | None:
    if entry.kind == "Dense":
        return _dense(folder / entry.path)
    if entry.kind == "Normalize":
        _only_sentence_vectors(_optional_config(folder / entry.path), folder / entry.path)
        return Normalize()
    if entry.kind == "Dropout":
        return None
    raise UnsupportedModelError(
        f"{folder} has modules.json with a {entry.kind}, which is not computed here; known after Pooling are Dense, "
        "Normalize and Dropout. Use sentence-transformers on torch for this model."
    )


def _pooling(folder: Path) -> Pooling:
    config = read_json(folder / "config.json")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if unknown := [mode for mode in modes if mode not in POOLINGS]:
        raise ConfigError(
            f"{folder / 'config.json'} has pooling_mode {unknown}; known are {', '.join(POOLINGS)}. "
            "Take the original file."
        )
    return Pooling(modes, bool(config.get("include_prompt", True)))


def _dense(folder: Path) -> Dense:
    config = read_json(folder / "config.json")
    _only_sentence_vectors(config, folder)
    arrays = dict(_weights(folder).arrays())
    weight, bias = arrays.get("linear.weight"), arrays.get("linear.bias")
    expected = (config.get("out_features"), config.get("in_features"))
    if weight is None or weight.shape != expected:
        found = None if weight is None else weight.shape
        raise ConfigError(f"{folder} has linear.weight {found}, expected {expected}. Take the original files.")
    return Dense(
        weight=weight.astype(mx.float32),
        bias=None if bias is None else bias.astype(mx.float32),
        activation=_activation(config, folder),
        residual=arrays["residual.weight"].astype(mx.float32) if "residual.weight" in arrays else None,
        adds_input=bool(config.get("use_residual")),
    )


def _weights(folder: Path) -> WeightFile:
    if (folder / SINGLE_FILE).is_file():
        return SafetensorsFile(folder / SINGLE_FILE)
    if (folder / "pytorch_model.bin").is_file():
        return TorchFile(folder / "pytorch_model.bin")
    raise RepositoryError(f"{folder} has neither {SINGLE_FILE} nor pytorch_model.bin. Download the repo again.")


def _activation(config: dict[str, Any], folder: Path) -> Callable[[mx.array], mx.array]:
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    module, _, last = str(name).rpartition(".")
    if not module.startswith("torch.") or last not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{folder / 'config.json'} has activation_function={name!r}; known are torch's {', '.join(_ACTIVATIONS)}. "
            "Use sentence-transformers on torch for this model."
        )
    return _ACTIVATIONS[last]


def _optional_config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json") if (folder / "config.json").is_file() else {}


def _only_sentence_vectors(config: dict[str, Any], folder: Path) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedModelError(
                f"{folder / 'config.json'} has {key}={config[key]!r}; computed here is 'sentence_embedding'. "
                "Use sentence-transformers on torch for this model."
            )
