"""Saves a model as a complete sentence-transformers repository, and uploads it to the Hub."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.checkpoints.card import CARD_FILE
from mlx_hf_bridge.checkpoints.checkpoint import MODULES_FILE
from mlx_hf_bridge.checkpoints.paths import copy_file, is_inside
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.pretrained import hub
from mlx_hf_bridge.pretrained.hub import build_model_card
from mlx_hf_bridge.runtime.atomic_folder import filling
from mlx_hf_bridge.sentence_transformers.loading.settings import MODEL_FILE
from mlx_hf_bridge.sentence_transformers.modules.base import Module
from mlx_hf_bridge.sentence_transformers.modules.router import Router
from mlx_hf_bridge.version import __version__


def save(modules: Sequence[Module], config: Mapping[str, Any], target: Path, readme: Path | None) -> None:
    """Save modules and settings to a folder.

    Args:
        modules: The modules, in the order in which they run.
        config: The contents of config_sentence_transformers.json.
        target: The folder, created if it does not exist; it stays as it was if saving fails.
        readme: A README.md to copy, if it exists.

    Raises:
        RepositoryError: If the target is a file, or cannot be written.
    """
    target = target.expanduser()
    if target.is_file():
        raise RepositoryError(f"{target} is a file, expected a folder to save into. Give another path.")
    # A failure leaves the target as it was.
    with filling(target) as folder:
        _write(modules, config, folder)
        # A card that lies elsewhere is none of the model's files, and no reason to fail.
        if readme is not None and is_inside(readme, readme.parent):
            copy_file(readme, folder / CARD_FILE, readme.parent)


def _write(modules: Sequence[Module], config: Mapping[str, Any], folder: Path) -> None:
    """Write every module to its folder, then modules.json and the settings."""
    entries = []
    for index, module in enumerate(modules):
        in_root = index == 0 and (isinstance(module, Router) or getattr(module, "save_in_root", False))
        path = "" if in_root else f"{index}_{type(module).__name__}"
        (folder / path).mkdir(exist_ok=True)
        module.save(folder / path)
        entries.append({"idx": index, "name": str(index), "path": path, "type": module.reference})
    write_json(folder / MODULES_FILE, entries)
    write_json(folder / MODEL_FILE, {**config, "__version__": {"mlx_hf_bridge": __version__}})


def push(
    save_into: Callable[[Path], None],
    repo_id: str,
    token: str | None,
    private: bool | None,
    commit_message: str | None,
    local_model_path: str | None,
    exist_ok: bool,
    revision: str | None,
    create_pr: bool,
    class_name: str,
) -> str:
    """Upload a model to a repository of the Hub, which is created if it does not exist.

    Args:
        save_into: Saves the model to a folder.
        repo_id: The repository, "organization/name" or "name".
        token: An access token of the Hub, or None for the saved one.
        private: Whether a new repository is private; None for the organization's setting.
        commit_message: The title of the commit; None for "Add new model."
        local_model_path: A folder to upload instead of the model, or None.
        exist_ok: Whether the repository may exist already.
        revision: The branch to commit to; None for the main branch.
        create_pr: Open a pull request instead of committing.
        class_name: The class that loads the model, for the model card.

    Returns:
        The address of the commit, or of the pull request.
    """

    def write(folder: Path, repo: str) -> None:
        save_into(folder)
        build_model_card(folder, repo, BASE_TASK, class_name=class_name).save(folder / CARD_FILE)

    commit = hub.push(
        write,
        repo_id,
        folder=Path(local_model_path) if local_model_path else None,
        exist_ok=exist_ok or create_pr,
        commit_message=commit_message or "Add new model.",
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )
    return str(commit.pr_url if create_pr else commit.commit_url)
