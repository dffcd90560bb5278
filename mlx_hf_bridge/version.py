"""The version of this package and of installed packages, also where no package metadata is installed."""

from functools import cache

try:
    # Written by the build from the last tag; a checkout that was never installed does not have it.
    from mlx_hf_bridge._version import __version__ as _built
except ImportError:
    # The next version, the same as the fallback in pyproject.toml.
    _built = "0.2.0.dev0"

__version__: str = _built


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
