"""Zero-change mode: programs that use transformers and sentence-transformers, untouched, on MLX.

While it is installed, `from_pretrained` of every transformers class that MLX computes returns a facade (facade/), so
that AutoModel, pipelines and sentence-transformers' classes do too. What MLX cannot serve goes to torch, once a model.
docs/zero-change.md says what that is.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from mlx_hf_bridge.runtime.environment import quantization_choice
from mlx_hf_bridge.runtime.import_hooks import AfterImport
from mlx_hf_bridge.zero_change.patches import Patches
from mlx_hf_bridge.zero_change.report import Report

__all__ = ["install", "load_ipython_extension", "report", "uninstall", "unload_ipython_extension"]

_report = Report()
_undo: list[Callable[[], None]] = []


def install(quantization_config: Any = None, *, strict: bool = False, watch_torch: bool = False) -> None:
    """Run the models of transformers and sentence-transformers on MLX from here on.

    quantization_config: a recipe's name, a dict or an MLXQuantizationConfig; None = MLX_HF_BRIDGE_QUANTIZATION, and
    without that the weights as they are. strict: what would go to torch is a FallBackError. watch_torch: the report
    counts the calls of torch models too, by a wrapper around `forward`. Installing again changes these.
    QuantizationError for a recipe that there is not.
    """
    global _report
    recipe = quantization_config if quantization_config is not None else quantization_choice()
    if recipe is not None:
        from mlx_hf_bridge.quantization.recipes import recipe_from

        recipe = recipe_from(recipe)
    uninstall()
    _report = Report()
    patches = Patches()

    def on_models(module: ModuleType) -> None:
        from mlx_hf_bridge.zero_change.loading import Mode, replace_loading
        from mlx_hf_bridge.zero_change.training import replace_optimizers

        replace_loading(patches, module, Mode(recipe, strict, watch_torch, _report))
        replace_optimizers(patches)

    def on_trainer(module: ModuleType) -> None:
        from mlx_hf_bridge.zero_change.training import replace_training

        replace_training(patches, module)

    watch = AfterImport({"transformers.modeling_utils": on_models, "transformers.trainer": on_trainer})
    watch.install()
    _undo.extend([watch.uninstall, patches.undo])


def uninstall() -> None:
    """Leave transformers and torch as they were; models that were loaded stay what they are."""
    while _undo:
        _undo.pop()()


def report() -> Report:
    """What ran where since `install`; its text is what `--report` prints."""
    return _report


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext mlx_hf_bridge`."""
    install()


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext mlx_hf_bridge`."""
    uninstall()
