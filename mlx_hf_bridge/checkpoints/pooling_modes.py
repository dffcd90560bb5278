"""How a sentence-transformers repo pools, from its 1_Pooling/config.json in either spelling."""

from pathlib import Path

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_json
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.inference.pooling import POOLING_MODES

# Keys of sentence-transformers before 5.6, in the order in which several are concatenated.
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def read_pooling_modes(folder: Path) -> tuple[str, ...]:
    """A Pooling module's folder -> its modes; ConfigError for one that is not computed here."""
    config = read_json(folder / CONFIG_FILE)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if unknown := [mode for mode in modes if mode not in POOLING_MODES]:
        raise ConfigError(
            f"{folder / CONFIG_FILE} has pooling_mode {unknown}; known are {', '.join(POOLING_MODES)}. "
            "Take the original file."
        )
    return modes
