"""What a repo without weights that are read here has instead, and how to get weights from it."""

import logging
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub

from mlx_hf_bridge.checkpoints.card import read_card_metadata
from mlx_hf_bridge.checkpoints.sources import Source, is_network_error

logger = logging.getLogger(__name__)

_RUNTIME = "which {runtime} computes. Give the repo that it was exported from{base}."
_OLD = (
    "which transformers 5 no longer reads. Try revision='refs/pr/1', where the Hub's conversion to safetensors is for "
    "many repos, or save it with transformers 4: AutoModel.from_pretrained(..., {flag}=True).save_pretrained(folder)."
)
# Name of the format -> patterns of its files, and what to do.
_FORMATS: dict[str, tuple[tuple[str, ...], str]] = {
    "TensorFlow": (("tf_model*.h5", "*.ckpt*", "saved_model.pb"), _OLD.format(flag="from_tf")),
    "Flax": (("flax_model*.msgpack",), _OLD.format(flag="from_flax")),
    "GGUF": (
        ("*.gguf",),
        "whose weights are quantized for llama.cpp. Give the repo that they were made from{base}, or save them with "
        "transformers on torch: AutoModel.from_pretrained(..., gguf_file=...).save_pretrained(folder).",
    ),
    "ONNX": (("*.onnx",), _RUNTIME.replace("{runtime}", "ONNX Runtime")),
    "OpenVINO": (("openvino_model*.xml",), _RUNTIME.replace("{runtime}", "OpenVINO")),
    "Core ML": (("*.mlpackage/*", "*.mlmodel"), _RUNTIME.replace("{runtime}", "Core ML")),
    "GLiNER": (("gliner_config.json",), "a model of the gliner package. Load it with MLXGLiNER.from_pretrained."),
}


def other_formats_advice(source: Source, folder: Path) -> str:
    """Return a sentence about the weights of other libraries that a folder or repo has.

    Args:
        source: Where the files are; the files of a Hub repo are listed, since other formats are not downloaded.
        folder: The folder that lacks weights.

    Returns:
        What there is and how to get weights from it; "" if there is nothing known.
    """
    names = sorted(_names(source, folder))
    for kind, (patterns, advice) in _FORMATS.items():
        found = next((name for name in names for p in patterns if fnmatch(name, p) or fnmatch(name, f"*/{p}")), None)
        if found is not None:
            base = read_card_metadata(folder).get("base_model")
            base = f", {base}" if isinstance(base, str) else ""
            return f"It has {kind} files ({found}), {advice.replace('{base}', base)}"
    return ""


def _names(source: Source, folder: Path) -> Iterable[str]:
    """Return the paths of the files in a folder and one level below it, and of all files of a Hub repo."""
    here = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    names = {path.relative_to(folder).as_posix() for path in here}
    if source.revision is None or source.options.local_files_only or huggingface_hub.constants.is_offline_mode():
        return names
    try:
        api = huggingface_hub.HfApi(token=source.options.token)
        return names | set(api.list_repo_files(source.name, revision=source.revision))
    except Exception as error:
        if not isinstance(error, (huggingface_hub.errors.HfHubHTTPError, OSError)) and not is_network_error(error):
            raise
        # The list only makes an error clearer.
        logger.info("the files of %s cannot be listed (%s)", source.name, error)
        return names
