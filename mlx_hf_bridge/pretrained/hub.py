"""Upload a saved folder to the Hub, with a model card that says what it was converted from, how, and how to use it.

Reference: huggingface.co/docs/hub/model-cards, huggingface_hub/repocard_data.py.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub  # its parts as attributes: they are imported on use

from mlx_hf_bridge.architecture.family import (
    BASE_TASK,
    CLASS_SUFFIXES,
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.checkpoints.card import keep_card_metadata, read_card_metadata
from mlx_hf_bridge.checkpoints.checkpoint import (
    CONFIG_FILE,
    METADATA_FILE,
    MODULES_FILE,
    VERIFICATION_FILE,
    read_json,
)
from mlx_hf_bridge.checkpoints.metadata import read_metadata
from mlx_hf_bridge.checkpoints.paths import check_inside
from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.checkpoints.sources import is_network_error
from mlx_hf_bridge.errors import RepositoryError

PUSH_ARGUMENTS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")
# Tasks whose names are also pipeline tags of the Hub.
_PIPELINE_TAGS = (
    BASE_TASK,
    MASKED_LM,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    QUESTION_ANSWERING,
    MULTIPLE_CHOICE,
)


def build_model_card(
    folder: Path,
    repo_id: str,
    task: str,
    tags: tuple[str, ...] = (),
    fidelity: Mapping[str, float] | None = None,
    class_name: str | None = None,
) -> "huggingface_hub.ModelCard":
    """Build the model card of a saved folder: metadata for the Hub's search, origin, quantization, usage and metrics.

    Args:
        folder: The saved folder.
        repo_id: The repo that it goes to, for the title and the usage example.
        task: The model's task, one of transformers' pipeline names.
        tags: Further tags.
        fidelity: Metrics against the original model, by name. None uses those in the folder's metadata or verification.
        class_name: The class that loads it; None derives it from the folder and the task.

    Returns:
        The card.
    """
    config = read_json(folder / CONFIG_FILE)
    metadata = read_metadata(folder)
    is_sentences = (folder / MODULES_FILE).is_file()
    loader = class_name or _loader(task, is_sentences)
    card = {
        **keep_card_metadata(metadata.get("card") or {}),
        **{key: value for key, value in read_card_metadata(folder).items() if key != "base_model"},
    }
    own_base = card.pop("base_model", None)
    # Only sources with a commit are on the Hub; a local path means nothing there.
    base = metadata.get("source") if metadata.get("revision") else own_base
    packing = config.get("quantization")
    data = huggingface_hub.ModelCardData(
        base_model=base,
        base_model_relation="quantized" if packing and base else None,
        library_name="mlx",
        pipeline_tag=card.pop("pipeline_tag", None) or _pipeline_tag(task, loader),
        tags=list(dict.fromkeys(("mlx", "mlx-hf-bridge", *(_SENTENCE_TAGS if is_sentences else ()), *tags))),
        **card,
    )
    parts = (
        f"---\n{data.to_yaml()}\n---\n",
        f"# {repo_id}\n",
        _origin(base, metadata, packing),
        _use(repo_id, loader),
        _fidelity(fidelity or metadata.get("fidelity") or _verified(folder)),
    )
    return huggingface_hub.ModelCard("\n".join(part for part in parts if part))


_SENTENCE_TAGS = ("sentence-transformers",)
# Classes whose constructor loads the model: the Hub's pipeline tag, and an example call.
_SENTENCE_CLASSES = {
    "MLXSentenceTransformer": ("sentence-similarity", 'vectors = model.encode(["a text"])'),
    "MLXCrossEncoder": ("text-ranking", 'scores = model.predict([("a question", "a text")])'),
    "MLXSparseEncoder": ("feature-extraction", 'vectors = model.encode(["a text"])'),
    "MLXMultiVectorEncoder": ("feature-extraction", 'vectors = model.encode(["a text"])'),
}


def _loader(task: str, is_sentences: bool) -> str:
    if is_sentences and task == BASE_TASK:
        return "MLXSentenceTransformer"
    return "MLXAutoModel" + CLASS_SUFFIXES[task].removeprefix("Model")


def _pipeline_tag(task: str, loader: str) -> str | None:
    if loader in _SENTENCE_CLASSES:
        return _SENTENCE_CLASSES[loader][0]
    return task if task in _PIPELINE_TAGS else None


def _origin(base: Any, metadata: Mapping[str, Any], packing: Mapping[str, Any] | None) -> str:
    source = f"[{base}](https://huggingface.co/{base})" if isinstance(base, str) else "a local checkpoint"
    commit = f" (commit {metadata['revision'][:12]})" if metadata.get("revision") else ""
    adapter = f", with the adapter {metadata['adapter']} merged into it" if metadata.get("adapter") else ""
    how = _packing_text(packing) if packing else f"in {metadata.get('dtype', 'its original dtype')}, not quantized"
    size = f" The weights take {metadata['weight_bytes'] / MB:.1f} MB." if metadata.get("weight_bytes") else ""
    return f"{source}{commit}{adapter}, for [MLX](https://github.com/ml-explore/mlx), {how}.{size}\n"


def _packing_text(packing: Mapping[str, Any]) -> str:
    mode = packing.get("mode", "affine")
    return f"quantized to {packing['bits']} bits in groups of {packing['group_size']} ({mode})"


def _use(repo_id: str, loader: str) -> str:
    example = f'model = {loader}.from_pretrained("{repo_id}")'
    if loader in _SENTENCE_CLASSES:
        example = f'model = {loader}("{repo_id}")\n{_SENTENCE_CLASSES[loader][1]}'
    return f"## Use\n\n```python\nfrom mlx_hf_bridge import {loader}\n\n{example}\n```\n"


def _verified(folder: Path) -> Mapping[str, Any]:
    """Return the metrics that `mlx-hf-bridge verify --store` wrote into a folder, or {}."""
    path = folder / VERIFICATION_FILE
    content = read_json(path) if path.is_file() else None
    figures = content.get("figures") if isinstance(content, dict) else None
    return figures if isinstance(figures, dict) else {}


def _fidelity(measured: Mapping[str, Any] | None) -> str:
    if not measured:
        return ""
    rows = [f"| {name} | {value:.5g} |" for name, value in measured.items() if isinstance(value, (int, float))]
    return "\n".join(("## Measured against the original", "", "| figure | value |", "| --- | --- |", *rows, ""))


def push(
    write: Callable[[Path, str], None],
    repo_id: str,
    *,
    folder: Path | None = None,
    exist_ok: bool = True,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> "huggingface_hub.CommitInfo":
    """Create a Hub repo if needed and upload a folder to it.

    Args:
        write: Writes the files to upload into an empty temporary folder, given that folder and the full id of the
            repo. Not called when `folder` is given.
        repo_id: The repo, "name" or "organization/name".
        folder: A folder to upload as it is, instead of what `write` writes.
        exist_ok: Whether the repo may exist already.
        commit_message: First line of the commit; None or "" is "Upload MLX weights".
        commit_description: Body of the commit, or None.
        private: Whether a new repo is private; None leaves it to the organization's default.
        token: Access token; None or True uses the one that `hf auth login` stored.
        revision: Branch to commit to; None is the main branch.
        create_pr: Whether to open a pull request instead of committing.

    Returns:
        huggingface_hub's CommitInfo.

    Raises:
        RepositoryError: If the Hub refuses the upload or cannot be reached.
    """
    with _reporting_hub_errors(repo_id):
        return _push(
            write, repo_id, folder, exist_ok, commit_message, commit_description, private, token, revision, create_pr
        )


def _push(
    write: Callable[[Path, str], None],
    repo_id: str,
    folder: Path | None,
    exist_ok: bool,
    commit_message: str | None,
    commit_description: str | None,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
) -> "huggingface_hub.CommitInfo":
    # upload_folder publishes what links lead to.
    for path in folder.rglob("*") if folder else ():
        check_inside(path, folder or path)
    api = huggingface_hub.HfApi(token=token)
    # The Hub returns the full id, with the user's name before a bare one.
    repo = api.create_repo(repo_id=repo_id, private=private, exist_ok=exist_ok).repo_id
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            write(Path(scratch), repo)
        return api.upload_folder(
            repo_id=repo,
            folder_path=folder or Path(scratch),
            commit_message=commit_message or "Upload MLX weights",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def files_of_folder(folder: str | Path) -> dict[str, int]:
    """Return the files of a converted folder that would be uploaded.

    Args:
        folder: The folder.

    Returns:
        The size of each file in bytes, by its path, including the model card that is generated.

    Raises:
        RepositoryError: If it is not a converted folder.
    """
    root = _converted(folder)
    found = {path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    hidden = [name for name in found if any(part.startswith(".") for part in name.split("/"))]
    return {name: found[name] for name in sorted(found) if name not in hidden}


def card_of_folder(folder: str | Path, repo_id: str) -> "huggingface_hub.ModelCard":
    """Return the model card that a converted folder gets in a repo.

    Args:
        folder: The folder.
        repo_id: The repo, for the title and the usage example.

    Returns:
        The card.

    Raises:
        RepositoryError: If it is not a converted folder.
    """
    root = _converted(folder)
    return build_model_card(root, repo_id, read_metadata(root).get("task") or BASE_TASK)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a converted folder to the Hub, with a model card.

    Args:
        folder: A folder that `convert` wrote.
        repo_id: The repo, "name" or "organization/name"; created if needed.
        commit_message: First line of the commit. Default: "Upload MLX weights".
        private: Whether a new repo is private. Default: the organization's setting.
        token: Access token. Default: the one that `hf auth login` stored.
        revision: Branch to commit to. Default: the main branch.
        create_pr: Open a pull request instead of committing. Default: False.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        RepositoryError: If it is not a converted folder, or the Hub refuses the upload or cannot be reached.
    """
    root = _converted(folder)

    def write(target: Path, repo: str) -> None:
        for name in files_of_folder(root):
            check_inside(root / name, root)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            # A link, since weights may be large; resolved, since a folder may itself consist of links.
            (target / name).symlink_to((root / name).resolve())
        (target / _CARD).unlink(missing_ok=True)
        card_of_folder(root, repo).save(target / _CARD)

    pushed = push(
        write,
        repo_id,
        commit_message=commit_message,
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )
    return str(pushed.pr_url if create_pr and pushed.pr_url else pushed.commit_url)


_CARD = "README.md"


def _converted(folder: str | Path) -> Path:
    root = Path(folder).expanduser()
    if not (root / METADATA_FILE).is_file():
        raise RepositoryError(f"{folder} is not a converted folder. Give one that `mlx-hf-bridge convert` wrote.")
    return root


@contextmanager
def _reporting_hub_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of huggingface_hub during an upload into a RepositoryError with advice.

    Args:
        repo_id: The repo that is written to, for the message.

    Yields:
        Nothing.

    Raises:
        RepositoryError: If the Hub refuses the upload or cannot be reached.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, _hub_errors()) and not is_network_error(error):
            raise
        raise RepositoryError(
            f"{repo_id!r} could not be written to the Hub ({error}). Log in (hf auth login) or pass token=, and check "
            "the id, the connection and HF_HUB_OFFLINE."
        ) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    errors = huggingface_hub.errors
    return (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled)
