"""Which tokenizer a pipeline reads with, the model's own or the one that it was given, and how it is called."""

import threading
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, Checkpoint, read_json
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.tokenizer_files import build_tokenizer, import_transformers
from mlx_hf_bridge.errors import ArgumentTypeError
from mlx_hf_bridge.inference.tokenizer import NO_LIMIT
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pipelines.host_array import as_host_array

# A call of a fast tokenizer sets its truncation first, which other threads must not see.
tokenizer_lock = threading.RLock()
_UNCUT = (None, False, "do_not_truncate")


def load_tokenizer(given: Any, loaded: LoadedModel, options: HubOptions) -> Any:
    """None (the model's own), a Hub id or folder, or a tokenizer of transformers -> that tokenizer.

    Raises RepositoryError for a repo without a tokenizer, ArgumentTypeError for any other object.
    """
    if given is None:
        given, options = loaded.folder, HubOptions()
    if isinstance(given, (str, Path)):
        source = locate(given, options)
        config_file = source.folder / CONFIG_FILE
        config = read_json(config_file) if config_file.is_file() else {}
        return build_tokenizer(Checkpoint(source, source.folder, source.folder, config, None), loaded.family)
    if not isinstance(given, import_transformers().PreTrainedTokenizerBase):
        raise ArgumentTypeError(
            f"tokenizer is a {type(given).__name__}, expected a Hub id, a folder or a tokenizer of transformers. "
            "Leave it out to use the model's own."
        )
    return given


class HostTokenizer:
    """A tokenizer of transformers that gives arrays of the host where torch's tensors are asked for.

    Cuts at the model's own length where its tokenizer knows none, and counts the texts that it cut.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        vars(self).update(tokenizer=tokenizer, max_length=max_length, cut=0)

    def __call__(self, *texts: Any, return_tensors: str | None = None, **options: Any) -> Any:
        """As the tokenizer's own call."""
        own = vars(self)
        cutting = options.get("truncation") not in _UNCUT
        if cutting and options.get("max_length") is None and own["max_length"] < NO_LIMIT:
            options["max_length"] = min(own["max_length"], own["tokenizer"].model_max_length)
        encoding = own["tokenizer"](*texts, return_tensors=return_tensors and "np", **options)
        if cutting and not options.get("return_overflowing_tokens"):
            own["cut"] += sum(bool(one.overflowing) for one in encoding.encodings or ())
        if return_tensors:
            encoding.data = {name: as_host_array(array) for name, array in encoding.data.items()}
        return encoding

    def pop_truncated_count(self) -> int:
        """How many texts were cut since this was asked last."""
        cut: int = vars(self)["cut"]
        vars(self)["cut"] = 0
        return cut

    @property  # type: ignore[misc]  # object's can be assigned to, which nobody needs
    def __class__(self) -> type:
        """The tokenizer's, for code that asks what it is."""
        kind: type = type(vars(self)["tokenizer"])
        return kind

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["tokenizer"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["tokenizer"], name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return HostTokenizer, (vars(self)["tokenizer"], vars(self)["max_length"])
