"""Pooling: one embedding for a text, from the embeddings of its tokens.

Reference: sentence_transformers/sentence_transformer/modules/pooling.py. Shapes: B texts, L tokens, D hidden size.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from mlx_hf_bridge.checkpoints.pooling_modes import OLDER_MODES, parse_pooling_modes
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError
from mlx_hf_bridge.inference.pooling import POOLING_MODES, pool
from mlx_hf_bridge.sentence_transformers.modules.base import (
    SENTENCE_EMBEDDING,
    TOKEN_EMBEDDINGS,
    TOKEN_WEIGHTS_SUM,
    Features,
    Module,
)
from mlx_hf_bridge.sentence_transformers.modules.weights import read_module_config
from mlx_hf_bridge.sentence_transformers.older_names import older_names


class Pooling(Module):
    """Pool "token_embeddings" (B, L, D) into "sentence_embedding" (B, D * modes), float32 for any dtype of the model.

    Args:
        embedding_dimension: The hidden size D; None if the config does not say.
        pooling_mode: "mean", "cls", "max", "lasttoken", "weightedmean" or "mean_sqrt_len_tokens"; several are
            concatenated in the order given.
        include_prompt: Whether the tokens of the prompt take part.
        **older: The older form of pooling_mode, such as pooling_mode_cls_token=True.

    Raises:
        ArgumentTypeError: If an argument is not known.
        ConfigError: If a mode is not known, or there is none.
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"

    @older_names({"word_embedding_dimension": "embedding_dimension"})
    def __init__(
        self,
        embedding_dimension: int | None = None,
        pooling_mode: str | tuple[str, ...] | list[str] = "mean",
        include_prompt: bool = True,
        **older: bool,
    ) -> None:
        if older:
            pooling_mode = _older_modes(older)
        modes = (pooling_mode,) if isinstance(pooling_mode, str) else tuple(pooling_mode)
        if not modes or (unknown := [mode for mode in modes if mode not in POOLING_MODES]):
            raise ConfigError(
                f"pooling_mode is {list(modes) if not modes else unknown}; known are {', '.join(POOLING_MODES)}. "
                "Give one of them, or several to be concatenated."
            )
        self.embedding_dimension = embedding_dimension
        self.pooling_mode = modes[0] if len(modes) == 1 else modes
        self.include_prompt = include_prompt

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder, with today's keys or those of sentence-transformers before 5.6.

        Args:
            folder: The module's folder, with a config.json.

        Returns:
            The module.

        Raises:
            ConfigError: If config.json names a mode that is not known.
        """
        config = read_module_config(folder)
        modes = parse_pooling_modes(config, folder / "config.json")
        return cls(config.get("embedding_dimension"), modes, bool(config.get("include_prompt", True)))

    @property
    def modes(self) -> tuple[str, ...]:
        """The pooling modes that are concatenated, one or more."""
        return (self.pooling_mode,) if isinstance(self.pooling_mode, str) else self.pooling_mode

    def reads_first_token(self, prompt: str) -> bool:
        """Return whether the embedding depends on the first token only, so that the last layer may skip the others.

        Args:
            prompt: The prompt of the call; with `include_prompt=False`, CLS pooling reads past it.

        Returns:
            True if CLS pooling is the only mode.
        """
        return self.modes == ("cls",) and (self.include_prompt or not prompt)

    def __call__(self, features: Features) -> Features:
        skipped = 0 if self.include_prompt else features.prompt_length
        weights = features.arrays.get(TOKEN_WEIGHTS_SUM)
        pooled = pool(features[TOKEN_EMBEDDINGS], features.batch, self.modes, skipped, weights)
        return features.with_array(SENTENCE_EMBEDDING, pooled)

    @property
    def pooling_output_dimension(self) -> int | None:
        """The width of the embedding; another name of `get_embedding_dimension`."""
        return self.get_embedding_dimension()

    def get_embedding_dimension(self) -> int | None:
        """Return the width of the embedding.

        Returns:
            D times the number of modes, or None if D is not known.
        """
        return None if self.embedding_dimension is None else len(self.modes) * self.embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            embedding_dimension, pooling_mode and include_prompt.
        """
        modes = self.pooling_mode if isinstance(self.pooling_mode, str) else list(self.pooling_mode)
        return {
            "embedding_dimension": self.embedding_dimension,
            "pooling_mode": modes,
            "include_prompt": self.include_prompt,
        }


def _older_modes(flags: Mapping[str, bool]) -> tuple[str, ...]:
    if unknown := sorted(set(flags) - set(OLDER_MODES)):
        raise ArgumentTypeError(f"Pooling() got {', '.join(unknown)}, which it does not take. Give pooling_mode.")
    warnings.warn(f"{', '.join(flags)} are older names. Use pooling_mode.", FutureWarning, stacklevel=5)
    return parse_pooling_modes(flags, Path("Pooling()"))
