"""Where the torch model behind a facade is loaded from, whatever became of its name since MLX loaded it."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.conversion.integrity import is_complete
from mlx_hf_bridge.errors import CheckpointError
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.zero_change.eligibility import LoadRequest


@dataclass(frozen=True)
class Origin:
    """The files and settings that a model was loaded with.

    A folder may be overwritten or removed later, a relative path may mean another one, and a branch may move.

    Attributes:
        source: Where the original files were, and their state then.
        converted: The converted folder.
        is_exact: Whether the converted folder holds the weights as they were, so that torch can load it.
        options: Arguments of from_pretrained that do not depend on the place.
    """

    source: Source
    converted: Path
    is_exact: bool
    options: dict[str, Any]

    @classmethod
    def of(cls, loaded: LoadedModel, request: LoadRequest, dtype: torch.dtype, is_float: bool) -> "Origin":
        """Note where a model was loaded from.

        Args:
            loaded: The model on MLX.
            request: The arguments that it was requested with.
            dtype: The dtype of the torch model.
            is_float: Whether it was loaded without a recipe, which makes float16 also of what it does not quantize.

        Returns:
            The origin.
        """
        options: dict[str, Any] = {"config": copy.deepcopy(request.config), "dtype": dtype}
        if not request.pooler:
            options["add_pooling_layer"] = False
        # In half precision torch keeps some modules in float32, which were rounded here.
        is_exact = is_float and loaded.recipe is None and request.dtype in (None, torch.float32)
        return cls(loaded.source, loaded.folder, is_exact, options)

    def load(self, hf_class: Any) -> Any:
        """Load the model on torch.

        Args:
            hf_class: Its transformers class.

        Returns:
            The model.

        Raises:
            CheckpointError: If the files that it was loaded from are gone or changed.
        """
        source = self.source
        if not source.has_changed or (source.revision is not None and not self._can_use_converted):
            place, hub = self._original()
        elif self._can_use_converted:
            place, hub = str(self.converted), {}
        else:
            raise CheckpointError(
                f"the torch model of {source.name} is needed now, and files in {source.folder} have changed since it "
                "was loaded, so that it would be another model. Load it again, or call train() or parameters() on it "
                "before its files change."
            )
        model = hf_class.from_pretrained(place, **hub, **copy.deepcopy(self.options))
        model.name_or_path = self.options["config"].name_or_path
        return model

    @property
    def _can_use_converted(self) -> bool:
        return self.is_exact and is_complete(self.converted)

    def _original(self) -> tuple[str, dict[str, Any]]:
        """Return the name and Hub options of the original files: a folder, or a commit of a repo."""
        source, options = self.source, self.source.options
        if source.revision is None:
            return str(source.folder), {}
        hub = {"revision": source.revision, "subfolder": options.subfolder, "token": options.token}
        return source.name, {**hub, "cache_dir": options.cache_dir, "local_files_only": options.local_files_only}
