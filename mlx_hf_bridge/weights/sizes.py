"""Compare the sizes in config.json with the files, before a model of these sizes is built."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo, byte_size
from mlx_hf_bridge.errors import WeightsError

# Fields whose values are axes of tensors.
_AXES = ("_size", "_embeddings", "_dim", "_heads")
# A block of BigBird's attention is no axis, and an id no size.
_NOT_AXES = ("block_size",)
# transformers' names of the number of layers; a model whose layers share their tensors has no more than this.
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers")
_MOST_SHARED = 100


def check_sizes(config: EncoderConfig, tensor_infos: Mapping[str, TensorInfo], where: str) -> None:
    """Check that the files have as many tensors as the config has layers, and as many values as each axis.

    Both are coarse: they bound what building the model takes, and `check_fit` compares every shape afterwards.

    Args:
        config: The config.
        tensor_infos: Tensor name -> its dtype and shape, from the file's header.
        where: The checkpoint's folder, for messages.

    Raises:
        WeightsError: If a size is beyond all that the files hold.
    """
    if config.num_stored_layers > len(tensor_infos):
        raise WeightsError(
            f"config.json has {config.num_stored_layers} layers (num_hidden_layers={config.num_hidden_layers}), and "
            f"{where} has {len(tensor_infos)} tensors. Check that the two belong together."
        )
    values = {spec.name: getattr(config, spec.name) for spec in fields(config) if spec.init}
    if not config.has_position_table:
        values.pop("max_position_embeddings", None)
    _check_axes({config.attribute_map.get(name, name): value for name, value in values.items()}, tensor_infos, where)


def check_raw_sizes(raw: Mapping[str, Any], tensor_infos: Mapping[str, TensorInfo], where: str) -> None:
    """Do what `check_sizes` does for a model type that is not implemented here, by the usual names of config.json.

    Args:
        raw: The content of config.json; configs within it are checked too.
        tensor_infos: Tensor name -> its dtype and shape, from the file's header.
        where: The checkpoint's folder, for messages.

    Raises:
        WeightsError: If a size is beyond all that the files hold.
    """
    for key, value in raw.items():
        if isinstance(value, Mapping) and key.endswith(("_config", "encoder", "decoder")):
            check_raw_sizes(value, tensor_infos, where)
        if key in _LAYERS and type(value) is int and value > max(_MOST_SHARED, len(tensor_infos)):
            raise WeightsError(
                f"config.json has {key}={value}, and {where} has {len(tensor_infos)} tensors. "
                "Check that the two belong together."
            )
    # Models without a table of positions may have any number of them.
    _check_axes({key: value for key, value in raw.items() if "position" not in key}, tensor_infos, where)


def _check_axes(values: Mapping[str, Any], tensor_infos: Mapping[str, TensorInfo], where: str) -> None:
    # A value takes one bit at least, packed or not.
    most = 8 * sum(map(byte_size, tensor_infos.values()))
    for key, value in values.items():
        if key.endswith(_AXES) and key not in _NOT_AXES and type(value) is int and value > most:
            raise WeightsError(
                f"config.json has {key}={value}, and all tensors of {where} have {most} bits. Check that the two "
                "belong together."
            )
