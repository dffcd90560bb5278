"""Load the tokenizer of a pipeline, and wrap it so that transformers' pipeline files can call it without torch."""

import threading
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, METADATA_FILE, Checkpoint, read_json
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.tokenizer_class import tokenizer_config
from mlx_hf_bridge.conversion.tokenizer_files import build_tokenizer, import_transformers, refuse_further_inputs
from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.inference.tokenizer import NO_LIMIT, TOKEN_TYPE_IDS, WITHOUT_TOKEN_TYPES, describe_bad_text
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.pipelines.host_array import as_host_array
from mlx_hf_bridge.runtime.atomic_folder import replacing_files

# A call of a fast tokenizer first sets its truncation, which would affect calls in other threads.
tokenizer_lock = threading.RLock()
_NO_TRUNCATION = (None, False, "do_not_truncate")


def load_tokenizer(given: Any, loaded: LoadedModel, options: HubOptions) -> Any:
    """Return the tokenizer that a pipeline uses.

    Args:
        given: A Hub id, a folder, a tokenizer of transformers, or None for the model's own.
        loaded: The model.
        options: Revision, token and cache of the Hub.

    Returns:
        A tokenizer of transformers.

    Raises:
        RepositoryError: If the repo or folder has no tokenizer.
        ArgumentTypeError: If `given` is any other object.
        UnsupportedModelError: If the tokenizer gives the model more than token ids.
    """
    if given is None:
        given, options = loaded.folder, HubOptions()
    if isinstance(given, (str, Path)):
        source = locate(given, options)
        config_file = source.folder / CONFIG_FILE
        config = read_json(config_file) if config_file.is_file() else {}
        given = build_tokenizer(Checkpoint(source, source.folder, source.folder, config, None), loaded.family)
    if not isinstance(given, import_transformers().PreTrainedTokenizerBase):
        raise ArgumentTypeError(
            f"tokenizer is a {type(given).__name__}, expected a Hub id, a folder or a tokenizer of transformers. "
            "Leave it out to use the model's own."
        )
    # TAPAS reads tables, in a pipeline of its own.
    if not given.is_fast and type(given).__name__ != "TapasTokenizer":
        refuse_further_inputs(given)
    return given


def loses_token_types(tokenizer: Any, loaded: LoadedModel) -> bool:
    """Return whether a model has token types that transformers 4.57 gave it, and transformers 5 does not.

    Args:
        tokenizer: The tokenizer of transformers, or a HostTokenizer of it.
        loaded: The model.

    Returns:
        False for a tokenizer that gives them, and for one whose own files say that it gives none.
    """
    if TOKEN_TYPE_IDS in tokenizer.model_input_names or tokenizer.__class__.__name__ == WITHOUT_TOKEN_TYPES:
        return False
    if loaded.config.type_vocab_size < 2 or not loaded.family.uses_token_type_ids:
        return False
    place = Path(tokenizer.name_or_path or "")
    folder = loaded.source.folder if place == loaded.folder else place
    # A converted folder always lists the inputs, and they are those of the class.
    if (folder / METADATA_FILE).is_file():
        return True
    chosen = tokenizer_config(folder) if folder.is_dir() else tokenizer.init_kwargs
    return chosen.get("model_input_names") is None


class HostTokenizer:
    """A tokenizer of transformers that returns HostArrays where torch tensors are asked for.

    It truncates at the model's maximum length if the tokenizer's files have none, and counts the texts that it
    truncated. Every other attribute is the wrapped tokenizer's.

    Args:
        tokenizer: The tokenizer to wrap.
        max_length: The model's maximum number of tokens.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        # Not plain assignments: __setattr__ writes to the wrapped tokenizer.
        vars(self).update(tokenizer=tokenizer, max_length=max_length, truncated=0, marked=False)

    def __call__(self, *texts: Any, return_tensors: str | None = None, **options: Any) -> Any:
        """Tokenize texts as the wrapped tokenizer does.

        Args:
            texts: What the wrapped tokenizer takes by position.
            return_tensors: If set, arrays are returned, of any framework's name.
            options: What the wrapped tokenizer takes by name.

        Returns:
            A BatchEncoding, with HostArrays if return_tensors is set.
        """
        own = vars(self)
        truncates = options.get("truncation") not in _NO_TRUNCATION
        # The tokenizer's own limit may be larger than the model's number of positions.
        if truncates and options.get("max_length") is None and own["max_length"] < NO_LIMIT:
            options["max_length"] = min(own["max_length"], own["tokenizer"].model_max_length)
        try:
            encoding = own["tokenizer"](*texts, return_tensors=return_tensors and "np", **options)
        # What tokenizers raises for lone surrogates too, which Python strings can hold and UTF-8 cannot.
        except (TypeError, UnicodeEncodeError) as error:
            flat = [one for part in texts for one in ([part] if isinstance(part, str) else part)]
            raise InputError(describe_bad_text(flat)) from error
        if truncates and not options.get("return_overflowing_tokens"):
            own["truncated"] += sum(bool(one.overflowing) for one in encoding.encodings or ())
        # Within one call all are texts, or all are pairs.
        own["marked"] |= any(any(one.type_ids) for one in (encoding.encodings or ())[:1])
        if return_tensors:
            # In place, since BatchEncoding also carries the encodings with their offsets.
            encoding.data = {name: as_host_array(array) for name, array in encoding.data.items()}
        return encoding

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> tuple[str, ...]:
        """Write the tokenizer's files into a folder, all of them or none.

        Args:
            save_directory: The folder; created if needed.
            options: What the wrapped tokenizer takes by name.

        Returns:
            The paths of the files.

        Raises:
            RepositoryError: If the folder cannot be written.
        """
        target = Path(save_directory)
        with replacing_files(target) as new:
            written = vars(self)["tokenizer"].save_pretrained(str(new), **options)
        return tuple(str(target / Path(path).relative_to(new)) for path in written or ())

    @property
    def marked(self) -> bool:
        """Whether a call has marked tokens by type ids other than 0, given to the model or not."""
        return bool(vars(self)["marked"])

    def pop_truncated_count(self) -> int:
        """Return how many texts were truncated since the last call of this method.

        Returns:
            The number of texts.
        """
        truncated: int = vars(self)["truncated"]
        vars(self)["truncated"] = 0
        return truncated

    @property  # type: ignore[misc]  # object.__class__ can be assigned to, which nobody needs here
    def __class__(self) -> type:
        """Return the wrapped tokenizer's class, for isinstance()."""
        kind: type = type(vars(self)["tokenizer"])
        return kind

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["tokenizer"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["tokenizer"], name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return HostTokenizer, (vars(self)["tokenizer"], vars(self)["max_length"])
