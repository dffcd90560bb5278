"""The version of this package and of the packages beside it, also where no package metadata is installed."""

__version__ = "0.1.0"


def installed_version(package: str) -> str | None:
    """The version of an installed distribution; None where it or its metadata is missing, as in a frozen app."""
    from importlib import metadata

    if package == "mlx-hf-bridge":
        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
