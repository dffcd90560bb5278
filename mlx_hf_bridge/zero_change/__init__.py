"""Zero-change mode: unmodified programs that use transformers and sentence-transformers, run on MLX.

While it is installed, `from_pretrained` of every transformers class that MLX supports returns a facade (facade/), so
that AutoModel, pipelines and sentence-transformers' classes do too. A model that MLX does not support falls back to
torch. docs/zero-change.md has the rules.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.runtime.environment import quantization_choice
from mlx_hf_bridge.runtime.import_hooks import AfterImport
from mlx_hf_bridge.zero_change.patches import Patches
from mlx_hf_bridge.zero_change.report import Report

__all__ = ["install", "load_ipython_extension", "report", "uninstall", "unload_ipython_extension"]

_report = Report()
_undo: list[Callable[[], None]] = []


@guarded
def install(quantization_config: Any = None, *, strict: bool = False, watch_torch: bool = False) -> None:
    """Run the encoder models of transformers and sentence-transformers on MLX from here on.

    Installing again replaces the settings. Models that were loaded before stay what they are.

    Args:
        quantization_config: A recipe's name ("q8", "q4", ...), a dict or an MLXQuantizationConfig. None uses the
            environment variable MLX_HF_BRIDGE_QUANTIZATION; without that the weights are not quantized.
        strict: Whether to raise FallBackError where a model would fall back to torch.
        watch_torch: Whether the report also counts the calls of torch models, by a wrapper around `forward`.

    Raises:
        QuantizationError: If the recipe is unknown.

    Example:
        ```python
        import mlx_hf_bridge

        mlx_hf_bridge.install(quantization_config="q8")

        from sentence_transformers import SentenceTransformer

        SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2").encode("a text")  # computed by MLX
        mlx_hf_bridge.uninstall()
        ```
    """
    global _report
    recipe = None
    if quantization_config is not None or quantization_choice():
        # Imported here, so that installing without a recipe does not import MLX.
        from mlx_hf_bridge.quantization.recipes import recipe_from, recipe_of_environment

        recipe = recipe_from(quantization_config) or recipe_of_environment()
    # Installing twice must not wrap the replaced method again.
    uninstall()
    _report = Report()
    patches = Patches()

    def on_models(module: ModuleType) -> None:
        # Imported here, because it imports transformers and torch, which the program may not want.
        from mlx_hf_bridge.zero_change.loading import Mode, replace_loading

        replace_loading(patches, module, Mode(recipe, strict, watch_torch, _report))

    def on_trainer(module: ModuleType) -> None:
        from mlx_hf_bridge.zero_change.training import replace_training

        replace_training(patches, module)

    watch = AfterImport({"transformers.modeling_utils": on_models, "transformers.trainer": on_trainer})
    watch.install()
    # Undone from the end: first the patches, then the watch for imports.
    _undo.extend([watch.uninstall, patches.undo])


def uninstall() -> None:
    """Restore transformers and torch; models that were loaded stay what they are.

    Example:
        ```python
        mlx_hf_bridge.install()
        ...
        mlx_hf_bridge.uninstall()
        ```
    """
    while _undo:
        _undo.pop()()


def report() -> Report:
    """Return what ran on MLX and on torch since `install`; as text it is what `--report` prints.

    Returns:
        The report, which is updated with every call.
    """
    return _report


def load_ipython_extension(ipython: Any) -> None:
    """Install zero-change mode for `%load_ext mlx_hf_bridge`.

    Args:
        ipython: The IPython shell, not used.
    """
    install()


def unload_ipython_extension(ipython: Any) -> None:
    """Uninstall zero-change mode for `%unload_ext mlx_hf_bridge`.

    Args:
        ipython: The IPython shell, not used.
    """
    uninstall()
