"""LogitScore: a language model's score of one word, or its lead over another, as a relevance.

Reference: sentence_transformers/cross_encoder/modules/logit_score.py. B texts, L tokens, V words.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

from mlx_hf_bridge.errors import TokenRangeError
from mlx_hf_bridge.sentence_transformers.modules.base import SCORES, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import check_integer, read_module_config


class LogitScore(Module):
    """causal_logits (B, L, V) of the last tokens -> scores (B, 1)."""

    reference: ClassVar[str] = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"

    def __init__(
        self, true_token_id: int, false_token_id: int | None = None, module_input_name: str = "causal_logits"
    ) -> None:
        self.true_token_id, self.false_token_id = true_token_id, false_token_id
        self.module_input_name = module_input_name

    @classmethod
    def read(cls, folder: Path) -> Self:
        config = read_module_config(folder)
        false_id = config.get("false_token_id")
        return cls(
            check_integer(config, "true_token_id", folder, least=0),
            None if false_id is None else check_integer(config, "false_token_id", folder, least=0),
            config.get("module_input_name", "causal_logits"),
        )

    def __call__(self, features: Features) -> Features:
        logits = features[self.module_input_name][:, -1]
        if (highest := max(self.true_token_id, self.false_token_id or 0)) >= logits.shape[1]:
            raise TokenRangeError(f"LogitScore reads the word {highest}, and the model scores {logits.shape[1]} words.")
        score = logits[:, self.true_token_id]
        if self.false_token_id is not None:
            score = score - logits[:, self.false_token_id]
        return features.with_array(SCORES, score[:, None])

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "true_token_id": self.true_token_id,
            "false_token_id": self.false_token_id,
            "module_input_name": self.module_input_name,
        }
