"""How a sentence-transformers repo pools token embeddings, read from its 1_Pooling/config.json in either spelling.

Reference: sentence_transformers/sentence_transformer/modules/pooling.py (_convert_legacy_pooling_kwargs).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_json
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.inference.pooling import POOLING_MODES

# Boolean keys of sentence-transformers before 5.6, in the order in which several modes are concatenated.
OLDER_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def read_pooling_modes(folder: Path) -> tuple[str, ...]:
    """Return the pooling modes of a Pooling module's folder; ConfigError for a mode that is not known."""
    return parse_pooling_modes(read_json(folder / CONFIG_FILE), folder / CONFIG_FILE)


def parse_pooling_modes(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the pooling modes that a Pooling module's config names.

    As in sentence-transformers, the legacy keys count only where `pooling_mode` is missing; a `pooling_mode` of null
    or "" is an error there too, not a request for the default.

    Args:
        config: The content of the module's config.json.
        path: That file, for the error message.

    Returns:
        One or more of `POOLING_MODES`, in the order in which their vectors are concatenated; ("mean",) if the config
        names none.

    Raises:
        ConfigError: If `pooling_mode` is not a known mode or a list of known modes, or the config has no keys at all.
    """
    if config == {}:
        raise ConfigError(f"{path} has no keys, expected those of a Pooling module. Take the original file.")
    if "pooling_mode" not in config:
        # Mean is sentence-transformers' default.
        return tuple(mode for key, mode in OLDER_MODES.items() if config.get(key)) or ("mean",)
    given = config["pooling_mode"]
    modes = given if isinstance(given, list) else [given]
    if not modes or not all(isinstance(mode, str) and mode in POOLING_MODES for mode in modes):
        raise ConfigError(
            f"{path} has pooling_mode={given!r}; known are {', '.join(POOLING_MODES)}. Take the original file."
        )
    return tuple(modes)
