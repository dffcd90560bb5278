"""A model's config with the interface of transformers' config objects: attributes, labels and JSON.

Reference: transformers/configuration_utils.py (PreTrainedConfig).
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.runtime.atomic_folder import replacing_files
from mlx_hf_bridge.runtime.boundary import PublicAPI

# Defaults of transformers' config objects, for keys that config.json omits.
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


class ModelConfig(PublicAPI):
    """The content of config.json as attributes, also under HF's general names (`hidden_size` of a DistilBERT).

    Values may be set. Those read at every call (output_attentions, return_dict, labels) take effect, and all are saved;
    the layers that were built do not change.

    Args:
        raw: The content of config.json.
        checked: The config that the model was built from.
        name_or_path: The name that the model was loaded by.
    """

    # The pipelines of older transformers read it of every model.
    _commit_hash: str | None = None

    def __init__(self, raw: Mapping[str, Any], checked: EncoderConfig, name_or_path: str = "") -> None:
        # Not by assignment: __setattr__ writes into the config itself.
        labels = {"id2label": dict(checked.id2label), "label2id": dict(checked.label2id)}
        # The same dicts twice: what a caller changes within them is read here, and saved.
        self.__dict__.update(_raw={**raw, **labels}, _checked=checked, _set=dict(labels), _name=name_or_path)

    def __getattr__(self, name: str) -> Any:
        # Before __init__ has run, as in copying and unpickling, `_set` does not exist, and looking it up would never
        # end.
        if name.startswith("_"):
            raise AttributeError(name)
        # What the caller has set first, then checked values, then keys that are only in the file.
        for source in (self._set, _public(self._checked, name), self._raw, _DEFAULTS):
            if name in source:
                return source[name]
        raise AttributeError(f"config.json has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "num_labels":
            self._renumber(value)
            return
        self._set[name] = value
        self._raw[type(self._checked).attribute_map.get(name, name)] = value

    @property
    def num_labels(self) -> int:
        """The number of labels; setting another number names them LABEL_0, LABEL_1 and so on."""
        return len(self.id2label)

    @property
    def name_or_path(self) -> str:
        """The Hub id or folder that the model was loaded from."""
        return str(self._name)

    @property
    def _name_or_path(self) -> str:
        """The same under the name that programs read from transformers' configs."""
        return self.name_or_path

    @property
    def use_return_dict(self) -> bool:
        """The value of return_dict, by its older name."""
        return bool(self.return_dict)

    def _renumber(self, count: int) -> None:
        if type(count) is not int or count < 1:
            raise InputError(f"num_labels={count!r}, expected an integer of 1 or more.")
        # The same number keeps the labels' names, as in transformers.
        if count != self.num_labels:
            self.id2label = {number: f"LABEL_{number}" for number in range(count)}
            self.label2id = {label: number for number, label in self.id2label.items()}

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value as a dict does.

        Args:
            key: A key of config.json, or one of HF's general names.
            default: What to return where the config has no such key.

        Returns:
            The value.
        """
        return getattr(self, key, default)

    def get_text_config(self, decoder: bool = False) -> "ModelConfig":
        """Return the config itself: a text encoder has no sub-configs.

        Args:
            decoder: Not used.

        Returns:
            This config.
        """
        return self

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set every key of a dict as an attribute.

        Args:
            config_dict: Keys and values.
        """
        for name, value in config_dict.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json as a dict.

        Returns:
            A copy; the keys of id2label are integers.
        """
        return copy.deepcopy(self._raw)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the content of config.json, which holds only what differs from the defaults.

        Returns:
            A copy of the content.
        """
        return self.to_dict()

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return config.json as text.

        Args:
            use_diff: Not used.

        Returns:
            JSON with sorted keys, indented by two spaces.
        """
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write config.json; an existing file is replaced completely or not at all.

        Args:
            json_file_path: The file to write.
            use_diff: Not used.

        Raises:
            RepositoryError: If it cannot be written.
        """
        path = Path(json_file_path).expanduser().absolute()
        with replacing_files(path.parent) as new:
            (new / path.name).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write config.json into a folder, which is created if needed.

        Args:
            save_directory: The folder.

        Raises:
            RepositoryError: If it cannot be written.
        """
        self.to_json_file(Path(save_directory) / CONFIG_FILE)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelConfig) and self._raw == other._raw

    __hash__ = None  # type: ignore[assignment]  # the config is mutable

    def __repr__(self) -> str:
        return f"ModelConfig {self.to_json_string()}"


def _public(checked: EncoderConfig, name: str) -> dict[str, Any]:
    return {name: getattr(checked, name)} if hasattr(checked, name) else {}
