"""ELECTRA (Clark et al., arXiv 2003.10555); reference: transformers/models/electra/modeling_electra.py.

BERT with embeddings of another width, no pooler, and a classifier with a product of its own and gelu.
"""

from dataclasses import dataclass

from mlx_hf_bridge.family import SEQUENCE_CLASSIFICATION, EncoderConfig, Family, Head
from mlx_hf_bridge.layers.embeddings import Embeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import gelu
from mlx_hf_bridge.layers.heads import FirstTokenClassifier
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.models import bert, roberta


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(EncoderConfig):
    embedding_size: int


def encoder(config: ElectraConfig) -> Encoder:
    same_width = config.embedding_size == config.hidden_size
    return Encoder(
        Embeddings(
            config.vocab_size,
            config.embedding_size,
            config.max_position_embeddings,
            config.type_vocab_size,
            config.layer_norm_eps,
        ),
        [bert.post_norm_layer(config) for _ in range(config.num_hidden_layers)],
        projection=None if same_width else Linear(config.embedding_size, config.hidden_size),
    )


FAMILY = Family(
    model_type="electra",
    config=ElectraConfig,
    encoder=encoder,
    names={**bert.EMBEDDING_NAMES, **bert.LAYER_NAMES, "embeddings_project": "projection"},
    prefix="electra",
    hf_class="ElectraModel",
    tokenizer="BertTokenizer",
    heads={
        SEQUENCE_CLASSIFICATION: Head(
            build=lambda config: FirstTokenClassifier(config.hidden_size, config.num_labels, gelu),
            names=roberta.CLASSIFIER_NAMES,
            hf_class="ElectraForSequenceClassification",
        )
    },
    foreign=(
        "generator_predictions",
        "generator_lm_head",
        "discriminator_predictions",
        "classifier",
        "qa_outputs",
        "sequence_summary",
    ),
)
