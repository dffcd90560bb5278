"""A replacement of transformers.tokenization_python for transformers' pipeline files."""

from transformers.tokenization_utils_base import TruncationStrategy

__all__ = ["TruncationStrategy"]
