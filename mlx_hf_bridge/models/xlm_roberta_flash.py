"""Jina AI's XLM-RoBERTa with rotary positions, model_type "xlm-roberta"; reference: arXiv 2409.10173 and its configs.

jina-embeddings-v3 in the layout of its own repo, and jina-colbert-v2. Differs from Jina Embeddings v3 in transformers:
keys of the authors' code. Where there is a LoRA for each task, loading/tasks.py adds the one that a call names.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture.rope import RotaryConfig
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.models import bert, jina_embeddings_v3


@dataclass(frozen=True, kw_only=True)
class XLMRobertaFlashConfig(jina_embeddings_v3.JinaEmbeddingsV3Config):
    """The keys of the authors' config.

    Attributes:
        lora_adaptations: Names of the tasks that have a LoRA; None for none.
        lora_rank: Rank of each LoRA.
        lora_alpha: Each LoRA is multiplied by `lora_alpha / lora_rank`.
    """

    lora_adaptations: tuple[str, ...] | None = None
    lora_rank: int = 4
    lora_alpha: float = 1.0

    default_theta: ClassVar = 10_000.0
    attribute_map: ClassVar = {"rope_theta": "rotary_emb_base"}
    unsupported_values: ClassVar = {
        key: test for key, test in RotaryConfig.unsupported_values.items() if key != "position_embedding_type"
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks = self.lora_adaptations or ()
        if not isinstance(tasks, (list, tuple)) or not all(isinstance(task, str) for task in tasks):
            raise ConfigError(
                f"config.json has lora_adaptations={tasks!r:.80}, expected the names of tasks. Take the file of the "
                "original checkpoint."
            )


FAMILY = dataclasses.replace(
    jina_embeddings_v3.FAMILY,
    model_type="xlm_roberta_flash",
    config=XLMRobertaFlashConfig,
    hf_prefix="XLMRobertaFlash",
    # The output projection of jina-colbert-v2.
    other_heads=bert.FAMILY.other_heads,
    in_transformers=False,
)
