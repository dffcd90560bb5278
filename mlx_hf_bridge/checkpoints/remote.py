"""Read the headers of weight files on the Hub by range requests, so that planning a conversion needs no download."""

import logging
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, open_weight_files
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE, TensorInfo, WeightFile
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
