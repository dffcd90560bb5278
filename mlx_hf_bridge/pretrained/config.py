"""A model's config as transformers' config objects are used: attributes, labels that follow their number, JSON.

Reference: transformers/configuration_utils.py (PreTrainedConfig).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE
from mlx_hf_bridge.errors import InputError

# What transformers' config objects have where config.json leaves it out.
_DEFAULTS: dict[str, Any] = {
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "problem_type": None,
    "architectures": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
}


class ModelConfig:
    """config.json as attributes, under HF's general names too (`hidden_size` of a DistilBERT); may be changed.

    What is set counts where it is read at every call (output_attentions, return_dict, labels) and is saved; the layers
    that stand do not change.
    """

    def __init__(self, raw: Mapping[str, Any], checked: EncoderConfig, name_or_path: str = "") -> None:
        self.__dict__.update(_raw=dict(raw), _checked=checked, _set={}, _name=name_or_path)
        self._raw.update(id2label=dict(checked.id2label), label2id=dict(checked.label2id))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        for place in (self._set, _public(self._checked, name), self._raw, _DEFAULTS):
            if name in place:
                return place[name]
        raise AttributeError(f"config.json has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "num_labels":
            self._renumber(value)
            return
        self._set[name] = value
        self._raw[type(self._checked).attribute_map.get(name, name)] = value

    @property
    def num_labels(self) -> int:
        """How many labels there are; setting another number names them LABEL_0 onwards."""
        return len(self.id2label)

    @property
    def name_or_path(self) -> str:
        """What the model was loaded by."""
        return str(self._name)

    @property
    def use_return_dict(self) -> bool:
        """return_dict, by its older name."""
        return bool(self.return_dict)

    def _renumber(self, count: int) -> None:
        if type(count) is not int or count < 1:
            raise InputError(f"num_labels={count!r}, expected a whole number of 1 or more.")
        if count != self.num_labels:
            self.id2label = {number: f"LABEL_{number}" for number in range(count)}
            self.label2id = {label: number for number, label in self.id2label.items()}

    def get_text_config(self, decoder: bool = False) -> "ModelConfig":
        """The config itself: an encoder of text has no parts."""
        return self

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set every key of a dict."""
        for name, value in config_dict.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """config.json's content, label numbers as whole numbers."""
        return dict(self._raw)

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: config.json itself holds what differs from the defaults."""
        return self.to_dict()

    def to_json_string(self, use_diff: bool = True) -> str:
        """config.json as text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write config.json."""
        Path(json_file_path).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write config.json into a folder, made where it is not there."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(save_directory) / CONFIG_FILE)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelConfig) and self._raw == other._raw

    __hash__ = None  # type: ignore[assignment]  # as of anything that may be changed

    def __repr__(self) -> str:
        return f"ModelConfig {self.to_json_string()}"


def _public(checked: EncoderConfig, name: str) -> dict[str, Any]:
    return {name: getattr(checked, name)} if hasattr(checked, name) else {}
