"""Read a LoRA adapter's config and weights; anything but plain LoRA and DoRA is refused.

LoRA of the adapters library (AdapterHub) is read too; its other kinds add layers and cannot be merged.

Reference: peft/tuners/lora/config.py, peft/tuners/lora/layer.py (update_layer), peft/utils/other.py (get_pattern_key);
adapters/configuration/adapter_config.py and adapters/methods/lora.py of adapters 1.3.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.checkpoints.safetensors_file import SafetensorsFile, WeightFile
from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.checkpoints.torch_file import TorchFile
from mlx_hf_bridge.errors import ConfigError, RepositoryError, UnsupportedModelError

ADAPTER_FILE = "adapter_config.json"
_WEIGHTS: dict[str, Any] = {"adapter_model.safetensors": SafetensorsFile, "adapter_model.bin": TorchFile}
# The names that the adapters library writes.
_WEIGHTS |= {"adapter.safetensors": SafetensorsFile, "pytorch_adapter.bin": TorchFile}
# Where that library puts the matrices of an adapter, whose name is between the two words.
_HUB_LORA = re.compile(r"\.loras\.[^.]+\.lora_")
# Its options of LoRA with which the update is another one.
_HUB_REFUSED = ("use_gating", "use_dora", "vera_d", "vera_b")
# Options that change the update, or the base model's weights, in ways that are not implemented here.
_REFUSED = (
    *("layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config"),
    *("use_qalora", "use_bdlora", "velora_config", "kasa_config", "monteclora_config", "megatron_config"),
)
# Initializations that change the base model's weights too, so the adapter does not hold the whole change.
_REFUSED_INITIALIZATIONS = ("pissa", "corda", "olora", "loftq", "lora_ga")
# A regular expression with more of these, or with one after a group, can take exponential time.
_QUANTIFIER, _QUANTIFIED_GROUP, _MAX_QUANTIFIERS = re.compile(r"[*+{]"), re.compile(r"\)[*+?{]"), 2
_MAX_PATTERN = 200
_MAX_ALPHA = 65504.0
_MERGE = "Merge it with peft (merge_and_unload, save_pretrained) and load the result."


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        source: Where its files are.
        base: The model that it was trained on, as adapter_config.json names it.
        base_revision: The revision of that model, or None.
        alpha: lora_alpha, the scale of the update times the rank.
        alphas: alpha_pattern, exceptions by regular expressions of module names.
        use_rslora: Whether the scale is alpha / sqrt(rank) (rank-stabilized LoRA) instead of alpha / rank.
    """

    source: Source
    base: str
    base_revision: str | None
    alpha: float
    alphas: Mapping[str, float]
    use_rslora: bool

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of a module's low-rank update."""
        # peft's rule: a key of alpha_pattern is a regular expression for the end of a module's path.
        alpha = next((value for key, value in self.alphas.items() if re.match(rf"(.*\.)?({key})$", module)), self.alpha)
        # Rank-stabilized LoRA (Kalajdzievski, arXiv 2312.03732) divides by the square root.
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter."""
    return (folder / ADAPTER_FILE).is_file()


def read_adapter(source: Source, config: Any) -> Adapter:
    """Check and return the content of adapter_config.json.

    Args:
        source: Where the adapter is.
        config: The content of its adapter_config.json.

    Returns:
        The adapter.

    Raises:
        UnsupportedModelError: If it is not a LoRA or DoRA adapter, or uses an option that is not merged here.
        ConfigError: If a value is missing or has a wrong type.
    """
    path = source.folder / ADAPTER_FILE
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a JSON object. Take the adapter's original file.")
    if "peft_type" not in config and isinstance(config.get("config"), Mapping):
        return _adapter_hub_lora(source, path, config)
    _refuse_others(path, config)
    base, alpha, alphas = config.get("base_model_name_or_path"), config.get("lora_alpha"), config.get("alpha_pattern")
    numbers = [alpha, *(alphas or {}).values()] if isinstance(alphas, dict | None) else [None]
    if not isinstance(base, str) or not all(_is_finite(number) for number in numbers):
        raise ConfigError(
            f"{path} has base_model_name_or_path={base!r:.80}, lora_alpha={alpha!r:.80} and "
            f"alpha_pattern={alphas!r:.80}, expected a name, a finite number and a dict of them. Take the "
            "adapter's original file."
        )
    for pattern in alphas or {}:
        _check_pattern(path, pattern)
    rank_stabilised = bool(config.get("use_rslora"))
    return Adapter(source, base, config.get("revision"), float(alpha or 0), alphas or {}, rank_stabilised)


def _is_finite(number: Any) -> bool:
    # float16 has no larger numbers, and an integer of hundreds of digits is no float.
    return type(number) in (int, float) and abs(number) < _MAX_ALPHA


def _check_pattern(path: Path, pattern: str) -> None:
    """Raise an error for a key of alpha_pattern that is no regular expression, or one that may take forever."""
    is_slow = len(_QUANTIFIER.findall(pattern)) > _MAX_QUANTIFIERS or _QUANTIFIED_GROUP.search(pattern)
    if is_slow or len(pattern) > _MAX_PATTERN:
        raise UnsupportedModelError(
            f"{path} has the key {pattern!r:.80} in alpha_pattern; expected module names, or regular expressions with "
            f"at most {_MAX_QUANTIFIERS} quantifiers and none after a group. {_MERGE}"
        )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(
            f"{path} has the key {pattern!r:.80} in alpha_pattern, which is no regular expression ({error}). Take the "
            "adapter's original file."
        ) from error


def _refuse_others(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UnsupportedModelError(f"{path} has peft_type={config.get('peft_type')!r}; only LORA is merged. {_MERGE}")
    for name in _REFUSED:
        # Truthiness, since peft writes every option, with None, False or {} for those not used.
        if config.get(name):
            raise UnsupportedModelError(f"{path} has {name}={config[name]!r}, which is not merged here. {_MERGE}")
    if str(initialization := config.get("init_lora_weights")).lower().startswith(_REFUSED_INITIALIZATIONS):
        raise UnsupportedModelError(
            f"{path} has init_lora_weights={initialization!r}, which changes the base's weights before training. "
            f"{_MERGE}"
        )


def _adapter_hub_lora(source: Source, path: Path, config: Mapping[str, Any]) -> Adapter:
    """Return a LoRA adapter of the adapters library, which scales by alpha / r; its other kinds are refused."""
    settings, base = config["config"], config.get("model_name")
    is_added = settings.get("architecture") == "lora" and settings.get("composition_mode", "add") == "add"
    if not is_added or any(settings.get(name) for name in _HUB_REFUSED):
        raise _adapter_hub_error(path, config)
    if not isinstance(base, str) or not _is_finite(alpha := settings.get("alpha")):
        raise ConfigError(
            f"{path} has model_name={base!r:.80} and alpha={settings.get('alpha')!r:.80}, expected a name and a finite "
            "number. Take the adapter's original file."
        )
    return Adapter(source, base, None, float(alpha), {}, False)


def _adapter_hub_error(path: Path, config: Mapping[str, Any]) -> UnsupportedModelError:
    """Return the error for an adapter of the adapters library (AdapterHub), such as specter2's."""
    kind, base = config["config"].get("architecture") or "bottleneck", config.get("model_name")
    where = f"{path} is a {kind!s:.40} adapter of the adapters library (AdapterHub)"
    if kind == "lora":
        return UnsupportedModelError(
            f"{where}. Merge it with that library (model.merge_adapter, save_pretrained) and load the result."
        )
    alone = f", or load {base} here without it" if isinstance(base, str) else ""
    return UnsupportedModelError(
        f"{where}, which adds layers between those of the model, so it cannot be merged into its weights. "
        f"Use that library on torch{alone}."
    )


def load_adapter_tensors(adapter: Adapter) -> tuple[Path, dict[str, mx.array]]:
    """Download the adapter's weight file and return its path and tensors by name; RepositoryError if there is none."""
    folder = adapter.source.folder
    for name, opened in _WEIGHTS.items():
        # Only now: planning what to load needs the adapter's config alone.
        adapter.source.fetch([name])
        if (folder / name).is_file():
            file: WeightFile = opened(folder / name)
            return file.path, {_HUB_LORA.sub(".lora_", name): array for name, array in file.arrays()}
    raise RepositoryError(
        f"{folder} has {ADAPTER_FILE} and none of {', '.join(_WEIGHTS)}. Copy the adapter's weights there, or delete "
        f"{ADAPTER_FILE} to load the model in that folder without it."
    )
