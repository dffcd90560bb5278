"""X-MOD (Pfeiffer et al., arXiv 2205.06266); reference: transformers/models/xmod/modeling_xmod.py.

Differs from RoBERTa: a bottleneck after each feed-forward block, one for each language; `lang_ids` selects it, without
them `default_language` does. The norms may come before the blocks.
"""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.layers.activations import Activation, activation_for
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.encoder import Encoder, OutputRecorder
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import bert, roberta

_INPUT = "lang_ids"


@dataclass(frozen=True)
class XmodConfig(OffsetPositionsConfig):
    """RoBERTa's config with X-MOD's keys: the languages, and the norms around their adapters."""

    languages: list[str] = field(default_factory=lambda: ["en_XX"])
    default_language: str | None = None
    pre_norm: bool = False
    adapter_reduction_factor: int = 2
    adapter_layer_norm: bool = False
    adapter_reuse_layer_norm: bool = True
    ln_before_adapter: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.adapter_reduction_factor <= self.hidden_size:
            raise ConfigError(
                f"config.json has adapter_reduction_factor={self.adapter_reduction_factor}, expected 1 to hidden_size="
                f"{self.hidden_size}. Take the file of the original checkpoint."
            )
        if self.default_language is not None and self.default_language not in self.languages:
            raise ConfigError(
                f"config.json has default_language={self.default_language!r}, expected one of languages="
                f"{self.languages}. Take the file of the original checkpoint."
            )

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """The language of each token, or of each text."""
        return {_INPUT: ModelInput(len(self.languages), key="languages", per_text=True)}


def languages_of(config: XmodConfig, batch: TokenBatch) -> mx.array | int:
    """Return the language of each token.

    Args:
        config: The model's config.
        batch: The batch.

    Returns:
        Indices of `languages`, (B, L), int32; one index where it is the same for all tokens.

    Raises:
        InputError: If the batch names no languages and config.json has no default.
    """
    given = batch.extra_inputs.get(_INPUT)
    if given is not None:
        return given
    if config.default_language is None:
        raise InputError(
            "lang_ids were not given, and config.json names no default_language. Pass lang_ids, the index of each "
            f"text's language in {config.languages}, or load with default_language={config.languages[0]!r}."
        )
    return config.languages.index(config.default_language)


class Adapter(nn.Module):
    """A language's bottleneck: linear layer, activation, linear layer.

    Takes hidden states (B, L, D) and returns (B, L, D).

    Args:
        hidden_size: D.
        width: Width of the bottleneck.
        activation: Function between the layers.
    """

    def __init__(self, hidden_size: int, width: int, activation: Activation) -> None:
        super().__init__()
        self.down = Linear(hidden_size, width)
        self.up = Linear(width, hidden_size)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        adapted: mx.array = self.up(self.activation(self.down(x)))
        return adapted


class XmodLayer(nn.Module):
    """A BERT layer with a language's adapter after the feed-forward block, and norms before or after the blocks.

    Takes x (B, L, D), the attention mask, the languages of the tokens, (B, L) or one for all, and the recorder.
    Returns (B, L, D).

    Args:
        config: The model's config.
    """

    def __init__(self, config: XmodConfig) -> None:
        super().__init__()
        width, activation = config.hidden_size, activation_for(config.hidden_act)
        self.attention = Attention(width, config.num_attention_heads)
        self.attention_norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(width, config.intermediate_size, activation)
        self.feed_forward_norm = LayerNorm(width, eps=config.layer_norm_eps)
        if config.adapter_layer_norm:
            self.adapter_norm = LayerNorm(width, eps=config.layer_norm_eps)
        narrow = width // config.adapter_reduction_factor
        self.adapters = {language: Adapter(width, narrow, activation) for language in config.languages}
        self._config = config

    def __call__(self, x: mx.array, mask: mx.array | None, languages: Any, recorder: OutputRecorder) -> mx.array:
        pre_norm = self._config.pre_norm
        normed = self.attention_norm(x) if pre_norm else x
        if recorder.output_attentions:
            attended, *weights = self.attention.with_weights(normed, mask, None)
            recorder.record_attention(*weights)
        else:
            attended = self.attention(normed, mask, None)
        x = x + attended if pre_norm else self.attention_norm(x + attended)
        x = self._adapt(x + self.feed_forward(self.feed_forward_norm(x) if pre_norm else x), languages)
        return x if pre_norm else self.feed_forward_norm(x)

    def _adapt(self, x: mx.array, languages: mx.array | int) -> mx.array:
        normed = x
        if "adapter_norm" in self:
            normed = self.adapter_norm(x)
        elif self._config.adapter_reuse_layer_norm:
            normed = self.feed_forward_norm(x)
        unadapted = normed if self._config.ln_before_adapter else x
        adapters: list[Adapter] = list(self.adapters.values())
        if isinstance(languages, int):
            return unadapted + adapters[languages](normed)
        # Every adapter is computed for every token: which ones are needed is known only when arrays are evaluated.
        adapted = mx.zeros_like(normed)
        for index, adapter in enumerate(adapters):
            adapted = mx.where((languages == index)[..., None], adapter(normed), adapted)
        return unadapted + adapted


def encoder(config: XmodConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        bert.embeddings(config, pad_token_id=config.padding_idx),
        [XmodLayer(config) for _ in range(config.num_hidden_layers)],
        final_norm=bert.layer_norm(config) if config.pre_norm else None,
        layer_context=partial(languages_of, config),
    )


_OUTPUT = "encoder.layer.{i}.output"


def adapter_names(config: XmodConfig) -> dict[str, str]:
    """Return the names of the languages' adapters."""
    return {
        f"{_OUTPUT}.adapter_modules.{language}.{hf}": f"layers.{{i}}.adapters.{language}.{path}"
        for language in config.languages
        for hf, path in (("dense1", "down"), ("dense2", "up"))
    }


FAMILY = dataclasses.replace(
    roberta.FAMILY,
    model_type="xmod",
    config=XmodConfig,
    encoder=encoder,
    names={
        **roberta.FAMILY.names,
        f"{_OUTPUT}.adapter_layer_norm": "layers.{i}.adapter_norm",
        "encoder.LayerNorm": "final_norm",
    },
    own_names=adapter_names,
    hf_prefix="Xmod",
    tokenizer="XLMRobertaTokenizer",
)
