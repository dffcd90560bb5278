"""MarkupLM (Li et al., arXiv 2110.08518); reference: transformers/models/markuplm/modeling_markuplm.py.

Differs from RoBERTa: an embedding of each token's path in the HTML tree is added, from the tags (`xpath_tags_seq`) and
subscripts (`xpath_subs_seq`) of the path. Without paths both are padding.
"""

import dataclasses
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.family import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import bert

_TAGS, _SUBSCRIPTS = "xpath_tags_seq", "xpath_subs_seq"
# How much wider the inner layer is than the hidden states (XPathEmbeddings).
_INNER = 4


@dataclass(frozen=True)
class MarkupLMConfig(OffsetPositionsConfig):
    """RoBERTa's config with MarkupLM's keys: the tables of tags and subscripts, and the depth of paths."""

    pad_token_id: int | None = 0
    max_xpath_tag_unit_embeddings: int = 256
    max_xpath_subs_unit_embeddings: int = 1024
    tag_pad_id: int = 216
    subs_pad_id: int = 1001
    xpath_unit_hidden_size: int = 32
    max_depth: int = 50

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """Tags and subscripts of each token's path, (B, L, `max_depth`)."""
        axes = ("B", "L", self.max_depth)
        return {
            _TAGS: ModelInput(self.max_xpath_tag_unit_embeddings, axes, "max_xpath_tag_unit_embeddings"),
            _SUBSCRIPTS: ModelInput(self.max_xpath_subs_unit_embeddings, axes, "max_xpath_subs_unit_embeddings"),
        }


class XPathEmbeddings(nn.Module):
    """Embeddings of paths in an HTML tree: a table of tags and one of subscripts for each depth, then two layers.

    Takes a TokenBatch and returns (B, L, D), or (1, 1, D) if the batch has no paths.

    Args:
        config: The model's config.
    """

    def __init__(self, config: MarkupLMConfig) -> None:
        super().__init__()
        unit, depth, width = config.xpath_unit_hidden_size, config.max_depth, config.hidden_size
        self.tags = [Embedding(config.max_xpath_tag_unit_embeddings, unit) for _ in range(depth)]
        self.subscripts = [Embedding(config.max_xpath_subs_unit_embeddings, unit) for _ in range(depth)]
        self.inner = Linear(unit * depth, _INNER * width)
        self.out = Linear(_INNER * width, width)
        self._padding = {_TAGS: config.tag_pad_id, _SUBSCRIPTS: config.subs_pad_id}

    def __call__(self, batch: TokenBatch) -> mx.array:
        paths = self._rows(batch, _TAGS, self.tags) + self._rows(batch, _SUBSCRIPTS, self.subscripts)
        embedded: mx.array = self.out(mx.maximum(self.inner(paths), 0))
        return embedded

    def _rows(self, batch: TokenBatch, name: str, tables: list[Embedding]) -> mx.array:
        """Return the rows of all depths next to each other, (B, L, depth times width of a row)."""
        ids = batch.extra_inputs.get(name)
        if ids is None:
            ids = mx.full((1, 1, len(tables)), self._padding[name], mx.int32)
        return mx.concatenate([table(ids[..., depth]) for depth, table in enumerate(tables)], axis=-1)


def encoder(config: MarkupLMConfig) -> Encoder:
    """Return the encoder."""
    extra = {"xpath": XPathEmbeddings(config)}
    return Encoder(bert.embeddings(config, pad_token_id=config.padding_idx, extra=extra), bert.layers(config))


_PATHS = "embeddings.xpath_embeddings"

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="markuplm",
    config=MarkupLMConfig,
    encoder=encoder,
    names={
        **bert.NAMES,
        f"{_PATHS}.xpath_tag_sub_embeddings.{{i}}": "embeddings.extra.xpath.tags.{i}",
        f"{_PATHS}.xpath_subs_sub_embeddings.{{i}}": "embeddings.extra.xpath.subscripts.{i}",
        f"{_PATHS}.xpath_unitseq2_inner": "embeddings.extra.xpath.inner",
        f"{_PATHS}.inner2emb": "embeddings.extra.xpath.out",
    },
    prefix="markuplm",
    hf_prefix="MarkupLM",
    tokenizer="MarkupLMTokenizer",
    heads={
        task: bert.FAMILY.heads[task] for task in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
    },
    # A linear layer that transformers builds and never calls.
    unused_modules=lambda config: (f"{_PATHS}.xpath_unitseq2_embeddings",),
)
