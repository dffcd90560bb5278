"""Packages that only some features need: imported on first use, with an error that names the extra to install."""

import importlib
from typing import Any

from mlx_hf_bridge.errors import BackendError


def require(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional dependency.

    Args:
        module: The module, such as "pyarrow.parquet".
        extra: The extra of this package that installs it.
        purpose: What needs it, as the subject of a sentence: "Reading Parquet files".

    Returns:
        The top-level package of the module.

    Raises:
        BackendError: If it is not installed.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(module)
        return importlib.import_module(package)
    except ImportError as error:
        raise BackendError(
            f"{purpose} needs {package}, which is not installed ({error}). pip install 'mlx-hf-bridge[{extra}]'"
        ) from error
