"""A replacement of transformers.generation for transformers' pipeline files, which make settings for its models."""

from typing import Any


class GenerationConfig:
    """Settings of models that generate text, which nothing here does.

    Args:
        settings: What transformers' class takes; unused.
    """

    def __init__(self, **settings: Any) -> None:
        pass
