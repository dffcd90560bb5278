"""Training needs torch: models fall back before transformers' Trainer looks at them.

Other ways to train need nothing here: `train()` falls back, and so does an optimizer, when it reads the parameters.
"""

import functools
from types import ModuleType
from typing import Any

from mlx_hf_bridge.facade import fall_back_to_torch
from mlx_hf_bridge.zero_change.patches import Patches


def replace_training(patches: Patches, trainer: ModuleType) -> None:
    """Make Trainer.train, also of sentence-transformers' trainers, move the models in its model to torch.

    Args:
        patches: Records the replacement.
        trainer: The module transformers.trainer.
    """
    original = trainer.Trainer.train

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        fall_back_to_torch(self.model, "transformers.Trainer trains it")
        # One by one: a model on MLX falls back before the walk goes on to its submodules.
        for module in self.model.modules():
            fall_back_to_torch(module, "transformers.Trainer trains it")
        return original(self, *args, **kwargs)

    patches.replace(trainer.Trainer, "train", train)
