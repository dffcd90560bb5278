"""`Head`s that many model types share, with the module names that most checkpoints use.

The modules that they build are in layers/heads.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Head
from mlx_hf_bridge.layers.activations import Activation, activation_for
from mlx_hf_bridge.layers.heads import (
    FirstTokenClassifier,
    MaskedLMHead,
    PooledClassifier,
    PreTrainingHeads,
    SpanClassifier,
    TokenClassifier,
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
# Module names of RoBERTa's classifier, which many other model types use.
CLASSIFIER_NAMES = {"classifier.dense": "dense", "classifier.out_proj": "out"}


def first_token_head(
    names: Mapping[str, str] = CLASSIFIER_NAMES, activation: Activation | None = None, classes: int | None = None
) -> Head:
    """Return a classification head that reads the first token: linear layer, activation, linear layer.

    Args:
        names: Checkpoint names of the two layers; RoBERTa's by default.
        activation: Function between the two layers; None = `config.hidden_act`.
        classes: Number of outputs; None = `config.num_labels`. 1 for multiple choice.

    Returns:
        A head whose output is `logits` of shape (B, C).
    """
    return Head(
        build=lambda config: FirstTokenClassifier(
            config.hidden_size, classes or config.num_labels, activation or activation_for(config.hidden_act)
        ),
        names=names,
    )


def masked_lm_head(
    names: Mapping[str, str],
    bias: str,
    decoder: str,
    activation: Activation | None = None,
    width: Callable[[Any], int] = lambda config: config.hidden_size,
    output: str = "logits",
) -> Head:
    """Return a masked-LM head: linear layer, activation, norm, and the scores of all tokens of the vocabulary.

    Args:
        names: Checkpoint names of the first layer ("dense") and the norm ("norm").
        bias: Checkpoint module that holds the bias if the decoder is tied to the token embeddings.
        decoder: Checkpoint module of the head's own decoder if it is not tied.
        activation: Function after the first layer; None = `config.hidden_act`.
        width: Function of the config: size of the token embeddings, or of the decoder's input if it is not tied.
        output: Name of the output.

    Returns:
        A head whose output has shape (B, L, V).
    """

    def build(config: EncoderConfig) -> MaskedLMHead:
        chosen = activation or activation_for(config.hidden_act)
        eps, is_tied = config.layer_norm_eps, config.tie_word_embeddings
        return MaskedLMHead(config.hidden_size, width(config), config.vocab_size, chosen, eps, is_tied, output)

    # An empty path is the head itself, so "cls.predictions.bias" is the head's own parameter `bias`.
    return Head(build=build, names=names, tied={bias: ""}, untied={decoder: "decoder"})


def tables_below(path: str, head: Head) -> dict[str, Any]:
    """Return the tables of names of a head that is a part of another one.

    Args:
        path: The path of the part.
        head: The head by itself.

    Returns:
        Its `names`, `tied` and `untied`, by these names, with longer paths.
    """
    return {
        table: {hf: f"{path}.{own}".rstrip(".") for hf, own in getattr(head, table).items()}
        for table in ("names", "tied", "untied")
    }


def pre_training_head(
    masked_lm: Head, sentence: str, sentence_output: str, classes: Callable[[Any], int] = lambda config: 2
) -> Head:
    """Return BERT's pre-training head: a masked-LM head and a classifier of the pooled output.

    Args:
        masked_lm: The masked-LM head; its output should be named "prediction_logits".
        sentence: Checkpoint module of the classifier, e.g. "cls.seq_relationship".
        sentence_output: Name of the classifier's output, e.g. "seq_relationship_logits".
        classes: Function of the config: number of the classifier's classes.

    Returns:
        A head with both outputs, of shapes (B, L, V) and (B, C).
    """
    tables = tables_below("masked_lm", masked_lm)
    return Head(
        build=lambda config: PreTrainingHeads(
            masked_lm.build(config), PooledClassifier(config.hidden_size, classes(config), sentence_output)
        ),
        names={**tables["names"], sentence: "sentence.out"},
        reads_pooler=True,
        tied=tables["tied"],
        untied=tables["untied"],
    )
