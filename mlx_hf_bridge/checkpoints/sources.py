"""Locate a Hub id or local folder, with an identity that changes when its files change."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub  # submodules as attributes: huggingface_hub imports them on use, and a local folder needs none
from huggingface_hub import constants

from mlx_hf_bridge.checkpoints.fingerprint import folder_state, small_content
from mlx_hf_bridge.checkpoints.plain_files import SMALL_KINDS, check_files
from mlx_hf_bridge.errors import ArgumentTypeError, RepositoryError
from mlx_hf_bridge.runtime.file_errors import check_encodable
from mlx_hf_bridge.runtime.progress import ProgressBar

# Everything a model needs besides weights; exports for other runtimes are not downloaded.
SMALL_FILES = (*(f"*{kind}" for kind in SMALL_KINDS), "README.md")
OTHER_RUNTIMES = ("onnx/*", "openvino/*", "coreml/*", "tf_model*", "flax_model*", "rust_model*")
# The organization of bare names, as sentence-transformers resolves them.
SENTENCE_TRANSFORMERS = "sentence-transformers"
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class HubOptions:
    """Which files to use: arguments of transformers' from_pretrained.

    Attributes:
        revision: Branch, tag or commit; None is the main branch.
        token: Access token; None or True uses the one that `hf auth login` stored.
        cache_dir: Folder of the download cache; None is huggingface_hub's.
        local_files_only: Whether to use only what was downloaded before.
        force_download: Whether to download again.
        subfolder: The model's folder within the repo.
        variant: The word in the weight files' names ("fp16": model.fp16.safetensors).
        use_safetensors: True refuses .bin files, False uses only them, None prefers safetensors.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""
    variant: str | None = None
    use_safetensors: bool | None = None

    @property
    def weight_selection(self) -> dict[str, Any]:
        """The options that choose among a repo's weight files, where they are given."""
        chosen = {"variant": self.variant, "use_safetensors": self.use_safetensors}
        return {key: value for key, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        name: The Hub id or folder as given.
        folder: The folder on this machine.
        revision: The commit of a Hub repo; None for a local folder.
        identity: The key of the conversion cache: a Hub repo's commit and small files, or a local folder's path and the
            state of its files.
        options: The options that it was located with.
        state: The state of a local folder's files when it was located; None for a Hub repo, whose commits stay.
    """

    name: str
    folder: Path
    revision: str | None
    identity: dict[str, Any]
    options: HubOptions = field(default_factory=HubOptions)
    state: list[list[Any]] | None = None

    @property
    def has_changed(self) -> bool:
        """Whether files of a local folder have changed since it was located, or a folder or snapshot is gone."""
        if not self.folder.is_dir():
            return True
        return self.state is not None and folder_state(self.folder) != self.state

    def fetch(self, patterns: Sequence[str]) -> None:
        """Download further files of a Hub repo into its folder; does nothing for a local folder."""
        if self.revision is not None:
            _download(self.name, self.revision, self.options, [_under(self.options.subfolder, p) for p in patterns])


class _TerminalBar(ProgressBar):
    """huggingface_hub's progress bar, silent where there is no terminal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["disable"] = kwargs.get("disable") or None  # tqdm: None disables the bar unless stderr is a terminal
        super().__init__(*args, **kwargs)


def locate(name: str | Path, options: HubOptions) -> Source:
    """Locate a local folder, or else a Hub repo, whose small files are downloaded.

    Args:
        name: A folder, or a Hub id; a bare name may belong to the sentence-transformers organization.
        options: Which files to use.

    Returns:
        Where the files are.

    Raises:
        RepositoryError: If it is neither a folder nor a repo that can be read, or a file in it is no plain file.
        ArgumentTypeError: If the name is not text or a path.
    """
    if not isinstance(name, (str, Path)):
        raise ArgumentTypeError(f"got a {type(name).__name__} for a model, expected a folder or a Hub id as text.")
    try:
        path = Path(name).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, not encodable, or of an unknown user
        raise RepositoryError(f"{str(name)!r:.80} is no path on this machine ({type(error).__name__}).") from error
    # An empty string would be the working directory.
    if str(name) and is_folder:
        return _local(str(name), path.resolve(), options)
    if is_file or not _HUB_ID.fullmatch(str(name)):
        raise RepositoryError(
            f'{str(name)!r:.200} is neither a folder on this machine nor a Hub id ("name" or "organization/name"). '
            "Check the path, or give the id of a repo."
        )
    if "/" in str(name):
        return _hub(str(name), options)
    return _short(str(name), options)


def _short(name: str, options: HubOptions) -> Source:
    """Locate a bare name: an old Hub id ("bert-base-uncased"), or else a repo of sentence-transformers."""
    try:
        return _hub(name, options)
    except RepositoryError as error:
        try:
            return _hub(f"{SENTENCE_TRANSFORMERS}/{name}", options)
        except RepositoryError:
            # The first error: it is about the name that the caller gave.
            raise error from None


def _under(subfolder: str, pattern: str) -> str:
    return f"{subfolder}/{pattern}" if subfolder else pattern


def _local(name: str, root: Path, options: HubOptions) -> Source:
    folder = root / options.subfolder
    if not folder.is_dir():
        raise RepositoryError(f"{name!r} has no folder {options.subfolder!r}. Check `subfolder`.")
    check_encodable(folder)
    check_files(folder, root)
    state = folder_state(folder)
    identity = {"path": str(folder), "files": state}
    return Source(name, folder, None, identity | options.weight_selection, options, state)


def _hub(repo_id: str, options: HubOptions) -> Source:
    snapshot = _download(repo_id, options.revision, options, [_under(options.subfolder, p) for p in SMALL_FILES])
    folder = snapshot / options.subfolder
    if not folder.is_dir():
        raise RepositoryError(f"the Hub repo {repo_id!r} has no folder {options.subfolder!r}. Check `subfolder`.")
    check_files(folder, snapshot)
    # The snapshot's folder is named by its commit, also when a branch was asked for.
    identity: dict[str, Any] = {"repo": repo_id, "commit": snapshot.name, "subfolder": options.subfolder}
    # A snapshot may lack files of the commit that are downloaded later, or be edited by hand.
    identity["files"] = small_content(folder)
    return Source(repo_id, folder, snapshot.name, identity | options.weight_selection, options)


def _download(repo_id: str, revision: str | None, options: HubOptions, patterns: Sequence[str]) -> Path:
    try:
        folder = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            token=options.token,
            cache_dir=options.cache_dir,
            local_files_only=options.local_files_only or constants.is_offline_mode(),
            force_download=options.force_download,
            allow_patterns=list(patterns),
            ignore_patterns=list(OTHER_RUNTIMES),
            tqdm_class=_TerminalBar,
        )
    except huggingface_hub.errors.GatedRepoError as error:
        raise RepositoryError(
            f"the Hub repo {repo_id!r} is gated. Accept its terms on huggingface.co, then log in (hf auth login) "
            "or pass token=."
        ) from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise RepositoryError(
            f"{repo_id!r} is not a folder on this machine and not a repo on the Hub that you may read. "
            "Check the spelling; for a private repo log in (hf auth login) or pass token=."
        ) from error
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise RepositoryError(
            f"the Hub repo {repo_id!r} has no revision {revision!r}. Give a branch, tag or commit of it."
        ) from error
    except (huggingface_hub.errors.LocalEntryNotFoundError, huggingface_hub.errors.OfflineModeIsEnabled) as error:
        raise RepositoryError(
            f"{repo_id!r} (revision {revision or 'main'!r}) is not in the Hub's cache on this machine, and the Hub "
            "was not contacted or not reached. Connect, unset HF_HUB_OFFLINE and local_files_only, or give a folder."
        ) from error
    except huggingface_hub.errors.HFValidationError as error:
        raise RepositoryError(f"{repo_id!r} is not a valid Hub id ({error}). Check the spelling.") from error
    except Exception as error:
        if not isinstance(error, (huggingface_hub.errors.HfHubHTTPError, OSError)) and not is_network_error(error):
            raise
        raise RepositoryError(
            f"the files of {repo_id!r} could not be downloaded ({error}). Check the connection and try again."
        ) from error
    return Path(folder)


def is_network_error(error: Exception) -> bool:
    """Return whether an error is one of the HTTP library that huggingface_hub uses, such as a refused connection.

    Args:
        error: Any error.

    Returns:
        True for errors of requests, httpx and httpx2 (huggingface_hub 0, 1 and 2), which are not the builtin
        ConnectionError.
    """
    packages = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, ConnectionError) or not packages.isdisjoint(("requests", "httpx", "httpx2"))
