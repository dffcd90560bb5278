"""Files that are not what their names say: pointers of git-lfs, and files that are empty or cut off."""

import json
from pathlib import Path

from mlx_hf_bridge.errors import CheckpointError

_POINTER = b"version https://git-lfs"


def refuse_pointer(path: Path) -> None:
    """Check that a file is not a pointer of git-lfs, which a clone without git-lfs has in place of large files.

    Args:
        path: The file.

    Raises:
        CheckpointError: If it is such a pointer, or empty.
    """
    with path.open("rb") as file:
        head = file.read(len(_POINTER))
    if head == _POINTER:
        raise CheckpointError(
            f"{path} is a pointer of git-lfs, not its content. Run `git lfs pull` in the repository, or download it."
        )
    if not head:
        raise CheckpointError(f"{path} is empty. Download it again.")


def refuse_cut_json(path: Path) -> None:
    """Check that a JSON file can be parsed.

    Args:
        path: The file.

    Raises:
        CheckpointError: If it cannot.
    """
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error!s:.200}). Download it again.") from error
