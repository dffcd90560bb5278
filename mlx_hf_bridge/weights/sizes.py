"""The sizes of config.json held against what the files hold, before a model of these sizes is built."""

from collections.abc import Mapping
from dataclasses import fields

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo, byte_size
from mlx_hf_bridge.errors import WeightsError

# Fields whose values are axes of tensors.
_AXES = ("_size", "_embeddings", "_dim", "_heads")
# A block of BigBird's attention is no axis, and an id no size.
_NOT_AXES = ("block_size",)


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
    # A value takes one bit at least, packed or not.
    most = 8 * sum(map(byte_size, tensor_infos.values()))
    for spec in fields(config):
        value = getattr(config, spec.name)
        is_axis = spec.name.endswith(_AXES) and spec.name not in _NOT_AXES and type(value) is int
        if spec.name == "max_position_embeddings" and not config.has_position_table:
            continue
        if is_axis and value > most:
            key = config.attribute_map.get(spec.name, spec.name)
            raise WeightsError(
                f"config.json has {key}={value}, and all tensors of {where} have {most} bits. Check that the two "
                "belong together."
            )
