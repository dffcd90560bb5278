"""ELECTRA (Clark et al., arXiv 2003.10555); reference: transformers/models/electra/modeling_electra.py.

Differs from BERT: embeddings may have another width, no pooler, classifiers with two linear layers and gelu, and a head
that detects replaced tokens (pre-training).
"""

from dataclasses import dataclass

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
    Head,
)
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD, first_token_head, masked_lm_head
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for, gelu
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import FirstTokenClassifier, TokenDiscriminator
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.models import bert


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(EncoderConfig):
    """ELECTRA's keys: width of the embeddings, and the multiple-choice head."""

    embedding_size: int
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"


def encoder(config: ElectraConfig) -> Encoder:
    """Return the encoder, with a projection where the embeddings have another width."""
    width, hidden = config.embedding_size, config.hidden_size
    # The reference has the projection, and checkpoints its tensors, only where the widths differ.
    projection = None if width == hidden else Linear(width, hidden)
    return Encoder(bert.embeddings(config, width), bert.layers(config), projection=projection)


def choice_head(config: ElectraConfig) -> FirstTokenClassifier:
    """Return ElectraSequenceSummary and a linear layer to one number; ConfigError unless settings are the default."""
    if config.summary_type != "first" or not config.summary_use_proj:
        raise ConfigError(
            f"config.json has summary_type={config.summary_type!r} and summary_use_proj={config.summary_use_proj}; "
            "supported are 'first' and true. Use transformers on torch for this model."
        )
    return FirstTokenClassifier(config.hidden_size, 1, activation_for(config.summary_activation or "linear"))


FAMILY = Family(
    model_type="electra",
    config=ElectraConfig,
    encoder=encoder,
    names={**bert.EMBEDDING_NAMES, **bert.LAYER_NAMES, "embeddings_project": "projection"},
    prefix="electra",
    hf_prefix="Electra",
    tokenizer="BertTokenizer",
    heads={
        MASKED_LM: masked_lm_head(
            {"generator_predictions.dense": "dense", "generator_predictions.LayerNorm": "norm"},
            "generator_lm_head",
            "generator_lm_head",
            activation=gelu,
            width=lambda config: config.embedding_size,
        ),
        SEQUENCE_CLASSIFICATION: first_token_head(activation=gelu),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: Head(build=choice_head, names={"sequence_summary.summary": "dense", "classifier": "out"}),
        PRE_TRAINING: Head(
            build=lambda config: TokenDiscriminator(config.hidden_size, activation_for(config.hidden_act)),
            names={"discriminator_predictions.dense": "dense", "discriminator_predictions.dense_prediction": "out"},
        ),
    },
)
