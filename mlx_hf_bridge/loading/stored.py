"""The folder that a model was loaded from: errors about it, and whether it still holds that model."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.fingerprint import content_state
from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.errors import BridgeError, CheckpointError
from mlx_hf_bridge.runtime.environment import bridge_cache
from mlx_hf_bridge.runtime.file_errors import config_errors
from mlx_hf_bridge.tracing.serial import GRAPH_FILE

# Name and digest of every file, as `content_state` returns them; None for a folder of the cache, which stays as it is.
Content = Sequence[Sequence[Any]] | None


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """Let errors about a folder of the cache, or a snapshot of the Hub, name what the caller gave; Python's own too.

    Args:
        source: The source, with the name that the caller gave.

    Yields:
        Nothing.

    Raises:
        CheckpointError: If a file was cut while MLX read it.
    """
    try:
        with config_errors(source.name):
            yield
    except BridgeError as error:
        # Not the hidden folders that are being written: errors about these are about the disk.
        places = [re.escape(str(bridge_cache() / "converted")) + r"/(?!\.)[^/\s'\"]+"]
        if source.revision is not None:
            places.append(re.escape(str(source.folder)))
        error.args = tuple(
            re.sub("|".join(places), lambda _: source.name, part) if isinstance(part, str) else part
            for part in error.args
        )
        raise
    except RuntimeError as error:
        # MLX's own error, which names no file.
        if not str(error).startswith("[read]"):
            raise
        raise CheckpointError(
            f"a file of {source.name} was cut while it was read. Load it again when what writes it has ended."
        ) from error


def content_of(source: Source, folder: Path) -> Content:
    """Return what tells whether a converted folder still holds the model that was loaded from it.

    Args:
        source: What the model was loaded from.
        folder: The converted folder.

    Returns:
        Name and digest of the files of a folder of the user; None for one of the cache.
    """
    if source.state is None or folder != source.folder:
        return None
    return [[name, digest] for name, *_, digest in source.state if _matters(name)]


def check_still_there(folder: Path, content: Content) -> None:
    """Check that a converted folder holds what it held when a model was loaded from it.

    Args:
        folder: The folder.
        content: What `content_of` returned then.

    Raises:
        CheckpointError: If it is gone, or its files have changed.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"the model was loaded from {folder}, which is gone, and copies, other processes and save_pretrained read "
            "the weights there. Load the model again."
        )
    now = dict(content_state(folder)) if content is not None else {}
    if changed := [name for name, digest in content or () if now.get(name) != digest]:
        raise CheckpointError(
            f"{', '.join(changed[:3])} in {folder} changed since the model was loaded from there, and copies, other "
            "processes and save_pretrained read that folder: they would have another model. Load the model again."
        )


def _matters(name: str) -> bool:
    """Whether a file has what is read again: the config and the tokenizer are kept in memory."""
    return "/" not in name and (name.endswith((".safetensors", ".bin")) or name == GRAPH_FILE)
