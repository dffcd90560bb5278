"""LogitScore: the relevance of a document as a language model's logit of one token ("yes"), or its lead over another.

Reference: sentence_transformers/cross_encoder/modules/logit_score.py. Shapes: B texts, L tokens, V vocabulary size.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

from mlx_hf_bridge.errors import TokenRangeError
from mlx_hf_bridge.sentence_transformers.modules.base import SCORES, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import check_integer, get_feature_name, read_module_config


class LogitScore(Module):
    """Set "scores" (B, 1) from the logits of the last token, read from `module_input_name` (B, L, V).

    Args:
        true_token_id: The token whose logit is the score, for example that of "yes".
        false_token_id: The token whose logit is subtracted, for example that of "no"; None subtracts nothing.
        module_input_name: The array of the features that holds the logits.
    """

    reference: ClassVar[str] = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"

    def __init__(
        self, true_token_id: int, false_token_id: int | None = None, module_input_name: str = "causal_logits"
    ) -> None:
        self.true_token_id, self.false_token_id = true_token_id, false_token_id
        self.module_input_name = module_input_name

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with a config.json.

        Returns:
            The module.
        """
        config = read_module_config(folder)
        false_id = config.get("false_token_id")
        return cls(
            check_integer(config, "true_token_id", folder, least=0),
            None if false_id is None else check_integer(config, "false_token_id", folder, least=0),
            get_feature_name(config, "module_input_name", folder, "causal_logits"),
        )

    def __call__(self, features: Features) -> Features:
        logits = features[self.module_input_name][:, -1]
        # MLX does not check bounds.
        if (highest := max(self.true_token_id, self.false_token_id or 0)) >= logits.shape[1]:
            raise TokenRangeError(
                f"LogitScore reads the logit of token {highest}, and the model has {logits.shape[1]} logits. "
                "Check that the module belongs to the model."
            )
        score = logits[:, self.true_token_id]
        if self.false_token_id is not None:
            score = score - logits[:, self.false_token_id]
        return features.with_array(SCORES, score[:, None])

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            true_token_id, false_token_id and module_input_name.
        """
        return {
            "true_token_id": self.true_token_id,
            "false_token_id": self.false_token_id,
            "module_input_name": self.module_input_name,
        }
