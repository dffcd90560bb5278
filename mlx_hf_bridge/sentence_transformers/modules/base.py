"""`Features`, which passes through the modules of a model, and `Module`, the base class of all of them.

Shapes: B texts, L tokens, D hidden size, V embedding width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.architecture.config import NO_POSITIONS
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.boundary import PublicAPI
from mlx_hf_bridge.runtime.executor import run

TOKEN_EMBEDDINGS = "token_embeddings"
SENTENCE_EMBEDDING = "sentence_embedding"
SCORES = "scores"
# The sum of the weights of WordWeights, which a mean divides by.
TOKEN_WEIGHTS_SUM = "token_weights_sum"


@dataclass(frozen=True)
class Features:
    """One batch on its way through the modules: its tokens, and the arrays that modules have computed so far.

    Args:
        batch: Token ids, mask and token type ids (B, L). `batch.mask` is the one that pooling and scoring use.
        arrays: What modules have computed, by sentence-transformers' names, such as "token_embeddings" (B, L, D) and
            "sentence_embedding" (B, V).
        hidden_states: The hidden states of all layers, each (B, L, D); None if they were not requested.
        prompt_length: The tokens of the prompt at the start of each text, for poolings that leave the prompt out.
        task: "query", "document" or another task of the model; None if the call named none.
        expansion_mask: Bool (B, L), True for tokens that query expansion appended; None if no query was expanded.
        max_active_dims: How many dimensions of a sparse embedding may be nonzero; None for no limit.
        has_token_type_ids: Whether the tokenizer gives token type ids, even where they are all 0.
        checked_rows: The rows of the table that all ids were compared with; None if they were not.
        first_token: Whether only the first token's embedding of each text is read afterwards (CLS pooling), so that the
            last layer may skip the others.
    """

    batch: TokenBatch
    arrays: Mapping[str, mx.array] = field(default_factory=dict)
    hidden_states: tuple[mx.array, ...] | None = None
    prompt_length: int = 0
    task: str | None = None
    expansion_mask: mx.array | None = None
    max_active_dims: int | None = None
    has_token_type_ids: bool = False
    checked_rows: int | None = None
    first_token: bool = False

    def __getitem__(self, name: str) -> mx.array:
        if name not in self.arrays:
            raise ConfigError(
                f"a module reads {name!r}, and the modules before it computed {sorted(self.arrays)}. "
                "Take the modules.json and module folders of the original checkpoint."
            )
        return self.arrays[name]

    def with_array(self, name: str, array: mx.array) -> "Features":
        """Return these features with one array added, or replaced if there is one of that name.

        Args:
            name: sentence-transformers' name, such as "sentence_embedding".
            array: The array, with B as its first axis.

        Returns:
            New features; `self` does not change.
        """
        return replace(self, arrays={**self.arrays, name: array})

    def with_mask(self, mask: mx.array) -> "Features":
        """Return these features with another mask, which later modules see.

        Args:
            mask: Bool (B, L), True for tokens that count in pooling and scoring.

        Returns:
            New features; `self` does not change.
        """
        return replace(self, batch=replace(self.batch, mask=mask))

    @property
    def mask(self) -> mx.array:
        """The mask of the batch, bool (B, L), True for tokens that count."""
        return self.batch.token_mask(mx.bool_)[:, :, 0]


class Module(PublicAPI, ABC):
    """One entry of modules.json: features in, features out; it is read from a folder and saved into one.

    Calling a module takes a `Features` and returns a new one with the module's result added.
    """

    reference: ClassVar[str]
    """The dotted class name that sentence-transformers writes into modules.json."""
    forward_kwargs: ClassVar[frozenset[str]] = frozenset()
    """Names of the arguments of `encode` that this module reads."""
    config_file: ClassVar[str] = CONFIG_FILE
    """The name of the file with the content of `get_config_dict`."""
    independent_length: int = NO_POSITIONS
    """Longest batch, in tokens, in which padding changes no text's result; a longer one holds one length only."""

    @abstractmethod
    def __call__(self, features: Features) -> Features:
        """Features with what this module makes."""

    def on_model_ready(self, tokenizer: Tokenizer) -> None:
        """Set up what depends on the model's tokenizer; called once, after all modules are loaded.

        Args:
            tokenizer: The tokenizer of the model's first module.
        """

    def get_embedding_dimension(self) -> int | None:
        """Return the width of the embeddings that this module computes.

        Returns:
            The width, or None for a module that keeps the width of its input.
        """
        return None

    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the width of the embeddings; an older name of `get_embedding_dimension`.

        Returns:
            The width, or None for a module that keeps the width of its input.
        """
        return self.get_embedding_dimension()

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            sentence-transformers' keys and values; {} for a module without a config.json.
        """
        return {}

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            MLX arrays by the tensor names of sentence-transformers; {} for a module without weights.
        """
        return {}

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors into a folder, as sentence-transformers reads them.

        Args:
            folder: An existing folder for this module. Files of the same name are overwritten.
        """
        if config := self.get_config_dict():
            write_json(folder / self.config_file, config)
        if arrays := self.arrays():
            # transformers reads the file's format from this entry.
            run(lambda: mx.save_safetensors(str(folder / SINGLE_FILE), arrays, metadata={"format": "pt"}))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_config_dict()})"

    def to(self, *_: Any, **__: Any) -> Self:
        """Return the module unchanged: MLX chooses the device. Any arguments are accepted and ignored.

        Returns:
            The module itself.
        """
        return self
