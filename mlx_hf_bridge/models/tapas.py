"""TAPAS (Herzig et al., arXiv 2004.02349); reference: transformers/models/tapas/modeling_tapas.py.

Differs from BERT: token_type_ids have seven columns, each with a table of its own (segment, column and row of the
table, previous answer, ranks of numbers, relation to the question), and positions start from 0 in every cell.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import mlx.core as mx

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, TABLE_QUESTION_ANSWERING, Head
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.cell_selection import COLUMN, ROW, TYPES, CellSelection
from mlx_hf_bridge.layers.embeddings import Embeddings, ExtraEmbedding
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class TapasConfig(EncoderConfig):
    """BERT's config with TAPAS' keys: the tables of token types, how positions are counted, and the choice of cells."""

    type_vocab_size: int = field(default=0, init=False)
    type_vocab_sizes: list[int] = field(default_factory=lambda: [3, 256, 256, 2, 256, 256, 10])
    reset_position_index_per_cell: bool = True
    num_aggregation_labels: int = 0
    temperature: float = 1.0
    max_num_rows: int = 64
    max_num_columns: int = 32
    select_one_column: bool = True
    allow_empty_column_selection: bool = False

    minimum_values: ClassVar = {"num_aggregation_labels": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.type_vocab_sizes
        if len(sizes) <= ROW or not all(type(size) is int and size > 0 for size in sizes):
            raise ConfigError(
                f"config.json has type_vocab_sizes={sizes}, expected the sizes of seven tables. Take the file of "
                "the original checkpoint."
            )

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """The seven columns of token type ids."""
        sizes = tuple(self.type_vocab_sizes)
        return {TYPES: ModelInput(sizes, ("B", "L", len(sizes)), "type_vocab_sizes")}

    @property
    def has_position_table(self) -> bool:
        """Whether the table limits the length: not where positions are counted by cell, whose last one repeats."""
        return not self.reset_position_index_per_cell

    @property
    def position_rows(self) -> int:
        """Rows of the position table."""
        return self.max_position_embeddings


def positions_in_cells(batch: TokenBatch, largest: int) -> mx.array:
    """Return positions that start from 0 in every cell of the table; the question is a cell of its own.

    Args:
        batch: The batch, with or without token type ids of shape (B, L, 7).
        largest: The largest position.

    Returns:
        int32 array of shape (1 or B, L).
    """
    rows = mx.arange(batch.ids.shape[1], dtype=mx.int32)[None]
    types = batch.extra_inputs.get(TYPES)
    if types is None:
        return mx.minimum(rows, largest)
    same = mx.logical_and(*(types[:, :, None, column] == types[:, None, :, column] for column in (COLUMN, ROW)))
    # argmax finds the first token of each token's cell.
    return mx.minimum(rows - mx.argmax(same, axis=-1).astype(mx.int32), largest)


class TapasEmbeddings(Embeddings):
    """BERT's embeddings with seven kinds of token types, and positions that are counted by cell.

    Takes a TokenBatch and returns (B, L, D).

    Args:
        config: The model's config.
    """

    def __init__(self, config: TapasConfig) -> None:
        tables = {
            f"types_{column}": ExtraEmbedding(rows, config.hidden_size, TYPES, lookups=(_column(column),))
            for column, rows in enumerate(config.type_vocab_sizes)
        }
        sizes = (config.vocab_size, config.hidden_size, config.max_position_embeddings)
        super().__init__(*sizes, token_types=0, layer_norm_eps=config.layer_norm_eps, extra=tables)
        self._largest = config.max_position_embeddings - 1 if config.reset_position_index_per_cell else None

    def __call__(self, batch: TokenBatch) -> mx.array:
        if batch.position_ids is None and self._largest is not None:
            batch = dataclasses.replace(batch, position_ids=positions_in_cells(batch, self._largest))
        return super().__call__(batch)


def _column(index: int) -> Callable[[mx.array], mx.array]:
    return lambda types: types[..., index]


def encoder(config: TapasConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(TapasEmbeddings(config), bert.layers(config))


def type_names(config: TapasConfig) -> dict[str, str]:
    """Return the names of the tables of token types."""
    columns = range(len(config.type_vocab_sizes))
    return {f"embeddings.token_type_embeddings_{column}": f"embeddings.extra.types_{column}" for column in columns}


def cell_selection(config: TapasConfig) -> CellSelection:
    """Return the question answering head; ConfigError where transformers' class fails."""
    if not config.select_one_column:
        raise ConfigError(
            "config.json has select_one_column=false, for which transformers' TapasForQuestionAnswering computes "
            "nothing without labels. Use a checkpoint with select_one_column=true."
        )
    table = (config.max_num_rows, config.max_num_columns)
    sizes = (config.temperature, config.num_aggregation_labels, config.allow_empty_column_selection)
    return CellSelection(config.hidden_size, table, *sizes)


CELL_HEAD = Head(
    build=cell_selection,
    names={
        "output_weights": "cells",
        "output_bias": "cells_bias",
        "column_output_weights": "columns",
        "column_output_bias": "columns_bias",
        "aggregation_classifier": "aggregation",
    },
    reads_pooler=True,
)

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="tapas",
    config=TapasConfig,
    encoder=encoder,
    names={hf: path for hf, path in bert.NAMES.items() if path != "embeddings.token_type"},
    own_names=type_names,
    prefix="tapas",
    hf_prefix="Tapas",
    tokenizer="TapasTokenizer",
    heads={
        **{task: bert.FAMILY.heads[task] for task in (MASKED_LM, SEQUENCE_CLASSIFICATION)},
        TABLE_QUESTION_ANSWERING: CELL_HEAD,
    },
    hf_head_suffixes={TABLE_QUESTION_ANSWERING: "ForQuestionAnswering"},
    uses_token_type_ids=False,
)
