"""Splinter (Ram et al., arXiv 2101.00438); reference: transformers/models/splinter/modeling_splinter.py.

Differs from BERT: no pooler, and answer spans are scored against the hidden state of a [QUESTION] token.
"""

import dataclasses
from dataclasses import dataclass

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import QUESTION_ANSWERING, Head
from mlx_hf_bridge.layers.transformed_heads import QuestionAwareSpans
from mlx_hf_bridge.models import bert


@dataclass(frozen=True, kw_only=True)
class SplinterConfig(EncoderConfig):
    """Splinter's key: id of the [QUESTION] token."""

    question_token_id: int = 104


_QASS = "splinter_qass"
_SPAN_NAMES = {
    f"{_QASS}.{hf}": path
    for edge in ("start", "end")
    for hf, path in {
        f"query_{edge}_transform.dense": f"{edge}.question.dense",
        f"query_{edge}_transform.LayerNorm": f"{edge}.question.norm",
        f"{edge}_transform.dense": f"{edge}.tokens.dense",
        f"{edge}_transform.LayerNorm": f"{edge}.tokens.norm",
        f"{edge}_classifier": f"{edge}.out",
    }.items()
}

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="splinter",
    config=SplinterConfig,
    names={**bert.EMBEDDING_NAMES, **bert.LAYER_NAMES},
    prefix="splinter",
    hf_prefix="Splinter",
    tokenizer="SplinterTokenizer",
    pooler=None,
    heads={
        QUESTION_ANSWERING: Head(
            build=lambda config: QuestionAwareSpans(config.hidden_size, config.question_token_id), names=_SPAN_NAMES
        )
    },
)
