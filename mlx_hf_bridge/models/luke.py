"""LUKE and mLUKE (Yamada et al., arXiv 2010.01057); reference: transformers/models/luke/modeling_luke.py.

Differs from RoBERTa: entities (`entity_ids`, with the positions of their mentions) may follow the tokens, attention has
queries of its own for each kind of pair, and three more heads classify entities.
"""

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.family import (
    ENTITY_CLASSIFICATION,
    ENTITY_PAIR_CLASSIFICATION,
    ENTITY_SPAN_CLASSIFICATION,
    MASKED_LM,
    SEQUENCE_CLASSIFICATION,
    Head,
)
from mlx_hf_bridge.architecture.heads import POOLED_SEQUENCE_HEAD, tables_below
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.layers import entities
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import MaskedLMHead
from mlx_hf_bridge.models import bert, roberta


@dataclass(frozen=True)
class LukeConfig(OffsetPositionsConfig):
    """RoBERTa's config with an untied masked-LM head, and LUKE's keys: the entity table and the kind of attention."""

    # LukeForMaskedLM has its own decoder, whatever config.json says.
    tie_word_embeddings: bool = field(default=False, init=False)
    # Whether the entity head has a decoder of its own (keys_of_tensors); otherwise it scores the entity table.
    has_entity_decoder: bool = False
    entity_vocab_size: int = 500_000
    entity_emb_size: int = 256
    use_entity_aware_attention: bool = True

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """Entities (B, E) with their mask, types and mentions (B, E, M), and where the mentions start and end."""
        each = ("B", "E")
        mentions = ModelInput(self.max_position_embeddings, (*each, "M"), "max_position_embeddings", smallest=-1)
        ends = ModelInput(axes=each, indexes="L", needs=(entities.IDS,))
        return {
            entities.IDS: ModelInput(self.entity_vocab_size, each, "entity_vocab_size", needs=(entities.POSITIONS,)),
            entities.POSITIONS: mentions,
            entities.MASK: ModelInput(2, each, "a mask", needs=(entities.IDS,)),
            entities.TYPES: ModelInput(self.type_vocab_size, each, "type_vocab_size"),
            entities.STARTS: ends,
            entities.ENDS: ends,
        }


def encoder(config: LukeConfig) -> Encoder:
    """Return the encoder."""
    shared = (config.hidden_size, config.max_position_embeddings, config.type_vocab_size, config.layer_norm_eps)
    own = entities.EntityEmbeddings(config.entity_vocab_size, config.entity_emb_size, *shared)
    kind = entities.EntityAwareAttention if config.use_entity_aware_attention else entities.PlainEntityAttention
    return Encoder(
        entities.TokensAndEntities(config.vocab_size, *shared, pad_token_id=config.padding_idx, entities=own),
        [
            bert.post_norm_layer(config, kind(config.hidden_size, config.num_attention_heads))
            for _ in range(config.num_hidden_layers)
        ],
        attention_mask=entities.mask_with_entities,
        layer_context=entities.count_tokens,
    )


_ENTITIES = "entity_predictions"
_ENTITY_DECODER = f"{_ENTITIES}.decoder"


def keys_of_tensors(modules: Collection[str]) -> dict[str, Any]:
    """Return whether a file has a decoder of entities, which it may leave out as a copy of the entity table."""
    return {"has_entity_decoder": _ENTITY_DECODER in modules}


def masked_lm(config: LukeConfig) -> entities.EntityMaskedLMHead:
    """Return the masked-LM head of tokens and entities."""
    sizes = (config.hidden_size, config.entity_emb_size, config.entity_vocab_size)
    tied = not config.has_entity_decoder
    own = MaskedLMHead(
        *sizes, activation_for(config.hidden_act), config.layer_norm_eps, tied, "entity_logits", decoder_bias=False
    )
    return entities.EntityMaskedLMHead(roberta.HEADS[MASKED_LM].build(config), own)


def masked_lm_variant(config: LukeConfig) -> Head:
    """Return the masked-LM head for a file with or without a decoder of entities."""
    tables = tables_below("tokens", roberta.HEADS[MASKED_LM])
    tables["names"] |= {
        f"{_ENTITIES}.transform.dense": "entities.dense",
        f"{_ENTITIES}.transform.LayerNorm": "entities.norm",
        _ENTITIES: "entities",
    }
    if config.has_entity_decoder:
        tables["names"][_ENTITY_DECODER] = "entities.decoder"
    return Head(masked_lm, **tables)


def entity_head(count: int | None, bias: bool = True) -> Head:
    """Return a head that classifies the first `count` entities together, or each by itself if it is None."""
    build: Callable[[Any], entities.EntityHead] = lambda config: entities.EntityHead(  # noqa: E731
        config.hidden_size, config.num_labels, count, bias
    )
    return Head(build=build, names={"classifier": "out"})


_SELF = "encoder.layer.{i}.attention.self"

FAMILY = dataclasses.replace(
    roberta.FAMILY,
    model_type="luke",
    config=LukeConfig,
    encoder=encoder,
    names={
        **bert.NAMES,
        "entity_embeddings.entity_embeddings": "embeddings.entities.entity",
        "entity_embeddings.entity_embedding_dense": "embeddings.entities.projection",
        "entity_embeddings.position_embeddings": "embeddings.entities.position",
        "entity_embeddings.token_type_embeddings": "embeddings.entities.token_type",
        "entity_embeddings.LayerNorm": "embeddings.entities.norm",
        f"{_SELF}.w2e_query": "layers.{i}.attention.token_to_entity",
        f"{_SELF}.e2w_query": "layers.{i}.attention.entity_to_token",
        f"{_SELF}.e2e_query": "layers.{i}.attention.entity_to_entity",
    },
    prefix="luke",
    hf_prefix="Luke",
    tokenizer="LukeTokenizer",
    heads={
        **roberta.HEADS,
        MASKED_LM: Head(masked_lm, names={_ENTITY_DECODER: ""}, variant_for=masked_lm_variant),
        SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD,
        ENTITY_CLASSIFICATION: entity_head(1),
        ENTITY_PAIR_CLASSIFICATION: entity_head(2, bias=False),
        ENTITY_SPAN_CLASSIFICATION: entity_head(None),
    },
    keys_of_tensors=keys_of_tensors,
    # Most of a model's bytes, and only calls with entities read them.
    deferred_modules=("encoder.embeddings.entities.entity.", "head.entities.decoder."),
)
