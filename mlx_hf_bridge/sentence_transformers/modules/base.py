"""What runs through a model's modules, and what a module is.

B texts, L tokens, D hidden, V vector width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.executor import run

TOKEN_EMBEDDINGS = "token_embeddings"
SENTENCE_EMBEDDING = "sentence_embedding"
SCORES = "scores"


@dataclass(frozen=True)
class Features:
    """A batch of texts on its way: its tokens, and the arrays that modules have made, by sentence-transformers' names.

    batch.mask is the one that pooling and scoring see. layers: hidden states (B, L, D) of all layers, where the model
    gives them. added (B, L) bool: tokens that were put behind a query to be scored. active_dims: how many dimensions a
    sparse vector may keep. shows_segments: the tokenizer gives segments, also where they are all 0. first_token: of the
    tokens' vectors only each text's first is read.
    """

    batch: TokenBatch
    arrays: Mapping[str, mx.array] = field(default_factory=dict)
    hidden_states: tuple[mx.array, ...] | None = None
    prompt_length: int = 0
    task: str | None = None
    expansion_mask: mx.array | None = None
    max_active_dims: int | None = None
    has_token_type_ids: bool = False
    first_token: bool = False

    def __getitem__(self, name: str) -> mx.array:
        if name not in self.arrays:
            raise ConfigError(
                f"a module reads {name!r}, and the modules before it made {sorted(self.arrays)}. "
                "Take the modules.json and module folders of the original checkpoint."
            )
        return self.arrays[name]

    def with_array(self, name: str, array: mx.array) -> "Features":
        """The same with one more array, or another in its place."""
        return replace(self, arrays={**self.arrays, name: array})

    def with_mask(self, mask: mx.array) -> "Features":
        """The same with another mask (B, L) of the tokens that count."""
        return replace(self, batch=replace(self.batch, mask=mask))

    @property
    def mask(self) -> mx.array:
        """(B, L) bool, True = a token that counts."""
        return self.batch.token_mask(mx.bool_)[:, :, 0]


class Module(ABC):
    """One line of modules.json: features in, features out; read from a folder and saved into one."""

    reference: ClassVar[str]
    """The class as sentence-transformers writes it into modules.json."""
    forward_kwargs: ClassVar[frozenset[str]] = frozenset()
    """Arguments of encode that this module reads."""

    @abstractmethod
    def __call__(self, features: Features) -> Features:
        """Features with what this module makes."""

    def on_model_ready(self, tokenizer: Tokenizer) -> None:  # noqa: B027  most modules need nothing
        """Take what is needed of the whole model's tokenizer."""

    def get_embedding_dimension(self) -> int | None:
        """The width of what the module makes; None where it keeps that of its input."""
        return None

    def get_config_dict(self) -> dict[str, Any]:
        """What config.json of the module's folder says; {} for modules without one."""
        return {}

    def arrays(self) -> dict[str, mx.array]:
        """The module's weights by the names that they have in sentence-transformers."""
        return {}

    def save(self, folder: Path) -> None:
        """Write the module's folder as sentence-transformers reads it."""
        if config := self.get_config_dict():
            write_json(folder / CONFIG_FILE, config)
        if arrays := self.arrays():
            run(lambda: mx.save_safetensors(str(folder / SINGLE_FILE), arrays, metadata={"format": "pt"}))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_config_dict()})"

    def to(self, *_: Any, **__: Any) -> Self:
        """The module as it is: MLX computes on its own device."""
        return self
