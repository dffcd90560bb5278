"""What a model is and what works with it, from its config and file headers, before its weights are downloaded."""

from mlx_hf_bridge.inspection.api import inspect
from mlx_hf_bridge.inspection.facts import Inspection

__all__ = ["Inspection", "inspect"]
