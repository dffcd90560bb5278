"""Heads that families share: built from a config, and named as most checkpoints name them."""

from collections.abc import Callable, Mapping
from typing import Any

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Head
from mlx_hf_bridge.layers.feed_forward import Activation, activation_for
from mlx_hf_bridge.layers.heads import (
    FirstTokenClassifier,
    PooledClassifier,
    SpanClassifier,
    TokenClassifier,
    TwoHeads,
    WordScorer,
)

POOLED_SEQUENCE_HEAD = Head(
    build=lambda config: PooledClassifier(config.hidden_size, config.num_labels),
    names={"classifier": "out"},
    reads_pooler=True,
)
POOLED_CHOICE_HEAD = Head(
    build=lambda config: PooledClassifier(config.hidden_size, 1), names={"classifier": "out"}, reads_pooler=True
)
TOKEN_HEAD = Head(
    build=lambda config: TokenClassifier(config.hidden_size, config.num_labels), names={"classifier": "out"}
)
SPAN_HEAD = Head(build=lambda config: SpanClassifier(config.hidden_size), names={"qa_outputs": "out"})


def first_token_head(names: Mapping[str, str], activation: Activation, classes: int | None = None) -> Head:
    """A FirstTokenClassifier of the config's labels, or of a fixed number of classes."""
    return Head(
        build=lambda config: FirstTokenClassifier(config.hidden_size, classes or config.num_labels, activation),
        names=names,
    )


def masked_lm_head(
    names: Mapping[str, str],
    tied: str,
    decoder: str,
    activation: Activation | None = None,
    width: Callable[[Any], int] = lambda config: config.hidden_size,
    answer: str = "logits",
) -> Head:
    """A WordScorer; `tied` is the module that has the bias of tied tables, `decoder` that of a table of its own.

    activation: None = the config's.
    """

    def build(config: EncoderConfig) -> WordScorer:
        chosen = activation or activation_for(config.hidden_act)
        eps, tables = config.layer_norm_eps, config.tie_word_embeddings
        return WordScorer(config.hidden_size, width(config), config.vocab_size, chosen, eps, tables, answer)

    return Head(build=build, names=names, tied={tied: ""}, untied={decoder: "decoder"})


def pre_training_head(
    words: Head, sentence: str, answer: str, classes: Callable[[Any], int] = lambda config: 2
) -> Head:
    """A word head, and a pooled classifier under the module name `sentence`."""
    under_words = {
        part: {hf: f"words.{ours}".rstrip(".") for hf, ours in getattr(words, part).items()}
        for part in ("names", "tied", "untied")
    }
    return Head(
        build=lambda config: TwoHeads(
            words.build(config), PooledClassifier(config.hidden_size, classes(config), answer)
        ),
        names={**under_words["names"], sentence: "sentence.out"},
        reads_pooler=True,
        tied=under_words["tied"],
        untied=under_words["untied"],
    )
