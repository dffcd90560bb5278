"""DPR (Karpukhin et al., arXiv 2004.04906); reference: transformers/models/dpr/modeling_dpr.py.

The encoders of questions and of passages, and the reader of passages, which share one model_type; the names of the
tensors tell them apart. Differs from BERT: its output is the first token's hidden state, without a pooler's layer and
tanh, and without the hidden states of the other tokens; padding is masked by its id where a call gives no mask.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import QUESTION_ANSWERING, Head
from mlx_hf_bridge.layers.heads import FirstTokenPooler, PassageReader
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class DPRConfig(EncoderConfig):
    """BERT's config with DPR's key.

    Attributes:
        projection_dim: Width of the linear layer after the first token's hidden state; 0 for no such layer.
    """

    projection_dim: int = 0

    minimum_values: ClassVar = {"projection_dim": 0}

    @property
    def pooler_has_weights(self) -> bool:
        """Whether the first token's hidden state is projected."""
        return self.projection_dim > 0

    def default_attention_mask(self, ids: np.ndarray) -> np.ndarray | None:
        """Return the attention mask of a call that gives none: every token but padding, by its id.

        Args:
            ids: Token ids of shape (B, L).

        Returns:
            A bool mask of shape (B, L).
        """
        return np.asarray(ids != self.pad_token_id)


_READER_HEAD = Head(
    build=lambda config: PassageReader(config.hidden_size), names={"qa_outputs": "out", "qa_classifier": "relevance"}
)

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="dpr",
    config=DPRConfig,
    names={
        **{f"bert_model.{hf}": path for hf, path in bert.NAMES.items() if hf != "pooler.dense"},
        "encode_proj": "pooler.dense",
    },
    prefix="question_encoder",
    alternate_prefixes=("ctx_encoder", "span_predictor.encoder", "span_predictor"),
    hf_prefix="DPR",
    hf_base_suffix="QuestionEncoder",
    hf_head_suffixes={QUESTION_ANSWERING: "Reader"},
    tokenizer="DPRQuestionEncoderTokenizer",
    pooler=lambda config: FirstTokenPooler(config.hidden_size, config.projection_dim),
    heads={QUESTION_ANSWERING: _READER_HEAD},
    other_heads=(),
    # transformers builds the BERT inside without its pooler, whose weights old files have.
    ignored_suffixes=(*bert.FAMILY.ignored_suffixes, "bert_model.pooler.dense.weight", "bert_model.pooler.dense.bias"),
    returns_hidden_state=False,
)
