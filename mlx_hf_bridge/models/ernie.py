"""ERNIE (Sun et al., arXiv 1904.09223, 2107.02137); reference: transformers/models/ernie/modeling_ernie.py.

BERT that may add a vector for the task, which is the first task's, as transformers has it when none is given.
"""

import dataclasses
from dataclasses import dataclass

from mlx_hf_bridge.family import EncoderConfig
from mlx_hf_bridge.layers.embeddings import FirstRow
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class ErnieConfig(EncoderConfig):
    use_task_id: bool = False
    task_type_vocab_size: int = 3


def encoder(config: ErnieConfig) -> Encoder:
    tasks = {"task_type": FirstRow(config.task_type_vocab_size, config.hidden_size)} if config.use_task_id else None
    return Encoder(bert.embeddings(config, constants=tasks), bert.layers(config))


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="ernie",
    config=ErnieConfig,
    encoder=encoder,
    names={**bert.NAMES, "embeddings.task_type_embeddings": "embeddings.constants.task_type"},
    prefix="ernie",
    hf_prefix="Ernie",
    unread=lambda config: () if config.use_task_id else ("embeddings.task_type_embeddings",),
)
