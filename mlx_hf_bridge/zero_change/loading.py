"""`from_pretrained` of transformers' classes, on MLX where it is supported and on torch elsewhere.

Reference: transformers/modeling_utils.py, PreTrainedModel.from_pretrained.
"""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from transformers import PreTrainedModel

from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.facade import facade
from mlx_hf_bridge.loading.load import load
from mlx_hf_bridge.pretrained.model import create_model
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.zero_change.eligibility import check_eligibility, check_family
from mlx_hf_bridge.zero_change.origin import Origin
from mlx_hf_bridge.zero_change.patches import Patches
from mlx_hf_bridge.zero_change.report import Record, Report

# Whether a torch model is being loaded; models that it loads in turn are left to torch too.
_on_torch: ContextVar[bool] = ContextVar("on_torch", default=False)


@dataclass(frozen=True)
class Mode:
    """The settings that zero-change mode was installed with."""

    recipe: MLXQuantizationConfig | None
    strict: bool
    watch_torch: bool
    report: Report


@dataclass
class TorchFallback:
    """Loads the torch model that a facade falls back to: from where MLX loaded it, or else by the same call.

    Calling it with a reason returns what transformers returns; FallBackError if falling back is forbidden.
    """

    hf_class: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    record: Record
    strict: bool
    watch: bool
    origin: Origin | None = None

    def __call__(self, reason: str) -> Any:
        self.record.fall_back(reason, self.strict)
        with _loading_on_torch():
            if self.origin is not None:
                loaded = self.origin.load(self.hf_class)
            else:
                loaded = self.hf_class.from_pretrained(*self.arguments, **self.options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # output_loading_info
        if self.watch:
            # On the instance, so that other models of the class are not timed.
            model.forward = TimedForward(model, self.hf_class, self.record)
        return loaded


class TimedForward:
    """The forward of a torch model, timed; a forward hook would miss calls by sentence-transformers."""

    def __init__(self, model: PreTrainedModel, hf_class: Any, record: Record) -> None:
        functools.update_wrapper(self, hf_class.forward.__get__(model))
        self.state = (model, hf_class, record)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model, hf_class, record = self.state
        start = time.perf_counter()
        output = hf_class.forward(model, *args, **kwargs)
        record.count_torch_call(time.perf_counter() - start)
        return output

    def __getstate__(self) -> tuple[Any, ...]:
        return self.state

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]


@contextmanager
def _loading_on_torch() -> Iterator[None]:
    token = _on_torch.set(True)
    try:
        yield
    finally:
        _on_torch.reset(token)


def replace_loading(patches: Patches, modeling_utils: ModuleType, mode: Mode) -> None:
    """Replace PreTrainedModel.from_pretrained, which auto classes, pipelines and concrete classes all call.

    Args:
        patches: Records the replacement.
        modeling_utils: The module transformers.modeling_utils.
        mode: The settings of zero-change mode.
    """
    # The plain function under the classmethod, to call it with any subclass.
    original = PreTrainedModel.__dict__["from_pretrained"].__func__

    @functools.wraps(original)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        # Inside a fallback, or of a part that a torch model loads for itself.
        if _on_torch.get():
            return original(cls, pretrained_model_name_or_path, *model_args, **kwargs)
        return _load(mode, cls, pretrained_model_name_or_path, model_args, kwargs)

    patches.replace(modeling_utils.PreTrainedModel, "from_pretrained", classmethod(from_pretrained))


def _load(mode: Mode, hf_class: Any, name: Any, model_args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    record = Record(str(name), hf_class.__name__)
    fallback = TorchFallback(hf_class, (name, *model_args), options, record, mode.strict, mode.watch_torch)
    reason = None
    try:
        model = _on_mlx(mode, fallback)
    except BridgeError as error:
        reason = str(error)
    mode.report.records.append(record)
    # Outside `except`, so that torch's own errors do not show MLX's as their context.
    return model if reason is None else fallback(reason)


def _on_mlx(mode: Mode, fallback: TorchFallback) -> Any:
    name, *model_args = fallback.arguments
    request = check_eligibility(fallback.hf_class, name, tuple(model_args), fallback.options)
    loaded = load(
        name,
        request.task,
        quantization_config=mode.recipe,
        dtype=request.dtype,
        options=request.hub,
        pooler=request.pooler,
        trace="never",
    )
    check_family(fallback.hf_class, loaded)
    dtype = request.output_dtype(loaded)
    fallback.origin = Origin.of(loaded, request, dtype, mode.recipe is None)
    return facade(
        create_model(loaded),
        request.config,
        fallback.hf_class,
        dtype=dtype,
        fall_back=fallback,
        on_call=fallback.record.count_mlx_call,
    )
