"""The version of this package and of the packages beside it, also where no package metadata is installed."""

from functools import cache

__version__ = "0.1.0"


# Cached, since a conversion records several versions and each look-up reads files.
@cache
def installed_version(package: str) -> str | None:
    """Return the version of an installed package.

    Args:
        package: The name on PyPI, e.g. "transformers".

    Returns:
        The version; None if the package or its metadata is missing, as in a frozen application.
    """
    from importlib import metadata

    if package == "mlx-hf-bridge":
        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
