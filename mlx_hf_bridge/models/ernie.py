"""ERNIE (Sun et al., arXiv 1904.09223, 2107.02137); reference: transformers/models/ernie/modeling_ernie.py.

Differs from BERT: an embedding of the task may be added, selected by `task_type_ids` (default 0, as in transformers).
"""

import dataclasses
from dataclasses import dataclass

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.layers.embeddings import ExtraEmbedding
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert

_INPUT = "task_type_ids"


@dataclass(frozen=True)
class ErnieConfig(EncoderConfig):
    """ERNIE's keys: whether there are task embeddings, and how many."""

    use_task_id: bool = False
    task_type_vocab_size: int = 3

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """The task types; a table of 0 rows if the config does not use them."""
        return {_INPUT: ModelInput(self.task_type_vocab_size if self.use_task_id else 0, key="task_type_vocab_size")}


def encoder(config: ErnieConfig) -> Encoder:
    """Return the encoder, with a table of task types if the config uses it."""
    tasks = ExtraEmbedding(config.task_type_vocab_size, config.hidden_size, _INPUT)
    own = {"task_type": tasks} if config.use_task_id else None
    return Encoder(bert.embeddings(config, extra=own), bert.layers(config))


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="ernie",
    config=ErnieConfig,
    encoder=encoder,
    names={**bert.NAMES, "embeddings.task_type_embeddings": "embeddings.extra.task_type"},
    prefix="ernie",
    hf_prefix="Ernie",
    unused_modules=lambda config: () if config.use_task_id else ("embeddings.task_type_embeddings",),
)
