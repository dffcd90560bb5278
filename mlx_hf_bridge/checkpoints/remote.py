"""Read the headers of weight files on the Hub by range requests, so that planning a conversion needs no download."""

import logging
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, open_weight_files, weight_file_names
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE, SafetensorsFile, TensorInfo, WeightFile, shards
from mlx_hf_bridge.checkpoints.sources import is_network_error
from mlx_hf_bridge.errors import RepositoryError

logger = logging.getLogger(__name__)


class RemoteFile:
    """A safetensors file on the Hub of which only the header was read."""

    def __init__(self, path: Path, tensor_infos: dict[str, TensorInfo]) -> None:
        self.path = path
        self.tensor_infos = tensor_infos

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Raise RepositoryError: the data was not downloaded."""
        raise RepositoryError(f"{self.path.name} was not downloaded, only its header was read. Convert to fetch it.")


def read_headers(checkpoint: Checkpoint) -> list[WeightFile]:
    """Open the model's weight files, from the Hub if they are not on this machine.

    Files of a repo without safetensors at its root are downloaded: their headers cannot be read remotely.

    Args:
        checkpoint: The model.

    Returns:
        The files, their headers read.
    """
    source = checkpoint.source
    is_at_root = checkpoint.model_folder == checkpoint.folder and not source.options.subfolder
    is_usual = is_at_root and not source.options.weight_selection and "transformers_weights" not in checkpoint.config
    # huggingface_hub's function reads the usual files at the root of a repo only.
    if source.revision is None or not is_usual or (checkpoint.model_folder / SINGLE_FILE).is_file():
        return open_weight_files(checkpoint)
    try:
        found = huggingface_hub.get_safetensors_metadata(
            source.name, revision=source.revision, token=source.options.token
        )
    except (
        huggingface_hub.errors.NotASafetensorsRepoError,
        huggingface_hub.errors.HfHubHTTPError,
        huggingface_hub.errors.OfflineModeIsEnabled,
        OSError,
    ) as error:
        # Not a warning: downloading first is slower, and the result is the same.
        logger.info("the headers of %s cannot be read on the Hub (%s); downloading its weights", source.name, error)
        return open_weight_files(checkpoint)
    return [
        RemoteFile(
            checkpoint.model_folder / name,
            {tensor: TensorInfo(info.dtype, tuple(info.shape)) for tensor, info in file.tensors.items()},
        )
        for name, file in found.files_metadata.items()
    ]


def headers_before_download(checkpoint: Checkpoint) -> list[WeightFile] | None:
    """Read the headers of the model's weight files and never download one.

    Args:
        checkpoint: The model.

    Returns:
        The files, their headers read: from this machine where they are here, else by range requests; None for a repo
        whose files are not here and not in safetensors, since headers of .bin files cannot be read on the Hub.

    Raises:
        RepositoryError: If a folder has no weights, or the Hub cannot be reached.
    """
    folder = checkpoint.model_folder
    names = weight_file_names(checkpoint)
    if checkpoint.source.revision is None or any((folder / name).is_file() for name in names if ".json" not in name):
        return open_weight_files(checkpoint)
    for name in (name for name in names if ".safetensors" in name):
        if name.endswith(".json"):
            # Indexes are among the small files, which are here.
            if (folder / name).is_file():
                return [_header(checkpoint, path) for path in shards(folder / name)]
        elif (found := _remote_header(checkpoint, folder / name)) is not None:
            return [found]
    return None


def _header(checkpoint: Checkpoint, path: Path) -> WeightFile:
    if path.is_file():
        return SafetensorsFile(path)
    if (found := _remote_header(checkpoint, path)) is None:
        raise RepositoryError(f"{checkpoint.source.name} has no {path.name}, which its index of weight files names.")
    return found


def _remote_header(checkpoint: Checkpoint, path: Path) -> WeightFile | None:
    """Return a file whose header was read on the Hub; None if the repo has no such file."""
    source = checkpoint.source
    inside = Path(source.options.subfolder) / path.relative_to(checkpoint.folder)
    try:
        found = huggingface_hub.parse_safetensors_file_metadata(
            source.name, inside.as_posix(), revision=source.revision, token=source.options.token
        )
    except huggingface_hub.errors.EntryNotFoundError:
        return None
    except Exception as error:
        if not isinstance(error, (huggingface_hub.errors.HfHubHTTPError, OSError)) and not is_network_error(error):
            raise
        raise RepositoryError(
            f"the header of {inside} of {source.name!r} cannot be read on the Hub ({error}). Check the connection, or "
            "give a folder."
        ) from error
    return RemoteFile(path, {name: TensorInfo(info.dtype, tuple(info.shape)) for name, info in found.tensors.items()})
